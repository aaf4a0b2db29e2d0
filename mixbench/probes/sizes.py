"""The decoders for images of each size, and what each is trained with."""

from collections.abc import Mapping
from dataclasses import dataclass

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.probes.fitting import Budget
from mixbench.probes.metrics import WINDOW


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
