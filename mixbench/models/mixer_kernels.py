"""The Triton kernels of `fused_mixer`: matrix products that finish what follows them before they touch memory.

Sums run over the depth in one fixed order whatever the batch, so that what becomes of an image does not depend on how
many others there are.
"""

# Triton's language has no types: tests compare what these kernels compute with torch.
# pyright: basic, reportArgumentType=false

from typing import Any

import triton
import triton.language as tl

jit: Any = triton.jit


@jit
def _normal_cdf(x):
    """Return Phi(x) as the logistic function of an odd polynomial fitted here, and that polynomial's slope.

    x * Phi(x) is within 3e-5 of GELU, a tenth of what half precision rounds away, and its slope within 1.1e-4.
    """
    square = tl.minimum(x * x, 36.0)
    power = x * ((0.0010142632529891171 * square - 0.10677572528011366) * square - 2.3011213379596414)
    slope = (-0.0035151685707748245 * square + 0.22203387879046218) * square + 1.5950157675330545
    return 1.0 / (1.0 + tl.exp2(power)), slope


@jit
def _gelu(x):
    cdf, _ = _normal_cdf(x)
    return x * cdf


@jit
def _steepness(x):
    """Return the derivative of GELU."""
    cdf, slope = _normal_cdf(x)
    return cdf + x * cdf * (1.0 - cdf) * slope


@jit
def mix_channels(
    weight, x, before, y, bias, scale, shift, outputs, inputs, cells,
    KEEP: tl.constexpr, OUTPUTS: tl.constexpr, CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write y = scale * gelu(weight @ x + bias) + shift; with KEEP the product goes to `before`."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    # Neighbours read the same cells.
    output = (tl.program_id(0) % tiles) * OUTPUTS + tl.arange(0, OUTPUTS)
    cell = (tl.program_id(0) // tiles) * CELLS + tl.arange(0, CELLS)
    total = _channel_product(weight, x, output, cell, outputs, inputs, cells, OUTPUTS, CELLS, DEPTH)
    kept = output < outputs
    place = output.to(tl.int64)[:, None] * cells + cell[None, :]
    inside = kept[:, None] & (cell < cells)[None, :]
    if KEEP:
        tl.store(before + place, total, mask=inside)
    added = tl.load(bias + output, mask=kept, other=0.0)[:, None]
    times = tl.load(scale + output, mask=kept, other=0.0)[:, None]
    plus = tl.load(shift + output, mask=kept, other=0.0)[:, None]
    tl.store(y + place, _gelu(total + added) * times + plus, mask=inside)


@jit
def mix_channels_back(
    weight, gradient, before, passed, slope, bias, scale, outputs, inputs, cells,
    ACTIVATED: tl.constexpr, OUTPUTS: tl.constexpr, CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write passed = weight @ gradient; with ACTIVATED also slope = passed * scale * gelu'(before + bias)."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    output = (tl.program_id(0) % tiles) * OUTPUTS + tl.arange(0, OUTPUTS)
    cell = (tl.program_id(0) // tiles) * CELLS + tl.arange(0, CELLS)
    total = _channel_product(weight, gradient, output, cell, outputs, inputs, cells, OUTPUTS, CELLS, DEPTH)
    kept = output < outputs
    place = output.to(tl.int64)[:, None] * cells + cell[None, :]
    inside = kept[:, None] & (cell < cells)[None, :]
    tl.store(passed + place, total, mask=inside)
    if ACTIVATED:
        added = tl.load(bias + output, mask=kept, other=0.0)[:, None]
        times = tl.load(scale + output, mask=kept, other=0.0)[:, None]
        value = tl.load(before + place, mask=inside, other=0.0).to(tl.float32) + added
        tl.store(slope + place, total * times * _steepness(value), mask=inside)


@jit
def _channel_product(
    weight, x, output, cell, outputs, inputs, cells,
    OUTPUTS: tl.constexpr, CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    total = tl.zeros([OUTPUTS, CELLS], tl.float32)
    for first in range(0, inputs, DEPTH):
        at = first + tl.arange(0, DEPTH)
        within = at < inputs
        left = tl.load(
            weight + output[:, None] * inputs + at[None, :],
            mask=(output < outputs)[:, None] & within[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            x + at.to(tl.int64)[:, None] * cells + cell[None, :],
            mask=within[:, None] & (cell < cells)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(left, right, total)
    return total


@jit
def mix_space(
    matrices, x, before, y, bias, scale, shift, images, positions,
    KEEP: tl.constexpr, IMAGES: tl.constexpr, POSITIONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write y = scale * gelu(x @ matrix + bias) + shift + x for each channel, with KEEP also the product."""
    channel = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(positions, POSITIONS)
    image = (tl.program_id(0) // tiles) * IMAGES + tl.arange(0, IMAGES)
    position = (tl.program_id(0) % tiles) * POSITIONS + tl.arange(0, POSITIONS)
    own, matrix = channel * images * positions, matrices + channel * positions * positions
    total = _space_product(matrix, x + own, image, position, images, positions, 1, IMAGES, POSITIONS, DEPTH)
    place = own + image[:, None] * positions + position[None, :]
    inside = (image < images)[:, None] & (position < positions)[None, :]
    if KEEP:
        tl.store(before + place, total, mask=inside)
    added, times, plus = tl.load(bias + channel), tl.load(scale + channel), tl.load(shift + channel)
    residual = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, _gelu(total + added) * times + plus + residual, mask=inside)


@jit
def mix_space_back(
    matrices, gradient, passed, before, slope, bias, scale, images, positions,
    IMAGES: tl.constexpr, POSITIONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write slope = (gradient @ matrix^T + passed) * scale * gelu'(before + bias), channel by channel."""
    channel = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(positions, POSITIONS)
    image = (tl.program_id(0) // tiles) * IMAGES + tl.arange(0, IMAGES)
    position = (tl.program_id(0) % tiles) * POSITIONS + tl.arange(0, POSITIONS)
    own, matrix = channel * images * positions, matrices + channel * positions * positions
    total = _space_product(matrix, gradient + own, image, position, images, positions, 0, IMAGES, POSITIONS, DEPTH)
    place = own + image[:, None] * positions + position[None, :]
    inside = (image < images)[:, None] & (position < positions)[None, :]
    total += tl.load(passed + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(before + place, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + channel)
    tl.store(slope + place, total * tl.load(scale + channel) * _steepness(value), mask=inside)


@jit
def _space_product(
    matrix, x, image, position, images, positions,
    FORWARD: tl.constexpr, IMAGES: tl.constexpr, POSITIONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return x @ matrix, or x @ matrix^T on the way back."""
    total = tl.zeros([IMAGES, POSITIONS], tl.float32)
    for first in range(0, positions, DEPTH):
        at = first + tl.arange(0, DEPTH)
        within = at < positions
        left = tl.load(
            x + image[:, None] * positions + at[None, :],
            mask=(image < images)[:, None] & within[None, :], other=0.0,
        )  # fmt: skip
        if FORWARD:  # noqa: SIM108 - Triton decides it when it compiles
            place = at[:, None] * positions + position[None, :]
        else:
            place = position[None, :] * positions + at[:, None]
        right = tl.load(matrix + place, mask=within[:, None] & (position < positions)[None, :], other=0.0)
        total = tl.dot(left, right, total)
    return total


@jit
def spread(gradient, before, slope, bias, scale, images, positions, counted, BLOCK: tl.constexpr):
    """Write slope = gradient / counted * scale * gelu'(before + bias), where `gradient` is that of an image's mean."""
    channel, image = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.arange(0, BLOCK)
    place = (channel * images + image) * positions + position
    value = tl.load(before + place, mask=position < positions, other=0.0).to(tl.float32) + tl.load(bias + channel)
    share = tl.load(gradient + channel * images + image) / counted * tl.load(scale + channel)
    tl.store(slope + place, tl.where(position < counted, share * _steepness(value), 0.0), mask=position < positions)
