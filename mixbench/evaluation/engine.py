"""The fast engine for a model: its executor, the float32 judge, and how far the two may disagree."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mixbench.attacks import Engine, margins
from mixbench.models import Executor, executor_for

_SLOTS = 512
_DISAGREEMENT = 3.0
"""Candidates are shown to the judge up to this multiple of the largest disagreement seen on clean images."""
_TRIED = 64
_MOST_ERROR = 0.02
"""Half precision errs by 0.0005 of the logits' size, a network that computes something else by about all of it."""
_LEAST_COSINE = 0.9
"""Half precision moves the gradients of the zoo's ResNets by a twentieth of their length, those of others by less."""

Images = Float[Tensor, "batch channel height width"]
Labels = Int64[Tensor, " batch"]


def engine_for(model: nn.Module, images: Images, labels: Labels, *, micro_batch: int) -> tuple[Engine, Executor]:
    """Return an engine that searches with the fastest executor of `model`, and that executor.

    `model` itself, in float32, has the last word. On `images` it is measured how far the executor's margins lie from
    the model's; an executor whose logits or gradients are not those of `model`, as where someone changed a known
    architecture, is not used. At most `micro_batch` images are passed at once.
    """
    channels, height, width = images.shape[1:]
    executor = executor_for(model, (channels, height, width), images.device)
    if not _is_faithful(executor.network, model, images[: min(_TRIED, micro_batch)]):
        executor = Executor(model, "eager", "float32")

    def judged(found: Images, own: Labels) -> Float[Tensor, " slot"]:
        with torch.no_grad():
            return margins(torch.cat([model(cut) for cut in found.split(micro_batch)]), own)

    with torch.no_grad():
        searched = torch.cat([executor.network(cut) for cut in images.split(min(micro_batch, _SLOTS))])
    difference = (margins(searched, labels) - judged(images, labels)).abs()
    largest = float(difference.nan_to_num(nan=0.0).max()) if len(images) else 0.0
    slots = min(_SLOTS, 1 << (micro_batch.bit_length() - 1))
    return Engine(executor.network, judged, slots=slots, suspicion=_DISAGREEMENT * largest), executor


def _is_faithful(network: nn.Module, model: nn.Module, images: Images) -> bool:
    """Return whether logits and gradients of `network` are those of `model`, up to half precision."""
    if network is model or len(images) == 0:
        return True
    (found, own_gradients), (expected, gradients) = (_logits_and_gradients(one, images) for one in (network, model))
    error = float((found - expected).norm() / expected.norm())
    cosine = float(functional.cosine_similarity(own_gradients.flatten(1), gradients.flatten(1)).mean())
    return error <= _MOST_ERROR and cosine >= _LEAST_COSINE


def _logits_and_gradients(network: nn.Module, images: Images) -> tuple[Float[Tensor, "batch logit"], Images]:
    """Return the logits, and the gradient of each image's largest one."""
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        logits = network(leaf)
        (gradients,) = torch.autograd.grad(logits.amax(1).sum(), [leaf])
    return logits.detach(), gradients
