"""The Linf version of the Square attack: in one window each channel is pushed to a face of the ball."""

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from mixbench.attacks.fast.search import Images, PerSlot
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


def striped(images: Images, keys: Int64[Tensor, " slot"], eps: PerSlot) -> Images:
    """Return the start: each channel of each column pushed to a face of the ball."""
    channels, width = images.shape[1], images.shape[3]
    return _pushed(images, as_signs(draw_start(keys, channels * width)).view(-1, channels, 1, width), eps)


def plan_linf(keys: Int64[Tensor, " slot"], images: Images, queries: int) -> Int32[Tensor, "slot step number"]:
    """Return the windows and signs of all queries."""
    channels, height, width = images.shape[1:]
    sides = torch.tensor(window_sides(queries, height, width, least=1), device=images.device)
    draws = [draw_queries(keys, queries, number) for number in range(2 + channels)]
    corners = [draw_corners(draws[axis], sides, extent) for axis, extent in enumerate((height, width))]
    centres = [2 * corner + sides - 1 for corner in corners]
    return as_plan([sides.expand_as(draws[0]), *centres, *map(as_signs, draws[2:])])


def linf_image(slots: SquareSlots) -> Images:
    """Return the candidates with a window pushed to the faces of the ball."""
    query = slots.query()
    window = window_masks(query[:, None, 1:3], query[:, 0], *slots.images.shape[2:])
    return torch.where(window, _pushed(slots.images, slots.signs(query), slots.eps), slots.candidate)


def _pushed(images: Images, signs: Float[Tensor, "slot channel row column"], eps: PerSlot) -> Images:
    return (images + eps[:, None, None, None] * signs).clamp_(0, 1)
