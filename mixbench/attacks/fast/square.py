"""The Square attack (arXiv 1912.00049): random windows, kept where they lower the margin; it sees no gradient."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.attacks.fast.search import Images, Network, PerSlot, Slots, margins
from mixbench.attacks.fast.square_l2 import SquareL2Slots, l2_image, start_l2
from mixbench.attacks.fast.square_windows import (
    SquareSlots,
    as_plan,
    as_signs,
    draw_corners,
    draw_queries,
    draw_start,
    window_masks,
    window_sides,
)
from mixbench.attacks.protocol import Passes
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm


@dataclass(frozen=True)
class Square:
    """The Square attack as the standard version of AutoAttack runs it, on the margin.

    Where the reference draws one window for a whole batch, here each example has windows of its own.

    Attributes:
        norm: Linf or L2.
        queries: How many windows are tried.
    """

    norm: Norm
    queries: int = 5000

    def __post_init__(self) -> None:
        if self.norm not in {Norm.LINF, Norm.L2}:
            raise InvalidInputError(
                f"the fast engine has no {self.norm.value} version of Square: use --norm Linf or --norm L2"
            )

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        return "square"

    @property
    def passes(self) -> Passes:
        """The passes through the network of one step."""
        return Passes(1, 0)

    def budget(self, num_classes: int) -> int:
        """Return the steps: one for the start and one a query."""
        del num_classes
        return 1 + self.queries

    def runs(self, num_classes: int) -> int:
        """Return 1: each query builds on the one before."""
        del num_classes
        return 1

    def start(
        self,
        images: Images,
        labels: Int64[Tensor, " slot"],
        keys: Int64[Tensor, " slot"],
        clean_logits: Float[Tensor, "slot logit"],
        eps: PerSlot,
    ) -> SquareSlots:
        """Return the state of newly admitted examples; their candidate is the start, about which nobody asked yet."""
        slots = Slots(
            images=images,
            labels=labels,
            keys=keys,
            clean_logits=clean_logits,
            eps=eps,
            steps=torch.zeros_like(labels),
            candidate=images,
            margin=torch.full_like(eps, torch.inf),
        )
        return _start_linf(slots, self.queries) if self.norm is Norm.LINF else start_l2(slots, self.queries)

    @torch.no_grad()
    def step(self, network: Network, slots: SquareSlots) -> None:
        """Ask about the candidate with a window changed."""
        images = l2_image(slots) if isinstance(slots, SquareL2Slots) else _linf_image(slots)
        slots.consider(images, margins(network(images), slots.labels))
        slots.steps += 1


def _start_linf(slots: Slots, queries: int) -> SquareSlots:
    """Return slots whose candidates are vertical stripes, and the plan of their windows."""
    channels, height, width = slots.images.shape[1:]
    sides = torch.tensor(window_sides(queries, height, width, least=1), device=slots.images.device)
    draws = [draw_queries(slots.keys, queries, number) for number in range(2 + channels)]
    corners = [draw_corners(draws[axis], sides, extent) for axis, extent in enumerate((height, width))]
    centres = [2 * corner + sides - 1 for corner in corners]
    plan = as_plan([sides.expand_as(draws[0]), *centres, *map(as_signs, draws[2:])])
    stripes = as_signs(draw_start(slots.keys, channels * width)).view(-1, channels, 1, width)
    candidate = (slots.images + slots.eps[:, None, None, None] * stripes).clamp(0, 1)
    kept = {field.name: getattr(slots, field.name) for field in fields(slots)}
    return SquareSlots(**(kept | {"candidate": candidate}), plan=plan)


def _linf_image(slots: SquareSlots) -> Images:
    """Return the candidates with a window pushed to the faces of the ball, each channel to one of the two."""
    query = slots.query()
    (window,) = window_masks(query[:, None, 1:3], query[:, 0], *slots.images.shape[2:]).split(1, dim=1)
    pushed = (slots.images + slots.eps[:, None, None, None] * slots.signs(query)).clamp_(0, 1)
    return torch.where(window, pushed, slots.candidate)
