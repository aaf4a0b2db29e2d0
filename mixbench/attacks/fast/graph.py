"""The steps of a search on slots of one width: run as written, or replayed from a CUDA graph."""

from collections.abc import Callable
from typing import Any, Generic, Protocol

import torch

from mixbench.attacks.fast.search import Network, S, Search

# The first passes of a network choose its kernels and allocate what they keep.
_WARM_UPS = 3
AS_WRITTEN = 8
"""So many steps of a search at one width are made before a graph is captured."""


class Steps(Protocol[S]):
    """A search under way."""

    @property
    def slots(self) -> S:
        """Its state."""
        ...

    def restart(self, slots: S) -> None:
        """Overwrite the state by `slots`, of the same width."""
        ...

    def advance(self, steps: int) -> None:
        """Move all slots by so many steps."""
        ...


class PlainSteps(Generic[S]):
    """Steps run as they are written."""

    def __init__(self, search: Search[S], network: Network, slots: S) -> None:
        self._search, self._network = search, network
        self.slots = slots.copied()

    def restart(self, slots: S) -> None:
        """Overwrite the state by `slots`, of the same width."""
        _overwrite(self.slots, slots)

    def advance(self, steps: int) -> None:
        """Move all slots by so many steps."""
        for _ in range(steps):
            self._search.step(self._network, self.slots)


class GraphedSteps(Generic[S]):
    """Steps replayed from a CUDA graph, which is captured once: one launch a step.

    `pool` is the memory that graphs share, for what no step leaves behind.
    """

    def __init__(self, search: Search[S], network: Network, slots: S, *, pool: Any) -> None:
        self.slots = slots.copied()
        side: Any = torch.cuda.Stream(slots.images.device)
        side.wait_stream(torch.cuda.current_stream(slots.images.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                search.step(network, self.slots)
        torch.cuda.current_stream(slots.images.device).wait_stream(side)
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.device(slots.images.device), torch.cuda.graph(self._graph, pool=pool):
            search.step(network, self.slots)
        # Warming up moved the state.
        self.restart(slots)

    def restart(self, slots: S) -> None:
        """Overwrite the state by `slots`, of the same width."""
        _overwrite(self.slots, slots)

    def advance(self, steps: int) -> None:
        """Move all slots by so many steps."""
        for _ in range(steps):
            self._graph.replay()


class EventuallyGraphed(Generic[S]):
    """Steps run as written at first, since where everything breaks at once a graph would not repay its capture.

    `capture` is given the state after `AS_WRITTEN` steps and returns what makes the others.
    """

    def __init__(self, written: Steps[S], capture: Callable[[S], Steps[S]]) -> None:
        self._now: Steps[S] = written
        self._capture: Callable[[S], Steps[S]] | None = capture
        self._written = 0

    @property
    def slots(self) -> S:
        """Its state."""
        return self._now.slots

    def restart(self, slots: S) -> None:
        """Overwrite the state by `slots`, of the same width."""
        self._now.restart(slots)

    def advance(self, steps: int) -> None:
        """Move all slots by so many steps."""
        first = min(steps, AS_WRITTEN - self._written)
        if first:
            self._now.advance(first)
            self._written += first
        if steps > first:
            if self._capture is not None:
                self._now, self._capture = self._capture(self._now.slots), None
            self._now.advance(steps - first)


def _overwrite(own: S, others: S) -> None:
    for tensor, other in zip(own.tensors(), others.tensors(), strict=True):
        tensor.copy_(other)
