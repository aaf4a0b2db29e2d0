"""The fast engine for a model: its executor, the float32 judge, and how far the two may disagree."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.attacks import Engine, margins
from mixbench.models import Executor, executor_for

_SLOTS = 512
_DISAGREEMENT = 3.0
"""Candidates are shown to the judge up to this multiple of the largest disagreement seen on clean images."""


def engine_for(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    *,
    micro_batch: int,
) -> tuple[Engine, Executor]:
    """Return an engine that searches with the fastest executor of `model`, and that executor.

    `model` itself, in float32, has the last word. On `images` it is measured how far the executor's margins lie from
    the model's. At most `micro_batch` images are passed at once.
    """
    channels, height, width = images.shape[1:]
    executor = executor_for(model, (channels, height, width), images.device)

    def judged(found: Tensor, own: Int64[Tensor, " slot"]) -> Float[Tensor, " slot"]:
        with torch.no_grad():
            return margins(torch.cat([model(cut) for cut in found.split(micro_batch)]), own)

    with torch.no_grad():
        searched = torch.cat([executor.network(cut) for cut in images.split(min(micro_batch, _SLOTS))])
    difference = (margins(searched, labels) - judged(images, labels)).abs()
    largest = float(difference.nan_to_num(nan=0.0).max()) if len(images) else 0.0
    slots = min(_SLOTS, 1 << (micro_batch.bit_length() - 1))
    return Engine(executor.network, judged, slots=slots, suspicion=_DISAGREEMENT * largest), executor
