"""Reading weights that somebody else may have written."""

import io
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn

from mixbench.errors import CheckpointError

StateDict = dict[str, Tensor]


def read_state_dict(path: Path, *, trust_pickle: bool) -> StateDict:
    """Return the tensors in `path`, on the CPU; safetensors always, pickles only with `trust_pickle`.

    Even then only tensors are unpickled (`weights_only=True`). Raises CheckpointError that says what the file is
    instead.
    """
    return parse_state_dict(read_weights(path), path, trust_pickle=trust_pickle)


def read_weights(path: Path) -> bytes:
    """Return the bytes in `path`; raises CheckpointError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}; check the path") from None


def parse_state_dict(content: bytes, path: Path, *, trust_pickle: bool) -> StateDict:
    """Return the tensors in `content`, the bytes of `path`, as `read_state_dict` does."""
    head = content[:512]
    if not _is_safetensors(head) and head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is an HTML page, not weights: the download returned a web page, so fetch the file itself"
        )
    if not _is_safetensors(head) and (head[:2] == b"PK" or head[:1] == b"\x80"):
        return _parse_pickle(content, path, trust_pickle=trust_pickle)
    try:
        return load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}): it is truncated or damaged, so fetch it again"
        ) from None


def _is_safetensors(head: bytes) -> bool:
    # The file opens with the length of its JSON header, whose first byte may be that of a pickle or of a web page.
    return int.from_bytes(head[:8], "little") < 2**32 and head[8:9] == b"{"


def _parse_pickle(content: bytes, path: Path, *, trust_pickle: bool) -> StateDict:
    if not trust_pickle:
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is loaded: convert it to safetensors, or pass"
            " --trust-pickle to load its tensors alone"
        )
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes, torch's unpickler raises whatever it stumbles over
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(
            f"{path} holds more than tensors or is damaged ({reason}): save its state dict"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise CheckpointError(f"{path} holds no state dict: expected a mapping from names to tensors")
    return loaded


def load_into(model: nn.Module, state_dict: StateDict, *, source: str) -> None:
    """Copy `state_dict` into `model`; raises CheckpointError that names the first tensor that does not fit."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state_dict:
            raise CheckpointError(f"{source} lacks the tensor {name}: it was made for another architecture or size")
        if state_dict[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source} has {name} of shape {tuple(state_dict[name].shape)}, the model expects"
                f" {tuple(tensor.shape)}: it was made for another architecture or size"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(state_dict[name]).all()):
            raise CheckpointError(f"{source} has values in {name} that are not finite: the training diverged")
    unexpected = sorted(set(state_dict) - set(own))
    if unexpected:
        raise CheckpointError(f"{source} has a tensor {unexpected[0]} that the model lacks: it is for another model")
    model.load_state_dict(state_dict)
