"""Random numbers that depend on a key and a counter alone: the same for an example in any slot, batch or device."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685
_BITS = 53


def example_keys(
    images: Float[Tensor, "example channel height width"], labels: Int64[Tensor, " example"], *, seed: int
) -> Int64[Tensor, " example"]:
    """Return each example's key, of its 8-bit pixels, its label and the seed; its place in a batch plays no part."""
    pixels = (images * 255).round().to(torch.int64).flatten(1)
    places = torch.arange(pixels.shape[1], device=images.device)
    # Sums of integers are exact in any order, so every device makes the same key.
    content = (pixels * _mixed(places + 1)).sum(1)
    return _mixed(_mixed(content + labels) + _mixed(torch.full_like(labels, seed)))


def uniform(
    keys: Int64[Tensor, " slot"], counters: Int64[Tensor, " slot"], size: int, *, lane: int = 0
) -> Float[Tensor, "slot size"]:
    """Return numbers in [0, 1), float64, drawn for each key and counter; `lane` tells apart what one step draws."""
    stream = _mixed(_mixed(keys + _signed(lane * _GOLDEN)) + counters)
    places = torch.arange(1, size + 1, device=keys.device) * _GOLDEN
    bits = _mixed(stream[:, None] + places)
    return _shifted(bits, 64 - _BITS).double() / 2**_BITS


def normal(
    keys: Int64[Tensor, " slot"], counters: Int64[Tensor, " slot"], size: int, *, lane: int = 0
) -> Float[Tensor, "slot size"]:
    """Return standard normal numbers, float64, drawn for each key and counter, by the Box-Muller transform."""
    pairs = uniform(keys, counters, 2 * size, lane=lane)
    radius = torch.sqrt(-2 * torch.log1p(-pairs[:, :size]))
    return radius * torch.cos(2 * math.pi * pairs[:, size:])


def _mixed(values: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Return a bijection of 64-bit words whose output bits look independent: the finaliser of SplitMix64."""
    values = (values ^ _shifted(values, 30)) * _MIX_1
    values = (values ^ _shifted(values, 27)) * _MIX_2
    return values ^ _shifted(values, 31)


def _shifted(values: Int64[Tensor, "..."], by: int) -> Int64[Tensor, "..."]:
    """Return the unsigned 64-bit words `values` shifted right."""
    return (values >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """Return the 64-bit word, as torch holds it, of an integer of any size."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
