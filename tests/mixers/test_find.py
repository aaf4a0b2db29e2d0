import pytest
import timm
from timm.models.convmixer import ConvMixer
from timm.models.convnext import ConvNeXt
from timm.models.mlp_mixer import MixerBlock, MlpMixer, ResBlock, SpatialGatingBlock
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from mixbench.errors import InvalidInputError
from mixbench.mixers.find import Place, Role, classifier_of, find


def _table(model: nn.Module) -> list[tuple[str, str, str]]:
    return [(mixer.name, mixer.role.value, mixer.place.value) for mixer in find(model)]


def test_convmixer_alternates_spatial_and_channel_mixers(convmixer: ConvMixer) -> None:
    assert _table(convmixer) == [
        ("stem.0", "full", "stem"),
        ("blocks.0.0.fn.0", "spatial", "body"),
        ("blocks.0.1", "channel", "body"),
        ("blocks.1.0.fn.0", "spatial", "body"),
        ("blocks.1.1", "channel", "body"),
    ]


def test_resnet_has_full_mixers_and_pointwise_shortcuts(resnet: ResNet) -> None:
    assert _table(resnet) == [
        ("conv1", "full", "stem"),
        ("layer1.0.conv1", "full", "body"),
        ("layer1.0.conv2", "full", "body"),
        ("layer1.0.downsample.0", "channel", "shortcut"),
        ("layer2.0.conv1", "full", "body"),
        ("layer2.0.conv2", "full", "body"),
        ("layer2.0.downsample.0", "channel", "shortcut"),
        ("layer3.0.conv1", "full", "body"),
        ("layer3.0.conv2", "full", "body"),
        ("layer3.0.downsample.0", "channel", "shortcut"),
        ("layer4.0.conv1", "full", "body"),
        ("layer4.0.conv2", "full", "body"),
        ("layer4.0.downsample.0", "channel", "shortcut"),
    ]


@pytest.mark.parametrize(
    ("conv", "role"),
    [
        pytest.param(nn.Conv2d(6, 6, 3, groups=6), Role.SPATIAL, id="depthwise"),
        pytest.param(nn.Conv2d(6, 12, 3, groups=6), Role.SPATIAL, id="depthwise, two filters a channel"),
        pytest.param(nn.Conv2d(6, 6, (1, 5), groups=6), Role.SPATIAL, id="depthwise band"),
        pytest.param(nn.Conv2d(1, 1, 3), Role.SPATIAL, id="one channel"),
        pytest.param(nn.Conv2d(6, 6, 3), Role.FULL, id="dense"),
        pytest.param(nn.Conv2d(6, 6, 3, groups=3), Role.FULL, id="grouped"),
        pytest.param(nn.Conv2d(1, 6, 3), Role.FULL, id="expanding one channel"),
        pytest.param(nn.Conv2d(6, 6, 1), Role.CHANNEL, id="pointwise"),
        pytest.param(nn.Conv2d(6, 6, 1, stride=2, groups=3), Role.CHANNEL, id="grouped, strided pointwise"),
        pytest.param(nn.Linear(6, 6), Role.CHANNEL, id="linear"),
        pytest.param(nn.Conv2d(6, 6, 1, groups=6), None, id="depthwise 1 x 1 scales only"),
        pytest.param(nn.Conv1d(6, 6, 3), None, id="one-dimensional"),
    ],
)
def test_the_role_follows_from_window_and_groups(conv: nn.Module, role: Role | None) -> None:
    found = {mixer.name: mixer for mixer in find(nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), conv))}
    assert found["0"].place is Place.STEM
    assert (found["1"].role if "1" in found else None) is role


def test_the_kernel_size_is_that_of_the_window(convmixer: ConvMixer) -> None:
    sizes = {mixer.name: mixer.kernel_size for mixer in find(nn.ModuleDict({"a": convmixer, "b": nn.Linear(2, 2)}))}
    assert sizes["a.stem.0"] == (2, 2)
    assert sizes["a.blocks.0.0.fn.0"] == (3, 3)
    assert sizes["a.blocks.0.1"] == (1, 1)
    assert sizes["b"] is None


@pytest.mark.parametrize(
    ("block", "spatial"),
    [
        (MixerBlock, ["blocks.0.mlp_tokens.fc1", "blocks.0.mlp_tokens.fc2"]),
        (ResBlock, ["blocks.0.linear_tokens"]),
        (SpatialGatingBlock, ["blocks.0.mlp_channels.gate.proj"]),
    ],
)
def test_linear_layers_over_tokens_mix_space(block: type[nn.Module], spatial: list[str]) -> None:
    options: dict[str, object] = {} if block is MixerBlock else {"mlp_ratio": 4}
    if block is SpatialGatingBlock:
        options["mlp_layer"] = timm.layers.GatedMlp
    model = MlpMixer(img_size=8, patch_size=4, num_blocks=1, embed_dim=8, num_classes=2, block_layer=block, **options)
    mixers = find(model)
    assert [mixer.name for mixer in mixers if mixer.role is Role.SPATIAL] == spatial
    assert all(mixer.kernel_size is None for mixer in mixers if mixer.role is Role.SPATIAL)
    assert "blocks.0.mlp_channels.fc1" in [mixer.name for mixer in mixers if mixer.role is Role.CHANNEL]


def test_what_mixes_space_inside_a_downsample_belongs_to_the_body() -> None:
    convnext = ConvNeXt(in_chans=1, num_classes=2, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
    downsample = next(mixer for mixer in find(convnext) if mixer.name == "stages.1.downsample.1")
    assert (downsample.role, downsample.place) == (Role.FULL, Place.BODY)


def test_the_stem_is_every_convolution_that_timm_names_first() -> None:
    model = timm.create_model("repvgg_a0")
    stem = [mixer.name for mixer in find(model) if mixer.place is Place.STEM]
    assert stem == ["stem.conv_kxk.conv", "stem.conv_1x1.conv"]


def test_a_first_convolution_that_timm_misnames_is_found_by_order(convmixer: ConvMixer) -> None:
    convmixer.pretrained_cfg = {"first_conv": "conv_stem"}
    assert [mixer.name for mixer in find(convmixer) if mixer.place is Place.STEM] == ["stem.0"]


@pytest.mark.parametrize("wrap", [AveragedModel, nn.DataParallel], ids=["averaged", "parallel"])
def test_a_wrapped_model_has_the_same_mixers(wrap: type[nn.Module], resnet: ResNet) -> None:
    resnet.pretrained_cfg = {"first_conv": "conv1"}
    wrapped = [(name.removeprefix("module."), role, place) for name, role, place in _table(wrap(resnet))]
    assert wrapped == _table(resnet)


def test_a_model_without_a_classifier_has_none() -> None:
    assert not list(classifier_of(ConvMixer(dim=4, depth=1, num_classes=0))[0].parameters())
    assert classifier_of(nn.Sequential(nn.Linear(2, 2))) == ()


def test_both_heads_of_a_distilled_model_are_classifiers() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    assert not [mixer.name for mixer in find(model) if mixer.name.startswith("head")]
    assert classifier_of(model) == (model.head, model.head_dist)


def test_a_model_that_is_not_from_timm_has_its_head_left_out() -> None:
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)))
    model.add_module("fc", nn.Linear(4, 2))
    assert [mixer.name for mixer in find(model)] == ["features.0", "features.1"]


def test_attention_projections_mix_channels() -> None:
    model = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=2)
    roles = {mixer.name: (mixer.role, mixer.place) for mixer in find(model)}
    assert roles["blocks.0.attn.qkv"] == (Role.CHANNEL, Place.BODY)
    assert roles["patch_embed.proj"] == (Role.FULL, Place.STEM)


def test_tensors_are_the_weight_and_the_bias_if_there_is_one(resnet: ResNet, convmixer: ConvMixer) -> None:
    names = [name for model in (resnet, convmixer) for name, _ in find(model)[1].tensors()]
    assert names == ["layer1.0.conv1.weight", "blocks.0.0.fn.0.weight", "blocks.0.0.fn.0.bias"]


def test_a_weight_that_is_computed_is_refused(convmixer: ConvMixer) -> None:
    parametrizations.weight_norm(convmixer.blocks[0][1])
    mixer = next(mixer for mixer in find(convmixer) if mixer.name == "blocks.0.1")
    with pytest.raises(InvalidInputError, match=r"blocks\.0\.1\.weight is computed from other parameters"):
        mixer.tensors()
