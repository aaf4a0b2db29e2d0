"""The same network, computed the fastest way its device has."""

import torch
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from torch import nn

from mixbench.models import ChannelMajorConvMixer, ChannelMajorResNet, is_separated_resnet


def accelerated(model: nn.Module, image_size: tuple[int, int, int], device: torch.device) -> nn.Module:
    """Return a module with the parameters and statistics of `model`: bfloat16 on CUDA, `model` on the CPU.

    ConvMixers and separated ResNets are computed channel by channel, since cuDNN's depthwise convolutions leave the
    tensor cores idle; what is neither is returned as it is.
    """
    if device.type != "cuda":
        return model
    if isinstance(model, ConvMixer):
        fast: nn.Module = ChannelMajorConvMixer(model, image_size, dtype=torch.bfloat16)
    elif isinstance(model, ResNet) and is_separated_resnet(model):
        fast = ChannelMajorResNet(model, image_size, dtype=torch.bfloat16)
    else:
        return model
    return fast.to(device)
