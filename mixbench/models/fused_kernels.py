"""The Triton kernels of `fused_norm`: rows are channels, and a program works on a part of one row.

The programs of a row pass their sums to the next kernel, which adds them in a fixed order, so that results repeat bit
for bit.
"""

# Triton's language has no types: tests compare what these kernels compute with torch.
# pyright: basic, reportArgumentType=false

from typing import Any

import triton
import triton.language as tl

jit: Any = triton.jit


@jit
def _normal_cdf(x):
    """Return Phi(x) and exp(-x^2 / 2): formula 7.1.26 of Abramowitz and Stegun, within 1e-7 of the exact value."""
    bell = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.23164190 * tl.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    upper = 0.5 * series * bell
    return tl.where(x >= 0, 1.0 - upper, upper), bell


@jit
def _activated(x, GELU: tl.constexpr):
    if GELU:
        cdf, _ = _normal_cdf(x)
        x = x * cdf
    return x


@jit
def _total(sums, row, parts, which, PARTS: tl.constexpr):
    """Return the sum number `which` of a row, over the parts of that row."""
    part = tl.arange(0, PARTS)
    return tl.sum(tl.load(sums + (row * parts + part) * 3 + which, mask=part < parts, other=0.0))


@jit
def measure(x, bias, near, sums, cells, parts, GELU: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the activations of a part of a row, and their squares, around `near`: there they cancel little."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    added, around = tl.load(bias + row), tl.load(near + row)
    first, second = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(part * PART, min((part + 1) * PART, cells), BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < cells
        value = _activated(tl.load(x + row * cells + place, mask=inside, other=0.0).to(tl.float32) + added, GELU)
        value = tl.where(inside, value - around, 0.0)
        first += value
        second += value * value
    out = sums + (row * parts + part) * 3
    tl.store(out, tl.sum(first))
    tl.store(out + 1, tl.sum(second))
    tl.store(out + 2, around)


@jit
def apply(
    x, bias, residual, weight, beta, sums, mean_out, rstd_out, running_mean, running_variance, y,
    cells, parts, eps, momentum,
    GELU: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr, TRAINING: tl.constexpr,
    PARTS: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Normalise a part of a row; in training the first part also keeps the statistics of its row."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if TRAINING:
        offset = _total(sums, row, parts, 0, PARTS) / cells
        variance = tl.maximum(_total(sums, row, parts, 1, PARTS) / cells - offset * offset, 0.0)
        around = tl.load(sums + row * parts * 3 + 2)
        mean = around + offset
        if part == 0:
            old = tl.load(running_variance + row)
            tl.store(running_mean + row, around + momentum * offset)
            tl.store(running_variance + row, old + momentum * (variance * (cells / (cells - 1.0)) - old))
    else:
        mean, variance = tl.load(running_mean + row), tl.load(running_variance + row)
    rstd = 1.0 / tl.sqrt(variance + eps)
    if part == 0:
        tl.store(mean_out + row, mean)
        tl.store(rstd_out + row, rstd)
    scale = tl.load(weight + row) * rstd
    shift = tl.load(beta + row) - mean * scale
    added = tl.load(bias + row)
    for start in range(part * PART, min((part + 1) * PART, cells), BLOCK):
        place = row * cells + start + tl.arange(0, BLOCK)
        inside = start + tl.arange(0, BLOCK) < cells
        value = _activated(tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added, GELU) * scale + shift
        if RESIDUAL:
            value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            value = tl.maximum(value, 0.0)
        tl.store(y + place, value, mask=inside)


@jit
def measure_gradient(
    gradient, x, y, bias, mean, rstd, sums, cells, parts,
    GELU: tl.constexpr, RELU: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of a part of a row, and their products with the normalised activations."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    added, centre, scale = tl.load(bias + row), tl.load(mean + row), tl.load(rstd + row)
    first, second = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(part * PART, min((part + 1) * PART, cells), BLOCK):
        place = row * cells + start + tl.arange(0, BLOCK)
        inside = start + tl.arange(0, BLOCK) < cells
        slope = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            slope = tl.where(tl.load(y + place, mask=inside, other=0.0) > 0, slope, 0.0)
        value = _activated(tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added, GELU)
        first += slope
        second += slope * (value - centre) * scale
    out = sums + (row * parts + part) * 3
    tl.store(out, tl.sum(first))
    tl.store(out + 1, tl.sum(second))


@jit
def apply_gradient(
    gradient, x, y, bias, weight, mean, rstd, sums, dx, dresidual, cells, parts,
    GELU: tl.constexpr, RELU: tl.constexpr, MASKED: tl.constexpr, TRAINING: tl.constexpr,
    PARTS: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, and its sum over a part of a row: the gradient of the bias."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    added, centre, inverse = tl.load(bias + row), tl.load(mean + row), tl.load(rstd + row)
    scale = tl.load(weight + row) * inverse
    first, second = 0.0, 0.0
    if TRAINING:
        first = _total(sums, row, parts, 0, PARTS) / cells
        second = _total(sums, row, parts, 1, PARTS) / cells
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(part * PART, min((part + 1) * PART, cells), BLOCK):
        place = row * cells + start + tl.arange(0, BLOCK)
        inside = start + tl.arange(0, BLOCK) < cells
        slope = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            slope = tl.where(tl.load(y + place, mask=inside, other=0.0) > 0, slope, 0.0)
            if MASKED:
                tl.store(dresidual + place, slope, mask=inside)
        before = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added
        steepness = 1.0
        value = before
        if GELU:
            cdf, bell = _normal_cdf(before)
            value = before * cdf
            steepness = cdf + before * bell * 0.3989422804
        if TRAINING:
            slope = slope - first - (value - centre) * inverse * second
        slope = tl.where(inside, slope * scale * steepness, 0.0)
        total += slope
        tl.store(dx + place, slope, mask=inside)
    tl.store(sums + (row * parts + part) * 3 + 2, tl.sum(total))
