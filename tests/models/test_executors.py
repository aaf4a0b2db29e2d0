import copy

import pytest
import timm
import torch
from timm.models.convmixer import ConvMixer
from torch import nn

from mixbench.models import ARCHITECTURES, ChannelMajorConvMixer, ModelSpec, executor_for
from mixbench.models.executors import _GradientScaled
from mixbench.models.folded import FoldedConvMixer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _convmixer(kernel: int, patch: int, size: tuple[int, int, int]) -> ConvMixer:
    """Return a network whose norms matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvMixer(dim=8, depth=2, kernel_size=kernel, patch_size=patch, in_chans=size[0], num_classes=5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    nn.init.uniform_(tensor, 0.5, 2)
    return model.eval().requires_grad_(False)


def _logits_and_gradient(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = images.clone().requires_grad_()
    logits = network(leaf)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1, logits.shape[1] + 1, device=images.device)).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize(("kernel", "patch", "size"), [(3, 1, (1, 6, 5)), (5, 2, (3, 8, 8)), (7, 2, (1, 4, 4))])
def test_folding_changes_neither_logits_nor_gradients(kernel: int, patch: int, size: tuple[int, int, int]) -> None:
    model = _convmixer(kernel, patch, size).double()
    images = torch.rand(6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, timms in zip(
        _logits_and_gradient(FoldedConvMixer(model, size), images), _logits_and_gradient(model, images), strict=True
    ):
        assert torch.allclose(ours, timms, rtol=1e-9, atol=1e-12)


def test_holding_gradients_large_changes_nothing_where_precision_is_no_matter() -> None:
    model = _convmixer(3, 1, (1, 6, 6)).double()
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    for scaled, plain in zip(
        _logits_and_gradient(_GradientScaled(model), images), _logits_and_gradient(model, images), strict=True
    ):
        assert torch.allclose(scaled, plain, rtol=1e-12, atol=0)


def test_slopes_far_below_float16_reach_the_image() -> None:
    model = _convmixer(3, 1, (1, 6, 6))
    half = ChannelMajorConvMixer(model, (1, 6, 6), dtype=torch.float16, inference=True)
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    slopes = torch.tensor([1.0, 1e-12, 0.0])[:, None] * torch.arange(5.0)
    gradients = []
    for network in (model, _GradientScaled(half)):
        leaf = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network(leaf), leaf, slopes)[0].flatten(1))
    expected, found = gradients
    assert ((found - expected).norm(dim=1) <= 0.02 * expected.norm(dim=1)).all()
    assert (expected.norm(dim=1) > 0).tolist() == [True, True, False]


@pytest.mark.parametrize(("name", "size"), [("convmixer_frozen", (3, 32, 32)), ("resnet_trained", (1, 8, 8))])
def test_on_the_cpu_other_networks_of_ours_have_their_channels_last(name: str, size: tuple[int, int, int]) -> None:
    dataset = {3: "cifar10_jpeg75", 1: "digits"}[size[0]]
    model = ModelSpec.for_dataset(ARCHITECTURES[name], dataset, filter_seed=0).build().eval().requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    executor = executor_for(model.double(), size, torch.device("cpu"))
    assert (executor.kernels, executor.precision) == ("channels last", "float32")
    images = torch.rand(4, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(
        _logits_and_gradient(executor.network, images), _logits_and_gradient(model, images), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert all(weight.is_contiguous() for weight in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.float().state_dict().items())


def test_on_the_cpu_a_small_convmixer_is_folded_and_anything_foreign_is_computed_as_it_is() -> None:
    folded = executor_for(_convmixer(3, 1, (1, 6, 6)), (1, 6, 6), torch.device("cpu"))
    assert (type(folded.network), folded.kernels, folded.precision) == (FoldedConvMixer, "folded", "float32")
    for other in (timm.create_model("resnet10t").eval(), nn.Sequential(nn.Flatten(), nn.Linear(36, 4))):
        executor = executor_for(other, (3, 32, 32), torch.device("cpu"))
        assert (executor.network is other, executor.kernels, executor.precision) == (True, "eager", "float32")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["convmixer_trained", "resnet_frozen"])
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar10_jpeg75"])
def test_on_a_gpu_half_precision_is_close_to_float64(name: str, dataset: str) -> None:
    spec = ModelSpec.for_dataset(ARCHITECTURES[name], dataset, filter_seed=0)
    model = spec.build().eval().requires_grad_(False).cuda()
    size = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "cifar10_jpeg75": (3, 32, 32)}[dataset]
    images = torch.rand(32, *size, generator=torch.Generator().manual_seed(0)).cuda()
    expected = _logits_and_gradient(copy.deepcopy(model).double(), images.double())
    executor = executor_for(model, size, torch.device("cuda"))
    assert executor.precision == "float16"
    for found, exact in zip(_logits_and_gradient(executor.network, images), expected, strict=True):
        assert float((found.double() - exact).norm() / exact.norm()) < 5e-2
