"""The network that an attack searches with: the same function, computed the fastest way its device has."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mixbench.models.channel_major import ChannelMajorConvMixer, ChannelMajorResNet, is_separated_resnet
from mixbench.models.folded import FoldedConvMixer

_GRADIENT_SCALE = 1024.0


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

    On CUDA, ConvMixers and separated ResNets are computed channel by channel in float16 with sums in float32; on the
    CPU a ConvMixer's constants are folded. Any other network is computed as it is.
    """
    if isinstance(model, ConvMixer) and device.type == "cpu":
        return Executor(FoldedConvMixer(model, image_size).eval(), "folded", "float32")
    if device.type == "cuda" and isinstance(model, ConvMixer):
        fast: nn.Module = ChannelMajorConvMixer(model, image_size, dtype=torch.float16, inference=True)
    elif device.type == "cuda" and isinstance(model, ResNet) and is_separated_resnet(model):
        fast = ChannelMajorResNet(model, image_size, dtype=torch.float16, inference=True)
    else:
        return Executor(model, "eager", "float32")
    return Executor(_GradientScaled(fast.to(device).eval()), "channel-major, Triton", "float16")


class _GradientScaled(nn.Module):
    """Computes what `network` does, with gradients held large on the way back, where float16 would round them to 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        scaled: Any = _ScaleGradient.apply
        return scaled(self.network(scaled(images, 1 / _GRADIENT_SCALE)), _GRADIENT_SCALE)


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - one output
        return gradient * ctx.factor, None
