"""The difference between two accuracies on the same examples: an exact test, its interval, and what it can detect.

The unconditional test of Hsueh, Liu and Chen (Biometrics 57:478, 2001): outcomes are ordered by Tango's score
(Statistics in Medicine 17:891, 1998), and the p-value is the worst one over the rate that is not of interest, here that
of examples right for the second model alone, within its confidence interval (Berger and Boos, JASA 89:1012, 1994). It
holds its level at any number of examples; the normal approximation and the bootstrap do not for few discordant ones.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy import special, stats

from mixbench.errors import InvalidInputError
from mixbench.statistics import Interval

# How often the rate may lie outside the range that is searched for it; added to every p-value.
_MISSED = 1e-6
_RATES = 64
_CUT = 1e-12
_TIE = 1e-9
_BISECTIONS = 20
_HIGHEST_SCORE = 40.0

Outcomes = Int64[np.ndarray, " outcome"]
Rates = Float[np.ndarray, " rate"]


def exceeds_p(only_first: int, only_second: int, total: int, *, difference: float) -> float:
    """Return the exact one-sided p-value of accuracy(first) - accuracy(second) <= `difference`, in [0, 1].

    A small one shows that the first model is ahead by more than `difference`, in (-1, 1); the counts are of the
    discordant examples, right for one model alone, out of `total`.
    """
    _check_counts(only_first, only_second, total)
    if not -1 < difference < 1:
        raise InvalidInputError(f"a difference of {difference} between two accuracies is not between -1 and 1")
    test = _Test(total, difference)
    observed = test.score(np.array([only_first]), np.array([only_second]))[0]
    return test.worst_p(float(observed), test.searched_rates(only_second))


def exact_difference_interval(only_first: int, only_second: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Return the interval of accuracy(first) - accuracy(second), in [-1, 1], that `exceeds_p` does not contradict.

    Each side errs in at most half of 1 - `confidence`, so the interval at 90% has the one-sided bounds at 95%.
    """
    _check_counts(only_first, only_second, total)
    tail = (1 - confidence) / 2
    return Interval(
        _lower_bound(only_first, only_second, total, tail=tail),
        -_lower_bound(only_second, only_first, total, tail=tail),
    )


def detectable_difference(
    total: int, *, only_second_rate: float, difference: float, alpha: float, power: float = 0.8
) -> float | None:
    """Return the least true difference that `exceeds_p` <= `alpha` shows to be above `difference` as often as `power`.

    `only_second_rate` is the fraction of examples that are right for the second model alone. None if there is no such
    difference, since `total` examples are too few.
    """
    test = _Test(total, difference)
    critical = test.critical_score(only_second_rate, alpha)
    low, high = difference, 1 - 2 * only_second_rate
    if high <= low or test.power(high, only_second_rate, critical) < power:
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if test.power(middle, only_second_rate, critical) < power:
            low = middle
        else:
            high = middle
    return high


def examples_needed(*, discordant_rate: float, margin: float, alpha: float, power: float = 0.8) -> int | None:
    """Return about how many examples show that two equally good models differ by less than `margin`, in [0, 1).

    `discordant_rate` is the fraction of examples that are right for one of them alone. None without a margin: no number
    would do. The normal approximation of Nam (Biometrics 53:1422, 1997), but never less than what it takes without a
    single discordant example.
    """
    if margin <= 0:
        return None
    rate = np.array([discordant_rate / 2])
    deviations = np.sqrt([_likely_variance(rate, rate, -margin)[0], discordant_rate])
    spread = float(stats.norm.isf([alpha, 1 - power]) @ deviations)
    return math.ceil(max((spread / margin) ** 2, math.log(alpha) / math.log1p(-margin)))


def _likely_variance(first_rate: Rates, second_rate: Rates, difference: float) -> Rates:
    """Return the variance of one example's difference under the most likely rates whose difference is `difference`.

    The most likely rate of only_second solves a x^2 + b x + c = 0 (Tango 1998).
    """
    b = (2 - first_rate + second_rate) * difference - first_rate - second_rate
    c = -second_rate * difference * (1 - difference)
    rate = (np.sqrt(np.maximum(b * b - 8 * c, 0)) - b) / 4
    return 2 * rate + difference * (1 - difference)


def _check_counts(only_first: int, only_second: int, total: int) -> None:
    if min(only_first, only_second) < 0 or total < max(1, only_first + only_second):
        raise InvalidInputError(
            f"{only_first} and {only_second} discordant examples are not parts of {total}: count each example once"
        )


def _lower_bound(only_first: int, only_second: int, total: int, *, tail: float) -> float:
    """Return the largest difference that `exceeds_p` rejects at `tail`, or -1."""
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if exceeds_p(only_first, only_second, total, difference=middle) <= tail:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class _Test:
    """The test of a difference of at most `difference` on `total` examples."""

    total: int
    difference: float

    def score(self, only_first: Outcomes, only_second: Outcomes) -> Float[np.ndarray, " outcome"]:
        """Return by how many standard errors the first model is ahead of the difference (Tango 1998)."""
        variance = self.total * _likely_variance(only_first / self.total, only_second / self.total, self.difference)
        ahead = only_first - only_second - self.total * self.difference
        return np.where(np.abs(ahead) < _TIE, 0.0, ahead / np.sqrt(np.maximum(variance, _CUT)))

    def searched_rates(self, only_second: int) -> Rates:
        """Return rates of only_second that its count and the difference allow, ascending, dense where they matter."""
        n = self.total
        low = special.betaincinv(only_second, n - only_second + 1, _MISSED / 2) if only_second else 0.0
        high = special.betaincinv(only_second + 1, n - only_second, 1 - _MISSED / 2) if only_second < n else 1.0
        least, most = max(0.0, -self.difference), (1 - self.difference) / 2
        # Even steps of the root are even steps in standard errors.
        first, last = np.sqrt(np.clip([low, high], least, most))
        return np.clip(np.linspace(first, last, _RATES) ** 2, least, most)

    def worst_p(self, score: float, rates: Rates) -> float:
        """Return the largest probability, among `rates` of only_second, of a score of at least `score`."""
        reached = self._probabilities(score, rates, rates + self.difference)
        return min(1.0, float(reached.max()) + _MISSED + 2 * _CUT)

    def critical_score(self, only_second_rate: float, alpha: float) -> float:
        """Return the least score that is significant at `alpha` about that rate of only_second."""
        rates = self.searched_rates(round(only_second_rate * self.total))
        low, high = 0.0, _HIGHEST_SCORE
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.worst_p(middle, rates) <= alpha else (middle, high)
        return high

    def power(self, true_difference: float, only_second_rate: float, critical: float) -> float:
        """Return the probability of a score of at least `critical` if that is the difference in truth."""
        rates = np.array([only_second_rate])
        return float(self._probabilities(critical, rates, rates + true_difference)[0])

    def _probabilities(self, score: float, second_rates: Rates, first_rates: Rates) -> Rates:
        """Return the probability of a score of at least `score` for each pair of rates."""
        seconds = self._likely_seconds(second_rates)
        rests, least = self.total - seconds, self._least_firsts(seconds, score - _TIE)
        log_choose = special.gammaln(self.total + 1) - special.gammaln(seconds + 1) - special.gammaln(rests + 1)
        rates = second_rates[:, None]
        weights = np.exp(log_choose + special.xlogy(seconds, rates) + special.xlog1py(rests, -rates))
        # Given those right for the second model alone, those right for the first alone are binomial among the rest.
        given = np.clip(first_rates[:, None] / np.maximum(1 - rates, _CUT), 0, 1)
        tails = special.betainc(np.maximum(least, 1), np.maximum(rests - least + 1, 1), given)
        tails = np.where(least <= 0, 1.0, np.where(least > rests, 0.0, tails))
        return (weights * tails).sum(axis=1)

    def _likely_seconds(self, rates: Rates) -> Outcomes:
        """Return the counts of only_second beyond which, by Bernstein's inequality, less than _CUT of any rate lies."""
        means = self.total * rates[[0, -1]]
        size = -math.log(_CUT)
        reach = size / 3 + np.sqrt(size**2 / 9 + 2 * size * means)
        return np.arange(max(0, int(means[0] - reach[0])), min(self.total, math.ceil(means[1] + reach[1])) + 1)

    def _least_firsts(self, only_second: Outcomes, score: float) -> Outcomes:
        """Return the least only_first beside each only_second whose score is at least `score`."""
        low, high = np.zeros_like(only_second), self.total - only_second + 1
        while np.any(low < high):
            middle = (low + high) // 2
            reached = self.score(middle, only_second) >= score
            low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
        return low
