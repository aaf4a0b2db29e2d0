"""What a model must be before an attack is worth its compute."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.evaluation.metering import is_out_of_memory

_RANGE_TOLERANCE = 1e-6
_SUM_TOLERANCE = 1e-3


@contextmanager
def ready_for_attack(model: nn.Module, device: torch.device) -> Generator[None]:
    """Move `model` to `device` with gradients of its parameters off and float32 kept exact; undo it afterwards.

    Gradients of parameters would double the cost of foolbox's attacks.
    """
    if any(module.training for module in model.modules()):
        raise InvalidInputError("the model is in train mode, where batches change its output: call model.eval() first")
    parameters = list(model.parameters())
    learning = [parameter.requires_grad for parameter in parameters]
    tensors = [*parameters, *model.buffers()]
    origin = tensors[0].device if tensors else device
    try:
        model.to(device).requires_grad_(False)
        with exact_float32():
            yield
    finally:
        model.to(origin)
        for parameter, learns in zip(parameters, learning, strict=True):
            parameter.requires_grad_(learns)


@contextmanager
def exact_float32() -> Generator[None]:
    """Keep torch from computing in TF32 or bfloat16, whose mantissas are shorter than float32's."""
    switches = _precision_switches()
    before = [read() for read, _, _ in switches]
    try:
        for _, write, exact in switches:
            write(exact)
        yield
    finally:
        for (_, write, _), value in zip(switches, before, strict=True):
            write(value)


_Switch = tuple[Callable[[], Any], Callable[[Any], None], Any]
"""How torch's precision is read and written, and its value for exact float32."""


def _precision_switches() -> list[_Switch]:
    """Return the switches that torch lets be read: not the old ones once a program has set those of torch 2.9."""
    backends: Any = torch.backends
    whole: _Switch = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    switches = [whole]
    if not _readable(whole):
        old = _attribute(backends.cuda.matmul, "allow_tf32", exact=False)
        new = _attribute(backends.cuda.matmul, "fp32_precision", exact="ieee")
        switches = [old if _readable(old) else new, _attribute(backends.mkldnn.matmul, "fp32_precision", exact="ieee")]
    old = _attribute(backends.cudnn, "allow_tf32", exact=False)
    if _readable(old):
        return [*switches, old]
    layers = (backends.cudnn.conv, backends.cudnn.rnn)
    return [*switches, *(_attribute(layer, "fp32_precision", exact="ieee") for layer in layers)]


def _attribute(owner: Any, name: str, *, exact: Any) -> _Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), exact


def _readable(switch: _Switch) -> bool:
    try:
        switch[0]()
    except RuntimeError:
        return False
    return True


def check_images(images: Float[Tensor, "batch channel height width"]) -> None:
    """Raise InvalidInputError unless all values are finite and in [0, 1]."""
    low, high = float(images.min()), float(images.max())
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise InvalidInputError(
            f"images have values from {low:.6g} to {high:.6g}, expected [0, 1]: pass pixels divided by 255 and leave"
            " normalisation to the model"
        )


def check_outputs(model: nn.Module, images: Float[Tensor, "batch channel height width"], *, num_classes: int) -> None:
    """Raise InvalidInputError unless `model` maps `images` to finite logits for `num_classes` classes."""
    size = "x".join(str(n) for n in images.shape[1:])
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:  # a network of the user's own may raise anything
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        reason = str(error).split("\n", maxsplit=1)[0]
        raise InvalidInputError(
            f"the model cannot take images of {size} ({type(error).__name__}: {reason}): choose a dataset of the size"
            " it was made for, or mend its forward"
        ) from error
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] != len(images):  # noqa: PLR2004 - batch and class
        raise InvalidInputError(
            f"the model returned shape {shape} for {len(images)} images, expected a row of logits each"
        )
    if shape[1] != num_classes:
        raise InvalidInputError(
            f"the model returned {shape[1]} classes and the dataset has {num_classes}: choose a model trained on it"
        )
    if not bool(torch.isfinite(logits).all()):
        raise InvalidInputError("the model returned NaN or infinite logits for clean images: its weights are damaged")
    _check_not_probabilities(logits)


def _check_not_probabilities(logits: Float[Tensor, "batch logit"]) -> None:
    # A scaled softmax sums to another constant, which the attack library's own check does not see.
    sums = logits.sum(1)
    constant = float((sums - sums[0]).abs().max()) <= _SUM_TOLERANCE * abs(float(sums[0]))
    if float(logits.min()) >= 0 and constant and len(sums) > 1:
        raise InvalidInputError(
            f"the model returned probabilities (no value below 0, every row sums to {float(sums[0]):.4g}), expected"
            " logits: remove its final softmax, which hides gradients from the attacks"
        )
