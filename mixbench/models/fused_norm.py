"""Activation, batch normalisation and residual sum as two passes over memory, written in Triton.

On a GPU these passes and not the matrix products are most of a training step, so each reads and writes an activation
as rarely as the function allows. Rows are channels: a program works on a part of one row, and the programs of a row
pass their sums to the next kernel, in a fixed order, so that results repeat bit for bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor, nn

Cells = Float[Tensor, "channel cell"]

_PART = 8192
_BLOCK = 1024
_WARPS = 4
_SUMS = 3


@triton.jit
def _normal_cdf(x):  # noqa: ANN001, ANN202 - Triton's types
    """Return Phi(x) and exp(-x^2 / 2): formula 7.1.26 of Abramowitz and Stegun, within 1e-7 of the exact value."""
    bell = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.23164190 * tl.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    upper = 0.5 * series * bell
    return tl.where(x >= 0, 1.0 - upper, upper), bell


@triton.jit
def _activated(x, GELU: tl.constexpr):  # noqa: ANN001, ANN202, N803 - Triton's types and customs
    if GELU:
        cdf, _ = _normal_cdf(x)
        x = x * cdf
    return x


@triton.jit
def _total(sums, row, parts, which, PARTS: tl.constexpr):  # noqa: ANN001, ANN202, N803
    """Return the sum number `which` of a row, over the parts of that row."""
    part = tl.arange(0, PARTS)
    return tl.sum(tl.load(sums + (row * parts + part) * 3 + which, mask=part < parts, other=0.0))


@triton.jit
def _measure(x, bias, near, sums, cells, parts, GELU: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202, N803
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


@triton.jit
def _apply(  # noqa: ANN202, PLR0917
    x, bias, residual, weight, beta, sums, mean_out, rstd_out, running_mean, running_variance, y,  # noqa: ANN001
    cells, parts, eps, momentum,  # noqa: ANN001
    GELU: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr, TRAINING: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
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


@triton.jit
def _measure_gradient(  # noqa: ANN202, PLR0917
    gradient, x, y, bias, mean, rstd, sums, cells, parts,  # noqa: ANN001
    GELU: tl.constexpr, RELU: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
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


@triton.jit
def _apply_gradient(  # noqa: ANN202, PLR0917
    gradient, x, y, bias, weight, mean, rstd, sums, dx, dresidual, cells, parts,  # noqa: ANN001
    GELU: tl.constexpr, RELU: tl.constexpr, MASKED: tl.constexpr, TRAINING: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
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


class _FusedNorm(torch.autograd.Function):
    """post(norm(pre(x + bias)) + residual) and its gradients."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: Cells,
        bias: Tensor,
        residual: Cells | None,
        weight: Tensor,
        beta: Tensor,
        norm: nn.BatchNorm2d,
        gelu: bool,  # noqa: FBT001 - as above
        relu: bool,  # noqa: FBT001 - as above
    ) -> Cells:
        channels, cells = x.shape
        parts = triton.cdiv(cells, _PART)
        grid, sizes = (channels, parts), {"PART": _PART, "BLOCK": _BLOCK, "num_warps": _WARPS}
        sums = torch.empty(channels, parts, _SUMS, dtype=torch.float32, device=x.device)
        statistics = torch.empty(2, channels, dtype=torch.float32, device=x.device)
        y = torch.empty_like(x)
        if norm.training:
            _measure[grid](x, bias, norm.running_mean, sums, cells, parts, GELU=gelu, **sizes)
            assert norm.num_batches_tracked is not None  # noqa: S101 - timm's norms track
            norm.num_batches_tracked.add_(1)
        _apply[grid](
            x, bias, y if residual is None else residual, weight, beta, sums, *statistics, norm.running_mean,
            norm.running_var, y, cells, parts, norm.eps, norm.momentum, GELU=gelu, RELU=relu,
            RESIDUAL=residual is not None, TRAINING=norm.training, PARTS=triton.next_power_of_2(parts), **sizes,
        )  # fmt: skip
        ctx.save_for_backward(x, bias, weight, statistics, y if relu else x)
        ctx.options = (gelu, relu, residual is not None, norm.training)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Cells) -> Any:
        x, bias, weight, statistics, y = ctx.saved_tensors
        gelu, relu, has_residual, training = ctx.options
        gradient = gradient.contiguous()
        channels, cells = x.shape
        parts = triton.cdiv(cells, _PART)
        grid, sizes = (channels, parts), {"PART": _PART, "BLOCK": _BLOCK, "num_warps": _WARPS}
        sums = torch.empty(channels, parts, _SUMS, dtype=torch.float32, device=x.device)
        needs = ctx.needs_input_grad
        if training or needs[3] or needs[4]:
            _measure_gradient[grid](
                gradient, x, y, bias, *statistics, sums, cells, parts, GELU=gelu, RELU=relu, **sizes
            )
        masked = relu and has_residual
        dx = torch.empty_like(x)
        dresidual = torch.empty_like(x) if masked else gradient
        _apply_gradient[grid](
            gradient, x, y, bias, weight, *statistics, sums, dx, dresidual, cells, parts, GELU=gelu, RELU=relu,
            MASKED=masked, TRAINING=training, PARTS=triton.next_power_of_2(parts), **sizes,
        )  # fmt: skip
        totals = sums.sum(1) if any(needs[i] for i in (1, 3, 4)) else sums[:, 0]
        return (
            dx,
            totals[:, 2] if needs[1] else None,
            dresidual if has_residual else None,
            totals[:, 1] if needs[3] else None,
            totals[:, 0] if needs[4] else None,
            None,
            None,
            None,
        )


def fused_norm(
    x: Cells, bias: Tensor | None, norm: nn.BatchNorm2d, *, residual: Cells | None, gelu: bool, relu: bool
) -> Cells:
    """Return relu(norm(gelu(x + bias)) + residual) in the dtype of `x`, updating the running statistics in training.

    Without `gelu`, `relu`, `bias` or `residual` that part is left out. All sums are float32.
    """
    function: Any = _FusedNorm.apply
    zeros = torch.zeros(x.shape[0], device=x.device) if bias is None else bias
    return function(x.contiguous(), zeros, residual, norm.weight, norm.bias, norm, gelu, relu)
