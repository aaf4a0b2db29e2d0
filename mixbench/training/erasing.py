"""Random erasing (arXiv 1708.04896) for whole batches on their device: a rectangle of each chosen image turns black.

Areas and proportions are those of torchvision's RandomErasing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]

DRAWS = 5
"""How many random numbers in [0, 1) an image takes."""

_AREA = (0.02, 0.33)
_PROPORTION = (0.3, 3.3)


def erased(images: Images, draws: Float[Tensor, "draw batch"], *, share: float) -> Images:
    """Return the images, about a `share` of them with a black rectangle.

    `draws`, in [0, 1), decide in this order whether, the rectangle's area, height over width, row and column. One that
    would not fit into the image is left out.
    """
    height, width = images.shape[2:]
    whether, area, proportion, row, column = draws
    pixels = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
    low, high = (math.log(limit) for limit in _PROPORTION)
    ratio = torch.exp(low + (high - low) * proportion)
    tall, wide = torch.sqrt(pixels * ratio).round(), torch.sqrt(pixels / ratio).round()
    chosen = (whether < share) & (tall < height) & (wide < width)
    inside = _within(row, tall, height)[:, :, None] & _within(column, wide, width)[:, None, :]
    return images.masked_fill((inside & chosen[:, None, None])[:, None], 0)


def _within(place: Float[Tensor, " batch"], length: Float[Tensor, " batch"], side: int) -> Tensor:
    """Return which of the `side` positions lie in a stretch of `length`, put in one of its places with equal chance."""
    start = torch.floor(place * (side - length + 1))[:, None]
    positions = torch.arange(side, device=place.device)
    return (positions >= start) & (positions < start + length[:, None])
