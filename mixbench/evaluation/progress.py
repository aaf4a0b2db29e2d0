"""How far a run has come, for whoever wants to draw it."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from mixbench.records import Accuracy


@dataclass(frozen=True)
class Progress:
    """A moment of a run.

    Attributes:
        stage: What is running.
        eps: The radius being attacked; None while clean accuracy is measured.
        block: Index of the block being worked on, of `blocks`.
        clean: Clean accuracy so far; None before the first block is classified.
        robust: Robust accuracy so far at `eps`; an upper bound until the run ends.
        done: Work done, in forward passes of one example (a backward pass counts as two).
        total: The expected sum; falls as examples are broken.
    """

    stage: str
    eps: Fraction | None
    block: int
    blocks: int
    clean: Accuracy | None
    robust: Accuracy | None
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
