import hashlib
import importlib
import json
import linecache
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mixbench.errors import CheckpointError, InvalidInputError, UnknownNameError
from mixbench.models import Checkpoint, load_model, save_checkpoint, weights_bytes, zoo_folder
from mixbench.models.checkpoints import CONFIG_NAME, WEIGHTS_NAME
from mixbench.models.loading import PixelModel

MakeCheckpoint = Callable[..., Checkpoint]
_NEEDS_HUB_CLIENT = pytest.mark.skipif(
    not timm.models._hub.has_hf_hub(), reason="this timm does not know this version of huggingface_hub"
)
FACTORIES = """
import torch
from torch import nn

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

def needs_width(width):
    return nn.Linear(width, 3)

def gives_text():
    return "a network"

number = 3
"""


class _MakeFolder:
    """A pickle that makes a folder when it is loaded: harmless, but code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with factories, good and bad."""
    name = f"factories_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub and nothing cached from it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def test_a_bare_architecture_means_its_digits() -> None:
    assert load_model("convmixer_frozen").identity == load_model("convmixer_frozen.digits").identity


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convmixer_frozen.digit", r"unknown model 'convmixer_frozen\.digit': did you mean 'convmixer_frozen\.digits'"),
        ("convmixer_forzen", "unknown model 'convmixer_forzen': did you mean 'convmixer_frozen"),
        ("resnet18", "unknown model 'resnet18': .*timm:NAME"),
        ("timm:resnet81", "unknown timm model 'resnet81': did you mean 'resnet"),
    ],
)
def test_an_unknown_name_is_answered_with_the_near_ones(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_model(name)


def test_an_unknown_architecture_for_a_checkpoint_is_answered_too(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown architecture 'convmixer': did you mean 'convmixer_"):
        load_model("convmixer", checkpoint=folder)


def test_a_local_folder_is_loaded_under_its_own_name(folder: Path, make_checkpoint: MakeCheckpoint) -> None:
    loaded, card = load_model(f"local-dir:{folder}"), make_checkpoint().card
    assert (loaded.identity.name, loaded.identity.sha256) == ("convmixer_frozen.toy", card.sha256)
    assert (loaded.identity.mixing, loaded.identity.filter_seed) == ("frozen", 3)
    assert (loaded.identity.parameters.frozen, loaded.image_size, loaded.dataset) == (1920, (1, 8, 8), "digits")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/x is no checkpoint folder"):
        load_model(f"local-dir:{tmp_path}/x")


@pytest.mark.parametrize("place", ["", WEIGHTS_NAME], ids=["folder", "weights"])
@pytest.mark.parametrize("trust_pickle", [True, False])
def test_a_checkpoint_folder_is_proven_however_it_is_given(folder: Path, place: str, *, trust_pickle: bool) -> None:
    loaded = load_model("convmixer_frozen", checkpoint=folder / place, trust_pickle=trust_pickle)
    assert (loaded.identity.name, loaded.identity.mixing) == ("convmixer_frozen.toy", "frozen")
    content = bytearray((folder / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model("convmixer_frozen", checkpoint=folder / place, trust_pickle=trust_pickle)


def test_a_checkpoint_folder_does_not_pass_for_another_architecture(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a checkpoint of convmixer_frozen, not of convmixer_trained"):
        load_model("convmixer_trained", checkpoint=folder)


def test_another_file_in_a_checkpoint_folder_is_not_the_checkpoint(folder: Path) -> None:
    save_file(timm.create_model("convmixer_frozen").state_dict(), folder / "other.safetensors")
    loaded = load_model("convmixer_frozen", checkpoint=folder / "other.safetensors")
    assert loaded.identity.parameters.trained + loaded.identity.parameters.frozen == 594_186
    assert loaded.identity.mixing == "foreign"


def test_weights_without_a_card_are_no_proof_of_frozen_filters(tmp_path: Path) -> None:
    model = timm.create_model("convmixer_frozen")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("convmixer_frozen", checkpoint=tmp_path / "w.safetensors")
    assert (loaded.identity.mixing, loaded.identity.filter_seed, loaded.image_size) == ("foreign", None, None)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(_logits(loaded.module, images), _logits(model.eval(), images))


def test_a_pickle_of_ones_own_is_loaded_only_when_trusted(tmp_path: Path) -> None:
    model = timm.create_model("resnet_trained")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_model("resnet_trained", checkpoint=tmp_path / "w.pth")
    loaded = load_model("resnet_trained", checkpoint=tmp_path / "w.pth", trust_pickle=True)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(_logits(loaded.module, images), _logits(model.eval(), images))


def test_a_factory_builds_a_network_and_its_weights_are_loaded(tmp_path: Path, factories: str) -> None:
    state_dict = {"1.weight": torch.arange(12.0).reshape(3, 4), "1.bias": torch.zeros(3)}
    save_file(state_dict, tmp_path / "w.safetensors")
    loaded = load_model(f"{factories}:linear", checkpoint=tmp_path / "w.safetensors")
    images = torch.tensor([1.0, 0.0, 0.0, 0.5]).reshape(1, 1, 2, 2)
    assert _logits(loaded.module, images).tolist() == [[1.5, 7.5, 13.5]]
    identity = loaded.identity
    assert (identity.name, identity.mixing, identity.parameters.trained) == (f"{factories}:linear", "foreign", 15)
    assert not loaded.module.training


def test_a_factory_leaves_the_global_generator_alone(factories: str) -> None:
    state = torch.random.get_rng_state()
    load_model(f"{factories}:linear")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_hash_of_a_foreign_model_is_that_of_its_tensors(tmp_path: Path, factories: str) -> None:
    hashes = []
    for value in (0.0, 0.0, 1.0):
        state_dict = {"1.weight": torch.full((3, 4), value), "1.bias": torch.zeros(3)}
        save_file(state_dict, tmp_path / "w.safetensors")
        hashes.append(load_model(f"{factories}:linear", checkpoint=tmp_path / "w.safetensors").identity.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("missing", "cannot import the model .*has no attribute 'missing'.*expected package.module:factory"),
        ("number", "cannot import the model .*3 is not a callable object"),
        ("needs_width", "cannot import the model .*missing a required argument: 'width'.*without arguments"),
        ("gives_text", "returned a str, expected a torch.nn.Module"),
    ],
)
def test_a_bad_factory_is_refused_by_name(factories: str, attribute: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_model(f"{factories}:{attribute}")


@pytest.mark.parametrize("name", ["no.such.module:factory", ":factory", ".relative:factory"])
def test_a_module_that_cannot_be_imported_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"cannot import the model {name} "):
        load_model(name)


@pytest.fixture
def small_timm_model() -> Any:
    """A network of timm that was trained on normalised images, small enough for a test."""
    return timm.create_model("mobilenetv3_small_050").eval()


def test_a_timm_model_takes_images_in_0_1(tmp_path: Path, small_timm_model: Any) -> None:
    save_file(small_timm_model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("timm:mobilenetv3_small_050", checkpoint=tmp_path / "w.safetensors")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.equal(_logits(loaded.module, images), _logits(small_timm_model, normalised))
    assert not torch.equal(_logits(loaded.module, images), _logits(small_timm_model, images))
    assert (loaded.identity.name, loaded.image_size) == ("timm:mobilenetv3_small_050", (3, 224, 224))


def test_normalisation_is_per_channel_and_no_part_of_the_weights() -> None:
    model = PixelModel(nn.Identity(), mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 2.0))
    images = torch.tensor([1.0, 0.5, 0.75]).reshape(1, 3, 1, 1)
    assert model(images).flatten().tolist() == [1.0, 0.5, 0.25]
    assert list(model.state_dict()) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:resnet18.a1_in1k",
            r"timm could not build resnet18\.a1_in1k with pretrained weights .*check the network",
        ),
        ("hf-hub:someone/some-model", r"cannot load hf-hub:someone/some-model .*check the network and the name"),
    ],
)
def test_without_a_network_the_error_says_so(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(name)


def test_an_unknown_tag_of_timm_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"timm could not build resnet18\.nonesuch .*Invalid pretrained tag"):
        load_model("timm:resnet18.nonesuch")


def test_a_zoo_model_is_the_same_through_timm() -> None:
    own, through = load_model("convmixer_frozen.digits"), load_model("timm:convmixer_frozen.digits")
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(_logits(own.module, images), _logits(through.module, images))
    assert through.image_size == own.image_size
    assert zoo_folder().is_dir()


def test_a_saved_checkpoint_of_any_architecture_is_loaded(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint("resnet_spatial")
    save_checkpoint(tmp_path / "resnet_spatial.x", made, card_text="", overwrite=False)
    assert load_model(f"local-dir:{tmp_path}/resnet_spatial.x").identity.parameters == made.card.parameters


def test_a_bare_file_for_a_zoo_name_is_loaded_in_the_size_of_that_checkpoint(tmp_path: Path) -> None:
    original = load_model("convmixer_trained.digits")
    content, _ = weights_bytes(original.module)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    loaded = load_model("convmixer_trained.digits", checkpoint=file)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(images), original.module(images))
    assert loaded.identity.mixing == "foreign"


def test_the_same_weights_under_changed_code_are_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import torch
from torch import nn

class Scaled(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4] * {factor}

def build():
    return Scaled()
"""
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for factor in (1, -1, 1):
        sys.modules.pop("rescaled", None)
        linecache.clearcache()
        importlib.invalidate_caches()
        # Another length each time: Python trusts bytecode by the size and the second of its source.
        (tmp_path / "rescaled.py").write_text(code.format(factor=f"({factor})"))
        hashes.append(load_model("rescaled:build").identity.sha256)
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]


def test_a_checkpoint_given_beside_another_name_is_recorded_under_its_own() -> None:
    loaded = load_model("convmixer_trained.digits", checkpoint=zoo_folder() / "convmixer_trained.digits_linf")
    assert loaded.identity.name == "convmixer_trained.digits_linf"


def test_a_checkpoint_folder_is_recorded_under_its_own_name_and_not_the_one_asked_for() -> None:
    loaded = load_model("convmixer_trained.digits", checkpoint=zoo_folder() / "convmixer_trained.digits_linf")
    assert loaded.identity == load_model("convmixer_trained.digits_linf").identity


@pytest.fixture
def snapshot(tmp_path: Path, offline: None) -> Path:  # noqa: ARG001 - the cache that it points to
    """The folder in the hub's cache where the files of someone/net lie once they are downloaded."""
    repository, commit = tmp_path / "hub" / "models--someone--net", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    return repository / "snapshots" / commit


def _write_foreign_config(snapshot: Path, **pretrained_cfg: object) -> None:
    cfg = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 1000, **pretrained_cfg}
    config = {"architecture": "mobilenetv3_small_050", "num_classes": 1000, "pretrained_cfg": cfg}
    (snapshot / CONFIG_NAME).write_text(json.dumps(config))


def test_a_checkpoint_of_ours_on_the_hub_is_proven_and_no_foreign_model(snapshot: Path, folder: Path) -> None:
    shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    loaded, local = load_model("hf-hub:someone/net"), load_model(f"local-dir:{folder}")
    assert loaded.identity == local.identity.model_copy(update={"name": "hf-hub:someone/net"})
    assert (loaded.image_size, loaded.dataset) == ((1, 8, 8), "digits")
    content = bytearray((snapshot / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (snapshot / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model("hf-hub:someone/net")


@_NEEDS_HUB_CLIENT
def test_a_foreign_model_on_the_hub_takes_images_in_0_1(snapshot: Path, small_timm_model: Any) -> None:
    _write_foreign_config(snapshot)
    save_file(small_timm_model.state_dict(), snapshot / WEIGHTS_NAME)
    loaded = load_model("hf-hub:someone/net")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(_logits(loaded.module, images), _logits(small_timm_model, (images - 0.5) / 0.25))
    assert (loaded.identity.name, loaded.identity.mixing) == ("hf-hub:someone/net", "foreign")


@_NEEDS_HUB_CLIENT
@pytest.mark.parametrize("cfg", [{}, {"hf_hub_filename": "pytorch_model.bin"}], ids=["plain", "named by the config"])
def test_a_pickle_on_the_hub_is_loaded_only_when_trusted(
    snapshot: Path, small_timm_model: Any, cfg: dict[str, str]
) -> None:
    _write_foreign_config(snapshot, **cfg)
    torch.save(small_timm_model.state_dict(), snapshot / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_model("hf-hub:someone/net")
    loaded = load_model("hf-hub:someone/net", trust_pickle=True)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(_logits(loaded.module, images), _logits(small_timm_model, (images - 0.5) / 0.25))


def test_code_in_a_pickle_on_the_hub_is_not_run(snapshot: Path, tmp_path: Path) -> None:
    _write_foreign_config(snapshot, hf_hub_filename="pytorch_model.bin")
    torch.save({"evil": _MakeFolder(tmp_path / "made")}, snapshot / "pytorch_model.bin")
    for trust_pickle in (False, True):
        with pytest.raises(CheckpointError, match="more than tensors" if trust_pickle else "can run code"):
            load_model("hf-hub:someone/net", trust_pickle=trust_pickle)
    assert not (tmp_path / "made").exists()
