"""How spatial filters are drawn: a scheme, a seed, and the same bits everywhere."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float32, Float64

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.mixers.stream import FilterStream, gaussian_weights

Filters = Float64[np.ndarray, "channel kernel kernel"]


class FilterKind(StrEnum):
    """The family that filters of `kernel` x `kernel` taps are drawn from.

    UNIFORM is U(-1/kernel, 1/kernel), torch's default for a depthwise convolution; NORMAL is N(0, 1/kernel^2), as in
    Random Projection Filters (CVPR 2023). SMOOTHED draws as UNIFORM, blurs by a Gaussian and rescales each filter to
    its sum of squares before the blur; SMOOTHED_RAW leaves out the rescaling and so is also weaker. IDENTITY has a 1
    at the centre, IMPULSE a 1 at one random tap, BOX the same value 1/kernel^2 everywhere.
    """

    UNIFORM = "uniform"
    NORMAL = "normal"
    SMOOTHED = "smoothed"
    SMOOTHED_RAW = "smoothed_raw"
    IDENTITY = "identity"
    IMPULSE = "impulse"
    BOX = "box"

    @property
    def is_smoothed(self) -> bool:
        """Whether the filters are blurred, and so have a sigma."""
        return self in (FilterKind.SMOOTHED, FilterKind.SMOOTHED_RAW)

    @property
    def has_random_biases(self) -> bool:
        """Whether biases are drawn; those of the others are zero."""
        return self.is_smoothed or self in (FilterKind.UNIFORM, FilterKind.NORMAL)


@dataclass(frozen=True)
class FilterScheme:
    """A kind of filters and, if they are smoothed, how much.

    Attributes:
        kind: The family that is drawn from.
        sigma: Width of the Gaussian blur in taps, above 0; 1.0 if a smoothed kind is given none, None for other kinds.
    """

    kind: FilterKind
    sigma: float | None = None

    def __post_init__(self) -> None:
        if not self.kind.is_smoothed:
            if self.sigma is not None:
                raise InvalidInputError(
                    f"filter scheme {self.kind.value} takes no sigma, got {self.sigma}: leave it out"
                )
            return
        sigma = 1.0 if self.sigma is None else float(self.sigma)
        if not (math.isfinite(sigma) and sigma > 0):
            raise InvalidInputError(
                f"sigma {sigma} is not a finite number above 0: give the blur's width in taps, such as 1"
            )
        object.__setattr__(self, "sigma", sigma)

    def __str__(self) -> str:
        if self.sigma is None:
            return self.kind.value
        return f"{self.kind.value}(sigma={repr(self.sigma).removesuffix('.0')})"

    @classmethod
    def parse(cls, text: str) -> "FilterScheme":
        """Return the scheme written as "uniform" or "smoothed(sigma=1)".

        Raises UnknownNameError for another name and InvalidInputError for a sigma that cannot be used.
        """
        name, bracket, rest = text.strip().partition("(")
        kinds = {kind.value: kind for kind in FilterKind}
        name = name.strip()
        if name not in kinds:
            raise UnknownNameError("filter scheme", name, kinds)
        return cls(kinds[name], _parse_sigma(text, bracket + rest) if bracket else None)


def draw_filters(
    scheme: FilterScheme, *, channels: int, kernel: int, stream: FilterStream
) -> Float32[np.ndarray, "channel kernel kernel"]:
    """Return `channels` filters of `kernel` x `kernel` taps: computed in float64, then rounded once.

    UNIFORM and the smoothed kinds take the same numbers from the stream, so they differ by the blur alone. Raises
    InvalidInputError for IDENTITY with an even kernel, which has no centre.
    """
    filters = _raw_filters(scheme.kind, channels=channels, kernel=kernel, stream=stream)
    if scheme.sigma is not None:
        blurred = _blur(filters, scheme.sigma)
        rescale = scheme.kind is FilterKind.SMOOTHED
        filters = blurred * np.sqrt(_energy(filters) / _energy(blurred))[:, None, None] if rescale else blurred
    return filters.astype(np.float32)


def draw_biases(
    scheme: FilterScheme, *, channels: int, kernel: int, stream: FilterStream
) -> Float32[np.ndarray, " channel"]:
    """Return one bias a channel: U(-1/kernel, 1/kernel) as in torch, or zero for IDENTITY, IMPULSE and BOX."""
    if not scheme.kind.has_random_biases:
        return np.zeros(channels, dtype=np.float32)
    return draw_symmetric(stream, channels, bound=1.0 / kernel).astype(np.float32)


def draw_symmetric(stream: FilterStream, n: int, *, bound: float) -> Float64[np.ndarray, " n"]:
    """Return `n` numbers, uniform in [-bound, bound)."""
    return (2.0 * stream.uniform(n) - 1.0) * bound


def _parse_sigma(text: str, argument: str) -> float:
    number = re.fullmatch(r"\(\s*sigma\s*=\s*([^()\s]+)\s*\)", argument)
    try:
        return float(number[1] if number else "")
    except ValueError:
        raise InvalidInputError(
            f"filter scheme {text!r} has no readable sigma: write it as smoothed(sigma=1)"
        ) from None


def _raw_filters(kind: FilterKind, *, channels: int, kernel: int, stream: FilterStream) -> Filters:
    """Return the filters before any blur."""
    shape = (channels, kernel, kernel)
    match kind:
        case FilterKind.UNIFORM | FilterKind.SMOOTHED | FilterKind.SMOOTHED_RAW:
            return draw_symmetric(stream, channels * kernel * kernel, bound=1.0 / kernel).reshape(shape)
        case FilterKind.NORMAL:
            return stream.normal(channels * kernel * kernel).reshape(shape) / kernel
        case FilterKind.IDENTITY:
            return _identity(shape)
        case FilterKind.IMPULSE:
            return _impulse(shape, stream)
        case FilterKind.BOX:
            return np.full(shape, 1.0 / (kernel * kernel))


def _blur(filters: Filters, sigma: float) -> Filters:
    """Return the filters blurred along both axes; taps outside the window count as zero."""
    return _blur_rows(_blur_rows(filters, sigma).swapaxes(1, 2), sigma).swapaxes(1, 2)


def _blur_rows(filters: Filters, sigma: float) -> Filters:
    kernel = filters.shape[1]
    weights = gaussian_weights(sigma=sigma, reach=kernel - 1)
    blurred = np.zeros_like(filters)
    # A sum in one fixed order: matrix products round differently from one BLAS to the next.
    for target in range(kernel):
        for source in range(kernel):
            blurred[:, target] += weights[kernel - 1 + target - source] * filters[:, source]
    return blurred


def _energy(filters: Filters) -> Float64[np.ndarray, " channel"]:
    """Return each filter's sum of squares, added tap by tap."""
    taps = filters.reshape(len(filters), -1)
    energy = np.zeros(len(filters))
    for tap in range(taps.shape[1]):
        energy += taps[:, tap] * taps[:, tap]
    return energy


def _identity(shape: tuple[int, int, int]) -> Filters:
    channels, kernel, _ = shape
    if kernel % 2 == 0:
        raise InvalidInputError(
            f"an identity filter of {kernel} x {kernel} taps has no centre: choose an odd kernel size"
        )
    filters = np.zeros((channels, kernel, kernel))
    filters[:, kernel // 2, kernel // 2] = 1.0
    return filters


def _impulse(shape: tuple[int, int, int], stream: FilterStream) -> Filters:
    channels, kernel, _ = shape
    taps = np.zeros((channels, kernel * kernel))
    taps[np.arange(channels), np.floor(stream.uniform(channels) * (kernel * kernel)).astype(np.int64)] = 1.0
    return taps.reshape(shape)
