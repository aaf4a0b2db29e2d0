"""The network that an attack searches with: the same function, computed the fastest way its device has."""

import copy
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mixbench.models.bands import WHOLE
from mixbench.models.channel_major import HAS_TRITON, ChannelMajorConvMixer, ChannelMajorResNet, is_separated_resnet
from mixbench.models.folded import FoldedConvMixer

_CHANNEL_MAJOR = "channel-major, Triton" if HAS_TRITON else "channel-major"
_FOLDED = 64
"""Positions up to which products with whole matrices beat convolutions on a CPU: at 16 by far, at 196 no more."""
_GRADIENT_SIZE = 1024.0
"""The largest slope of an image's logits on the way back: float16 ends at 65,504, and rounds to 0 below 6e-8."""


@dataclass(frozen=True, eq=False)
class Executor:
    """A way to compute a network, and how exact it is.

    Attributes:
        network: Maps float32 images in [0, 1] to float32 logits, in eval mode; its weights must not change any more.
        kernels: What computes it, such as "channel-major" or "eager".
        precision: In which activations are kept, such as "float16".
    """

    network: nn.Module
    kernels: str
    precision: str


def executor_for(model: nn.Module, image_size: tuple[int, int, int], device: torch.device) -> Executor:
    """Return the fastest known way to compute `model`, in eval mode and on `device` already.

    On CUDA, ConvMixers and separated ResNets are computed channel by channel in float16 with sums in float32, a
    ConvMixer of small images in one kernel a mixer. On the CPU a ConvMixer of very small images has its constants
    folded; for larger ones and for separated ResNets a copy has its channels last in memory, which is up to twice as
    fast. Any other network is computed as it is.
    """
    if device.type == "cpu":
        return _on_cpu(model, image_size)
    if _is_known_convmixer(model) and device.type == "cuda":
        return _convmixer_on_cuda(model, image_size, device)
    if device.type == "cuda" and isinstance(model, ResNet) and is_separated_resnet(model):
        fast = ChannelMajorResNet(model, image_size, dtype=torch.float16, inference=True)
        return Executor(_GradientScaled(fast.to(device).eval()), _CHANNEL_MAJOR, "float16")
    return Executor(model, "eager", "float32")


def _on_cpu(model: nn.Module, image_size: tuple[int, int, int]) -> Executor:
    if _is_known_convmixer(model) and _positions(model, image_size) <= _FOLDED:
        return Executor(FoldedConvMixer(model, image_size).eval(), "folded", "float32")
    if _is_known_convmixer(model) or (isinstance(model, ResNet) and is_separated_resnet(model)):
        # `to` changes a module in place, and the plain one has the last word.
        copied = copy.deepcopy(model).to(memory_format=torch.channels_last)
        return Executor(copied.eval(), "channels last", "float32")
    return Executor(model, "eager", "float32")


def _is_known_convmixer(model: nn.Module) -> TypeGuard[ConvMixer]:
    return type(model) is ConvMixer and isinstance(model.head, nn.Linear)


def _positions(model: ConvMixer, image_size: tuple[int, int, int]) -> int:
    stem: Any = model.stem
    patch: int = stem[0].kernel_size[0]
    return (image_size[1] // patch) * (image_size[2] // patch)


def _convmixer_on_cuda(model: ConvMixer, image_size: tuple[int, int, int], device: torch.device) -> Executor:
    if HAS_TRITON and _positions(model, image_size) <= WHOLE:
        from mixbench.models.fused_mixer import FusedConvMixer  # noqa: PLC0415

        return Executor(_GradientScaled(FusedConvMixer(model, image_size).eval()), "fused, Triton", "float16")
    fast = ChannelMajorConvMixer(model, image_size, dtype=torch.float16, inference=True)
    return Executor(_GradientScaled(fast.to(device).eval()), _CHANNEL_MAJOR, "float16")


class _GradientScaled(nn.Module):
    """Computes what `network` does, with gradients held large on the way back, where float16 would round them to 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        enter: Any = _ScaledBack.apply
        leave: Any = _Scaled.apply
        sizes = _Sizes()
        return leave(self.network(enter(images, sizes)), sizes)


class _Sizes:
    """What the gradients of one pass were divided by, an image each."""

    values: Float[Tensor, "batch 1"]


class _Scaled(torch.autograd.Function):
    """The identity on logits; the gradients of each image are given the same size on the way back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sizes: _Sizes) -> Tensor:
        ctx.sizes = sizes
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        largest = gradient.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(gradient.dtype).tiny)
        ctx.sizes.values = largest / _GRADIENT_SIZE
        return gradient / largest * _GRADIENT_SIZE, None


class _ScaledBack(torch.autograd.Function):
    """The identity on images; their gradients get their own sizes back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, sizes: _Sizes) -> Tensor:
        ctx.sizes = sizes
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        return gradient * ctx.sizes.values[:, :, None, None], None
