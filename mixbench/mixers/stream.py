"""Random numbers whose bits depend on a seed alone: not on NumPy's version, the processor or the C library.

NumPy promises the raw output of PCG64 and of SeedSequence, but neither its distributions nor the last bit of `exp`,
`log` and `cos`. So the numbers below come from the raw bits by additions, multiplications, divisions and square
roots, which IEEE 754 rounds in one way only.
"""

import decimal
import math

import numpy as np
from jaxtyping import Float64

from mixbench.errors import InvalidInputError

_LOG_2 = 0.6931471805599453
_TWO_PI = 6.283185307179586
_LOG_TERMS = 12
_SINE_TERMS = 12


class FilterStream:
    """The numbers drawn for one layer; each call goes on where the last one stopped.

    Args:
        seed: The filter seed, 0 to 2**32 - 1; raises InvalidInputError outside it, since SeedSequence would give a
            longer seed the stream of a shorter one with another layer.
        layer: Which layer, in the same range.
    """

    def __init__(self, seed: int, layer: int) -> None:
        for name, value in (("filter seed", seed), ("layer", layer)):
            if not 0 <= value < 2**32:
                raise InvalidInputError(f"{name} {value} is not in 0 to {2**32 - 1}: choose one in that range")
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, layer]))

    def integers(self, n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Return `n` integers, uniform in 0 to 2**53 - 1."""
        return self._bits.random_raw(n) >> np.uint64(11)

    def uniform(self, n: int) -> Float64[np.ndarray, " n"]:
        """Return `n` numbers, uniform in [0, 1)."""
        return self.integers(n).astype(np.float64) * 2.0**-53

    def normal(self, n: int) -> Float64[np.ndarray, " n"]:
        """Return `n` standard normal numbers by Box and Muller's method, the cosine branch alone."""
        # 1 - u is in (0, 1], so its logarithm is finite.
        radius = np.sqrt(-2.0 * log(1.0 - self.uniform(n)))
        return radius * cosine_of_turns(self.uniform(n))


def log(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the natural logarithm of `values`, which are above 0, to about 1e-16 relative to max(1, |log|)."""
    mantissa, exponent = np.frexp(values)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = exponent - small
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for k in reversed(range(_LOG_TERMS)):
        series = series * square + 1.0 / (2 * k + 1)
    return exponent * _LOG_2 + 2.0 * ratio * series


def cosine_of_turns(turns: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return cos(2 pi t) for `turns` t in [0, 1)."""
    # Both folds are exact, and leave sin(2 pi w) with w in [-1/4, 1/4].
    angle = (np.abs(turns - 0.5) - 0.25) * _TWO_PI
    square = angle * angle
    series = np.zeros_like(angle)
    for k in reversed(range(_SINE_TERMS)):
        series = series * square + (-1.0) ** k / math.factorial(2 * k + 1)
    return angle * series


def gaussian_weights(*, sigma: float, reach: int) -> tuple[float, ...]:
    """Return the Gaussian of width `sigma` (taps) at the offsets -reach to reach, summing to 1."""
    context = decimal.Context(prec=40, Emin=-999999, Emax=999999)
    width = decimal.Decimal(sigma)
    scale = context.multiply(decimal.Decimal(-2), context.multiply(width, width))
    # Decimal rounds exp correctly everywhere, which no C library promises.
    weights = [context.exp(context.divide(decimal.Decimal(d * d), scale)) for d in range(-reach, reach + 1)]
    total = decimal.Decimal(0)
    for weight in weights:
        total = context.add(total, weight)
    return tuple(float(context.divide(weight, total)) for weight in weights)
