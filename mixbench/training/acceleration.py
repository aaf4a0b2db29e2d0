"""The same network, computed the fastest way its device has."""

from typing import Any

import torch
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn

from mixbench.models import ChannelMajorConvMixer


class _Bfloat16(nn.Module):
    """Computes in bfloat16 where that is safe, with float32 parameters and logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return self.model(images).float()


def accelerated(model: nn.Module, image_size: tuple[int, ...], device: torch.device) -> nn.Module:
    """Return a module with the parameters and statistics of `model`: compiled bfloat16 on CUDA, `model` on the CPU.

    A ConvMixer is computed channel by channel: cuDNN's depthwise convolutions leave the tensor cores idle.
    """
    if device.type != "cuda":
        return model
    if isinstance(model, ConvMixer):
        channels, height, width = image_size
        fast: nn.Module = ChannelMajorConvMixer(model, (channels, height, width)).to(device)
    else:
        fast = model.to(memory_format=torch.channels_last)
    compiled: Any = torch.compile(_Bfloat16(fast))
    return compiled
