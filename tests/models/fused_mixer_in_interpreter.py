"""Compares the fused mixers, run by Triton's interpreter on the CPU, with torch in float64; prints errors as JSON."""

import copy
import json
import sys

import torch
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn
from torch.nn import functional

from mixbench.models import mixer_kernels as kernels
from mixbench.models.fused_mixer import FusedConvMixer, _thrice, _thrice_weight


def _network(kernel: int, patch: int, channels: int, padding_mode: str) -> ConvMixer:
    """Return a network whose norms matter."""
    torch.manual_seed(0)
    model = ConvMixer(dim=20, depth=3, kernel_size=kernel, patch_size=patch, in_chans=channels, num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 2)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.padding_mode = padding_mode
            module._reversed_padding_repeated_twice = [kernel // 2] * 4
    return model.eval().requires_grad_(False)


def _passes(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    logits = network(leaf)
    slopes = torch.linspace(-100, 100, 5, dtype=logits.dtype).expand_as(logits)
    (gradient,) = torch.autograd.grad(logits, leaf, slopes)
    return logits.detach(), gradient


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def _network_errors(kernel: int, patch: int, size: tuple[int, int, int], padding_mode: str) -> dict[str, float]:
    model = _network(kernel, patch, size[0], padding_mode)
    images = torch.rand(3, *size)
    fused = FusedConvMixer(model, size)
    (logits, gradient), (exact, slopes) = (
        _passes(fused, images),
        _passes(copy.deepcopy(model).double(), images.double()),
    )
    with torch.no_grad():
        without = fused(images)
    return {
        "logits": _relative(logits, exact),
        "gradient": _relative(gradient, slopes),
        "without gradient": float((without - logits).abs().max()),
    }


def _stem_error() -> float:
    """Return how far the move of the first layer's sums is off, as pixels move by a sixteenth of a half's rounding."""
    torch.manual_seed(0)
    weight, pixels = torch.randn(20, 12), torch.rand(12, 1, 16).clamp(0.5, 0.9)
    nudged = pixels + 2.0**-15
    exact = weight.double() @ (nudged - pixels).double()[:, 0]
    first = _thrice_weight(weight).double()
    return _relative(first @ (_thrice(nudged).double() - _thrice(pixels).double())[:, 0], exact)


def _activation_errors() -> dict[str, float]:
    """Return the largest errors of GELU and its slope in float32."""
    x = torch.linspace(-12, 12, 16 * 256).view(16, 256)
    one, ones, zeros = torch.eye(16), torch.ones(16), torch.zeros(16)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    tile = {"OUTPUTS": 16, "CELLS": 256, "DEPTH": 16}
    kernels.mix_channels[(1,)](one, x, y, y, zeros, ones, zeros, 16, 16, 256, KEEP=False, **tile)
    kernels.mix_channels_back[(1,)](
        one, torch.ones_like(x), x, torch.empty_like(x), slope, zeros, ones, 16, 16, 256, ACTIVATED=True, **tile
    )
    leaf = x.double().requires_grad_()
    exact = functional.gelu(leaf)
    (expected,) = torch.autograd.grad(exact.sum(), leaf)
    return {
        "gelu": float((y.double() - exact.detach()).abs().max()),
        "slope": float((slope.double() - expected).abs().max()),
    }


CASES = [
    (3, 1, (1, 6, 5), "zeros"),
    (5, 2, (3, 8, 8), "zeros"),
    (7, 2, (1, 14, 14), "circular"),
]
found = {"networks": [_network_errors(*case) for case in CASES], **_activation_errors(), "stem": _stem_error()}
sys.stdout.write(json.dumps(found))
