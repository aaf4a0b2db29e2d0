import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import mixbench.models
from mixbench.errors import CheckpointError, UnknownNameError
from mixbench.models import (
    ARCHITECTURES,
    count_parameters,
    default_cfgs,
    load_checkpoint,
    logits_fingerprint,
    weights_bytes,
    zoo_folder,
    zoo_names,
)
from mixbench.models.checkpoints import WEIGHTS_NAME

EditConfig = Callable[[Callable[[dict[str, Any]], None]], None]
EditTensors = Callable[[Callable[[dict[str, Tensor]], None]], None]

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _same(first: Any, second: Any) -> bool:
    tensors = second.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("family", ["convmixer", "resnet"])
def test_timm_lists_the_four_modes_of_a_family(family: str) -> None:
    listed = timm.list_models(f"{family}_*")
    assert {f"{family}_{mode}" for mode in ("trained", "frozen", "frozen_smooth", "spatial")} <= set(listed)


@pytest.mark.parametrize("name", zoo_names())
def test_timm_lists_the_zoo_as_pretrained(name: str) -> None:
    assert name in timm.list_pretrained(f"{name.partition('.')[0]}*")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_timm_builds_every_architecture_in_its_default_size(name: str) -> None:
    model = timm.create_model(name).eval()
    counts = count_parameters(model)
    assert counts.trained + counts.frozen == (594_186 if name.startswith("convmixer") else 213_466)
    assert (counts.frozen == 0) is name.endswith("_trained")
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    cfg = model.pretrained_cfg
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ((3, 32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_arguments_go_before_the_defaults() -> None:
    model = timm.create_model("convmixer_frozen", dim=16, depth=2, kernel_size=7, num_classes=4, in_chans=1)
    assert model.blocks[0][0].fn[0].weight.shape == (16, 1, 7, 7)
    assert (len(model.blocks), model.head.out_features, model.stem[0].in_channels) == (2, 4, 1)


def test_filter_seed_and_scheme_are_arguments_too() -> None:
    size = {"dim": 16, "depth": 2, "kernel_size": 3}
    first, other = (timm.create_model("convmixer_frozen", **size, filter_seed=seed) for seed in (0, 1))
    again = timm.create_model("convmixer_frozen", **size, filter_seed=1)
    boxes = timm.create_model("convmixer_frozen", **size, filter_scheme="box")
    filters = [model.blocks[1][0].fn[0].weight for model in (first, other, again, boxes)]
    assert not torch.equal(filters[0], filters[1])
    assert torch.equal(filters[1], filters[2])
    assert torch.equal(filters[3], torch.full((16, 1, 3, 3), 1 / 9))


def test_a_tag_without_pretrained_gives_the_size_but_not_the_weights() -> None:
    model, pretrained = (timm.create_model("convmixer_frozen.digits", pretrained=flag) for flag in (False, True))
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in pretrained.state_dict().items()
    }
    assert not torch.equal(model.head.weight, pretrained.head.weight)
    assert torch.equal(model.blocks[0][0].fn[0].weight, pretrained.blocks[0][0].fn[0].weight)


@pytest.mark.parametrize("architecture", ["convmixer_frozen", "convmixer_trained", "resnet_spatial"])
def test_no_tag_means_digits(architecture: str) -> None:
    assert default_cfgs[architecture].tags[0] == "digits"
    assert _same(
        timm.create_model(architecture, pretrained=True), timm.create_model(f"{architecture}.digits", pretrained=True)
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 5}, r"head\.weight of shape \(10, 48\), the model expects \(5, 48\)"),
        ({"in_chans": 3}, r"stem\.0\.weight of shape \(48, 1, 2, 2\), the model expects \(48, 3, 2, 2\)"),
        ({"depth": 5}, r"lacks the tensor blocks\.4\."),
        ({"depth": 3}, r"has a tensor blocks\.3\..* that the model lacks"),
    ],
    ids=["num_classes", "in_chans", "deeper", "shallower"],
)
def test_pretrained_weights_for_another_size_are_refused(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        timm.create_model("convmixer_frozen.digits", pretrained=True, **kwargs)


@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unknown_tag_is_refused_with_the_near_match(*, pretrained: bool) -> None:
    with pytest.raises(UnknownNameError, match=r"'convmixer_frozen\.digit': did you mean 'convmixer_frozen\.digits'"):
        timm.create_model("convmixer_frozen.digit", pretrained=pretrained)


def test_a_local_folder_is_proven_before_it_is_used(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(IMAGES), load_checkpoint(folder).model(IMAGES))
    weights = folder / WEIGHTS_NAME
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_a_config_that_calls_a_frozen_layer_the_stem_does_not_hide_it_from_the_proof(
    folder: Path, edit_config: EditConfig, edit_tensors: EditTensors
) -> None:
    edit_tensors(lambda tensors: tensors["blocks.3.0.fn.0.weight"].mul_(0.5))
    edit_config(lambda config: config["pretrained_cfg"].update(first_conv="blocks.3"))
    with pytest.raises(CheckpointError, match=r"blocks\.3\.0\.fn\.0\.weight is not frozen: 432 of 432 values"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_the_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(mixbench.models, name) for name in mixbench.models.__all__)
    assert zoo_folder().name == "model_zoo"


@pytest.mark.parametrize("first_conv", ["blocks.3", ["stem.0", "blocks.3"]], ids=["another", "one more"])
def test_a_config_cannot_talk_a_filter_out_of_its_proof(first_conv: object, tmp_path: Path) -> None:
    """The stem is not proven, so a stranger's config.json must not choose what counts as the stem."""
    folder = tmp_path / "convmixer_frozen.digits"
    shutil.copytree(zoo_folder() / "convmixer_frozen.digits", folder)
    checkpoint = load_checkpoint(folder)
    state = checkpoint.model.state_dict()
    state["blocks.3.0.fn.0.weight"] += 1
    content, digest = weights_bytes(checkpoint.model)
    (folder / "model.safetensors").write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["first_conv"] = first_conv
    config["mixbench"]["sha256"] = digest
    config["mixbench"]["logits"] = logits_fingerprint(checkpoint.model, (1, 8, 8))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"blocks\.3\.0\.fn\.0\.weight"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
