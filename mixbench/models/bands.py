"""Depthwise convolutions of large images as products with a band of rows instead of the whole image.

The Toeplitz matrix of a whole image has a cell for each pair of positions, nearly all of them empty. A block of output
rows needs only its own rows and as many above and below as a filter reaches, and is the same matrix for every block: at
32 x 32 and kernel 7, a twenty-fifth of the memory, which then stays in a GPU's cache, and a third of the operations.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Positions = Float[Tensor, "channel batch position"]
Weight = Float[Tensor, "channel tap"]
BandPlacements = Float[Tensor, "tap source target"]

WHOLE = 256
"""Positions of an image whose whole matrix is small enough."""
_MOST_TARGETS = 128
"""Positions of an output block: matrices of this side still fill the tensor cores."""
ALIGNED = 8
"""Matrix products are fast where each side is a multiple of so many values."""


@dataclass(frozen=True)
class Piece:
    """One product: the positions `source` of the input times the band's `rows`, added to the positions `target`."""

    source: slice
    rows: slice
    target: slice


@dataclass(frozen=True)
class Bands:
    """How an image of `height` x `width` is cut into blocks of `rows`, with `halo` more rows on either side."""

    height: int
    width: int
    rows: int
    halo: int
    circular: bool

    @classmethod
    def of(cls, conv: nn.Conv2d, height: int, width: int) -> "Bands | None":
        """Return the cut for `conv`, or None where the whole image is as good: small or odd sizes, even kernels."""
        kernel, unit = conv.kernel_size[0], ALIGNED // gcd(width, ALIGNED)
        halo = -(-(kernel // 2) // unit) * unit
        fitting = [rows for rows in range(unit, height, unit) if height % rows == 0 and rows * width <= _MOST_TARGETS]
        if height * width <= WHOLE or kernel % 2 == 0 or conv.stride[0] != 1 or not fitting:
            return None
        if fitting[-1] + 2 * halo >= height:
            return None
        return cls(height, width, fitting[-1], halo, conv.padding_mode == "circular")

    @property
    def window(self) -> int:
        """Rows of the input that a block depends on."""
        return self.rows + 2 * self.halo

    def pieces(self) -> tuple[Piece, ...]:
        """Return the products that make up the convolution; rows outside of the image are left out, or wrapped."""
        pieces: list[Piece] = []
        for first in range(0, self.height, self.rows):
            top = first - self.halo
            for turn in (0, -1, 1) if self.circular else (0,):
                shift = turn * self.height
                low, high = max(top, shift), min(top + self.window, shift + self.height)
                if low < high:
                    source, rows, target = (
                        (low - shift, high - shift),
                        (low - top, high - top),
                        (first, first + self.rows),
                    )
                    pieces.append(Piece(*(slice(a * self.width, b * self.width) for a, b in (source, rows, target))))
        return tuple(pieces)


def mix_in_bands(x: Positions, weight: Weight, placements: BandPlacements, bands: Bands) -> tuple[Positions, Positions]:
    """Return `x` mixed by the filters `weight`, and `x` itself for what goes past it."""
    function: Any = _BandedMixAndPass.apply
    return function(x, weight, placements, bands.pieces())


class _BandedMixAndPass(torch.autograd.Function):
    """(x mixed, x): on the way back, the gradients of both uses of `x` are summed by the matrix products."""

    @staticmethod
    def forward(
        ctx: Any, x: Positions, weight: Weight, placements: BandPlacements, pieces: tuple[Piece, ...]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight, placements)
        ctx.pieces = pieces
        ctx.set_materialize_grads(False)
        return _convolved(x, weight, placements, pieces), x.view_as(x)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - two outputs
        ctx: Any, mixed: Positions, passed: Positions | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, placements = ctx.saved_tensors
        mixed = mixed.contiguous()
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(x, mixed, placements, ctx.pieces)[:, : weight.shape[1]]
        if ctx.needs_input_grad[0]:
            # The transpose of a convolution is the convolution with the filter turned by half.
            dx = _convolved(mixed, weight.flip(1), placements, ctx.pieces, onto=passed)
        return dx, dweight, None, None


def _convolved(
    x: Positions,
    weight: Weight,
    placements: BandPlacements,
    pieces: tuple[Piece, ...],
    *,
    onto: Positions | None = None,
) -> Positions:
    """Return `x` convolved, added to `onto`, which nobody else reads."""
    taps, sources, targets = placements.shape
    # Each cell of the band is one tap or zero, so this product is exact in any precision.
    padded = functional.pad(weight, (0, taps - weight.shape[1]))
    band = (padded @ placements.view(taps, -1)).view(-1, sources, targets)
    result = torch.empty_like(x) if onto is None else onto.contiguous()
    written: set[int] = set()
    for piece in pieces:
        source, rows, target = x[:, :, piece.source], band[:, piece.rows], result[:, :, piece.target]
        if onto is None and piece.target.start not in written:
            torch.bmm(source, rows, out=target)
        else:
            target.baddbmm_(source, rows)
        written.add(piece.target.start)
    return result


def _weight_gradient(
    x: Positions, mixed: Positions, placements: BandPlacements, pieces: tuple[Piece, ...]
) -> Float[Tensor, "channel tap"]:
    taps, sources, targets = placements.shape
    band = x.new_zeros(len(x), sources, targets)
    for piece in pieces:
        band[:, piece.rows].baddbmm_(x[:, :, piece.source].transpose(1, 2), mixed[:, :, piece.target])
    return band.view(len(x), -1) @ placements.view(taps, -1).t()
