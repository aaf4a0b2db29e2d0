"""The exact test against full enumeration: what it promises holds for every outcome that can be, not on average."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from mixbench.errors import InvalidInputError
from mixbench.paired_difference import (
    _Test,
    detectable_difference,
    exact_difference_interval,
    examples_needed,
    exceeds_p,
)

# Rates of only_second from none to as many as there can be.
_SHARES = (0.0, 0.003, 0.02, 0.1, 0.3, 0.7, 1.0)


def outcomes(n: int) -> list[tuple[int, int]]:
    return [(first, second) for first in range(n + 1) for second in range(n + 1 - first)]


def probabilities(n: int, first_rate: float, second_rate: float) -> np.ndarray:
    """How likely each of `outcomes(n)` is."""
    counts = np.array(outcomes(n))
    cells = np.column_stack([counts, n - counts.sum(axis=1)])
    return stats.multinomial(n, [first_rate, second_rate, max(0.0, 1 - first_rate - second_rate)]).pmf(cells)


def pairs_of_rates(difference: float) -> list[tuple[float, float]]:
    least, most = max(0.0, -difference), (1 - difference) / 2
    seconds = [least + share * (most - least) for share in _SHARES]
    return [(second + difference, second) for second in seconds]


@cache
def p_values(n: int, difference: float) -> np.ndarray:
    return np.array([exceeds_p(first, second, n, difference=difference) for first, second in outcomes(n)])


def likeliest_variance(first: int, second: int, n: int, difference: float) -> float:
    """The variance under the most likely rates, found by searching the likelihood."""

    def cost(rate: float) -> float:
        cells = ((first, rate + difference), (second, rate), (n - first - second, 1 - 2 * rate - difference))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    rate = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return n * (2 * rate + difference - difference**2)


@pytest.mark.parametrize("difference", [-0.2, -0.01, 0.03, 0.4])
@pytest.mark.parametrize(("first", "second", "n"), [(3, 1, 20), (0, 4, 20), (7, 0, 30), (10, 10, 20), (30, 200, 1000)])
def test_the_score_is_the_difference_over_its_most_likely_standard_error(
    first: int, second: int, n: int, difference: float
) -> None:
    found = _Test(n, difference).score(np.array([first]), np.array([second]))[0]
    expected = (first - second - n * difference) / math.sqrt(likeliest_variance(first, second, n, difference))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("difference", [-0.3, -0.05, 0.0, 0.01, 0.2])
@pytest.mark.parametrize("n", [1, 5, 12, 25])
def test_the_level_is_held_at_every_rate(n: int, difference: float) -> None:
    """Also where the true difference lies below the tested one, and at any discordance."""
    for alpha in (0.01, 0.05, 0.2):
        rejected = p_values(n, difference) <= alpha
        for truth in (difference, difference - 0.02, difference - 0.3):
            for rates in pairs_of_rates(truth):
                assert probabilities(n, *rates)[rejected].sum() <= alpha + 1e-9


def test_the_level_is_not_wasted() -> None:
    """An exact test that never rejects would hold its level too."""
    rejected = p_values(25, 0.0) <= 0.05
    assert max(probabilities(25, *rates)[rejected].sum() for rates in pairs_of_rates(0.0)) > 0.035


@given(st.integers(1, 200), st.data(), st.floats(-0.5, 0.5))
def test_a_better_outcome_is_never_less_significant(n: int, data: st.DataObject, difference: float) -> None:
    """The convexity that makes the boundary of the hypothesis its worst case."""
    second = data.draw(st.integers(0, n - 1))
    first = data.draw(st.integers(0, n - second - 1))
    test = _Test(n, difference)
    score = test.score(np.array([first, first + 1, first]), np.array([second, second, second + 1]))
    assert score[1] >= score[0] - 1e-9 >= score[2] - 2e-9


@pytest.mark.parametrize(("n", "margin"), [(10, 0.3), (100, 0.03), (299, 0.01), (360, 0.01), (5000, 0.001)])
def test_without_a_discordant_example_the_p_value_is_at_least_that_of_seeing_none(n: int, margin: float) -> None:
    """And little more, as few other outcomes speak as clearly for equality."""
    seeing_none = (1 - margin) ** n
    assert seeing_none <= exceeds_p(0, 0, n, difference=-margin) <= seeing_none + 0.005


@pytest.mark.parametrize("n", [1, 4, 9])
def test_the_interval_covers_at_every_rate(n: int) -> None:
    intervals = [exact_difference_interval(first, second, n, confidence=0.9) for first, second in outcomes(n)]
    low, high = (np.array([getattr(interval, side) for interval in intervals]) for side in ("low", "high"))
    for truth in (-0.4, -0.05, 0.0, 0.1, 0.7):
        covered = (low <= truth) & (truth <= high)
        assert min(probabilities(n, *rates)[covered].sum() for rates in pairs_of_rates(truth)) >= 0.9 - 1e-9


@settings(max_examples=25)
@given(st.integers(1, 2000), st.data())
def test_the_ends_of_the_interval_are_where_the_test_turns(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, min(n, 40)))
    second = data.draw(st.integers(0, min(n - first, 40)))
    interval = exact_difference_interval(first, second, n, confidence=0.9)
    assert interval.low <= (first - second) / n <= interval.high
    if interval.low > -1:
        assert exceeds_p(first, second, n, difference=interval.low) <= 0.05
        assert exceeds_p(first, second, n, difference=interval.low + 4e-6) > 0.05


def test_the_interval_of_the_mirror_image_is_mirrored() -> None:
    forth, back = exact_difference_interval(9, 2, 80), exact_difference_interval(2, 9, 80)
    assert (forth.low, forth.high) == (-back.high, -back.low)


def test_for_many_discordant_examples_the_interval_is_the_normal_one() -> None:
    first, second, n = 700, 500, 10_000
    error = math.sqrt((first + second) / n - ((first - second) / n) ** 2) / math.sqrt(n)
    interval = exact_difference_interval(first, second, n)
    assert (interval.low, interval.high) == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=error / 20)


@pytest.mark.parametrize(("n", "second_rate", "margin"), [(40, 0.0, 0.02), (40, 0.05, 0.02), (40, 0.0, 0.2)])
def test_the_detectable_difference_is_detected_as_often_as_promised(n: int, second_rate: float, margin: float) -> None:
    detected = p_values(n, margin) <= 0.05
    found = detectable_difference(n, only_second_rate=second_rate, difference=margin, alpha=0.05, power=0.8)
    assert found is not None
    assert found > margin
    assert probabilities(n, found + second_rate, second_rate)[detected].sum() == pytest.approx(0.8, abs=0.05)


def test_too_few_examples_detect_nothing() -> None:
    assert detectable_difference(3, only_second_rate=0.0, difference=0.01, alpha=1e-5) is None
    assert detectable_difference(50, only_second_rate=0.5, difference=0.01, alpha=0.05) is None


@pytest.mark.parametrize(("discordant_rate", "margin"), [(0.02, 0.02), (0.05, 0.03)])
def test_the_examples_needed_show_equality_about_as_often_as_promised(discordant_rate: float, margin: float) -> None:
    n = examples_needed(discordant_rate=discordant_rate, margin=margin, alpha=0.05, power=0.8)
    assert n is not None
    half = discordant_rate / 2
    draws = np.random.Generator(np.random.PCG64(0)).multinomial(n, [half, half, 1 - discordant_rate], size=2000)
    found, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    shown = np.array([exceeds_p(int(first), int(second), n, difference=-margin) <= 0.05 for first, second in found])
    assert counts[shown].sum() / 2000 == pytest.approx(0.8, abs=0.06)


def test_the_examples_needed_without_discordance_follow_the_rule_of_three() -> None:
    assert examples_needed(discordant_rate=0.0, margin=0.01, alpha=0.05) == 299
    assert exceeds_p(0, 0, 299, difference=-0.01) <= 0.05 < exceeds_p(0, 0, 298, difference=-0.01)
    assert examples_needed(discordant_rate=0.1, margin=0.0, alpha=0.05) is None


@pytest.mark.parametrize(("first", "second", "n"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(first: int, second: int, n: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{first} and {second} discordant examples are not parts of {n}"):
        exceeds_p(first, second, n, difference=0.0)
    with pytest.raises(InvalidInputError, match="discordant examples"):
        exact_difference_interval(first, second, n)


@pytest.mark.parametrize("difference", [-1.0, 1.0, 3.0, math.nan])
def test_impossible_differences_are_refused(difference: float) -> None:
    with pytest.raises(InvalidInputError, match="is not between -1 and 1"):
        exceeds_p(1, 1, 5, difference=difference)
