"""Drawing a model's mixers from a filter seed."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.mixers.filters import FilterKind, FilterScheme, draw_biases, draw_filters, draw_symmetric
from mixbench.mixers.find import Mixer, body_channel, body_spatial
from mixbench.mixers.stream import FilterStream

Values = Float32[np.ndarray, "..."]
CHANNEL_LAYERS = 2**16
"""The layer number of the first channel mixer, so that none shares its stream with a spatial mixer."""


@dataclass(frozen=True, eq=False)
class DrawnTensor:
    """The initial value of one parameter.

    Attributes:
        name: Dotted name of the parameter in the model.
        parameter: The parameter itself, not yet changed.
        values: What the filter seed gives it, in its shape.
    """

    name: str
    parameter: nn.Parameter
    values: Values

    def as_tensor(self) -> Tensor:
        """Return the values on the parameter's device, rounded to its dtype."""
        return torch.from_numpy(self.values).to(device=self.parameter.device, dtype=self.parameter.dtype)


def initialise_spatial(model: nn.Module, scheme: FilterScheme, *, filter_seed: int) -> None:
    """Draw the weights and biases of the spatial mixers outside the stem by `scheme`, in place.

    Errors are those of `draw_spatial`, with the model unchanged.
    """
    _assign(draw_spatial(model, scheme, filter_seed=filter_seed))


def initialise_channel(model: nn.Module, *, filter_seed: int) -> None:
    """Draw the weights and biases of the channel mixers outside the stem, shortcuts included, in place.

    All are U(-1/sqrt(n), 1/sqrt(n)) where n counts the inputs of one output, torch's default.
    """
    _assign(draw_channel(model, filter_seed=filter_seed))


def draw_spatial(model: nn.Module, scheme: FilterScheme, *, filter_seed: int) -> tuple[DrawnTensor, ...]:
    """Return what `filter_seed` gives each spatial mixer outside the stem; the nth one has the stream of layer n.

    A linear mixer over n tokens has no window: UNIFORM is U(-1/sqrt(n), 1/sqrt(n)) there, NORMAL is N(0, 1/n). Raises
    InvalidInputError for its other kinds and for windows that are not square.
    """
    draws: list[DrawnTensor] = []
    for layer, mixer in enumerate(body_spatial(model)):
        stream = FilterStream(filter_seed, layer)
        draws += _drawn(mixer, _spatial_values(mixer, scheme, stream=stream))
    return tuple(draws)


def draw_channel(model: nn.Module, *, filter_seed: int) -> tuple[DrawnTensor, ...]:
    """Return what `filter_seed` gives each channel mixer outside the stem, shortcuts included."""
    draws: list[DrawnTensor] = []
    for ordinal, mixer in enumerate(body_channel(model)):
        stream = FilterStream(filter_seed, CHANNEL_LAYERS + ordinal)
        draws += _drawn(mixer, _fan_in_values(mixer, FilterKind.UNIFORM, stream=stream))
    return tuple(draws)


def _assign(draws: tuple[DrawnTensor, ...]) -> None:
    with torch.no_grad():
        for draw in draws:
            draw.parameter.copy_(draw.as_tensor())


def _drawn(mixer: Mixer, values: tuple[Values, Values]) -> list[DrawnTensor]:
    """Return the draws for the weight and, where the mixer has one, the bias."""
    return [
        DrawnTensor(name=name, parameter=parameter, values=drawn.reshape(tuple(parameter.shape)))
        for (name, parameter), drawn in zip(mixer.tensors(), values, strict=False)
    ]


def _spatial_values(mixer: Mixer, scheme: FilterScheme, *, stream: FilterStream) -> tuple[Values, Values]:
    if mixer.kernel_size is None:
        if scheme.kind not in (FilterKind.UNIFORM, FilterKind.NORMAL):
            raise InvalidInputError(
                f"filter scheme {scheme} needs a window of taps, but {mixer.name} is a linear layer over tokens: choose"
                " uniform or normal"
            )
        return _fan_in_values(mixer, scheme.kind, stream=stream)
    height, width = mixer.kernel_size
    if height != width:
        raise InvalidInputError(
            f"{mixer.name} has a window of {height} x {width} taps, but filters are drawn for square ones: choose an"
            " architecture with k x k windows"
        )
    channels = mixer.module.weight.shape[0]
    filters = draw_filters(scheme, channels=channels, kernel=height, stream=stream)
    return filters, draw_biases(scheme, channels=channels, kernel=height, stream=stream)


def _fan_in_values(mixer: Mixer, kind: FilterKind, *, stream: FilterStream) -> tuple[Values, Values]:
    """Return weights scaled to the number of inputs of one output, and uniform biases."""
    outputs, n = mixer.module.weight.shape[0], mixer.module.weight.numel()
    bound = 1.0 / math.sqrt(n // outputs)
    weights = stream.normal(n) * bound if kind is FilterKind.NORMAL else draw_symmetric(stream, n, bound=bound)
    return weights.astype(np.float32), draw_symmetric(stream, outputs, bound=bound).astype(np.float32)
