"""Networks whose rows do not see each other in any bit, on whatever batch they are called."""

from collections.abc import Callable

import torch
from torch import Tensor

from mixbench.attacks.fast.search import margins

Network = Callable[[Tensor], Tensor]


def rowwise_network(pixels: int, *, num_classes: int = 5, device: str = "cpu") -> Network:
    """Return a small smooth network of products and sums along a row, with no matrix product that batches change."""
    generator = torch.Generator().manual_seed(0)
    weights, offsets = torch.randn((2, num_classes, pixels), generator=generator).to(device)

    def network(images: Tensor) -> Tensor:
        activations = torch.tanh((images.flatten(1)[:, None] - 0.5) * weights * 3 + offsets)
        # Grey images get equal logits, so that every class has its share.
        return (activations - offsets.tanh()).sum(2)

    return network


def judged_by(network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the margins of `network`, as the engine's judge."""

    def judge(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return margins(network(images), labels)

    return judge
