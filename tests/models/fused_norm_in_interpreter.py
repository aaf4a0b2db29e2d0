"""Compares the Triton kernels, run by Triton's interpreter on the CPU, with torch; prints the worst errors as JSON."""

import copy
import itertools
import json
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixbench.models.fused_norm import fused_norm

CELLS = 20000
"""More than two parts of a row, the last of them not whole."""


def _reference(
    x: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d, *, residual: Tensor | None, gelu: bool, relu: bool
) -> Tensor:
    channels, cells = x.shape
    value = x if bias is None else x + bias[:, None]
    value = functional.gelu(value) if gelu else value
    value = norm(value.t().reshape(cells, channels, 1, 1)).reshape(cells, channels).t()
    value = value if residual is None else value + residual
    return value.relu() if relu else value


def _error(found: Tensor, expected: Tensor) -> float:
    exact = expected.detach().double()
    return float((found.detach().double() - exact).abs().max() / exact.abs().max().clamp_min(1e-3))


def _case(training: bool, gelu: bool, relu: bool, has_residual: bool, has_bias: bool) -> float:  # noqa: FBT001
    torch.manual_seed(0)
    x, residual, gradient = (torch.randn(3, CELLS) * 2 for _ in range(3))
    bias = torch.randn(3) if has_bias else None
    norm = nn.BatchNorm2d(3).train(training)
    nn.init.uniform_(norm.weight, 0.5, 2)
    for tensor in (norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    results = []
    for function, own in ((_reference, norm), (fused_norm, copy.deepcopy(norm))):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, residual, bias) if tensor is not None]
        y = function(
            inputs[0],
            inputs[2] if has_bias else None,
            own,
            residual=inputs[1] if has_residual else None,
            gelu=gelu,
            relu=relu,
        )
        wanted = [tensor for tensor, used in zip(inputs, (True, has_residual, True), strict=False) if used]
        results.append([y, *torch.autograd.grad(y, [*wanted, own.weight, own.bias], gradient), *own.buffers()])
    return max(_error(found, expected) for expected, found in zip(*results, strict=True))


# A bias has a gradient only where an activation stands between it and the norm.
CASES = [
    (training, gelu, relu, residual, bias)
    for training, gelu, relu, residual, bias in itertools.product((False, True), repeat=5)
    if not (gelu and relu) and not (bias and not gelu)
]
sys.stdout.write(json.dumps([[list(case), _case(*case)] for case in CASES]))
