import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mixbench.attacks.fast.losses import cross_entropy, targeted_dlr
from mixbench.attacks.fast.search import unit_slopes


def test_slopes_are_those_of_the_losses_up_to_a_factor() -> None:
    logits = torch.randn((200, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, targets = torch.arange(200) % 6, (torch.arange(200) + 1 + torch.arange(200) % 5) % 6

    def dlr(logits: Tensor) -> Tensor:
        ordered = logits.sort(dim=1, descending=True).values
        gap = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
        return gap / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)

    for (found, slopes), expected in (
        (targeted_dlr(logits, labels, targets), dlr),
        (cross_entropy(logits, labels), partial(functional.cross_entropy, target=labels, reduction="none")),
    ):
        leaf = logits.clone().requires_grad_()
        losses = expected(leaf)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        torch.testing.assert_close(found, losses.detach())
        torch.testing.assert_close(unit_slopes(slopes), unit_slopes(gradient))


def test_the_cross_entropy_of_a_sure_network_keeps_its_slopes() -> None:
    """In float32 the probability of the true class rounds to 1."""
    logits = torch.tensor([[60.0, 1.0, 0.0]])
    _, slopes = cross_entropy(logits, torch.tensor([0]))
    expected = torch.tensor([[-1.0, 1 / (1 + math.exp(-1)), 1 / (1 + math.e)]])
    torch.testing.assert_close(unit_slopes(slopes), expected)
