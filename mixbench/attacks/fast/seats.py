"""Who sits in which slot, on the host: how far each example is and when it is looked at next."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

IDLE = -1
"""In place of an example where a slot has none."""

_LOOKS_AN_OCTAVE = 4


class Seats:
    """The host's side of the slots; it knows every slot's steps without asking the device.

    When an example is looked at depends on its own steps alone: after each one at first, then at distances of about
    a quarter of the steps made, up to `longest_stride`, and at the end of the run. So what the judge is shown of
    it never depends on its neighbours.

    Attributes:
        examples: The example in each slot, or IDLE.
        runs: Which run of the search it is.
        steps: Steps made of the run.
        asked: The network's margin of the candidate that the judge denied last; infinite before any.
    """

    def __init__(self, width: int, *, length: int, longest_stride: int) -> None:
        self._length, self._longest_stride = length, longest_stride
        self.examples: Int64[np.ndarray, " slot"] = np.full(width, IDLE, dtype=np.int64)
        self.runs: Int64[np.ndarray, " slot"] = np.zeros(width, dtype=np.int64)
        self.steps: Int64[np.ndarray, " slot"] = np.zeros(width, dtype=np.int64)
        self.asked: Float64[np.ndarray, " slot"] = np.full(width, np.inf)
        self._looks: Int64[np.ndarray, " slot"] = np.zeros(width, dtype=np.int64)

    @property
    def busy(self) -> Bool[np.ndarray, " slot"]:
        """Where there is an example."""
        return self.examples != IDLE

    def stride(self) -> int:
        """Return the steps until the first look that is due."""
        return int((self._looks - self.steps)[self.busy].min())

    def advance(self, stride: int) -> tuple[Bool[np.ndarray, " slot"], Bool[np.ndarray, " slot"]]:
        """Note `stride` steps; return which slots are to be looked at, and which of them for the last time."""
        self.steps += stride
        due = self.busy & (self.steps == self._looks)
        self._looks[due] = self._next_looks(self.steps[due])
        return due, due & (self.steps == self._length)

    def seat(
        self, slots: Int64[np.ndarray, " row"], examples: Int64[np.ndarray, " row"], runs: Int64[np.ndarray, " row"]
    ) -> None:
        """Put examples into slots, each at the beginning of a run."""
        self.examples[slots], self.runs[slots], self.steps[slots], self.asked[slots] = examples, runs, 0, np.inf
        self._looks[slots] = 1

    def release(self, slots: Bool[np.ndarray, " slot"]) -> None:
        """Let the examples go that sit where `slots` is true."""
        self.examples[slots] = IDLE

    def move(self, slots: Int64[np.ndarray, " row"], width: int) -> "Seats":
        """Return `width` seats whose first ones are the rows of `slots`."""
        moved = Seats(width, length=self._length, longest_stride=self._longest_stride)
        for name in ("examples", "runs", "steps", "asked", "_looks"):
            own: Any = getattr(self, name)
            getattr(moved, name)[: len(slots)] = own[slots]
        return moved

    def _next_looks(self, steps: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
        octave = np.log2(np.maximum(steps // _LOOKS_AN_OCTAVE, 1)).astype(np.int64)
        distance = np.minimum(1 << octave, self._longest_stride)
        return np.minimum((steps // distance + 1) * distance, self._length)
