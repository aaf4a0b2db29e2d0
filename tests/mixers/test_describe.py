import pytest
import timm
from timm.models.convmixer import ConvMixer
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations

from mixbench.mixers.describe import Group, describe
from mixbench.mixers.freeze import Mixing, apply_mixing, default_scheme
from mixbench.mixers.separate import separate


def _parameters(model: nn.Module) -> dict[str, int]:
    return {row.group.value: row.parameters for row in describe(model) if row.parameters}


def test_a_convmixer_is_counted_layer_by_layer(convmixer: ConvMixer) -> None:
    assert _parameters(convmixer) == {
        "stem": 16 * 1 * 2 * 2 + 16,
        "spatial": 2 * (16 * 3 * 3 + 16),
        "channel": 2 * (16 * 16 + 16),
        "normalisation": 5 * 2 * 16,
        "classifier": 16 * 4 + 4,
    }


def test_a_resnet_is_counted_before_and_after_separation(resnet: ResNet) -> None:
    dense = 64 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 8 + 8 * 8 + 8 * 16 + 16 * 16
    inputs = 64 + 4 + 4 + 8 + 8 + 8 + 8 + 16
    shortcut = 64 * 4 + 4 * 8 + 8 * 8 + 8 * 16
    common = {"stem": 7 * 7 * 64, "shortcut": shortcut, "classifier": 16 * 4 + 4}
    norms = 2 * (64 + 3 * 4 + 3 * 8 + 3 * 8 + 3 * 16)
    assert _parameters(resnet) == {**common, "full": 9 * dense, "normalisation": norms}
    separate(resnet)
    assert _parameters(resnet) == {**common, "spatial": 9 * inputs, "channel": dense, "normalisation": norms}


@pytest.mark.parametrize("mixing", Mixing)
def test_rows_say_what_learns_and_add_up_to_the_whole_model(mixing: Mixing, resnet: ResNet) -> None:
    apply_mixing(separate(resnet), mixing, scheme=default_scheme(mixing), filter_seed=0)
    rows = describe(resnet)
    frozen = {
        Mixing.TRAINED: set(),
        Mixing.FROZEN: {Group.SPATIAL},
        Mixing.FROZEN_SMOOTH: {Group.SPATIAL},
        Mixing.SPATIAL: {Group.CHANNEL, Group.SHORTCUT},
    }[mixing]
    assert {row.group for row in rows if row.frozen} == frozen
    assert all(row.frozen in (0, row.parameters) for row in rows)
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in resnet.parameters())
    assert sum(row.trained for row in rows) == sum(p.numel() for p in resnet.parameters() if p.requires_grad)


def test_every_group_has_its_row_in_a_fixed_order(convmixer: ConvMixer) -> None:
    assert [row.group for row in describe(convmixer)] == list(Group)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "mobileone_s0", "crossvit_9_240"])
def test_the_rows_of_any_timm_model_add_up(name: str) -> None:
    model = timm.create_model(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in describe(model)) == total
    assert _parameters(model)["classifier"] < total


def test_position_and_class_tokens_belong_to_no_mixer() -> None:
    model = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=2)
    assert _parameters(model)["other"] == model.pos_embed.numel() + model.cls_token.numel() == 5 * 8 + 8


def test_a_shared_tensor_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False))
    model[2].weight = model[1].weight
    assert _parameters(model)["channel"] == 16


def test_a_parametrised_weight_still_belongs_to_its_mixer(convmixer: ConvMixer) -> None:
    before = _parameters(convmixer)
    parametrizations.weight_norm(convmixer.blocks[0][1])
    assert _parameters(convmixer) == {**before, "channel": before["channel"] + 16}
