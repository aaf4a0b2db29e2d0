"""RandAugment (arXiv 1909.13719) for whole batches on their device, an operation of its own for each image.

Operations, magnitudes and the order of the list are those of torchvision's RandAugment, nearest neighbours filled with
black; pixels stay multiples of 1/255 up to rounding.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "batch channel height width"]

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_STRONGEST = 30
_TOP = 255
_GREY = (0.2989, 0.587, 0.114)


def rand_augmented(
    images: Images, operations: Int64[Tensor, " batch"], negative: Bool[Tensor, " batch"], *, magnitude: int
) -> Images:
    """Return each image after its own of the OPERATIONS, at `magnitude` 0 to 30, the other way where `negative`."""
    level = magnitude / _STRONGEST
    sign = 1 - 2 * negative.to(images.dtype)
    moved = _moved(images, operations, sign, level=level)
    blended = _blended(images, operations, 1 + 0.9 * level * sign)
    bits = 8 - round(4 * level)
    step = 2.0 ** (8 - bits)
    results = {
        "posterize": torch.floor(images * _TOP / step + 1e-3) * step / _TOP,
        "solarize": torch.where(images * _TOP + 1e-3 >= _TOP * (1 - level), 1 - images, images),
        "autocontrast": _autocontrast(images),
        "equalize": _equalized(images),
    }
    result = torch.where(_among(operations, "brightness", "color", "contrast", "sharpness"), blended, moved)
    for name, changed in results.items():
        result = torch.where(_among(operations, name), changed, result)
    return result


def _among(operations: Int64[Tensor, " batch"], *names: str) -> Bool[Tensor, "batch 1 1 1"]:
    chosen = torch.zeros_like(operations, dtype=torch.bool)
    for name in names:
        chosen = chosen | (operations == OPERATIONS.index(name))
    return chosen[:, None, None, None]


def _moved(images: Images, operations: Int64[Tensor, " batch"], sign: Tensor, *, level: float) -> Images:
    """Return the images sheared, translated or rotated; the others as they are."""
    height, width = images.shape[2:]

    def amount(name: str, value: float) -> Tensor:
        return torch.where(operations == OPERATIONS.index(name), sign * value, torch.zeros_like(sign))

    angle = amount("rotate", math.radians(30 * level))
    shear_x, shear_y = amount("shear_x", 0.3 * level), amount("shear_y", 0.3 * level)
    right = amount("translate_x", float(int(150 / 331 * width * level)))
    down = amount("translate_y", float(int(150 / 331 * height * level)))
    # From the place of a pixel in the result to its place in the image, both counted from the centre.
    cos, sin = torch.cos(angle), torch.sin(angle)
    columns = torch.arange(width, device=images.device) - (width - 1) / 2
    rows = torch.arange(height, device=images.device) - (height - 1) / 2
    y, x = torch.meshgrid(rows.float(), columns.float(), indexing="ij")
    each = (slice(None), None, None)
    # Shears leave the top left corner where it is.
    source_x = cos[each] * x - sin[each] * y + shear_x[each] * (y + height / 2) - right[each]
    source_y = sin[each] * x + cos[each] * y + shear_y[each] * (x + width / 2) - down[each]
    return _sampled(images, source_x + (width - 1) / 2, source_y + (height - 1) / 2)


def _sampled(images: Images, x: Float[Tensor, "batch row column"], y: Float[Tensor, "batch row column"]) -> Images:
    """Return the pixels nearest to columns `x` and rows `y`, 0 outside of the image."""
    n, _, height, width = images.shape
    # A hair less, so that what falls between two pixels does so everywhere alike.
    column, row = torch.ceil(x - 0.5 - 1e-4).long(), torch.ceil(y - 0.5 - 1e-4).long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    example = torch.arange(n, device=images.device)[:, None, None]
    found = images[example, :, row.clamp(0, height - 1), column.clamp(0, width - 1)].permute(0, 3, 1, 2)
    return torch.where(inside[:, None], found, torch.zeros((), dtype=images.dtype, device=images.device))


def _blended(images: Images, operations: Int64[Tensor, " batch"], factor: Tensor) -> Images:
    """Return the images moved away from black, from their grey version, from their mean grey or from their blur."""
    grey = _grey(images)
    mean = grey.mean((1, 2, 3), keepdim=True)
    base = torch.where(_among(operations, "color"), grey, torch.zeros_like(images))
    base = torch.where(_among(operations, "contrast"), mean, base)
    base = torch.where(_among(operations, "sharpness"), _softened(images), base)
    weight = factor[:, None, None, None]
    return _rounded((weight * images + (1 - weight) * base).clamp(0, 1))


def _grey(images: Images) -> Images:
    if images.shape[1] != len(_GREY):
        return images
    red, green, blue = images.split(1, dim=1)
    weighted = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    return torch.floor(weighted * _TOP + 1e-3) / _TOP


def _softened(images: Images) -> Images:
    """Return the images after the 3 x 3 kernel with 5 in the centre and 1 around it; borders stay."""
    inner = (9 * functional.avg_pool2d(images, 3, stride=1) + 4 * images[:, :, 1:-1, 1:-1]) / 13
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _rounded(inner)
    return result


def _autocontrast(images: Images) -> Images:
    """Return the images stretched so that each channel reaches from 0 to 1; a flat channel stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high <= low
    stretched = (images - low) / torch.where(flat, torch.ones_like(high), high - low)
    return torch.where(flat, images, _rounded(stretched.clamp(0, 1)))


def _equalized(images: Images) -> Images:
    """Return the images with the histogram of each channel made flat, as Pillow does it."""
    n, channels, height, width = images.shape
    values = (images * _TOP).round().long().view(n * channels, height * width)
    counts = torch.zeros(n * channels, _TOP + 1, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    places = torch.arange(_TOP + 1, device=images.device)
    last = torch.where(counts > 0, places, torch.full_like(places, -1)).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // _TOP
    before = counts.cumsum(1) - counts
    table = torch.div(before + step // 2, step.clamp_min(1), rounding_mode="floor").clamp(0, _TOP)
    mapped = torch.where(step > 0, table.gather(1, values), values)
    return mapped.view(images.shape).to(images.dtype) / _TOP


def _rounded(images: Images) -> Images:
    return torch.floor(images * _TOP + 1e-3) / _TOP
