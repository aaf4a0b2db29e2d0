"""The engine: runs a search on any number of examples in slots, and counts what its judge confirms."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mixbench.attacks.fast.graph import EventuallyGraphed, GraphedSteps, PlainSteps, Steps
from mixbench.attacks.fast.search import Images, Network, PerSlot, S, Search, SeesGradients
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
        flat: Which examples showed a zero gradient to a search that notices, at the start of any run.
    """

    adversarial: Float[Tensor, "example channel height width"]
    broken: Bool[np.ndarray, " example"]
    forwards: Int64[np.ndarray, " example"]
    backwards: Int64[np.ndarray, " example"]
    confirmations: int
    refuted: int
    flat: Bool[np.ndarray, " example"]


class Engine:
    """Runs searches with one network and one judge.

    An example leaves its slot when the judge confirms a candidate or its run ends, and another takes the slot; when
    none waits, those left move together into fewer slots. On a CUDA device steps are replayed from graphs,
    captured once for each search and width and kept as long as the engine.

    Attributes:
        network: What is searched with.
        judge: What has the last word.
        slots: How many examples are attacked at once, at most.
        suspicion: The judge is asked about candidates whose margin by the network is below this: 0 for a network that
            agrees with the judge, the largest disagreement for one in half precision. An example whose candidate was
            denied goes on being attacked, and is asked about again when its margin fell by another quarter of this.
        longest_stride: The most steps between two looks at an example.
        graphs: Whether a CUDA device replays graphs; a network that lets the host wait cannot be captured.
    """

    def __init__(
        self,
        network: Network,
        judge: Judge,
        *,
        slots: int = 512,
        suspicion: float = 0.0,
        longest_stride: int = 16,
        graphs: bool = True,
    ) -> None:
        self.slots, self.suspicion, self.longest_stride, self.graphs = slots, suspicion, longest_stride, graphs
        self.network, self.judge = network, judge
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
        keys = example_keys(images, labels, seed=seed)
        examples = _Examples(search, images, labels, keys, clean_logits, float(threat_model.eps))
        return _Attack(self, examples, on_steps or _ignore).finish()

    def steps(self, search: Search[S], slots: S) -> Steps[S]:
        """Return `search` under way on slots that begin as copies of `slots`."""
        if not (self.graphs and slots.images.is_cuda):
            return PlainSteps(search, self.network, slots)
        key = (search, tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in slots.tensors()))
        if key in self._graphed:
            self._graphed[key].restart(slots)
            return self._graphed[key]
        written = PlainSteps(search, self.network, slots)
        return EventuallyGraphed(written, lambda now: self._captured(key, search, now))

    def _captured(self, key: Hashable, search: Search[S], slots: S) -> Steps[S]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            self._graphed[key] = GraphedSteps(search, self.network, slots, pool=self._pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # A network that makes the host wait cannot be captured: it is slower as written, and no less right.
            self.graphs = False
            return PlainSteps(search, self.network, slots)
        return self._graphed[key]

    def clean_logits(self, images: Float[Tensor, "example channel height width"]) -> Float[Tensor, "example logit"]:
        """Return the network's logits of `images`: near enough for the order of the targets."""
        with torch.no_grad():
            return torch.cat([self.network(cut) for cut in images.split(self.slots)])

    def width(self, examples: int, device: torch.device) -> int:
        """Return how many slots to use for so many examples.

        A graph for each width must be captured, hence only powers of two and one width between two of them; elsewhere
        a finer ladder wastes less.
        """
        if device.type == "cuda":
            above = max(1 << (examples - 1).bit_length(), _NARROWEST)
            between = above // 4 * 3
            return min(between if _NARROWEST <= examples <= between else above, self.slots)
        return min(-(-examples // _NARROWEST_ON_CPU) * _NARROWEST_ON_CPU, self.slots)


@dataclass(frozen=True, eq=False)
class _Examples(Generic[S]):
    """The examples of one run and the search that attacks them."""

    search: Search[S]
    images: Float[Tensor, "example channel height width"]
    labels: Int64[Tensor, " example"]
    keys: Int64[Tensor, " example"]
    clean_logits: Float[Tensor, "example logit"]
    eps: float

    def __len__(self) -> int:
        return len(self.images)

    @property
    def runs(self) -> int:
        """Runs of the search on each example."""
        return self.search.runs(self.clean_logits.shape[1])

    @property
    def length(self) -> int:
        """Steps of each run."""
        return self.search.budget(self.clean_logits.shape[1]) // self.runs

    def started(self, rows: Int64[np.ndarray, " row"], runs: Int64[np.ndarray, " row"]) -> S:
        index = self.index(rows)
        images = self.images[index]
        eps = torch.full((len(rows),), self.eps, dtype=images.dtype, device=images.device)
        labels, keys, logits = self.labels[index], self.keys[index], self.clean_logits[index]
        return self.search.start(images, labels, keys, logits, eps, run=self.index(runs))

    def index(self, rows: Int64[np.ndarray, " row"]) -> Int64[Tensor, " row"]:
        return torch.from_numpy(rows).to(self.images.device)


class _Attack(Generic[S]):
    """A search under way on some examples.

    The first run of each example comes first. Where it fails, the others wait in one queue with those of all examples,
    so that even a few stubborn examples fill many slots.
    """

    def __init__(self, engine: Engine, examples: _Examples[S], on_steps: PassCallback) -> None:
        self._engine, self._examples, self._on_steps = engine, examples, on_steps
        self._adversarial = examples.images.clone()
        self._broken, self._flat = (np.zeros(len(examples), dtype=np.bool_) for _ in range(2))
        self._steps, self._asked = (np.zeros(len(examples), dtype=np.int64) for _ in range(2))
        self._confirmed = 0
        # Rows of an example and a run.
        self._waiting = np.stack([np.arange(len(examples)), np.zeros(len(examples), dtype=np.int64)], axis=1)

    def finish(self) -> Outcome:
        """Attack every example until it is broken or its budget is spent."""
        if len(self._examples):
            seats, under_way = self._begin()
            while seats.busy.any():
                if self._advance(seats, under_way):
                    seats, under_way = self._reseat(seats, under_way)
        asked, passes = int(self._asked.sum()), self._examples.search.passes
        return Outcome(
            adversarial=self._adversarial,
            broken=self._broken,
            forwards=self._steps * passes.forwards + self._asked,
            backwards=self._steps * passes.backwards,
            confirmations=asked,
            refuted=asked - self._confirmed,
            flat=self._flat,
        )

    def _begin(self) -> tuple[Seats, Steps[S]]:
        engine, examples = self._engine, self._examples
        width = engine.width(len(examples), examples.images.device)
        seats = Seats(width, length=examples.length, longest_stride=engine.longest_stride)
        first, runs = self._admit(width).T
        seats.seat(np.arange(len(first)), first, runs)
        return seats, engine.steps(examples.search, examples.started(_padded(first, width), _padded(runs, width)))

    def _advance(self, seats: Seats, under_way: Steps[S]) -> bool:
        """Make the steps until the next look and look; return whether that left any slots empty."""
        stride, busy, passes = seats.stride(), int(seats.busy.sum()), self._examples.search.passes
        under_way.advance(stride)
        due, last = seats.advance(stride)
        margins: np.ndarray = under_way.slots.margin.cpu().numpy()
        new = margins < seats.asked
        fell = margins <= seats.asked - self._engine.suspicion / 4
        (asked,) = np.nonzero(due & (margins < self._engine.suspicion) & new & (fell | last))
        self._ask(asked, seats, under_way.slots)
        seats.asked[asked] = margins[asked]
        self._on_steps(busy * stride * passes.forwards + len(asked), busy * stride * passes.backwards)
        done = last | (seats.busy & self._broken[seats.examples])
        if not done.any():
            return False
        self._dismiss(seats, done, under_way.slots)
        return True

    def _ask(self, asked: Int64[np.ndarray, " row"], seats: Seats, slots: S) -> None:
        """Show the judge the candidates of the slots `asked`, and keep those that it confirms."""
        if len(asked) == 0:
            return
        index = self._examples.index(asked)
        candidates = slots.candidate[index]
        confirmed = (self._engine.judge(candidates, slots.labels[index]) < 0).cpu().numpy()
        examples = seats.examples[asked]
        np.add.at(self._asked, examples, 1)
        self._confirmed += int(confirmed.sum())
        # Several runs may have broken one example at once.
        broken, first = np.unique(examples[confirmed], return_index=True)
        self._broken[broken] = True
        kept = np.flatnonzero(confirmed)[first]
        self._adversarial[self._examples.index(broken)] = candidates[self._examples.index(kept)]

    def _dismiss(self, seats: Seats, done: Bool[np.ndarray, " slot"], slots: S) -> None:
        """Empty slots; where an example resisted its first run, the others are to follow."""
        examples = seats.examples[done]
        np.add.at(self._steps, examples, seats.steps[done])
        if isinstance(slots, SeesGradients):
            np.logical_or.at(self._flat, examples, slots.flat.cpu().numpy()[done])
        resisted = examples[(seats.runs[done] == 0) & ~self._broken[examples]]
        others = np.arange(1, self._examples.runs)
        more = np.stack([np.tile(resisted, len(others)), np.repeat(others, len(resisted))], axis=1)
        self._waiting = np.concatenate([self._waiting, more])
        seats.release(done)

    def _admit(self, most: int) -> Int64[np.ndarray, "row 2"]:
        """Take up to `most` runs out of the queue."""
        admitted, self._waiting = self._waiting[:most], self._waiting[most:]
        return admitted

    def _reseat(self, seats: Seats, under_way: Steps[S]) -> tuple[Seats, Steps[S]]:
        """Fill empty slots with runs that wait, and change the width where those left fit another one better."""
        (busy,) = np.nonzero(seats.busy)
        self._waiting = self._waiting[~self._broken[self._waiting[:, 0]]]
        remaining = len(busy) + len(self._waiting)
        if remaining == 0:
            return seats, under_way
        width = self._engine.width(remaining, self._examples.images.device)
        if width != len(seats.examples):
            rows = _padded(busy if len(busy) else np.zeros(1, dtype=np.int64), width)
            under_way = self._engine.steps(self._examples.search, under_way.slots.rows(self._examples.index(rows)))
            seats = seats.move(busy, width)
        (idle,) = np.nonzero(~seats.busy)
        admitted = self._admit(len(idle))
        if len(admitted):
            examples, runs = admitted.T
            idle = idle[: len(admitted)]
            seats.seat(idle, examples, runs)
            under_way.slots.put(self._examples.index(idle), self._examples.started(examples, runs))
        return seats, under_way


def _padded(rows: Int64[np.ndarray, " row"], width: int) -> Int64[np.ndarray, " row"]:
    """Return `rows` followed by copies of the first one: slots that nobody looks at hold something finite."""
    return np.concatenate([rows, np.full(width - len(rows), rows[0])])


def _ignore(forwards: int, backwards: int) -> None:
    del forwards, backwards
