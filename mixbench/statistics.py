"""Intervals and paired tests for counts of examples: two models are always compared on the same examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import special

from mixbench.errors import InvalidInputError

# Berger and Boos: how often the rate of one discordant outcome may lie outside the range that is searched for it.
_MISSED = 1e-6
_RATES = 64
_CUT = 1e-12
_TIE = 1e-9
_BISECTIONS = 20


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `low` and `high` are in the units of the quantity."""

    low: float
    high: float


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


def exceeds_p(only_first: int, only_second: int, total: int, *, difference: float) -> float:
    """Return the exact one-sided p-value of accuracy(first) - accuracy(second) <= `difference`, in [0, 1].

    A small one shows that the first model is ahead by more than `difference`, in (-1, 1); the counts are of the
    discordant examples out of `total`. It holds its level at any size: the unconditional test of Hsueh, Liu and Chen
    (Biometrics 57:478, 2001), which orders the outcomes by Tango's score (Statistics in Medicine 17:891, 1998) and
    takes the worst rate of `only_second` within its 1 - 1e-6 confidence interval (Berger and Boos, JASA 89:1012, 1994).
    """
    _check_counts(only_first, only_second, total)
    if not -1 < difference < 1:
        raise InvalidInputError(f"a difference of {difference} between two accuracies is not between -1 and 1")
    observed = _score(np.array([only_first]), np.array([only_second]), total, difference)[0] - _TIE
    rates = _searched_rates(only_second, total, difference)
    # Its import takes longer than all that is done without it, such as building a leaderboard.
    from scipy import stats  # noqa: PLC0415

    likely = stats.binom(total, rates[[0, -1]])
    seconds = np.arange(max(0, likely.ppf(_CUT)[0] - 1), min(total, likely.isf(_CUT)[1] + 1) + 1).astype(np.int64)
    least = _least_firsts(seconds, total, difference, score=observed)
    # Given how many are right for the second model alone, those right for the first alone are binomial among the rest.
    given = np.clip((rates + difference) / np.maximum(1 - rates, _CUT), 0, 1)[:, None]
    tails = _binomial_tail(least, total - seconds, given)
    weights = special.xlogy(seconds, rates[:, None]) + special.xlog1py(total - seconds, -rates[:, None])
    weights = np.exp(weights + _log_choose(total, seconds))
    return min(1.0, float((weights * tails).sum(axis=1).max()) + _MISSED + 2 * _CUT)


def exact_difference_interval(only_first: int, only_second: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Return the interval of accuracy(first) - accuracy(second), in [-1, 1], that `exceeds_p` does not contradict.

    Each side errs in at most half of 1 - `confidence`, so the interval at 90% has the one-sided bounds at 95%.
    """
    _check_counts(only_first, only_second, total)
    tail = (1 - confidence) / 2
    return Interval(
        _least_difference(only_first, only_second, total, tail=tail),
        -_least_difference(only_second, only_first, total, tail=tail),
    )


def _least_difference(only_first: int, only_second: int, total: int, *, tail: float) -> float:
    """Return the largest difference that `exceeds_p` rejects at `tail`, or -1."""
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if exceeds_p(only_first, only_second, total, difference=middle) <= tail:
            low = middle
        else:
            high = middle
    return low


def _check_counts(only_first: int, only_second: int, total: int) -> None:
    if min(only_first, only_second) < 0 or total < max(1, only_first + only_second):
        raise InvalidInputError(
            f"{only_first} and {only_second} discordant examples are not parts of {total}: count each example once"
        )


def _score(
    only_first: Int64[np.ndarray, " outcome"], only_second: Int64[np.ndarray, " outcome"], total: int, difference: float
) -> Float[np.ndarray, " outcome"]:
    """Return Tango's score of each outcome: how many standard errors the first model is ahead of `difference`."""
    # The most likely rate of only_second if the difference is `difference` solves a x^2 + b x + c = 0.
    a = 2 * total
    b = (2 * total - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    rate = (np.sqrt(np.maximum(b * b - 4 * a * c, 0)) - b) / (2 * a)
    variance = total * (2 * rate + difference * (1 - difference))
    ahead = only_first - only_second - total * difference
    return np.where(np.abs(ahead) < _TIE, 0.0, ahead / np.sqrt(np.maximum(variance, _CUT)))


def _searched_rates(only_second: int, total: int, difference: float) -> Float[np.ndarray, " rate"]:
    """Return rates of `only_second`, ascending, that its count and `difference` allow, dense where they matter."""
    low = special.betaincinv(only_second, total - only_second + 1, _MISSED / 2) if only_second else 0.0
    high = special.betaincinv(only_second + 1, total - only_second, 1 - _MISSED / 2) if only_second < total else 1.0
    least, most = max(0.0, -difference), (1 - difference) / 2
    # Even steps of the root are even steps in standard errors.
    first, last = np.sqrt(np.clip([low, high], least, most))
    return np.clip(np.linspace(first, last, _RATES) ** 2, least, most)


def _least_firsts(
    only_second: Int64[np.ndarray, " outcome"], total: int, difference: float, *, score: float
) -> Int64[np.ndarray, " outcome"]:
    """Return the least `only_first` beside each `only_second` whose score is at least `score`."""
    low, high = np.zeros_like(only_second), total - only_second + 1
    while np.any(low < high):
        middle = (low + high) // 2
        reached = _score(middle, only_second, total, difference) >= score
        low, high = (
            np.where(reached | (low >= high), low, middle + 1),
            np.where(reached, np.minimum(middle, high), high),
        )
    return low


def _log_choose(total: int, chosen: Int64[np.ndarray, " outcome"]) -> Float[np.ndarray, " outcome"]:
    return special.gammaln(total + 1) - special.gammaln(chosen + 1) - special.gammaln(total - chosen + 1)


def _binomial_tail(
    least: Int64[np.ndarray, " outcome"], total: Int64[np.ndarray, " outcome"], rate: Float[np.ndarray, "rate 1"]
) -> Float[np.ndarray, "rate outcome"]:
    """Return the probability of at least `least` successes in `total` trials."""
    tails = special.betainc(np.maximum(least, 1), np.maximum(total - least + 1, 1), rate)
    return np.where(least <= 0, 1.0, np.where(least > total, 0.0, tails))


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
