"""Losses of the logits with their slopes in closed form, which cost a few operations instead of a graph of them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.attacks.fast.search import PerSlot

_TINY = 1e-12


def cross_entropy(
    logits: Float[Tensor, "slot logit"], labels: Int64[Tensor, " slot"]
) -> tuple[PerSlot, Float[Tensor, "slot logit"]]:
    """Return the cross-entropies and their slopes."""
    logarithms = logits.log_softmax(1)
    true = labels[:, None]
    slopes = logarithms.exp()
    # Not p - 1, which rounds to nothing where the network is sure: the other classes' probabilities are exact.
    slopes.scatter_(1, true, 0)
    slopes.scatter_(1, true, -slopes.sum(1, keepdim=True))
    return -logarithms.gather(1, true).squeeze(1), slopes


def targeted_dlr(
    logits: Float[Tensor, "slot logit"], labels: Int64[Tensor, " slot"], target: Int64[Tensor, " slot"]
) -> tuple[PerSlot, Float[Tensor, "slot logit"]]:
    """Return the targeted DLR losses and their slopes times the loss's denominator, which is above 0."""
    sorted_, order = logits.topk(4, dim=1)
    true, aim = labels[:, None], target[:, None]
    denominator = sorted_[:, :1] - (sorted_[:, 2:3] + sorted_[:, 3:]) / 2 + _TINY
    losses = (logits.gather(1, aim) - logits.gather(1, true)) / denominator
    slopes = torch.zeros_like(logits)
    one = torch.ones_like(losses)
    index = torch.cat([aim, true, order[:, :1], order[:, 2:]], dim=1)
    slopes.scatter_add_(1, index, torch.cat([one, -one, -losses, losses / 2, losses / 2], dim=1))
    return losses.squeeze(1), slopes
