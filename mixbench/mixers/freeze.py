"""Freezing mixers, and the proof that frozen ones still are what their seed gives.

No gradient reaches a frozen parameter, so no optimiser changes it, not even by weight decay. Weight averaging is the
one danger left: torch's default and multi-tensor averages and timm's ModelEmaV3 interpolate and so keep equal values
equal, but torch's `get_ema_avg_fn` and timm's ModelEmaV2 form `decay * a + (1 - decay) * a`, which rounds away from
`a`. `frozen_proof` detects that; `initialise_spatial` (`initialise_channel` for SPATIAL) on the average restores `a`.
"""

from enum import StrEnum

import torch
from torch import nn

from mixbench.errors import CheckpointError, InvalidInputError
from mixbench.mixers.filters import FilterKind, FilterScheme
from mixbench.mixers.find import Mixer, body_channel, body_spatial
from mixbench.mixers.initialise import (
    DrawnTensor,
    draw_channel,
    draw_spatial,
    initialise_channel,
    initialise_spatial,
)


class Mixing(StrEnum):
    """Which mixers learn; stem, shortcuts, normalisation and classifier always do, but for the shortcuts of SPATIAL.

    TRAINED learns all: the paper's Full. FROZEN keeps the spatial mixers as drawn: its Chans. FROZEN_SMOOTH does so
    with smoothed filters. SPATIAL learns the spatial mixers and keeps the channel mixers as drawn: its Space (arXiv
    2503.16760).
    """

    TRAINED = "trained"
    FROZEN = "frozen"
    FROZEN_SMOOTH = "frozen_smooth"
    SPATIAL = "spatial"

    @property
    def freezes_spatial(self) -> bool:
        """Whether the spatial mixers keep their drawn values."""
        return self in (Mixing.FROZEN, Mixing.FROZEN_SMOOTH)


def default_scheme(mixing: Mixing) -> FilterScheme:
    """Return smoothed(sigma=1) for FROZEN_SMOOTH and uniform for the others."""
    return FilterScheme(FilterKind.SMOOTHED if mixing is Mixing.FROZEN_SMOOTH else FilterKind.UNIFORM)


def freeze_spatial(model: nn.Module) -> None:
    """Stop the spatial mixers outside the stem, weights and biases, from learning, and drop their gradients."""
    _set_learning(body_spatial(model), learning=False)


def freeze_channel(model: nn.Module) -> None:
    """Stop the channel mixers outside the stem, shortcuts included, from learning, and drop their gradients."""
    _set_learning(body_channel(model), learning=False)


def apply_mixing(model: nn.Module, mixing: Mixing, *, scheme: FilterScheme, filter_seed: int) -> None:
    """Draw the spatial mixers of `model` from `filter_seed` in every mode, and freeze what `mixing` keeps, in place.

    So TRAINED and FROZEN start from the same filters. SPATIAL also draws the channel mixers. A mixer that was frozen
    before learns again unless `mixing` keeps it. Convolutions that mix both space and channels stay as they are and
    learn: `separate` the model first to leave none.

    Raises InvalidInputError, with the model unchanged, if it has no spatial mixers, if they cannot be drawn by
    `scheme`, or if the scheme of FROZEN_SMOOTH is not a smoothed one.
    """
    _check(model, mixing, scheme)
    spatial, channel = body_spatial(model), body_channel(model)
    for mixer in (*spatial, *channel):
        mixer.tensors()
    initialise_spatial(model, scheme, filter_seed=filter_seed)
    _set_learning(spatial, learning=not mixing.freezes_spatial)
    if mixing is Mixing.SPATIAL:
        initialise_channel(model, filter_seed=filter_seed)
    _set_learning(channel, learning=mixing is not Mixing.SPATIAL)


def frozen_proof(model: nn.Module, mixing: Mixing, *, scheme: FilterScheme, filter_seed: int) -> None:
    """Return if each tensor that `mixing` freezes equals, bit for bit, what `filter_seed` draws.

    The comparison is in the parameter's own dtype, and leaves `model` as it is. TRAINED freezes nothing, so nothing is
    proven. Raises CheckpointError that names the first tensor that differs, and InvalidInputError as `apply_mixing`.
    """
    if mixing is Mixing.TRAINED:
        return
    _check(model, mixing, scheme)
    if mixing is Mixing.SPATIAL:
        draws = draw_channel(model, filter_seed=filter_seed)
    else:
        draws = draw_spatial(model, scheme, filter_seed=filter_seed)
    for draw in draws:
        changed = _changed_values(draw)
        if changed:
            raise CheckpointError(
                f"{draw.name} is not frozen: {changed} of {draw.parameter.numel()} values differ from those of filter"
                f" seed {filter_seed} and scheme {scheme}; correct the seed or the scheme, or train the model again"
            )


def _check(model: nn.Module, mixing: Mixing, scheme: FilterScheme) -> None:
    if mixing is Mixing.FROZEN_SMOOTH and not scheme.kind.is_smoothed:
        raise InvalidInputError(
            f"filter scheme {scheme} is not smoothed, but the mixing is {mixing.value}: choose smoothed(sigma=1) or the"
            " mixing frozen"
        )
    if not body_spatial(model):
        raise InvalidInputError(
            f"{type(model).__name__} has no spatial mixers outside its stem, expected at least one depthwise"
            " convolution: cut its full convolutions with mixbench.mixers.separate(model) first"
        )


def _set_learning(mixers: tuple[Mixer, ...], *, learning: bool) -> None:
    for mixer in mixers:
        for _, parameter in mixer.tensors():
            parameter.requires_grad_(learning)
            if not learning:
                parameter.grad = None


def _changed_values(draw: DrawnTensor) -> int:
    """Return how many values have other bits than drawn; equality alone would let -0.0 pass for 0.0."""
    size = draw.parameter.element_size()
    found, drawn = (tensor.detach().cpu().flatten().view(torch.uint8) for tensor in (draw.parameter, draw.as_tensor()))
    return int((found != drawn).view(-1, size).any(dim=1).sum())
