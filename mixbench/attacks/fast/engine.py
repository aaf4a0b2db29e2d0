"""The engine: runs a search on any number of examples in slots, and counts what its judge confirms."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mixbench.attacks.fast.graph import GraphedSteps, PlainSteps, Steps
from mixbench.attacks.fast.search import Images, Network, PerSlot, S, Search
from mixbench.attacks.fast.seats import Seats
from mixbench.attacks.fast.streams import example_keys
from mixbench.threat_model import ThreatModel

Judge = Callable[[Images, Int64[Tensor, " slot"]], PerSlot]
"""Returns the margins by the model that has the last word: below 0 exactly where its prediction is not the label."""

PassCallback = Callable[[int, int], None]
"""Called with the forward and backward passes just made, summed over the examples under attack."""

_NARROWEST = 16
_NARROWEST_ON_CPU = 8


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the examples of one run.

    Attributes:
        adversarial: The images that the judge confirmed, and the clean ones of the other examples.
        broken: Which were confirmed.
        forwards: Passes of each example, with those of the judge.
        backwards: As above.
        confirmations: How often the judge was asked.
        refuted: How often it denied.
    """

    adversarial: Float[Tensor, "example channel height width"]
    broken: Bool[np.ndarray, " example"]
    forwards: Int64[np.ndarray, " example"]
    backwards: Int64[np.ndarray, " example"]
    confirmations: int
    refuted: int


class Engine:
    """Runs searches with one network and one judge.

    An example leaves its slot when the judge confirms a candidate or its budget is spent, and another takes the slot;
    when none waits, those left move together into fewer slots. On a CUDA device steps are replayed from graphs,
    captured once for each search and width and kept as long as the engine.

    Attributes:
        slots: How many examples are attacked at once, at most.
        suspicion: The judge is asked about candidates whose margin by the network is below this: 0 for a network that
            agrees with the judge, the largest disagreement for one in half precision. An example whose candidate was
            denied goes on being attacked, and is asked about again when its margin fell by another quarter of this.
        longest_stride: The most steps between two looks at an example.
    """

    def __init__(
        self, network: Network, judge: Judge, *, slots: int = 512, suspicion: float = 0.0, longest_stride: int = 16
    ) -> None:
        self.slots, self.suspicion, self.longest_stride = slots, suspicion, longest_stride
        self._network, self.judge = network, judge
        self._graphed: dict[Hashable, GraphedSteps[Any]] = {}
        self._pool: Any = None

    def run(
        self,
        search: Search[S],
        images: Float[Tensor, "example channel height width"],
        labels: Int64[Tensor, " example"],
        clean_logits: Float[Tensor, "example logit"],
        threat_model: ThreatModel,
        *,
        seed: int,
        on_steps: PassCallback | None = None,
    ) -> Outcome:
        """Attack `images`, which the judge's model classifies as `labels` with logits `clean_logits`.

        The verdict on an example depends on the example and the seed, as far as the network treats the rows of a
        batch alike wherever they are: not on the other examples, their order or the number of slots.
        """
        examples = _Examples(
            images, labels, example_keys(images, labels, seed=seed), clean_logits, float(threat_model.eps)
        )
        return _Run(self, search, examples, on_steps or _ignore).finish()

    def steps(self, search: Search[S], slots: S) -> Steps[S]:
        """Return `search` under way on slots that begin as copies of `slots`."""
        if not slots.images.is_cuda:
            return PlainSteps(search, self._network, slots)
        key = (search, tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in slots.tensors()))
        if key in self._graphed:
            self._graphed[key].restart(slots)
        else:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._graphed[key] = GraphedSteps(search, self._network, slots, pool=self._pool)
        return self._graphed[key]

    def width(self, examples: int, device: torch.device) -> int:
        """Return how many slots to use for so many examples.

        A graph for each width must be captured, hence powers of two; elsewhere a finer ladder wastes less.
        """
        if device.type == "cuda":
            return min(max(1 << (examples - 1).bit_length(), _NARROWEST), self.slots)
        return min(-(-examples // _NARROWEST_ON_CPU) * _NARROWEST_ON_CPU, self.slots)


@dataclass(frozen=True, eq=False)
class _Examples:
    images: Float[Tensor, "example channel height width"]
    labels: Int64[Tensor, " example"]
    keys: Int64[Tensor, " example"]
    clean_logits: Float[Tensor, "example logit"]
    eps: float

    def __len__(self) -> int:
        return len(self.images)

    def start(self, search: Search[S], rows: Int64[np.ndarray, " row"]) -> S:
        index = self.index(rows)
        images, keys = self.images[index], self.keys[index]
        eps = torch.full((len(rows),), self.eps, dtype=images.dtype, device=images.device)
        return search.start(images, self.labels[index], keys, self.clean_logits[index], eps)

    def index(self, rows: Int64[np.ndarray, " row"]) -> Int64[Tensor, " row"]:
        return torch.from_numpy(rows).to(self.images.device)


class _Run(Generic[S]):
    """One run of a search on some examples."""

    def __init__(self, engine: Engine, search: Search[S], examples: _Examples, on_steps: PassCallback) -> None:
        self._engine, self._search, self._examples, self._on_steps = engine, search, examples, on_steps
        self._adversarial = examples.images.clone()
        self._broken = np.zeros(len(examples), dtype=np.bool_)
        self._steps, self._asked = (np.zeros(len(examples), dtype=np.int64) for _ in range(2))
        self._waiting = np.arange(len(examples))

    def finish(self) -> Outcome:
        """Attack every example until it is broken or its budget is spent."""
        if len(self._examples):
            seats, under_way = self._begin()
            while seats.busy.any():
                self._advance(seats, under_way)
                seats, under_way = self._reseat(seats, under_way)
        asked = int(self._asked.sum())
        return Outcome(
            adversarial=self._adversarial,
            broken=self._broken,
            forwards=self._steps * self._search.passes.forwards + self._asked,
            backwards=self._steps * self._search.passes.backwards,
            confirmations=asked,
            refuted=asked - int(self._broken.sum()),
        )

    def _begin(self) -> tuple[Seats, Steps[S]]:
        engine, examples = self._engine, self._examples
        budget = self._search.budget(examples.clean_logits.shape[1])
        width = engine.width(len(examples), examples.images.device)
        seats = Seats(width, budget=budget, longest_stride=engine.longest_stride)
        first, self._waiting = self._waiting[:width], self._waiting[width:]
        seats.seat(np.arange(len(first)), first)
        return seats, engine.steps(self._search, examples.start(self._search, _padded(first, width)))

    def _advance(self, seats: Seats, under_way: Steps[S]) -> None:
        """Make the steps until the next look, look, and let those go whose verdict is known."""
        stride, busy = seats.stride(), int(seats.busy.sum())
        under_way.advance(stride)
        due, last = seats.advance(stride)
        margins: np.ndarray = under_way.slots.margin.cpu().numpy()
        new = margins < seats.asked
        fell = margins <= seats.asked - self._engine.suspicion / 4
        (asked,) = np.nonzero(due & (margins < self._engine.suspicion) & new & (fell | last))
        confirmed = self._confirmed(asked, seats, under_way.slots)
        seats.asked[asked] = margins[asked]
        self._on_steps(
            busy * stride * self._search.passes.forwards + len(asked), busy * stride * self._search.passes.backwards
        )
        done = last.copy()
        done[confirmed] = True
        self._steps[seats.examples[done]] = seats.steps[done]
        seats.release(done)

    def _confirmed(self, asked: Int64[np.ndarray, " row"], seats: Seats, slots: S) -> Int64[np.ndarray, " row"]:
        """Return which of the slots `asked` hold a candidate that the judge confirms, and keep it."""
        if len(asked) == 0:
            return asked
        index = self._examples.index(asked)
        candidates = slots.candidate[index]
        broken = (self._engine.judge(candidates, slots.labels[index]) < 0).cpu().numpy()
        examples = seats.examples[asked]
        self._asked[examples] += 1
        self._broken[examples[broken]] = True
        kept = torch.from_numpy(broken).to(candidates.device)
        self._adversarial[self._examples.index(examples[broken])] = candidates[kept]
        return asked[broken]

    def _reseat(self, seats: Seats, under_way: Steps[S]) -> tuple[Seats, Steps[S]]:
        """Fill empty slots with examples that wait; when none waits, move together."""
        (idle,) = np.nonzero(~seats.busy)
        admitted = self._waiting[: len(idle)]
        if len(admitted):
            self._waiting = self._waiting[len(admitted) :]
            idle = idle[: len(admitted)]
            seats.seat(idle, admitted)
            under_way.slots.put(self._examples.index(idle), self._examples.start(self._search, admitted))
        (busy,) = np.nonzero(seats.busy)
        width = self._engine.width(len(busy), self._examples.images.device)
        if len(busy) == 0 or width >= len(seats.examples):
            return seats, under_way
        rows = under_way.slots.rows(self._examples.index(_padded(busy, width)))
        return seats.move(busy, width), self._engine.steps(self._search, rows)


def _padded(rows: Int64[np.ndarray, " row"], width: int) -> Int64[np.ndarray, " row"]:
    """Return `rows` followed by copies of the first one: slots that nobody looks at hold something finite."""
    return np.concatenate([rows, np.full(width - len(rows), rows[0])])


def _ignore(forwards: int, backwards: int) -> None:
    del forwards, backwards
