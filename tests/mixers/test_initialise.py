import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import ResNet
from torch import nn

from mixbench.errors import InvalidInputError
from mixbench.mixers.filters import FilterKind, FilterScheme, draw_biases, draw_filters
from mixbench.mixers.initialise import draw_channel, draw_spatial, initialise_channel, initialise_spatial
from mixbench.mixers.separate import separate
from mixbench.mixers.stream import FilterStream

UNIFORM = FilterScheme(FilterKind.UNIFORM)
Snapshot = Callable[[nn.Module], dict[str, torch.Tensor]]


def _changed(model: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]


def _small_mixer() -> MlpMixer:
    return MlpMixer(img_size=8, patch_size=2, in_chans=1, num_blocks=1, embed_dim=8, num_classes=2)


@pytest.mark.parametrize("kind", FilterKind)
def test_the_nth_spatial_mixer_gets_the_draw_of_layer_n(kind: FilterKind, convmixer: ConvMixer) -> None:
    scheme = FilterScheme(kind)
    initialise_spatial(convmixer, scheme, filter_seed=9)
    for layer, block in enumerate(convmixer.blocks):
        stream, conv = FilterStream(9, layer), block[0].fn[0]
        filters = draw_filters(scheme, channels=16, kernel=3, stream=stream)
        assert np.array_equal(conv.weight.detach().numpy()[:, 0], filters)
        assert np.array_equal(conv.bias.detach().numpy(), draw_biases(scheme, channels=16, kernel=3, stream=stream))


def test_only_spatial_mixers_outside_the_stem_are_drawn(resnet: ResNet, snapshot: Snapshot) -> None:
    separate(resnet, stem=True)
    before = snapshot(resnet)
    initialise_spatial(resnet, UNIFORM, filter_seed=0)
    expected = [f"layer{n}.0.conv{m}.spatial.weight" for n in (1, 2, 3, 4) for m in (1, 2)]
    assert _changed(resnet, before) == expected


def test_only_channel_mixers_outside_the_stem_are_drawn_shortcuts_included(resnet: ResNet, snapshot: Snapshot) -> None:
    separate(resnet, stem=True)
    before = snapshot(resnet)
    initialise_channel(resnet, filter_seed=0)
    expected = [f"layer{n}.0.conv{m}.channel.weight" for n in (1, 2, 3, 4) for m in (1, 2)]
    expected += [f"layer{n}.0.downsample.0.weight" for n in (1, 2, 3, 4)]
    assert sorted(_changed(resnet, before)) == sorted(expected)


def test_channel_mixers_are_uniform_in_torchs_range() -> None:
    conv, linear = nn.Conv2d(100, 200, 1, groups=4), nn.Linear(50, 300)
    initialise_channel(nn.Sequential(nn.Conv2d(1, 100, 2), conv, linear), filter_seed=0)
    for layer, fan_in in ((conv, 25), (linear, 50)):
        for parameter in (layer.weight, layer.bias):
            bound = 1 / math.sqrt(fan_in)
            cdf = scipy.stats.uniform(-bound, 2 * bound).cdf
            assert scipy.stats.kstest(parameter.detach().numpy().ravel(), cdf).pvalue > 0.01


def test_no_two_mixers_share_a_stream(convmixer: ConvMixer) -> None:
    draws = [*draw_spatial(convmixer, UNIFORM, filter_seed=0), *draw_channel(convmixer, filter_seed=0)]
    scaled = np.stack([(draw.values / np.abs(draw.values).max()).ravel()[:8] for draw in draws])
    assert len(np.unique(scaled.round(3), axis=0)) == len(draws) == 8


def test_filters_depend_on_the_filter_seed_alone(snapshot: Snapshot) -> None:
    drawn = []
    for torch_seed, filter_seed in ((0, 5), (1, 5), (1, 6)):
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed)
            model = ConvMixer(dim=4, depth=1, kernel_size=3, patch_size=2, in_chans=1, num_classes=2)
        initialise_spatial(model, UNIFORM, filter_seed=filter_seed)
        initialise_channel(model, filter_seed=filter_seed)
        drawn.append({name: tensor for name, tensor in snapshot(model).items() if name.split(".")[0] == "blocks"})
    weights = [name for name in drawn[0] if name in ("blocks.0.0.fn.0.weight", "blocks.0.1.weight")]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in weights)
    assert not any(torch.equal(drawn[1][name], drawn[2][name]) for name in weights)
    assert len(weights) == 2


def test_the_global_generators_are_left_as_they_are(convmixer: ConvMixer) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    for kind in FilterKind:
        initialise_spatial(convmixer, FilterScheme(kind), filter_seed=0)
    initialise_channel(convmixer, filter_seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002 - as above


def test_drawing_keeps_dtype_identity_and_learning(convmixer: ConvMixer) -> None:
    convmixer.to(torch.bfloat16)
    weight = convmixer.blocks[0][0].fn[0].weight
    initialise_spatial(convmixer, UNIFORM, filter_seed=0)
    assert convmixer.blocks[0][0].fn[0].weight is weight
    assert weight.requires_grad
    exact = draw_filters(UNIFORM, channels=16, kernel=3, stream=FilterStream(0, 0))
    assert torch.equal(weight[:, 0], torch.from_numpy(exact).to(torch.bfloat16))


def test_a_window_that_is_not_square_is_refused_and_nothing_is_drawn(snapshot: Snapshot) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, (1, 5), groups=4))
    before = snapshot(model)
    with pytest.raises(InvalidInputError, match=r"^2 has a window of 1 x 5 taps"):
        initialise_spatial(model, UNIFORM, filter_seed=0)
    assert _changed(model, before) == []


@pytest.mark.parametrize(
    ("kind", "distribution"),
    [
        (FilterKind.UNIFORM, scipy.stats.uniform(-1 / 4, 2 / 4)),
        (FilterKind.NORMAL, scipy.stats.norm(0, 1 / 4)),
    ],
)
def test_linear_layers_over_16_tokens_are_scaled_like_a_window_of_16_taps(
    kind: FilterKind, distribution: scipy.stats.rv_continuous
) -> None:
    model = _small_mixer()
    initialise_spatial(model, FilterScheme(kind), filter_seed=0)
    weights = model.blocks[0].mlp_tokens.fc1.weight
    assert weights.shape[1] == 16
    assert scipy.stats.kstest(weights.detach().numpy().ravel(), distribution.cdf).pvalue > 0.01


def test_linear_layers_over_tokens_have_no_window_to_smooth() -> None:
    with pytest.raises(InvalidInputError, match=r"smoothed\(sigma=1\) needs a window.*blocks.0.mlp_tokens.fc1"):
        initialise_spatial(_small_mixer(), FilterScheme(FilterKind.SMOOTHED), filter_seed=0)
