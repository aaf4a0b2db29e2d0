"""The decoders for images of each size, what each is trained with, and what may be chosen instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.models import ARCHITECTURES
from mixbench.probes.decoder import DecoderSpec
from mixbench.probes.fitting import Budget
from mixbench.probes.metrics import WINDOW

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Size:
    """A decoder's size, the budget it is trained with, and the largest image side that it is the usual choice for."""

    depth: int
    width: int
    kernel: int
    budget: Budget
    largest_side: int | None


SIZES: Mapping[str, Size] = {
    "tiny": Size(4, 48, 5, Budget(epochs=8, batch_size=32, learning_rate=0.02), largest_side=8),
    "small": Size(10, 128, 7, Budget(epochs=10, batch_size=64, learning_rate=0.02), largest_side=28),
    # The seed paper's "large" model for CIFAR (arXiv 2503.16760, appendix).
    "large": Size(16, 512, 7, Budget(epochs=3, batch_size=64, learning_rate=0.01), largest_side=None),
}


@dataclass(frozen=True)
class DecoderChoice:
    """What is chosen of a decoder and its training; what is None is that of `size`, or the usual one for the images."""

    filter_seed: int = 0
    size: str | None = None
    depth: int | None = None
    width: int | None = None
    kernel: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None

    def resolved(self, model: str, *, dataset: str, image_size: tuple[int, int, int]) -> tuple[DecoderSpec, Budget]:
        """Return the decoder `model`, convmixer_MODE, for images of `image_size`, and its budget.

        Raises InvalidInputError or UnknownNameError for what cannot be.
        """
        available = [name for name, architecture in ARCHITECTURES.items() if architecture.family == "convmixer"]
        if model not in available:
            raise UnknownNameError("decoder", model, available)
        check_square(dataset, *image_size[1:])
        usual = size_for(image_size[1], self.size)
        spec = DecoderSpec(
            depth=_or(self.depth, usual.depth),
            width=_or(self.width, usual.width),
            kernel=_or(self.kernel, usual.kernel),
            mixing=ARCHITECTURES[model].mixing,
            filter_seed=self.filter_seed,
        )
        spec.check_reaches(image_size[1])
        budget = Budget(
            epochs=_or(self.epochs, usual.budget.epochs),
            batch_size=_or(self.batch_size, usual.budget.batch_size),
            learning_rate=_or(self.learning_rate, usual.budget.learning_rate),
        )
        _check_budget(budget)
        return spec, budget


def _or(chosen: Number | None, usual: Number) -> Number:
    return usual if chosen is None else chosen


def _check_budget(budget: Budget) -> None:
    """Raise InvalidInputError unless something can be trained."""
    for name, value in (("epochs", budget.epochs), ("batch size", budget.batch_size)):
        if value < 1:
            raise InvalidInputError(f"{name} {value} is not at least 1: leave it out for the usual number")
    if not 0 < budget.learning_rate < float("inf"):
        raise InvalidInputError(
            f"learning rate {budget.learning_rate:g} is not above 0: leave it out for the usual one"
        )


def size_for(side: int, name: str | None) -> Size:
    """Return the size called `name`, or the usual one for images of `side` x `side`; raises UnknownNameError."""
    if name is None:
        return next(size for size in SIZES.values() if size.largest_side is None or side <= size.largest_side)
    if name not in SIZES:
        raise UnknownNameError("size", name, SIZES)
    return SIZES[name]


def check_square(dataset: str, height: int, width: int) -> None:
    """Raise InvalidInputError unless images are square and not too small to be compared."""
    if height != width:
        raise InvalidInputError(
            f"{dataset} has images of {height}x{width}, expected square ones: crop or pad them first"
        )
    if height < WINDOW:
        raise InvalidInputError(
            f"{dataset} has images of {height}x{width}, expected at least {WINDOW}x{WINDOW}, the window of SSIM: choose"
            " another dataset"
        )
