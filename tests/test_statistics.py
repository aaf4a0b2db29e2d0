import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixbench.errors import InvalidInputError
from mixbench.statistics import (
    Interval,
    crossed_spread,
    holm,
    mcnemar_p,
    mcnemar_p_values,
    paired_difference_interval,
    wilson_interval,
)

Z_95 = 1.959963984540054
p_value_lists = st.lists(st.floats(0, 1), max_size=20)


def _verdicts(*, won: int, lost: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True, False], [won, lost, both, neither])
    second = np.repeat([False, True, True, False], [won, lost, both, neither])
    return first, second


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_that_of_scipy(counts: tuple[int, int]) -> None:
    correct, total = counts
    interval, expected = wilson_interval(correct, total), stats.binomtest(correct, total)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.proportion_ci(method="wilson")), abs=1e-12)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct: int, total: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    interval = wilson_interval(correct, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_bounds_are_where_the_score_test_just_rejects(counts: tuple[int, int]) -> None:
    correct, total = counts
    rate, interval = correct / total, wilson_interval(correct, total)
    assert 0 <= interval.low <= rate <= interval.high <= 1
    for bound in (interval.low, interval.high):
        assert abs(rate - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / total), abs=1e-7)


def test_more_confidence_makes_a_wider_interval() -> None:
    usual, sure = wilson_interval(351, 360), wilson_interval(351, 360, confidence=0.99)
    assert sure.low < usual.low < usual.high < sure.high


@pytest.mark.parametrize(
    ("correct", "total", "message"),
    [
        (0, 0, "at least one example, got total=0"),
        (0, -1, "at least one example"),
        (7, 6, "correct 7 is not in 0 to total 6"),
        (-1, 6, "correct -1 is not in"),
    ],
)
def test_wilson_refuses_counts_that_cannot_be(correct: int, total: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        wilson_interval(correct, total)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, Fraction(1)),
        (3, 3, Fraction(1)),
        (1, 0, Fraction(1)),
        (0, 5, Fraction(2, 32)),
        (1, 9, Fraction(2 * (1 + 10), 1024)),
        (8, 2, Fraction(2 * (1 + 10 + 45), 1024)),
    ],
)
def test_mcnemar_is_the_binomial_sum_done_by_hand(only_first: int, only_second: int, p_value: Fraction) -> None:
    assert mcnemar_p(only_first, only_second) == pytest.approx(float(p_value), rel=1e-12)


def test_mcnemar_of_many_pairs_is_that_of_each() -> None:
    pairs = np.array([(a, b) for a in range(25) for b in range(25)] + [(0, 400), (180, 220), (1000, 1100)])
    alone = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in pairs.tolist()]
    assert mcnemar_p_values(pairs[:, 0], pairs[:, 1]) == pytest.approx(alone, rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_doubled_tail_whoever_comes_first(only_first: int, only_second: int) -> None:
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = Fraction(sum(math.comb(n, k) for k in range(fewer + 1)), 2**n)
    assert mcnemar_p(only_first, only_second) == pytest.approx(min(1.0, float(2 * tail)), rel=1e-9)
    assert mcnemar_p(only_first, only_second) == pytest.approx(mcnemar_p(only_second, only_first), rel=1e-12)


def test_the_bootstrap_agrees_with_resampling_example_by_example() -> None:
    first, second = _verdicts(won=60, lost=30, both=90, neither=20)
    interval = paired_difference_interval(first, second, seed=0)
    chosen = np.random.Generator(np.random.PCG64(1)).integers(0, 200, (20_000, 200))
    differences = first[chosen].mean(1) - second[chosen].mean(1)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.0101)
    assert interval.low < 0.15 < interval.high


def test_the_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    covered = 0
    for trial in range(400):
        outcomes = generator.choice(3, size=300, p=[0.1, 0.65, 0.25])
        interval = paired_difference_interval(outcomes == 2, outcomes == 0, seed=trial, resamples=999, confidence=0.9)
        covered += interval.low <= 0.15 <= interval.high
    # Four standard errors of a binomial with p = 0.9 are 24 of 400.
    assert 336 <= covered <= 384


@pytest.mark.parametrize(("won", "lost"), [(30, 30), (50, 10), (5, 200)])
def test_swapping_the_models_mirrors_the_bootstrap_interval(won: int, lost: int) -> None:
    first, second = _verdicts(won=won, lost=lost, both=300, neither=100)
    interval = paired_difference_interval(first, second, seed=0)
    mirrored = paired_difference_interval(second, first, seed=0)
    # Other draws: equal up to the Monte Carlo error of a quantile, a few steps of 1 / n.
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=4 / len(first))


def test_the_order_of_the_examples_does_not_change_the_interval() -> None:
    first, second = _verdicts(won=40, lost=20, both=100, neither=40)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(first))
    assert paired_difference_interval(first[order], second[order], seed=3) == paired_difference_interval(
        first, second, seed=3
    )


def test_the_seed_alone_decides_the_bootstrap() -> None:
    first, second = _verdicts(won=900, lost=700, both=3000, neither=1400)
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - the global state must stay
    interval = paired_difference_interval(first, second, seed=1)
    assert interval == paired_difference_interval(first, second, seed=1)
    assert len({paired_difference_interval(first, second, seed=seed).low for seed in range(5)}) > 1
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]


def test_a_model_does_not_differ_from_itself() -> None:
    verdicts = np.array([True, False, True])
    assert paired_difference_interval(verdicts, verdicts, seed=0) == Interval(0.0, 0.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0,), (0,)), ((3,), (4,)), ((2, 2), (2, 2))],
    ids=["empty", "unequal", "tables"],
)
def test_only_equally_long_lists_are_compared(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="two equally long, non-empty lists of verdicts, got"):
        paired_difference_interval(np.zeros(first, dtype=bool), np.zeros(second, dtype=bool), seed=0)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 gives 0.02, 0.03, 0.06, 0.04; the last may not fall below.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([], []),
    ],
    ids=["hand-worked", "capped at 1", "one test", "ties", "no test"],
)
def test_holm_gives_the_values_worked_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values).tolist() == pytest.approx(adjusted)


@given(p_value_lists, st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    rejected = set()
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - done) > alpha:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(p_values) <= alpha).tolist()) == rejected


def test_the_spread_of_a_cross_is_that_of_its_cells_rows_and_columns() -> None:
    """By hand: cells 1 2 | 3 6 have squares 4+1+0+9 about 3; row means 1.5 and 4.5; column means 2 and 4."""
    spread = crossed_spread(np.array([[1.0, 2.0], [3.0, 6.0]]))
    expected = (math.sqrt(14 / 3), 3 / math.sqrt(2), math.sqrt(2))
    assert (spread.overall, spread.row_means, spread.column_means) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (4,)])
def test_a_cross_needs_two_rows_and_two_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="at least two rows and two columns"):
        crossed_spread(np.zeros(shape))
