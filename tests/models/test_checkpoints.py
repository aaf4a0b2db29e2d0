import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mixbench.errors import CheckpointError, MixbenchError, RecordError, UnknownNameError
from mixbench.files import sha256_of
from mixbench.models import Checkpoint, load_checkpoint, logits_fingerprint, read_config, save_checkpoint, weights_bytes
from mixbench.models.checkpoints import CONFIG_NAME, LOG_NAME, WEIGHTS_NAME, fixed_inputs
from mixbench.records import Accuracy

MakeCheckpoint = Callable[..., Checkpoint]
EditConfig = Callable[[Callable[[dict[str, Any]], None]], None]
EditTensors = Callable[[Callable[[dict[str, Tensor]], None]], None]
FILTER = "blocks.1.0.fn.0.weight"


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["convmixer_frozen", "convmixer_spatial", "resnet_frozen_smooth"])
def test_a_checkpoint_is_loaded_as_it_was_saved(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, architecture: str
) -> None:
    made = make_checkpoint(architecture)
    save_checkpoint(tmp_path / f"{architecture}.x", made, card_text="# x\n", overwrite=False)
    loaded = load_checkpoint(tmp_path / f"{architecture}.x")
    assert (loaded.card, loaded.spec) == (made.card, made.spec)
    assert not loaded.model.training
    tensors = made.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.model.state_dict().items())
    learning = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}


def test_a_folder_holds_three_readable_files(folder: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint()
    assert set(_content(folder)) == {CONFIG_NAME, WEIGHTS_NAME, "README.md"}
    assert (folder / "README.md").read_text() == "# toy\n"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert sha256_of(folder / WEIGHTS_NAME) == made.card.sha256 == weights_bytes(made.model)[1]
    assert list(folder.parent.iterdir()) == [folder]


def test_config_json_speaks_timms_language(folder: Path) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    assert (config["architecture"], config["num_classes"]) == ("convmixer_frozen", 10)
    assert config["model_args"]["filter_seed"] == 3
    cfg = timm.create_model(f"local-dir:{folder}", pretrained=True).pretrained_cfg
    assert (cfg["architecture"], tuple(cfg["input_size"]), cfg["num_classes"]) == ("convmixer_frozen", (1, 8, 8), 10)
    assert (list(cfg["mean"]), list(cfg["std"]), cfg["first_conv"], cfg["classifier"]) == ([0], [1], "stem.0", "head")


def test_an_existing_folder_is_not_overwritten_by_accident(folder: Path, make_checkpoint: MakeCheckpoint) -> None:
    before = _content(folder)
    with pytest.raises(CheckpointError, match=r"convmixer_frozen\.toy exists already: pass --overwrite"):
        save_checkpoint(folder, make_checkpoint(seed=1), card_text="new", overwrite=False)
    assert _content(folder) == before


def test_overwriting_replaces_the_whole_folder(folder: Path, make_checkpoint: MakeCheckpoint) -> None:
    (folder / "notes.txt").write_text("of the old checkpoint")
    made = make_checkpoint(seed=1)
    save_checkpoint(folder, made, card_text="new", overwrite=True)
    assert set(_content(folder)) == {CONFIG_NAME, WEIGHTS_NAME, "README.md"}
    assert load_checkpoint(folder).card == made.card
    assert list(folder.parent.iterdir()) == [folder]


def test_a_full_disk_keeps_the_old_checkpoint(folder: Path, make_checkpoint: MakeCheckpoint) -> None:
    before, made = _content(folder), make_checkpoint(seed=1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(RecordError, match=r"cannot write .*model\.safetensors: File too large"):
            save_checkpoint(folder, made, card_text="new", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert _content(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failing_last_step_puts_the_old_checkpoint_back(
    folder: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = _content(folder), Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(RecordError, match=r"cannot write .*convmixer_frozen\.toy: Input/output error"):
        save_checkpoint(folder, make_checkpoint(seed=1), card_text="new", overwrite=True)
    assert _content(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_weights_that_are_not_those_of_the_card_are_not_saved(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint()
    with pytest.raises(CheckpointError, match=f"hash to {made.card.sha256}, their card says {'0' * 64}"):
        save_checkpoint(
            tmp_path / "x.y",
            replace(made, card=made.card.model_copy(update={"sha256": "0" * 64})),
            card_text="",
            overwrite=False,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_fixed_inputs_are_the_same_numbers_everywhere() -> None:
    images = fixed_inputs((1, 8, 8))
    assert images.shape == (4, 1, 8, 8)
    assert images.dtype == torch.float32
    # NumPy's own uniform numbers of the same stream: 53 bits each.
    expected = np.random.Generator(np.random.PCG64(0)).random(4 * 64).astype(np.float32)
    assert np.array_equal(images.numpy().ravel(), expected)
    assert images.ravel()[0].item() == pytest.approx(0.63696169, abs=1e-7)


def test_the_fingerprint_leaves_the_mode_alone(make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint()
    made.model.train()
    tensors = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    assert logits_fingerprint(made.model, (1, 8, 8)) == made.card.logits
    assert made.model.training
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in made.model.state_dict().items())


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    state = torch.random.get_rng_state()
    load_checkpoint(folder)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("position", [0.5, 0.9, 1.0])
def test_a_flipped_bit_in_the_weights_breaks_the_hash(folder: Path, position: float) -> None:
    path = folder / WEIGHTS_NAME
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"has SHA-256 {sha256_of(path)}, its card says \w+: fetch it again"):
        load_checkpoint(folder)


def test_the_bytes_that_are_hashed_are_those_that_are_loaded(
    folder: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the file after its first reading changes nothing."""
    read_bytes = Path.read_bytes

    def read_once(self: Path) -> bytes:
        content = read_bytes(self)
        if self.name == WEIGHTS_NAME:
            self.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_once)
    assert logits_fingerprint(load_checkpoint(folder).model, (1, 8, 8)) == make_checkpoint().card.logits


def test_every_truncated_file_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS_NAME
    content = path.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><title>404</title>", "is an HTML page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a readable safetensors file"),
        (b"PK\x03\x04" + bytes(100), "is a pickle, which can run code"),
        (b"\x80\x04\x95" + bytes(100), "is a pickle, which can run code"),
    ],
    ids=["web page", "git-lfs pointer", "zip", "pickle"],
)
def test_a_file_of_another_kind_is_told_from_weights(folder: Path, content: bytes, message: str) -> None:
    (folder / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.safetensors {message}"):
        load_checkpoint(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*model\.safetensors: No such file"):
        load_checkpoint(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"toy is no checkpoint folder: cannot read .*config\.json"):
        load_checkpoint(folder)


def _flip_filter_bit(tensors: dict[str, Tensor]) -> None:
    tensors[FILTER].view(torch.int32)[5, 0, 1, 1] ^= 1


def _set_nan(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"][3, 4] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip_filter_bit, rf"{FILTER} is not frozen: 1 of 432 values differ from those of filter seed 3 .*uniform"),
        (lambda tensors: tensors[FILTER].mul_(0.5), f"{FILTER} is not frozen: 432 of 432 values differ"),
        (lambda tensors: tensors.pop("head.bias"), r"lacks the tensor head\.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has a tensor extra that the model lacks"),
    ],
    ids=["one bit of a filter", "scaled filters", "missing tensor", "extra tensor"],
)
def test_a_careful_forgery_is_still_found(
    folder: Path, edit_tensors: EditTensors, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    """Hash and logits were made anew, so only the proof in question can notice."""
    edit_tensors(change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_honest_changes_pass_the_forgers_way(folder: Path, edit_tensors: EditTensors) -> None:
    """The opposite of the test above: what is not frozen may be anything that the card agrees with."""
    before = load_file(folder / WEIGHTS_NAME)["head.weight"]
    edit_tensors(lambda tensors: tensors["head.weight"].mul_(0.5))
    assert torch.equal(load_checkpoint(folder).model.state_dict()["head.weight"], before * 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, edit_config: EditConfig, value: float) -> None:
    tensors = load_file(folder / WEIGHTS_NAME)
    tensors["head.weight"][3, 4] = value
    (folder / WEIGHTS_NAME).write_bytes(save(tensors))
    edit_config(lambda config: config["mixbench"].update(sha256=sha256_of(folder / WEIGHTS_NAME)))
    with pytest.raises(CheckpointError, match=r"has values in head\.weight that are not finite: the training diverged"):
        load_checkpoint(folder)


def test_a_tensor_of_another_shape_is_refused_by_name(folder: Path, edit_config: EditConfig) -> None:
    tensors = load_file(folder / WEIGHTS_NAME)
    tensors["head.weight"] = torch.zeros(10, 49)
    (folder / WEIGHTS_NAME).write_bytes(save(tensors))
    edit_config(lambda config: config["mixbench"].update(sha256=sha256_of(folder / WEIGHTS_NAME)))
    with pytest.raises(CheckpointError, match=r"has head\.weight of shape \(10, 49\), the model expects \(10, 48\)"):
        load_checkpoint(folder)


def _in_card(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["mixbench"].update(values)


def _in_args(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["model_args"].update(values)


def _both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda config: [change(config) for change in changes] and None


def _shift_logit(config: dict[str, Any]) -> None:
    config["mixbench"]["logits"][2][7] += 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_in_card(sha256="0" * 64), f"its card says {'0' * 64}"),
        (_shift_logit, r"gives other logits than when it was saved \(largest difference 0\.01\)"),
        (_in_card(logits=[[0.0] * 10] * 3), r"gives logits of shape \(4, 10\), its card has \(3, 10\)"),
        (_in_args(filter_seed=4), "names two filter draws"),
        (_in_card(filter_seed=4), "names two filter draws"),
        (
            _both(_in_args(filter_seed=4), _in_card(filter_seed=4)),
            r"blocks\.0\.0\.fn\.0\.weight is not frozen: .*seed 4",
        ),
        (
            _both(_in_args(filter_scheme="normal"), _in_card(filter_scheme="normal")),
            r"blocks\.0\.0\.fn\.0\.weight is not frozen: .*scheme normal",
        ),
        (_in_card(mixing="trained"), "says mixing 'trained', but its architecture is convmixer_frozen"),
        (_in_card(image_size=[3, 8, 8]), "says images of 3 channels, but in_chans 1"),
        (_in_card(image_size=[1, 0, 8]), r"has no valid card: image_size\.1: .*greater than 0"),
        (_in_card(image_size=[1, 10**6, 10**6]), r"has no valid card: image_size\.1: .*less than or equal to 4096"),
        (_in_card(surprise=1), "has no valid card: surprise: Extra inputs are not permitted"),
        (_in_card(format="mixbench.checkpoint/2"), "has no valid card: format: "),
        (_in_card(sha256="0"), "has no valid card: sha256: "),
        (_in_card(clean={"correct": 361, "total": 360}), "has no valid card: clean: .*correct 361 is more than"),
        (_in_card(seconds=float("nan")), "has no valid card: seconds: .*finite"),
        (lambda config: config["mixbench"].pop("seed"), "has no valid card: seed: Field required"),
        (lambda config: config.pop("mixbench"), r"is not a checkpoint's config\.json \(KeyError\('mixbench'\)\)"),
        (lambda config: config.pop("model_args"), r"is not a checkpoint's config\.json \(KeyError\('model_args'\)\)"),
        (_in_args(filter_seed="three"), r"is not a checkpoint's config\.json \(ValueError"),
        (_in_args(width=3), "does not take these model_args .*'width'"),
        (_in_args(dim=49), r"model\.safetensors has .* of shape .*48.* the model expects .*49"),
    ],
)
def test_an_edited_config_is_refused_by_name(
    folder: Path, edit_config: EditConfig, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_config(change)
    with pytest.raises(MixbenchError, match=message) as caught:
        load_checkpoint(folder)
    assert caught.value.exit_code == 2


def test_an_unknown_architecture_is_refused_with_the_near_match(folder: Path, edit_config: EditConfig) -> None:
    edit_config(lambda config: config.update(architecture="convmixer_forzen"))
    with pytest.raises(UnknownNameError, match="unknown architecture 'convmixer_forzen': did you mean 'convmixer_fro"):
        read_config(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\udcff"], ids=repr)
def test_a_config_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / CONFIG_NAME).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json is not a checkpoint's config\.json \(.*fetch it again"):
        read_config(folder)


def test_every_truncated_config_is_refused(folder: Path) -> None:
    content = (folder / CONFIG_NAME).read_text()
    for length in range(0, len(content.rstrip()), 97):
        (folder / CONFIG_NAME).write_text(content[:length])
        with pytest.raises(CheckpointError, match=r"is not a checkpoint's config\.json"):
            read_config(folder)


def test_the_log_of_the_training_lies_in_the_folder_where_there_is_one(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    save_checkpoint(tmp_path / "a.x", make_checkpoint(), card_text="", overwrite=False, log="epoch,loss\n1,0.5\n")
    assert (tmp_path / "a.x" / LOG_NAME).read_bytes() == b"epoch,loss\n1,0.5\n"
    save_checkpoint(tmp_path / "a.x", make_checkpoint(), card_text="", overwrite=True)
    assert not (tmp_path / "a.x" / LOG_NAME).exists()


def test_a_card_tells_the_validation_accuracy_and_an_older_one_none(
    folder: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    assert "validation" not in json.loads((folder / CONFIG_NAME).read_text())["mixbench"]
    assert load_checkpoint(folder).card.validation is None
    made = make_checkpoint()
    card = made.card.model_copy(update={"validation": Accuracy(correct=3, total=4)})
    save_checkpoint(tmp_path / "b.x", replace(made, card=card), card_text="", overwrite=False)
    assert load_checkpoint(tmp_path / "b.x").card.validation == Accuracy(correct=3, total=4)
