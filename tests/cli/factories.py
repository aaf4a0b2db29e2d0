"""Networks that the command line is given as `tests.cli.factories:NAME`: good, bad and slow to arrive."""

from collections.abc import Callable
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixbench.datasets.digits import read_digits

PASSES_UNTIL_CTRL_C: int | None = None
"""After how many forward passes `nearest_mean` is interrupted; None lets it be."""


class NearestMean(nn.Module):
    """The digit whose mean training image is nearest, as a linear network: images of 1x8x8 in [0, 1] to ten logits.

    Integer sums and one division make the same weights in every process.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        train = read_digits(split="train")
        pixels, labels = torch.from_numpy(train.images.copy()).flatten(1).double() / 255, torch.from_numpy(train.labels)
        means = torch.stack([pixels[labels == label].mean(0) for label in range(classes)])
        self.weight = nn.Parameter((4 * means).float())
        self.bias = nn.Parameter((-2 * means.square().sum(1)).float())

    def forward(self, images: Float[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch logit"]:
        return images.flatten(1) @ self.weight.T + self.bias


class _Then(nn.Module):
    """A network whose logits pass through a function."""

    def __init__(self, model: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(images))


class _StuckInTrainMode(NearestMean):
    def train(self, mode: bool = True) -> nn.Module:  # noqa: FBT001, FBT002 - torch's signature
        del mode
        return super().train(mode=True)


def nearest_mean() -> nn.Module:
    passes = count(1)

    def interrupt(logits: Tensor) -> Tensor:
        if PASSES_UNTIL_CTRL_C is not None and next(passes) > PASSES_UNTIL_CTRL_C:
            raise KeyboardInterrupt
        return logits

    return _Then(NearestMean(), interrupt)


def probabilities() -> nn.Module:
    return _Then(NearestMean(), lambda logits: logits.softmax(1))


def not_a_number() -> nn.Module:
    return _Then(NearestMean(), lambda logits: logits * torch.nan)


def five_classes() -> nn.Module:
    return NearestMean(classes=5)


def three_classes() -> nn.Module:
    return NearestMean(classes=3)


def stuck_in_train_mode() -> nn.Module:
    return _StuckInTrainMode()


def no_network() -> str:
    return "not a network"


def needs_an_argument(width: int) -> nn.Module:
    return NearestMean(classes=width)


def raises() -> nn.Module:
    raise KeyError("weights_v2")


def raises_in_forward() -> nn.Module:
    def fail(logits: Tensor) -> Tensor:
        raise KeyError(f"no head for {len(logits)} images")

    return _Then(NearestMean(), fail)


def photos() -> nn.Module:
    """Images of 3x32x32 to ten logits, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
