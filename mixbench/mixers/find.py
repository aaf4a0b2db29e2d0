"""Which layers of a model mix space, which mix channels, and which do both."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import nn

from mixbench.errors import InvalidInputError
from mixbench.mixers.separable_conv import SeparableConv2d

_TOKEN_LAYERS = ("mlp_tokens", "linear_tokens", "mlp_channels.gate")
_SHORTCUTS = ("downsample", "shortcut")
_HEADS = ("head", "heads", "fc", "classifier")


class Role(StrEnum):
    """What a mixer mixes."""

    SPATIAL = "spatial"
    CHANNEL = "channel"
    FULL = "full"


class Place(StrEnum):
    """Where in the model a mixer is."""

    BODY = "body"
    STEM = "stem"
    SHORTCUT = "shortcut"


@dataclass(frozen=True)
class Mixer:
    """A convolution or linear layer that mixes space, channels or both.

    Attributes:
        name: Dotted name in the model.
        module: The layer itself.
        role: SPATIAL mixes positions within each channel (depthwise k x k, or linear over tokens), CHANNEL mixes
            channels at each position (1 x 1, or linear), FULL mixes both (any other k x k, dense or grouped).
        place: STEM reads the image; SHORTCUT is a 1 x 1 convolution inside a `downsample` or `shortcut`; the rest
            is BODY.
        kernel_size: Height and width of the window in taps; None for a linear layer.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    role: Role
    place: Place
    kernel_size: tuple[int, int] | None

    def tensors(self) -> tuple[tuple[str, nn.Parameter], ...]:
        """Return the dotted name and value of the weight and, where there is one, the bias.

        Raises InvalidInputError if one is computed from other parameters (weight norm, spectral norm): neither
        drawing nor freezing it would reach what is trained.
        """
        named = (("weight", self.module.weight), ("bias", self.module.bias))
        return tuple((f"{self.name}.{name}", self._plain(name, value)) for name, value in named if value is not None)

    def _plain(self, name: str, value: object) -> nn.Parameter:
        if isinstance(value, nn.Parameter):
            return value
        raise InvalidInputError(
            f"{self.name}.{name} is computed from other parameters, expected a plain parameter: remove the"
            " parametrisation (torch.nn.utils.parametrize.remove_parametrizations) first"
        )


def find(model: nn.Module) -> tuple[Mixer, ...]:
    """Return the mixers of `model` in module order; the classifier is none of them.

    Seen are `nn.Conv2d` and `nn.Linear`, with their subclasses. A depthwise 1 x 1 convolution only scales and mixes
    nothing; attention, pooling and shifts mix space without a layer of their own. A wrapped model is found too.
    """
    core = _core(model)
    classifier = _ids(classifier_of(model))
    stem = _ids(_stem_of(core))
    mixers = (_mixer(name, module, stem=stem) for name, module in model.named_modules() if id(module) not in classifier)
    return tuple(mixer for mixer in mixers if mixer is not None)


def body_spatial(model: nn.Module) -> tuple[Mixer, ...]:
    """Return the spatial mixers outside the stem, in module order: those that a filter seed draws."""
    return tuple(mixer for mixer in find(model) if mixer.role is Role.SPATIAL and mixer.place is not Place.STEM)


def body_channel(model: nn.Module) -> tuple[Mixer, ...]:
    """Return the channel mixers outside the stem, shortcuts included, in module order."""
    return tuple(mixer for mixer in find(model) if mixer.role is Role.CHANNEL and mixer.place is not Place.STEM)


def classifier_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return what turns features into logits; empty for a model without a classifier.

    That is what timm's `get_classifier()` says, else the children named head, heads, fc or classifier.
    """
    core: Any = _core(model)
    if callable(getattr(core, "get_classifier", None)):
        found = core.get_classifier()
        heads: Iterable[object] = found if isinstance(found, tuple) else (found,)
        return tuple(head for head in heads if isinstance(head, nn.Module))
    return tuple(child for name, child in model.named_children() if name in _HEADS)


def _core(model: nn.Module) -> nn.Module:
    """Return the timm model inside `model`, which may be a normalising or an averaging wrapper, else `model`."""
    return next((module for module in model.modules() if callable(getattr(module, "get_classifier", None))), model)


def _stem_of(core: nn.Module) -> tuple[nn.Module, ...]:
    """Return the convolutions that read the image: those timm names, else the first in module order."""
    config: Any = getattr(core, "pretrained_cfg", None)
    named = config.get("first_conv") if isinstance(config, dict) else None
    names: Iterable[object] = (named,) if isinstance(named, str) else named or ()
    modules = dict(core.named_modules())
    stem = tuple(modules[name] for name in names if isinstance(name, str) and name in modules)
    if stem:
        return stem
    # A separated stem comes before its own two convolutions in module order, so both are in.
    convs = (module for module in core.modules() if isinstance(module, SeparableConv2d | nn.Conv2d))
    return tuple(itertools.islice(convs, 1))


def _ids(roots: Iterable[nn.Module]) -> frozenset[int]:
    return frozenset(id(module) for root in roots for module in root.modules())


def _mixer(name: str, module: nn.Module, *, stem: frozenset[int]) -> Mixer | None:
    if isinstance(module, nn.Conv2d):
        kernel_size = (module.kernel_size[0], module.kernel_size[1])
        role = _conv_role(module)
    elif isinstance(module, nn.Linear):
        kernel_size = None
        role = Role.SPATIAL if _is_inside(name, _TOKEN_LAYERS) else Role.CHANNEL
    else:
        return None
    if role is None:
        return None
    place = Place.STEM if id(module) in stem else _place(name, module, role)
    return Mixer(name=name, module=module, role=role, place=place, kernel_size=kernel_size)


def _conv_role(conv: nn.Conv2d) -> Role | None:
    pointwise = tuple(conv.kernel_size) == (1, 1)
    # One channel read by several filters, as in the stem for grey images, is an expansion and not depthwise.
    depthwise = conv.groups == conv.in_channels and (conv.in_channels > 1 or conv.out_channels == 1)
    if pointwise:
        return None if depthwise and conv.in_channels > 1 else Role.CHANNEL
    return Role.SPATIAL if depthwise else Role.FULL


def _place(name: str, module: nn.Module, role: Role) -> Place:
    # timm also calls `downsample` what lies on the main path (ConvNeXt, EfficientViT). What mixes space there belongs
    # to the body, or freezing the body would miss it.
    pointwise = role is Role.CHANNEL and isinstance(module, nn.Conv2d)
    return Place.SHORTCUT if pointwise and _is_inside(name, _SHORTCUTS) else Place.BODY


def _is_inside(name: str, folders: tuple[str, ...]) -> bool:
    return any(f".{folder}." in f".{name}." for folder in folders)
