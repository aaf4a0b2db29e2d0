"""The spatial and channel mixers of any vision model: find, separate, draw and freeze them.

A vision model mixes information over space and over channels. A spatial mixer combines positions within a channel (in
ConvMixer, a depthwise convolution); a channel mixer combines channels at a position (a pointwise one). A full
convolution does both, until `separate` cuts it into one of each. What the paper "Rethinking the Role of Spatial Mixing"
(arXiv 2503.16760) calls Full, Chans and Space is here the mixing `trained`, `frozen` and `spatial`::

    model = separate(timm.create_model("resnet18"))
    apply_mixing(model, Mixing.FROZEN, scheme=FilterScheme.parse("uniform"), filter_seed=0)
    ...  # train as usual
    frozen_proof(model, Mixing.FROZEN, scheme=FilterScheme.parse("uniform"), filter_seed=0)
"""

from mixbench.mixers.describe import Group, MixerRow, describe
from mixbench.mixers.filters import FilterKind, FilterScheme, draw_biases, draw_filters
from mixbench.mixers.find import Mixer, Place, Role, classifier_of, find
from mixbench.mixers.freeze import Mixing, apply_mixing, default_scheme, freeze_channel, freeze_spatial, frozen_proof
from mixbench.mixers.initialise import initialise_channel, initialise_spatial
from mixbench.mixers.separable_conv import SeparableConv2d
from mixbench.mixers.separate import separate
from mixbench.mixers.stream import FilterStream

__all__ = [
    "FilterKind",
    "FilterScheme",
    "FilterStream",
    "Group",
    "Mixer",
    "MixerRow",
    "Mixing",
    "Place",
    "Role",
    "SeparableConv2d",
    "apply_mixing",
    "classifier_of",
    "default_scheme",
    "describe",
    "draw_biases",
    "draw_filters",
    "find",
    "freeze_channel",
    "freeze_spatial",
    "frozen_proof",
    "initialise_channel",
    "initialise_spatial",
    "separate",
]
