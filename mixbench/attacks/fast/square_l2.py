"""The L2 version of the Square attack: the norm within one window moves to another, in a shape that falls off."""

import itertools
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from mixbench.attacks.fast.search import Images, PerSlot, Slots
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

_LEAST_SIDE = 3
_TILES = 5
_TINY = 1e-12


@dataclass(eq=False)
class SquareL2Slots(SquareSlots):
    """The state of the L2 version.

    Its plan has the centres of two windows, the one that receives and the one that is emptied, and three numbers that
    find a pixel of the first window in `shapes`: pixel (row, column) is at origin + down * row + right * column.

    Attributes:
        shapes: The pixels of the shapes of all sides, one after the other; the first pixel is 0 and of none.
    """

    shapes: Float[Tensor, "slot pixel"]


def tiled(images: Images, keys: Int64[Tensor, " slot"], eps: PerSlot) -> Images:
    """Return the start: a grid of small shapes, each turned and signed at random, on the sphere around the images.

    It may leave the box; the first step takes it back.
    """
    channels, height, width = images.shape[1:]
    side = max(height // _TILES, 1)
    edge = max(height - _TILES * side, 0) // 2
    grid = (height // side, width // side)
    draws = draw_start(keys, (1 + channels) * grid[0] * grid[1]).view(-1, 1 + channels, *grid, 1, 1)
    shape = window_shape(side).to(images)
    tiles = torch.where(draws[:, :1] < 1 / 2, shape.T, shape) * as_signs(draws[:, 1:])
    joined = tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, : height - edge, : width - edge]
    perturbation = torch.zeros_like(images)
    perturbation[:, :, edge : edge + joined.shape[2], edge : edge + joined.shape[3]] = joined
    return images + perturbation * _each(eps / torch.linalg.vector_norm(perturbation.flatten(1), dim=1))


def plan_l2(
    keys: Int64[Tensor, " slot"], images: Images, queries: int
) -> tuple[Int32[Tensor, "slot step number"], Float[Tensor, "slot pixel"]]:
    """Return the windows and signs of all queries, and the shapes of all sides."""
    channels, height, width = images.shape[1:]
    sides, origins, shapes = _shapes(window_sides(queries, height, width, least=_LEAST_SIDE, odd=True), images)
    draws = [draw_queries(keys, queries, number) for number in range(5 + channels)]
    corners = [draw_corners(draws[axis], sides, extent) for axis, extent in enumerate((height, width, height, width))]
    centres = [2 * corner + sides - 1 for corner in corners]
    turned = draws[4] < 1 / 2
    down, right = torch.where(turned, 1, sides), torch.where(turned, sides, 1)
    origin = origins - down * corners[0] - right * corners[1]
    plan = as_plan([sides.expand_as(origin), *centres, origin, down, right, *map(as_signs, draws[5:])])
    return plan, shapes.expand(len(images), -1)


def l2_image(slots: SquareL2Slots) -> Images:
    """Return the candidates with one window emptied and its norm, and what was unspent, given to another."""
    height, width = slots.images.shape[2:]
    query = slots.query()
    windows = window_masks(query[:, 1:5].unflatten(1, (2, 2)), query[:, 0], height, width)
    receiving, emptied = windows.split(1, dim=1)
    perturbation = slots.candidate - slots.images
    within = perturbation * receiving
    budget = _budget(slots, perturbation, receiving | emptied)
    shape = _shape(slots, query, receiving) * slots.signs(query)
    received = torch.addcdiv(shape, within, _norms(within).add_(_TINY))
    received *= budget / _norms(received).add_(_TINY)
    moved = torch.where(receiving, received, perturbation.masked_fill_(emptied, 0))
    sizes = torch.linalg.vector_norm(moved, dim=(1, 2, 3), keepdim=True).add_(_TINY)
    return torch.addcmul(slots.images, moved, _each(slots.eps) / sizes).clamp_(0, 1)


@cache
def window_shape(side: int) -> Float[Tensor, "side side"]:
    """Return the shape of norm 1, float64: two opposite halves, each falling off in rings (section 4 of the paper)."""
    upper = side // 2
    shape = torch.cat([_half(upper, side), -_half(side - upper, side)])
    return shape / torch.linalg.vector_norm(shape)


def _half(height: int, width: int) -> Float[Tensor, "height width"]:
    """Return the sum, over all rings k around a pixel and those within them, of 1 / k^2; of norm 1."""
    rows, columns = (torch.arange(extent) - extent // 2 for extent in (height, width))
    ring = torch.maximum(rows.abs()[:, None], columns.abs())
    rings = max(height, width) // 2 + 1
    sums = torch.cumsum(torch.arange(rings, 0, -1, dtype=torch.float64) ** -2, dim=0).flip(0)
    half = sums[ring]
    return half / torch.linalg.vector_norm(half).clamp_min(_TINY)


def _shapes(
    sides: tuple[int, ...], images: Images
) -> tuple[Int64[Tensor, " query"], Int64[Tensor, " query"], Float[Tensor, " pixel"]]:
    """Return each query's side, where the shape of that side begins, and the pixels of all shapes after a 0."""
    shapes = {side: window_shape(side).flatten() for side in sorted(set(sides))}
    ends = itertools.accumulate((side * side for side in shapes), initial=1)
    begins = dict(zip(shapes, ends, strict=False))
    pixels = torch.cat([torch.zeros(1, dtype=torch.float64), *shapes.values()])
    device = images.device
    origins = torch.tensor([begins[side] for side in sides], device=device)
    return torch.tensor(sides, device=device), origins, pixels.to(images)


def _budget(
    slots: Slots, perturbation: Images, windows: Bool[Tensor, "slot 1 height width"]
) -> Float[Tensor, "slot channel 1 1"]:
    """Return the norm that each channel of the receiving window gets."""
    squares = perturbation * perturbation
    spent = squares.sum((1, 2, 3), keepdim=True)
    unspent = torch.addcmul(-spent, _each(slots.eps), _each(slots.eps)).clamp_min_(0)
    return (squares.mul_(windows).sum((2, 3), keepdim=True) + unspent / squares.shape[1]).sqrt_()


def _shape(
    slots: SquareL2Slots, query: Int32[Tensor, "slot number"], window: Bool[Tensor, "slot 1 height width"]
) -> Float[Tensor, "slot 1 height width"]:
    """Return the shape of the query's side in its place, and 0 around it."""
    height, width = window.shape[2:]
    origin, down, right = query[:, 5:8, None, None].long().unbind(1)
    places = torch.arange(max(height, width), device=query.device)
    pixels = torch.addcmul(torch.addcmul(origin, down, places[:height, None]), right, places[:width])
    inside = torch.where(window.squeeze(1), pixels, 0)
    return slots.shapes.gather(1, inside.flatten(1)).view_as(window)


def _norms(images: Images) -> Float[Tensor, "slot channel 1 1"]:
    return torch.linalg.vector_norm(images, dim=(2, 3), keepdim=True)


def _each(values: PerSlot) -> Float[Tensor, "slot 1 1 1"]:
    return values[:, None, None, None]
