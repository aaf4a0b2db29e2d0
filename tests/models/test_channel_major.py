import copy

import pytest
import timm
import torch
from timm.models.convmixer import ConvMixer
from torch import nn

from mixbench.models import (
    ARCHITECTURES,
    ChannelMajorConvMixer,
    ChannelMajorResNet,
    ModelSpec,
    is_separated_resnet,
)
from mixbench.models.channel_major import toeplitz_placements

# torch warns, once a process, that "same" padding of an even kernel takes a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

SIZES = [
    pytest.param(3, 1, (1, 6, 6), id="odd kernel"),
    pytest.param(4, 1, (1, 5, 7), id="even kernel, oblong"),
    pytest.param(5, 2, (3, 8, 8), id="patches"),
    pytest.param(7, 2, (1, 4, 4), id="kernel larger than the image"),
    pytest.param(7, 1, (1, 60, 8), id="in bands of rows"),
    pytest.param(5, 2, (1, 56, 56), id="in bands of rows that filters reach half of"),
]
RESNET_SIZES = [
    pytest.param((1, 8, 8), id="digits"),
    pytest.param((3, 16, 16), id="rgb"),
    pytest.param((1, 14, 10), id="odd sides after halving, oblong"),
]


def _unsettle(model: nn.Module) -> None:
    """Give every norm statistics and weights that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)


def _pair(kernel: int, patch: int, size: tuple[int, int, int]) -> tuple[ConvMixer, ChannelMajorConvMixer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvMixer(dim=8, depth=2, kernel_size=kernel, patch_size=patch, in_chans=size[0], num_classes=5)
        _unsettle(model)
    model.double()
    return model, ChannelMajorConvMixer(copy.deepcopy(model), size, dtype=torch.float64)


def _resnet_pair(size: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = ModelSpec.for_dataset(ARCHITECTURES["resnet_trained"], "digits", filter_seed=0)
        model = ModelSpec(spec.architecture, spec.scheme, 0, {**spec.args, "in_chans": size[0]}).build()
        _unsettle(model)
    model.double()
    return model, ChannelMajorResNet(copy.deepcopy(model), size, dtype=torch.float64)


def _images(n: int, size: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(n, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _check_equal(model: nn.Module, fast: nn.Module, size: tuple[int, int, int]) -> None:
    """Compare logits, gradients of images and parameters, and statistics, in training and in eval mode."""
    labels = torch.arange(6) % 5
    for training in (True, False):
        gradients: list[torch.Tensor] = []
        for module in (model.train(training), fast.train(training)):
            module.zero_grad()
            images = _images(6, size).requires_grad_()
            logits = module(images)
            nn.functional.cross_entropy(logits, labels).backward()
            gradients += [logits, images.grad]
        assert torch.allclose(gradients[2], gradients[0], rtol=1e-9, atol=1e-12)
        assert torch.allclose(gradients[3], gradients[1], rtol=1e-7, atol=1e-12)
        others, buffers = dict(fast.model.named_parameters()), dict(fast.model.named_buffers())
        for name, parameter in model.named_parameters():
            assert torch.allclose(others[name].grad, parameter.grad, rtol=1e-7, atol=1e-12), name
        for name, buffer in model.named_buffers():
            assert torch.allclose(buffers[name], buffer, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize(("kernel", "patch", "size"), SIZES)
def test_it_computes_and_trains_as_timms_convmixer_does(kernel: int, patch: int, size: tuple[int, int, int]) -> None:
    _check_equal(*_pair(kernel, patch, size), size)


@pytest.mark.parametrize("size", RESNET_SIZES)
def test_it_computes_and_trains_as_timms_separated_resnet_does(size: tuple[int, int, int]) -> None:
    model, fast = _resnet_pair(size)
    assert is_separated_resnet(model)
    _check_equal(model, fast, size)


@pytest.mark.parametrize("name", ["convmixer_frozen", "resnet_frozen", "convmixer_spatial"])
def test_what_is_frozen_gets_no_gradient(name: str) -> None:
    model = ModelSpec.for_dataset(ARCHITECTURES[name], "digits", filter_seed=0).build()
    kind = ChannelMajorConvMixer if name.startswith("convmixer") else ChannelMajorResNet
    kind(model, (1, 8, 8))(torch.rand(4, 1, 8, 8)).sum().backward()
    assert all((parameter.grad is not None) is parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "model", [timm.create_model("resnet10t"), nn.Flatten()], ids=["full convolutions and pooling", "no ResNet"]
)
def test_other_networks_are_not_taken_for_separated_resnets(model: nn.Module) -> None:
    assert not is_separated_resnet(model)


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (1, 1), (2, 1)])
def test_each_tap_of_a_toeplitz_matrix_is_a_convolution_by_that_tap(stride: int, padding: int | str) -> None:
    conv = nn.Conv2d(1, 1, 3, stride=stride, padding=padding, bias=False)
    placements = toeplitz_placements(conv, 6, 4)
    images = _images(2, (1, 6, 4)).float()
    for tap in range(9):
        conv.weight.data = torch.eye(9)[tap].view(1, 1, 3, 3)
        assert torch.equal(images.flatten(1) @ placements[tap], conv(images).flatten(1))
    assert placements.shape[0] == 16
    assert not placements[9:].any()


def test_it_has_no_parameters_and_no_state_of_its_own() -> None:
    model, fast = _pair(3, 2, (1, 8, 8))
    assert {f"model.{name}" for name in model.state_dict()} == set(fast.state_dict())
