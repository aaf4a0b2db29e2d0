from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import Conv2dSame, StdConv2d
from timm.models.convmixer import ConvMixer
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torch.nn.utils import parametrizations

from mixbench.errors import InvalidInputError
from mixbench.mixers.find import Place, Role, find
from mixbench.mixers.separable_conv import SeparableConv2d
from mixbench.mixers.separate import separate

SMALL = {"channels": (8, 8, 16, 16), "in_chans": 3, "num_classes": 4, "stem_width": 8}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet, basic": lambda: ResNet(BasicBlock, layers=(1, 1, 1, 1), **SMALL),
    "resnet, bottleneck": lambda: ResNet(Bottleneck, layers=(1, 1, 1, 1), **SMALL),
    "resnext, deep stem, dilated": lambda: ResNet(
        Bottleneck, layers=(1, 1, 1, 1), cardinality=4, stem_type="deep", output_stride=8, avg_down=True, **SMALL
    ),
    "convnext": lambda: ConvNeXt(num_classes=4, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
    "convmixer": lambda: ConvMixer(dim=8, depth=1, kernel_size=3, patch_size=2, num_classes=4),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=4),
    "byobnet": lambda: timm.create_model("test_byobnet", num_classes=4),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=4),
}


def _shapes(model: nn.Module) -> tuple[torch.Size, torch.Size]:
    images = torch.zeros(2, 3, 64, 64)
    model.eval()
    return model.forward_features(images).shape, model(images).shape


@pytest.mark.parametrize("stem", [False, True], ids=["stem kept", "stem too"])
@pytest.mark.parametrize("name", MODELS)
def test_features_and_logits_keep_their_shape(name: str, stem: bool) -> None:  # noqa: FBT001 - a case of the table
    model = MODELS[name]()
    before = _shapes(model)
    assert separate(model, stem=stem) is model
    assert _shapes(model) == before
    full = [mixer.place for mixer in find(model) if mixer.role is Role.FULL]
    assert Place.BODY not in full
    assert (Place.STEM in full) is not stem


def _separable(conv: nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the weight of `conv` a product of spatial and channel factors, and return these."""
    generator = torch.Generator().manual_seed(0)
    per_group = conv.in_channels // conv.groups
    spatial = torch.randn(conv.in_channels, *conv.kernel_size, generator=generator, dtype=torch.float64)
    channel = torch.randn(conv.out_channels, per_group, generator=generator, dtype=torch.float64)
    # Output o of group g reads the inputs g * per_group + i.
    group = torch.arange(conv.out_channels) // (conv.out_channels // conv.groups)
    read = spatial[group[:, None] * per_group + torch.arange(per_group)]
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("oi,oihw->oihw", channel, read))
    return spatial[:, None], channel[:, :, None, None]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "dilation": 2, "padding": "same", "groups": 2},
        {"kernel_size": (5, 3), "stride": (1, 2), "padding": (2, 0), "padding_mode": "circular"},
        {"kernel_size": 2, "padding": 1, "padding_mode": "reflect", "groups": 2},
    ],
    ids=["plain", "strided", "dilated, grouped", "rectangular, circular", "even, reflected, grouped"],
)
def test_a_separable_weight_gives_the_same_output_once_separated(options: dict[str, object]) -> None:
    conv = nn.Conv2d(4, 6, dtype=torch.float64, **options)
    spatial, channel = _separable(conv)
    images = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = conv(images)
    pair = separate(nn.Sequential(conv), stem=True)[0]
    with torch.no_grad():
        pair.spatial.weight.copy_(spatial)
        pair.channel.weight.copy_(channel)
        if conv.bias is not None:
            pair.channel.bias.copy_(conv.bias)
    assert (pair.channel.bias is None) is (conv.bias is None)
    assert torch.allclose(pair(images), expected, rtol=1e-12, atol=1e-12)


def test_only_full_convolutions_outside_the_stem_are_replaced(resnet: ResNet) -> None:
    kept = {mixer.name: mixer.module for mixer in find(resnet) if mixer.role is not Role.FULL}
    replaced = [mixer.name for mixer in find(resnet) if mixer.role is Role.FULL and mixer.place is not Place.STEM]
    stem = resnet.conv1
    separate(resnet)
    assert resnet.conv1 is stem
    assert all(resnet.get_submodule(name) is module for name, module in kept.items())
    assert all(isinstance(resnet.get_submodule(name), SeparableConv2d) for name in replaced)
    assert len(replaced) == 8


def test_separating_twice_changes_nothing(resnet: ResNet) -> None:
    once = dict(separate(resnet, stem=True).named_modules())
    assert dict(separate(resnet, stem=True).named_modules()) == once


@pytest.mark.parametrize("named", [True, False], ids=["named by timm", "found by order"])
def test_a_separated_stem_is_still_the_stem(named: bool, convmixer: ConvMixer) -> None:  # noqa: FBT001 - as above
    if named:
        convmixer.pretrained_cfg = {"first_conv": "stem.0"}
    stem = [mixer for mixer in find(separate(convmixer, stem=True)) if mixer.place is Place.STEM]
    assert [(mixer.name, mixer.role) for mixer in stem] == [
        ("stem.0.spatial", Role.SPATIAL),
        ("stem.0.channel", Role.CHANNEL),
    ]


def test_device_dtype_mode_and_learning_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 3, device="meta", dtype=torch.bfloat16)).eval()
    model[1].requires_grad_(requires_grad=False)
    pair = separate(model)[1]
    parameters = list(pair.parameters())
    assert {(parameter.device.type, parameter.dtype, parameter.requires_grad) for parameter in parameters} == {
        ("meta", torch.bfloat16, False)
    }
    assert not any(module.training for module in pair.modules())
    assert separate(nn.Sequential(nn.Conv2d(3, 4, 2)), stem=True)[0].spatial.training


def test_a_convolution_used_twice_is_separated_once() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = separate(nn.Sequential(nn.Conv2d(1, 4, 2), shared, nn.Sequential(shared)))
    assert isinstance(model[1], SeparableConv2d)
    assert model[2][0] is model[1]


@pytest.mark.parametrize("conv_type", [Conv2dSame, StdConv2d])
def test_a_subclass_is_refused_by_name_and_nothing_is_replaced(conv_type: type[nn.Conv2d]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 3), conv_type(4, 4, 3))
    before = dict(model.named_modules())
    with pytest.raises(InvalidInputError, match=f"^2 is a {conv_type.__name__}, expected a plain torch.nn.Conv2d"):
        separate(model)
    assert dict(model.named_modules()) == before


def test_a_computed_weight_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    with pytest.raises(InvalidInputError, match=r"^1 is a ParametrizedConv2d"):
        separate(model)


def test_a_bare_convolution_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="itself a convolution"):
        separate(nn.Conv2d(3, 4, 3), stem=True)
