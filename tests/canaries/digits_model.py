"""A small digit classifier without any training loop, for the canaries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from sklearn.datasets import load_digits
from torch import Tensor, nn

EPS = {"Linf": 0.1, "L2": 0.7, "L1": 3.0}


class DigitsModel(nn.Module):
    """Random filters, drawn from a seed, under a linear head fitted by ridge regression.

    Takes images of 3 x 8 x 8 in [0, 1] and returns ten logits. No optimiser, hence the same weights everywhere, in
    milliseconds.
    """

    def __init__(self, images: Float[Tensor, "example 3 8 8"], labels: Int64[Tensor, " example"]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.Parameter(torch.randn(32, 3, 3, 3, generator=generator) / 27**0.5)
        with torch.no_grad():
            features = self.features(images).double()
            targets = nn.functional.one_hot(labels, 10).double()
            gram = features.T @ features + 10 * torch.eye(features.shape[1]).double()
            # The factor gives the logits the spread of a trained network's.
            self.head = nn.Parameter(20 * torch.linalg.solve(gram, features.T @ targets).float())

    def features(self, images: Float[Tensor, "example 3 8 8"]) -> Float[Tensor, "example feature"]:
        return nn.functional.conv2d(images - 0.5, self.filters, stride=2, padding=1).relu().flatten(1)

    def forward(self, images: Float[Tensor, "example 3 8 8"]) -> Float[Tensor, "example 10"]:
        return self.features(images) @ self.head


class Wrapped(nn.Module):
    """A model whose images and logits pass through two functions."""

    def __init__(
        self,
        model: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.before = before or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(self.before(images)))


class MicroBatched(nn.Module):
    """A model that never sees more than `size` images at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.model(chunk) for chunk in images.split(self.size)])


@dataclass(frozen=True, eq=False)
class Target:
    """A model and examples it was not fitted on: most are right, and at `EPS` some of these can be broken."""

    model: nn.Module
    images: Float[Tensor, "example 3 8 8"]
    labels: Int64[Tensor, " example"]

    def correct(self) -> "Target":
        """Return the same model with the examples that it gets right."""
        with torch.no_grad():
            right = self.model(self.images).argmax(1) == self.labels
        return Target(self.model, self.images[right], self.labels[right])


def digits_target() -> Target:
    digits: Any = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    return Target(DigitsModel(images[:1500], labels[:1500]).eval(), images[1500:1548], labels[1500:1548])
