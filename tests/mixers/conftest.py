"""Models small enough to train in a test, built afresh for each."""

from collections.abc import Callable

import pytest
import torch
from timm.models.convmixer import ConvMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import nn


@pytest.fixture
def convmixer() -> ConvMixer:
    """Two blocks of 3 x 3 spatial mixers over 16 channels, on grey images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=2, in_chans=1, num_classes=4)


@pytest.fixture
def resnet() -> ResNet:
    """Four basic blocks, each with a 1 x 1 shortcut, on grey images; timm's stem has 64 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet(BasicBlock, layers=(1, 1, 1, 1), channels=(4, 8, 8, 16), in_chans=1, num_classes=4)


Snapshot = Callable[[nn.Module], dict[str, torch.Tensor]]


@pytest.fixture
def snapshot() -> Snapshot:
    """Copies of all parameters by name."""

    def take(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    return take
