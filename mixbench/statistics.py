"""Intervals and paired tests for counts of examples: two models are always compared on the same examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import special

from mixbench.errors import InvalidInputError


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `low` and `high` are in the units of the quantity."""

    low: float
    high: float


@dataclass(frozen=True)
class CrossedSpread:
    """How values of a full cross of two factors spread, as sample standard deviations in the units of the values.

    Without replication the residual cannot be told from an interaction, and a part of it is in both kinds of means.

    Attributes:
        overall: Of all values.
        row_means: Of the means over the columns.
        column_means: Of the means over the rows.
    """

    overall: float
    row_means: float
    column_means: float


def crossed_spread(values: Float[np.ndarray, "row column"]) -> CrossedSpread:
    """Return the spread of a two-way layout with one value a cell, of at least two rows and two columns."""
    if values.ndim != 2 or min(values.shape) < 2:  # noqa: PLR2004 - a two-way layout
        raise InvalidInputError(f"a cross needs at least two rows and two columns, got {values.shape}: add seeds")
    parts = (values, values.mean(axis=1), values.mean(axis=0))
    return CrossedSpread(*(float(np.std(part, ddof=1)) for part in parts))


def wilson_interval(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of `correct / total`, in [0, 1]."""
    if total < 1:
        raise InvalidInputError(f"an interval needs at least one example, got total={total}")
    if not 0 <= correct <= total:
        raise InvalidInputError(f"correct {correct} is not in 0 to total {total}: count each example once")
    rate, z = correct / total, float(special.ndtri((1 + confidence) / 2))
    shrinkage = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / shrinkage
    half = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2) / shrinkage
    # At the ends the bound is exact, and rounding must not move it.
    return Interval(0.0 if correct == 0 else centre - half, 1.0 if correct == total else centre + half)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided McNemar p-value, in [0, 1].

    The arguments count the discordant examples: right for the first model alone, right for the second alone.
    """
    return float(mcnemar_p_values(np.array([only_first]), np.array([only_second]))[0])


def mcnemar_p_values(
    only_first: Int64[np.ndarray, " pair"], only_second: Int64[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """Return what `mcnemar_p` returns for each pair, of many pairs at once."""
    # The binomial at one half is symmetric, so both of its tails are equal.
    tail = special.bdtr(np.minimum(only_first, only_second), only_first + only_second, 0.5)
    return np.minimum(2 * tail, 1.0)


def paired_difference_interval(
    first: Bool[np.ndarray, " example"],
    second: Bool[np.ndarray, " example"],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Return the bootstrap interval of accuracy(first) - accuracy(second), in [-1, 1], resampling examples.

    Both arrays say for the same examples, in the same order, whether the model was right.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InvalidInputError(
            f"a paired comparison needs two equally long, non-empty lists of verdicts, got {first.shape} and"
            f" {second.shape}"
        )
    # A resampled difference depends only on how often the three outcomes are drawn, so counts are resampled.
    lost, tied = int(np.sum(second & ~first)), int(np.sum(first == second))
    won = first.size - lost - tied
    draws = np.random.Generator(np.random.PCG64(seed)).multinomial(
        first.size, np.array([lost, tied, won]) / first.size, size=resamples
    )
    differences = (draws[:, 2] - draws[:, 0]) / first.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " test"]:
    """Return the p-values adjusted by Holm's step-down rule, in the order given, each in [0, 1]."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result
