import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from mixbench.errors import CheckpointError, InvalidInputError
from mixbench.mixers.filters import FilterKind, FilterScheme
from mixbench.mixers.find import body_channel, body_spatial
from mixbench.mixers.freeze import Mixing, apply_mixing, default_scheme, freeze_channel, freeze_spatial, frozen_proof
from mixbench.mixers.initialise import initialise_channel, initialise_spatial
from mixbench.mixers.separate import separate

UNIFORM = FilterScheme(FilterKind.UNIFORM)
FREEZING = (Mixing.FROZEN, Mixing.FROZEN_SMOOTH, Mixing.SPATIAL)
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.5),
}
Snapshot = Callable[[nn.Module], dict[str, torch.Tensor]]


def _mix(model: nn.Module, mixing: Mixing, *, filter_seed: int = 0) -> None:
    apply_mixing(model, mixing, scheme=default_scheme(mixing), filter_seed=filter_seed)


def _prove(model: nn.Module, mixing: Mixing, *, filter_seed: int = 0) -> None:
    frozen_proof(model, mixing, scheme=default_scheme(mixing), filter_seed=filter_seed)


def _frozen_names(model: nn.Module, mixing: Mixing) -> set[str]:
    mixers = body_channel(model) if mixing is Mixing.SPATIAL else body_spatial(model)
    return {name for mixer in mixers for name, _ in mixer.tensors()}


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 3,
    after_step: Callable[[nn.Module], object] = lambda model: model,
) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(16, 1, 16, 16, generator=generator), torch.arange(16) % 4
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        after_step(model)


def _changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize("mixing", Mixing)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_changes_everything_but_the_frozen_tensors(
    mixing: Mixing, optimizer: str, convmixer: ConvMixer, snapshot: Snapshot
) -> None:
    _mix(convmixer, mixing)
    before = snapshot(convmixer)
    _train(convmixer, OPTIMIZERS[optimizer](convmixer))
    frozen = set() if mixing is Mixing.TRAINED else _frozen_names(convmixer, mixing)
    assert _changed(convmixer, before) == set(before) - frozen
    _prove(convmixer, mixing)


@pytest.mark.parametrize("mixing", FREEZING)
def test_a_separated_resnet_stays_frozen_in_training(mixing: Mixing, resnet: ResNet, snapshot: Snapshot) -> None:
    _mix(separate(resnet), mixing)
    before = snapshot(resnet)
    _train(resnet, OPTIMIZERS["adamw"](resnet), steps=2)
    assert _changed(resnet, before) == set(before) - _frozen_names(resnet, mixing)
    _prove(resnet, mixing)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_freezing_in_mid_training_stops_momentum_and_decay(
    optimizer: str, convmixer: ConvMixer, snapshot: Snapshot
) -> None:
    running = OPTIMIZERS[optimizer](convmixer)
    _train(convmixer, running)
    freeze_spatial(convmixer)
    before = snapshot(convmixer)
    # The first step comes with no zero_grad between: gradients from before must be gone.
    running.step()
    _train(convmixer, running)
    assert _changed(convmixer, before) == set(before) - _frozen_names(convmixer, Mixing.FROZEN)


@pytest.mark.parametrize("mixing", FREEZING)
def test_a_saved_and_loaded_model_is_still_proven(
    mixing: Mixing, convmixer: ConvMixer, snapshot: Snapshot, tmp_path: Path
) -> None:
    _mix(convmixer, mixing)
    _train(convmixer, OPTIMIZERS["adamw"](convmixer), steps=1)
    safetensors.torch.save_model(convmixer, str(tmp_path / "model.safetensors"))
    loaded = ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=2, in_chans=1, num_classes=4)
    with pytest.raises(CheckpointError):
        _prove(loaded, mixing)
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    _prove(loaded, mixing)
    assert _changed(loaded, snapshot(convmixer)) == set()


def test_a_copy_is_frozen_too(convmixer: ConvMixer, snapshot: Snapshot) -> None:
    _mix(convmixer, Mixing.FROZEN)
    clone = copy.deepcopy(convmixer)
    before = snapshot(clone)
    _train(clone, OPTIMIZERS["adamw"](clone))
    assert _changed(clone, before) == set(before) - _frozen_names(clone, Mixing.FROZEN)
    assert {name for name, parameter in clone.named_parameters() if not parameter.requires_grad} == _frozen_names(
        clone, Mixing.FROZEN
    )
    _prove(clone, Mixing.FROZEN)


AVERAGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch mean": AveragedModel,
    "torch EMA, multi": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "timm EMA v3": lambda model: ModelEmaV3(model, decay=0.9, foreach=True),
    "timm EMA v3, one by one": lambda model: ModelEmaV3(model, decay=0.9, foreach=False),
}
ROUNDING_AVERAGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch EMA": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(0.9)),
    "timm EMA v2": lambda model: ModelEmaV2(model, decay=0.9),
}


def _average(model: nn.Module, average: nn.Module, *, steps: int) -> None:
    update = average.update_parameters if isinstance(average, AveragedModel) else average.update
    _train(model, OPTIMIZERS["adamw"](model), steps=steps, after_step=update)


@pytest.mark.parametrize("mixing", FREEZING)
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_of_the_weights_keeps_the_frozen_bits(
    name: str, mixing: Mixing, convmixer: ConvMixer, snapshot: Snapshot
) -> None:
    _mix(convmixer, mixing)
    average = AVERAGES[name](convmixer)
    before = snapshot(average.module)
    _average(convmixer, average, steps=12)
    _prove(average, mixing)
    moved = set(before) - _frozen_names(convmixer, mixing)
    assert _changed(average.module, before) == moved
    # Had it copied the last step, nothing would have been averaged.
    assert _changed(average.module, snapshot(convmixer)) == moved


@pytest.mark.parametrize("mixing", [Mixing.FROZEN, Mixing.SPATIAL])
@pytest.mark.parametrize("name", ROUNDING_AVERAGES)
def test_an_average_that_rounds_is_detected_and_can_be_restored(
    name: str, mixing: Mixing, convmixer: ConvMixer
) -> None:
    _mix(convmixer, mixing)
    average = ROUNDING_AVERAGES[name](convmixer)
    _average(convmixer, average, steps=12)
    with pytest.raises(CheckpointError, match=r"^module\.blocks\..* is not frozen"):
        _prove(average, mixing)
    if mixing is Mixing.SPATIAL:
        initialise_channel(average, filter_seed=0)
    else:
        initialise_spatial(average, UNIFORM, filter_seed=0)
    _prove(average, mixing)


def test_trained_and_frozen_start_from_the_same_filters(convmixer: ConvMixer, snapshot: Snapshot) -> None:
    twin = copy.deepcopy(convmixer)
    _mix(convmixer, Mixing.TRAINED, filter_seed=3)
    _mix(twin, Mixing.FROZEN, filter_seed=3)
    assert _changed(twin, snapshot(convmixer)) == set()
    _prove(twin, Mixing.FROZEN, filter_seed=3)


@pytest.mark.parametrize("mixing", Mixing)
def test_each_mixing_freezes_its_own_mixers_whatever_was_frozen_before(mixing: Mixing, resnet: ResNet) -> None:
    separate(resnet)
    freeze_spatial(resnet)
    freeze_channel(resnet)
    _mix(resnet, mixing)
    frozen = {name for name, parameter in resnet.named_parameters() if not parameter.requires_grad}
    assert frozen == (set() if mixing is Mixing.TRAINED else _frozen_names(resnet, mixing))
    assert ("layer2.0.downsample.0.weight" in frozen) is (mixing is Mixing.SPATIAL)
    assert ("layer1.0.conv1.spatial.weight" in frozen) is mixing.freezes_spatial


@pytest.mark.parametrize("mixing", FREEZING)
def test_the_smallest_change_is_detected_by_name_and_count(mixing: Mixing, convmixer: ConvMixer) -> None:
    _mix(convmixer, mixing)
    name = sorted(_frozen_names(convmixer, mixing))[1]
    tensor = convmixer.get_parameter(name)
    with torch.no_grad():
        tensor.view(-1)[2] = torch.nextafter(tensor.view(-1)[2], torch.tensor(9.0))
    with pytest.raises(CheckpointError, match=f"^{name} is not frozen: 1 of {tensor.numel()} values differ"):
        _prove(convmixer, mixing)


def test_a_changed_sign_of_zero_is_detected(convmixer: ConvMixer) -> None:
    box = FilterScheme(FilterKind.BOX)
    apply_mixing(convmixer, Mixing.FROZEN, scheme=box, filter_seed=0)
    with torch.no_grad():
        convmixer.blocks[1][0].fn[0].bias.neg_()
    with pytest.raises(CheckpointError, match=r"^blocks\.1\.0\.fn\.0\.bias is not frozen: 16 of 16"):
        frozen_proof(convmixer, Mixing.FROZEN, scheme=box, filter_seed=0)


@pytest.mark.parametrize(
    ("scheme", "filter_seed"),
    [(UNIFORM, 1), (FilterScheme(FilterKind.NORMAL), 0), (FilterScheme(FilterKind.SMOOTHED), 0)],
    ids=["seed", "scheme", "smoothing"],
)
def test_another_seed_or_scheme_does_not_prove_the_filters(
    scheme: FilterScheme, filter_seed: int, convmixer: ConvMixer
) -> None:
    _mix(convmixer, Mixing.FROZEN)
    with pytest.raises(CheckpointError, match=f"filter seed {filter_seed} and scheme"):
        frozen_proof(convmixer, Mixing.FROZEN, scheme=scheme, filter_seed=filter_seed)


def test_nothing_is_to_prove_for_a_trained_model(convmixer: ConvMixer) -> None:
    _mix(convmixer, Mixing.TRAINED)
    _train(convmixer, OPTIMIZERS["adamw"](convmixer), steps=1)
    _prove(convmixer, Mixing.TRAINED)
    with pytest.raises(CheckpointError):
        _prove(convmixer, Mixing.FROZEN)


@pytest.mark.parametrize("mixing", FREEZING)
@pytest.mark.parametrize(
    "change",
    [lambda model: model.to(memory_format=torch.channels_last), lambda model: model.to(torch.bfloat16)],
    ids=["channels last", "bfloat16"],
)
def test_layout_and_precision_do_not_disturb_the_proof(
    change: Callable[[nn.Module], nn.Module], mixing: Mixing, convmixer: ConvMixer
) -> None:
    _mix(convmixer, mixing)
    _prove(change(convmixer), mixing)


@pytest.mark.parametrize("mixing", Mixing)
def test_mixing_and_proof_leave_the_generator_and_proof_leaves_the_model(
    mixing: Mixing, convmixer: ConvMixer, snapshot: Snapshot
) -> None:
    before = torch.get_rng_state()
    _mix(convmixer, mixing)
    weights = snapshot(convmixer)
    _prove(convmixer, mixing)
    assert torch.equal(torch.get_rng_state(), before)
    assert _changed(convmixer, weights) == set()


@pytest.mark.parametrize("act", [apply_mixing, frozen_proof])
def test_a_model_without_spatial_mixers_is_sent_to_separate(act: Callable[..., None], resnet: ResNet) -> None:
    with pytest.raises(InvalidInputError, match=r"ResNet has no spatial mixers.*mixbench\.mixers\.separate\(model\)"):
        act(resnet, Mixing.FROZEN, scheme=UNIFORM, filter_seed=0)


@pytest.mark.parametrize("act", [apply_mixing, frozen_proof])
def test_frozen_smooth_needs_a_smoothed_scheme(act: Callable[..., None], convmixer: ConvMixer) -> None:
    with pytest.raises(InvalidInputError, match="filter scheme uniform is not smoothed"):
        act(convmixer, Mixing.FROZEN_SMOOTH, scheme=UNIFORM, filter_seed=0)


def test_a_computed_weight_is_refused_and_nothing_is_changed(convmixer: ConvMixer, snapshot: Snapshot) -> None:
    parametrizations.weight_norm(convmixer.blocks[1][0].fn[0])
    before = snapshot(convmixer)
    with pytest.raises(InvalidInputError, match="computed from other parameters"):
        _mix(convmixer, Mixing.FROZEN)
    assert _changed(convmixer, before) == set()
    assert all(parameter.requires_grad for parameter in convmixer.parameters())


def test_the_default_scheme_is_uniform_but_for_frozen_smooth() -> None:
    assert {mixing.value: str(default_scheme(mixing)) for mixing in Mixing} == {
        "trained": "uniform",
        "frozen": "uniform",
        "frozen_smooth": "smoothed(sigma=1)",
        "spatial": "uniform",
    }
