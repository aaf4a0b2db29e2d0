"""The two families, each in four mixing modes: timm's own classes, differing in nothing but how space is mixed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models.convmixer import ConvMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from mixbench.errors import InvalidInputError
from mixbench.mixers import FilterScheme, Mixing, apply_mixing, default_scheme, separate

ModelArgs = Mapping[str, Any]
"""Keyword arguments of a timm model, as they stand in its config.json; plus `filter_scheme` and `filter_seed`."""


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        build: Makes the network, randomly initialised by torch's global generator as timm does.
        first_conv: Name of the stem convolution, as timm's pretrained_cfg wants it.
        classifier: Name of the classifier.
        default_args: Arguments for 32x32 RGB images and 10 classes.
        args_for: Arguments for other datasets, by name.
    """

    build: Callable[..., nn.Module]
    first_conv: str
    classifier: str
    default_args: ModelArgs
    args_for: Mapping[str, ModelArgs]


def build_convmixer(**args: Any) -> nn.Module:
    """Return timm's ConvMixer (arXiv 2201.09792)."""
    # Older versions of timm swallow arguments that they do not know.
    for name in args.keys() - inspect.signature(ConvMixer).parameters.keys():
        raise TypeError(f"unexpected keyword argument {name!r}")
    return ConvMixer(**args)


def build_resnet(*, channels: tuple[int, ...], in_chans: int, **args: Any) -> nn.Module:
    """Return timm's ResNet (arXiv 1512.03385) for small images, every k x k convolution but the stem separated.

    The stem is one 3x3 convolution at full resolution, without pooling, as is usual for CIFAR; it is trained in every
    mode, like ConvMixer's patch embedding.
    """
    width = channels[0]
    # Only a "deep" stem lets timm choose the stem's width; its three convolutions are then replaced by one.
    block: Any = BasicBlock
    model = ResNet(block, channels=tuple(channels), in_chans=in_chans, stem_type="deep", stem_width=width // 2, **args)
    stem = nn.Conv2d(in_chans, width, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
    return separate(model)


_CONVMIXER_28: ModelArgs = {
    "dim": 128, "depth": 6, "kernel_size": 5, "patch_size": 2, "in_chans": 1, "num_classes": 10,
}  # fmt: skip
_RESNET_28: ModelArgs = {"layers": [2, 2, 2, 2], "channels": [24, 48, 96, 192], "in_chans": 1, "num_classes": 10}

FAMILIES: dict[str, Family] = {
    "convmixer": Family(
        build=build_convmixer,
        first_conv="stem.0",
        classifier="head",
        default_args={"dim": 256, "depth": 8, "kernel_size": 5, "patch_size": 2, "in_chans": 3, "num_classes": 10},
        args_for={
            "digits": {"dim": 48, "depth": 4, "kernel_size": 3, "patch_size": 2, "in_chans": 1, "num_classes": 10},
            "mnist": _CONVMIXER_28,
            "fashion_mnist": _CONVMIXER_28,
        },
    ),
    "resnet": Family(
        build=build_resnet,
        first_conv="conv1",
        classifier="fc",
        default_args={"layers": [2, 2, 2, 2], "channels": [24, 48, 96, 192], "in_chans": 3, "num_classes": 10},
        args_for={
            "digits": {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "in_chans": 1, "num_classes": 10},
            "mnist": _RESNET_28,
            "fashion_mnist": _RESNET_28,
        },
    ),
}


@dataclass(frozen=True)
class Architecture:
    """A family in one mixing mode: the part of a model's name before the dot."""

    family: str
    mixing: Mixing

    @property
    def name(self) -> str:
        """Such as "convmixer_frozen_smooth"."""
        return f"{self.family}_{self.mixing.value}"


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (Architecture(family, mixing) for family in FAMILIES for mixing in Mixing)
}


@dataclass(frozen=True)
class ModelSpec:
    """The recipe of a network: everything needed to build it, untrained.

    Attributes:
        architecture: Family and mixing mode.
        scheme: How the spatial filters are drawn.
        filter_seed: The seed they are drawn from.
        args: Keyword arguments of the timm class.
    """

    architecture: Architecture
    scheme: FilterScheme
    filter_seed: int
    args: ModelArgs

    @classmethod
    def from_model_args(cls, architecture: Architecture, model_args: ModelArgs) -> "ModelSpec":
        """Return the spec that a config.json's `model_args` describe."""
        args = dict(model_args)
        scheme = args.pop("filter_scheme", None)
        filter_seed = args.pop("filter_seed", 0)
        return cls(
            architecture=architecture,
            scheme=default_scheme(architecture.mixing) if scheme is None else FilterScheme.parse(scheme),
            filter_seed=int(filter_seed),
            args=args,
        )

    @classmethod
    def for_dataset(cls, architecture: Architecture, dataset: str, *, filter_seed: int) -> "ModelSpec":
        """Return the spec in the size that this family has for `dataset`, or in its default size."""
        family = FAMILIES[architecture.family]
        return cls(
            architecture=architecture,
            scheme=default_scheme(architecture.mixing),
            filter_seed=filter_seed,
            args=family.args_for.get(dataset, family.default_args),
        )

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments as they stand in config.json."""
        return {**self.args, "filter_scheme": str(self.scheme), "filter_seed": self.filter_seed}

    def build(self) -> nn.Module:
        """Return the network with its filters drawn and frozen; all else is drawn from torch's global generator."""
        try:
            model = FAMILIES[self.architecture.family].build(**self.args)
        except TypeError as error:
            raise InvalidInputError(
                f"{self.architecture.name} does not take these model_args ({error}): see mixbench models"
                f" {self.architecture.name}"
            ) from None
        apply_mixing(model, self.architecture.mixing, scheme=self.scheme, filter_seed=self.filter_seed)
        return model
