import copy

import pytest
import torch
from timm.models.convmixer import ConvMixer
from torch import nn

from mixbench.models import ChannelMajorConvMixer

# torch warns, once a process, that "same" padding of an even kernel takes a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

SIZES = [
    pytest.param(3, 1, (1, 6, 6), id="odd kernel"),
    pytest.param(4, 1, (1, 5, 7), id="even kernel, oblong"),
    pytest.param(5, 2, (3, 8, 8), id="patches"),
    pytest.param(7, 2, (1, 4, 4), id="kernel larger than the image"),
]


def _pair(kernel: int, patch: int, size: tuple[int, int, int]) -> tuple[ConvMixer, ChannelMajorConvMixer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvMixer(dim=8, depth=2, kernel_size=kernel, patch_size=patch, in_chans=size[0], num_classes=5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    return model, ChannelMajorConvMixer(copy.deepcopy(model), size)


@pytest.mark.parametrize(("kernel", "patch", "size"), SIZES)
def test_it_computes_what_timms_convmixer_computes(kernel: int, patch: int, size: tuple[int, int, int]) -> None:
    model, fast = (module.eval().double() for module in _pair(kernel, patch, size))
    images = torch.rand(3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(fast(images), model(images), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kernel", "patch", "size"), SIZES)
def test_it_trains_as_timms_convmixer_does(kernel: int, patch: int, size: tuple[int, int, int]) -> None:
    model, fast = (module.train() for module in _pair(kernel, patch, size))
    images = torch.rand(6, *size, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % 5
    for module in (model, fast):
        nn.functional.cross_entropy(module(images), labels).backward()
    others = dict(fast.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(others[name].grad, parameter.grad, rtol=1e-3, atol=1e-5), name
    for name, buffer in model.named_buffers():
        assert torch.allclose(dict(fast.model.named_buffers())[name], buffer, rtol=1e-5, atol=1e-6), name


def test_it_has_no_parameters_and_no_state_of_its_own() -> None:
    model, fast = _pair(3, 2, (1, 8, 8))
    assert {f"model.{name}" for name in model.state_dict()} == set(fast.state_dict())
