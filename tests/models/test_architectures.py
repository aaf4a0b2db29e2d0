import json
from typing import Any

import pytest
import torch
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from torch import nn

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.mixers import FilterKind, FilterScheme, Mixing
from mixbench.models import ARCHITECTURES, ModelSpec, count_parameters

NAMES = (
    "convmixer_trained",
    "convmixer_frozen",
    "convmixer_frozen_smooth",
    "convmixer_spatial",
    "resnet_trained",
    "resnet_frozen",
    "resnet_frozen_smooth",
    "resnet_spatial",
)
# ConvMixer-256/8 with 5 x 5 filters and patches of 2 x 2; its depthwise and its pointwise convolutions, with biases.
CONVMIXER_TOTAL, CONVMIXER_SPATIAL, CONVMIXER_CHANNEL = 594_186, 53_248, 526_336
# Two blocks of two 3 x 3 filter banks a stage; the first bank of a stage has the width of the stage before.
RESNET_SPATIAL = 9 * (4 * 24 + (24 + 3 * 48) + (48 + 3 * 96) + (96 + 3 * 192))


def _build(name: str, *, seed: int = 0, filter_seed: int = 0) -> nn.Module:
    spec = ModelSpec.for_dataset(ARCHITECTURES[name], "digits", filter_seed=filter_seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()


def _differing(first: nn.Module, second: nn.Module) -> set[str]:
    others = dict(second.named_parameters())
    return {name for name, parameter in first.named_parameters() if not torch.equal(parameter, others[name])}


def _group(model: nn.Module, *, spatial: bool) -> set[str]:
    """The parameters of the mixers of `model`, told apart by shape alone: a depthwise layer has a k x k filter."""
    names: set[str] = set()
    stem = ("stem.", "conv1.")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not f"{name}.".startswith(stem):
            depthwise = module.groups > 1 and module.kernel_size != (1, 1)
            if depthwise is spatial:
                names |= {f"{name}.{part}" for part, _ in module.named_parameters()}
    return names


def test_there_are_two_families_in_four_modes() -> None:
    assert tuple(ARCHITECTURES) == NAMES
    for name, architecture in ARCHITECTURES.items():
        assert architecture.name == name == f"{architecture.family}_{architecture.mixing.value}"


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("convmixer_trained", 0),
        ("convmixer_frozen", CONVMIXER_SPATIAL),
        ("convmixer_frozen_smooth", CONVMIXER_SPATIAL),
        ("convmixer_spatial", CONVMIXER_CHANNEL),
    ],
)
def test_the_default_convmixer_has_the_parameters_of_256_8(name: str, frozen: int) -> None:
    counts = count_parameters(ModelSpec.for_dataset(ARCHITECTURES[name], "cifar10", filter_seed=0).build())
    assert (counts.trained + counts.frozen, counts.frozen) == (CONVMIXER_TOTAL, frozen)


@pytest.mark.parametrize("name", ["resnet_frozen", "resnet_frozen_smooth"])
def test_the_default_resnet_freezes_every_filter_but_the_stem(name: str) -> None:
    model = ModelSpec.for_dataset(ARCHITECTURES[name], "cifar10", filter_seed=0).build()
    assert count_parameters(model).frozen == RESNET_SPATIAL
    full = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1)
    ]
    assert full == [model.conv1]


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_are_timms_own_classes(name: str) -> None:
    assert type(_build(name)) is (ConvMixer if name.startswith("convmixer") else ResNet)


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("family", ["convmixer", "resnet"])
def test_the_network_for_a_dataset_takes_its_images(family: str, dataset: str) -> None:
    size = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[dataset]
    model = ModelSpec.for_dataset(ARCHITECTURES[f"{family}_trained"], dataset, filter_seed=0).build().eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *size)).shape == (2, 10)


@pytest.mark.parametrize("family", ["convmixer", "resnet"])
def test_trained_and_frozen_start_as_the_same_network(family: str) -> None:
    assert _differing(_build(f"{family}_trained"), _build(f"{family}_frozen")) == set()


@pytest.mark.parametrize("family", ["convmixer", "resnet"])
def test_the_other_modes_start_with_other_mixers_and_nothing_else(family: str) -> None:
    trained = _build(f"{family}_trained")
    smooth = _differing(trained, _build(f"{family}_frozen_smooth"))
    assert smooth == {name for name in _group(trained, spatial=True) if name.endswith("weight")}
    assert _differing(trained, _build(f"{family}_spatial")) == _group(trained, spatial=False)


@pytest.mark.parametrize("name", ["convmixer_frozen", "resnet_frozen", "convmixer_trained"])
def test_another_filter_seed_changes_the_spatial_filters_alone(name: str) -> None:
    first = _build(name, filter_seed=0)
    assert _differing(first, _build(name, filter_seed=1)) == _group(first, spatial=True)


@pytest.mark.parametrize("name", ["convmixer_spatial", "resnet_spatial"])
def test_another_filter_seed_changes_all_mixers_where_the_channel_mixers_are_drawn_too(name: str) -> None:
    first = _build(name, filter_seed=0)
    mixers = _group(first, spatial=True) | _group(first, spatial=False)
    assert _differing(first, _build(name, filter_seed=1)) == mixers


@pytest.mark.parametrize("name", ["convmixer_frozen", "resnet_frozen"])
def test_another_training_seed_leaves_the_spatial_filters_alone(name: str) -> None:
    first = _build(name, seed=0)
    differing = _differing(first, _build(name, seed=1))
    assert differing & _group(first, spatial=True) == set()
    assert differing >= _group(first, spatial=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_is_described_by_its_model_args(name: str) -> None:
    spec = ModelSpec(
        ARCHITECTURES[name],
        scheme=FilterScheme(FilterKind.SMOOTHED, 0.75),
        filter_seed=17,
        args={"num_classes": 10, "in_chans": 1},
    )
    model_args = json.loads(json.dumps(spec.model_args))
    assert model_args["filter_scheme"] == "smoothed(sigma=0.75)"
    assert ModelSpec.from_model_args(ARCHITECTURES[name], model_args) == spec


@pytest.mark.parametrize(
    ("name", "scheme"), [("convmixer_frozen", "uniform"), ("convmixer_frozen_smooth", "smoothed(sigma=1)")]
)
def test_without_a_scheme_the_mode_decides(name: str, scheme: str) -> None:
    spec = ModelSpec.from_model_args(ARCHITECTURES[name], {"dim": 8})
    assert (str(spec.scheme), spec.filter_seed) == (scheme, 0)
    assert spec.scheme == ModelSpec.for_dataset(ARCHITECTURES[name], "digits", filter_seed=0).scheme


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"dim": 8, "depth": 1, "width": 3}, "convmixer_frozen does not take these model_args .*'width'"),
        ({"dim": 8}, "convmixer_frozen does not take these model_args .*'depth'.* see mixbench models"),
    ],
    ids=["unknown", "missing"],
)
def test_wrong_model_args_are_refused_by_name(model_args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ModelSpec.from_model_args(ARCHITECTURES["convmixer_frozen"], model_args).build()


def test_an_unknown_scheme_is_refused_with_the_near_match() -> None:
    with pytest.raises(UnknownNameError, match="unknown filter scheme 'unifrom': did you mean 'uniform'"):
        ModelSpec.from_model_args(ARCHITECTURES["convmixer_frozen"], {"filter_scheme": "unifrom"})


def test_frozen_smooth_refuses_filters_that_are_not_smoothed() -> None:
    spec = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen_smooth"], "digits", filter_seed=0)
    rough = ModelSpec(spec.architecture, scheme=FilterScheme(FilterKind.UNIFORM), filter_seed=0, args=spec.args)
    assert rough.architecture.mixing is Mixing.FROZEN_SMOOTH
    with pytest.raises(InvalidInputError, match="uniform is not smoothed"):
        rough.build()
