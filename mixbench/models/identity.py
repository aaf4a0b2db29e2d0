"""What tells one foreign model from another: its tensors, and its logits or its code."""

import copy
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator

import torch
from torch import nn

from mixbench.models.checkpoints import ImageSize, fixed_inputs

_STABLE_PACKAGES = ("torch", "timm")
_QUANTA = 1e4
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def function_hash(model: nn.Module, *, image_size: ImageSize | None, code: tuple[str, ...]) -> str:
    """Return the SHA-256 of what `model`, in eval mode on the CPU, computes; the same in every process.

    Hashed are all parameters and buffers, and the logits on the fixed inputs. Where `image_size` is None these cannot
    be had: then it is the repr and the source of the imported modules `code` and of those that define its layers,
    torch and timm left out.
    """
    digest = hashlib.sha256()
    # state_dict leaves out the buffers that are not persistent.
    for name, tensor in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if image_size is not None:
        digest.update(_rounded_logits(model, image_size))
    else:
        for text in _code_of(model, code):
            digest.update(text.encode())
    return digest.hexdigest()


def _rounded_logits(model: nn.Module, image_size: ImageSize) -> bytes:
    """Return the logits on the fixed inputs, to 4 digits of the largest."""
    # In double precision the noise of CPU and thread count lies so far below the rounding that no logit is near a tie.
    double, images = copy.deepcopy(model).double(), fixed_inputs(image_size).double()
    with torch.no_grad():
        try:
            logits = double(images)
        except RuntimeError:  # a model that casts to float32 inside
            logits = model(images.float()).double()
    scale = float(logits.abs().max())
    # Adding zero makes -0.0 equal to 0.0.
    rounded = (logits / (scale or 1.0) * _QUANTA).round() + 0.0
    return f"{tuple(logits.shape)} {scale:.4g}".encode() + rounded.contiguous().numpy().tobytes()


def _code_of(model: nn.Module, code: tuple[str, ...]) -> Iterator[str]:
    """Yield type, repr and sources; whole modules, for a layer also calls the functions beside it."""
    yield f"{type(model).__module__}.{type(model).__qualname__}"
    yield _ADDRESS.sub("", repr(model))
    classes = {base for module in model.modules() for base in type(module).__mro__}
    names = {base.__module__ for base in classes if base.__module__.partition(".")[0] not in _STABLE_PACKAGES}
    for name in sorted(names | set(code)):
        yield name
        try:
            yield inspect.getsource(sys.modules[name])
        except (OSError, TypeError, KeyError):  # built in, or compiled
            continue
