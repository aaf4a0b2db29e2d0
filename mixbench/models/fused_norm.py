"""Activation, batch normalisation and residual sum as two passes over memory, written in Triton.

On a GPU these passes and not the matrix products are most of a training step, so each reads and writes an activation
as rarely as the function allows.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixbench.models import fused_kernels as kernels

Cells = Float[Tensor, "channel cell"]

_PART = 8192
_BLOCK = 1024
_WARPS = 4
_SUMS = 3


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
        parts = -(-cells // _PART)
        grid, sizes = (channels, parts), {"PART": _PART, "BLOCK": _BLOCK, "num_warps": _WARPS}
        sums = torch.empty(channels, parts, _SUMS, dtype=torch.float32, device=x.device)
        statistics = torch.empty(2, channels, dtype=torch.float32, device=x.device)
        y = torch.empty_like(x)
        if norm.training:
            kernels.measure[grid](x, bias, norm.running_mean, sums, cells, parts, GELU=gelu, **sizes)
            assert norm.num_batches_tracked is not None  # noqa: S101 - timm's norms track
            norm.num_batches_tracked.add_(1)
        kernels.apply[grid](
            x, bias, y if residual is None else residual, weight, beta, sums, *statistics, norm.running_mean,
            norm.running_var, y, cells, parts, norm.eps, norm.momentum, GELU=gelu, RELU=relu,
            RESIDUAL=residual is not None, TRAINING=norm.training, PARTS=1 << (parts - 1).bit_length(), **sizes,
        )  # fmt: skip
        ctx.save_for_backward(x, bias, weight, statistics, y if relu else x)
        ctx.options = (gelu, relu, residual is not None, norm.training)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Cells) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        x, bias, weight, statistics, y = ctx.saved_tensors
        gelu, relu, has_residual, training = ctx.options
        gradient = gradient.contiguous()
        channels, cells = x.shape
        parts = -(-cells // _PART)
        grid, sizes = (channels, parts), {"PART": _PART, "BLOCK": _BLOCK, "num_warps": _WARPS}
        sums = torch.empty(channels, parts, _SUMS, dtype=torch.float32, device=x.device)
        needs = ctx.needs_input_grad
        if training or needs[3] or needs[4]:
            kernels.measure_gradient[grid](
                gradient, x, y, bias, *statistics, sums, cells, parts, GELU=gelu, RELU=relu, **sizes
            )
        masked = relu and has_residual
        dx = torch.empty_like(x)
        dresidual = torch.empty_like(x) if masked else gradient
        kernels.apply_gradient[grid](
            gradient, x, y, bias, weight, *statistics, sums, dx, dresidual, cells, parts, GELU=gelu, RELU=relu,
            MASKED=masked, TRAINING=training, PARTS=1 << (parts - 1).bit_length(), **sizes,
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
