"""Where the queries of the Square attack look: one window each, all drawn when an example is admitted."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from mixbench.attacks.fast.search import Slots
from mixbench.attacks.fast.streams import uniform

_FIRST_SHARE = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(eq=False)
class SquareSlots(Slots):
    """What the Square attack remembers of an example beside its candidate, which the next query changes.

    Attributes:
        plan: For each step the window's side, then twice the row and twice the column of its centre, numbers that
            only one norm needs, and last a sign for each channel. The first step, of side 0, asks about the start.
    """

    plan: Int32[Tensor, "slot step number"]

    def query(self) -> Int32[Tensor, "slot number"]:
        """Return the plan of the step that each slot is at."""
        step = self.steps.clamp(max=self.plan.shape[1] - 1)
        return self.plan.gather(1, step[:, None, None].expand(-1, 1, self.plan.shape[2])).squeeze(1)

    def signs(self, query: Int32[Tensor, "slot number"]) -> Int32[Tensor, "slot channel 1 1"]:
        """Return the signs of a query."""
        return query[:, -self.images.shape[1] :, None, None]


def window_share(query: int) -> float:
    """Return the share of the image that the window of query number `query`, from 0, covers (section 4 of the paper).

    The paper's schedule is made for 10,000 queries; the standard version of AutoAttack stops in the middle of it and
    does not compress it, whatever the number of its queries.
    """
    return _FIRST_SHARE / 2 ** sum(query > halving for halving in _HALVINGS)


@cache
def window_sides(queries: int, height: int, width: int, *, least: int, odd: bool = False) -> tuple[int, ...]:
    """Return the side of each query's window, at least `least` and at most the image's; `odd` rounds up to odd ones."""
    sides = (max(round(math.sqrt(window_share(query) * height * width)), least) for query in range(queries))
    return tuple(min(side + (side + 1) % 2 if odd else side, height, width) for side in sides)


def draw_start(keys: Int64[Tensor, " slot"], size: int) -> Float[Tensor, "slot size"]:
    """Return uniform numbers for the start."""
    return uniform(keys, torch.zeros_like(keys), size)


def draw_queries(keys: Int64[Tensor, " slot"], queries: int, number: int) -> Float[Tensor, "slot query"]:
    """Return the uniform number called `number`, from 0, of each query."""
    return uniform(keys, torch.full_like(keys, 1 + number), queries)


def draw_corners(
    uniforms: Float[Tensor, "slot query"], sides: Int64[Tensor, " query"], extent: int
) -> Int64[Tensor, "slot query"]:
    """Return first rows or columns of windows; as in the reference, none touches the last one unless it fills all."""
    return (uniforms * (extent - sides)).long()


def as_signs(uniforms: Float[Tensor, "*size"]) -> Int64[Tensor, "*size"]:
    """Return -1 or 1, each half of the time."""
    return torch.where(uniforms < 1 / 2, -1, 1)


def as_plan(columns: list[Int64[Tensor, "slot query"]]) -> Int32[Tensor, "slot step number"]:
    """Return the plan of these columns, with an empty window before the first query."""
    plan = torch.stack(columns, dim=2).to(torch.int32)
    return torch.nn.functional.pad(plan, (0, 0, 1, 0))


def window_masks(
    centres: Int32[Tensor, "slot window 2"], sides: Int32[Tensor, " slot"], height: int, width: int
) -> Bool[Tensor, "slot window height width"]:
    """Return what lies in each window, given twice the row and twice the column of its centre."""
    places = torch.arange(0, 2 * max(height, width), 2, device=centres.device)
    inside = (places - centres.unsqueeze(-1)).abs_() < sides[:, None, None, None]
    return inside[:, :, 0, :height, None] & inside[:, :, 1, None, :width]
