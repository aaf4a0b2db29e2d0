"""Cutting full convolutions into a spatial and a channel mixer."""

from typing import TypeVar

from torch import nn

from mixbench.errors import InvalidInputError
from mixbench.mixers.find import Mixer, Place, Role, find
from mixbench.mixers.separable_conv import SeparableConv2d

Model = TypeVar("Model", bound=nn.Module)


def separate(model: Model, *, stem: bool = False) -> Model:
    """Return `model` itself, in which each full k x k convolution is now a `SeparableConv2d`.

    The stem stays as it is unless `stem` is true; 1 x 1 and depthwise convolutions always do, so a second call
    changes nothing. The new weights are torch's defaults, drawn as by any constructor from the global generator:
    seed it, or fork it, where the model is built. Depthwise-separable ResNet and ConvMixer: arXiv 2503.16760.

    Raises InvalidInputError, with the model unchanged, for a subclass of `nn.Conv2d`, whose behaviour (padding
    computed from the input, standardised weights) would be lost.
    """
    full = [mixer for mixer in find(model) if mixer.role is Role.FULL and (stem or mixer.place is not Place.STEM)]
    convs = [_plain_conv(mixer) for mixer in full]
    for conv in convs:
        separable = SeparableConv2d(conv)
        # A convolution used in several places stays one: every name leads to the same pair.
        names = [name for name, module in model.named_modules(remove_duplicate=False) if module is conv]
        for name in names:
            model.set_submodule(name, separable)
    return model


def _plain_conv(mixer: Mixer) -> nn.Conv2d:
    conv = mixer.module
    if type(conv) is not nn.Conv2d:
        raise InvalidInputError(
            f"{mixer.name} is a {type(conv).__name__}, expected a plain torch.nn.Conv2d: separating it would drop what"
            " the subclass adds, so choose an architecture without it"
        )
    if not mixer.name:
        raise InvalidInputError("the model is itself a convolution, expected a model that contains one: wrap it first")
    mixer.tensors()
    return conv
