import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from mixbench.errors import CheckpointError
from mixbench.models.weights import load_into, read_state_dict

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([0.5, -0.5])}


class _MakeFolder:
    """A pickle that makes a folder when it is loaded: harmless, but code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


def _legacy(tensors: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _zipped(tensors: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _plain(tensors: object) -> bytes:
    # torch warns of any protocol but its own, 2.
    return pickle.dumps(tensors, protocol=2)


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.pth")
    assert _equal(read_state_dict(tmp_path / "weights.pth", trust_pickle=False), TENSORS)


@pytest.mark.parametrize("head", [b"\x80", b"PK", b" <"], ids=["as a pickle", "as a zip", "as a web page"])
def test_safetensors_are_known_even_if_they_begin_as_another_format(tmp_path: Path, head: bytes) -> None:
    """The first bytes are the length of the header, padded to a multiple of 8: one file in 32 begins as a pickle."""
    header = save(TENSORS)[8:]
    length = struct.unpack("<Q", save(TENSORS)[:8])[0]
    wanted = int.from_bytes(head, "little")
    while wanted < length:
        wanted += 256 ** len(head)
    content = struct.pack("<Q", wanted) + header[:length].ljust(wanted) + header[length:]
    assert content.startswith(head)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert _equal(read_state_dict(tmp_path / "model.safetensors", trust_pickle=False), TENSORS)


@pytest.mark.parametrize("encode", [_zipped, _legacy, _plain], ids=["zip", "legacy", "plain"])
def test_a_pickle_is_refused_unless_it_is_trusted(tmp_path: Path, encode: Callable[[object], bytes]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode(TENSORS))
    message = r"model\.safetensors is a pickle, which can run code .* convert it to safetensors, or pass --trust-pickle"
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path, trust_pickle=False)


@pytest.mark.parametrize("encode", [_zipped, _legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3}])
def test_a_trusted_pickle_gives_its_tensors(
    tmp_path: Path, encode: Callable[[object], bytes], wrap: Callable[[object], object]
) -> None:
    (tmp_path / "weights.pth").write_bytes(encode(wrap(TENSORS)))
    assert _equal(read_state_dict(tmp_path / "weights.pth", trust_pickle=True), TENSORS)


@pytest.mark.parametrize("encode", [_zipped, _legacy, _plain], ids=["zip", "legacy", "plain"])
@pytest.mark.parametrize("trust_pickle", [True, False])
def test_code_in_a_pickle_is_not_run_even_if_it_is_trusted(
    tmp_path: Path, encode: Callable[[object], bytes], *, trust_pickle: bool
) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    path.write_bytes(encode({**TENSORS, "evil": _MakeFolder(made)}))
    with pytest.raises(CheckpointError, match="more than tensors" if trust_pickle else "can run code"):
        read_state_dict(path, trust_pickle=trust_pickle)
    assert not made.exists()
    # The pickle does what it threatens once nobody guards it.
    if encode is _plain:
        pickle.loads(path.read_bytes())  # noqa: S301 - its code is the harmless one above
    else:
        torch.load(path, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"weight": 3}, {1: torch.zeros(1)}, torch.zeros(3), {"state_dict": [torch.zeros(1)]}],
    ids=["list", "number", "number as name", "tensor", "list of tensors"],
)
def test_a_trusted_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "weights.pth").write_bytes(_zipped(content))
    with pytest.raises(CheckpointError, match="holds no state dict: expected a mapping from names to tensors"):
        read_state_dict(tmp_path / "weights.pth", trust_pickle=True)


@pytest.mark.parametrize("encode", [_zipped, _legacy], ids=["zip", "legacy"])
def test_a_damaged_pickle_is_refused_or_still_a_state_dict(tmp_path: Path, encode: Callable[[object], bytes]) -> None:
    path, sound = tmp_path / "weights.pth", encode(TENSORS)
    generator = np.random.Generator(np.random.PCG64(0))
    refused = 0
    for _ in range(150):
        content = bytearray(sound)
        for position in generator.integers(2, len(content), 3):
            content[position] = generator.integers(256)
        path.write_bytes(content[: generator.integers(2, len(content) + 1)])
        try:
            read_state_dict(path, trust_pickle=True)
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*x\.pth: No such file.*; check the path"):
        read_state_dict(tmp_path / "x.pth", trust_pickle=True)
    with pytest.raises(CheckpointError, match="Is a directory"):
        read_state_dict(tmp_path, trust_pickle=True)


@pytest.mark.parametrize("head", [b"<!DOCTYPE html>", b"\n  <html>", b"<?xml version='1.0'?>"])
def test_a_web_page_is_told_from_weights(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x").write_bytes(head + b" " * 600)
    with pytest.raises(CheckpointError, match="is an HTML page, not weights: the download returned a web page"):
        read_state_dict(tmp_path / "x", trust_pickle=True)


def test_tensors_are_copied_into_the_model() -> None:
    model = nn.Linear(3, 2)
    load_into(model, TENSORS, source="x")
    assert _equal(model.state_dict(), TENSORS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": None}, "^x lacks the tensor weight: it was made for another architecture or size"),
        ({"weight": torch.zeros(3, 2)}, r"^x has weight of shape \(3, 2\), the model expects \(2, 3\)"),
        ({"bias": torch.tensor([0.0, -torch.inf])}, "^x has values in bias that are not finite"),
        ({"extra": torch.zeros(1)}, "^x has a tensor extra that the model lacks: it is for another model"),
    ],
    ids=["missing", "shape", "infinite", "extra"],
)
def test_tensors_that_do_not_fit_are_refused_by_name_and_change_nothing(
    change: dict[str, Tensor | None], message: str
) -> None:
    model = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state_dict = {name: tensor for name, tensor in {**TENSORS, **change}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        load_into(model, state_dict, source="x")
    assert _equal(model.state_dict(), before)
