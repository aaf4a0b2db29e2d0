import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixbench.leaderboard.ranking import ALPHA, area_under_curve, discordant, rank_ranges, significantly_ahead
from mixbench.statistics import holm, mcnemar_p

verdicts = st.tuples(st.integers(1, 6), st.integers(1, 60)).flatmap(lambda shape: arrays(bool, shape))


def robust_on(first: int, n: int = 200) -> np.ndarray:
    return np.arange(n) < first


def test_models_that_the_data_tells_apart_have_ranks_of_their_own() -> None:
    ranges = rank_ranges(np.stack([robust_on(150), robust_on(100), robust_on(50)]))
    assert [str(found) for found in ranges] == ["1", "2", "3"]


def test_models_that_it_does_not_tell_apart_share_a_range() -> None:
    ranges = rank_ranges(np.stack([robust_on(152), robust_on(150), robust_on(50), robust_on(51)]))
    assert [str(found) for found in ranges] == ["1-2", "1-2", "3-4", "3-4"]


def test_a_single_model_is_first() -> None:
    assert [str(found) for found in rank_ranges(np.stack([robust_on(3)]))] == ["1"]


@given(verdicts)
def test_discordant_examples_are_counted_as_by_hand(right: np.ndarray) -> None:
    counts = discordant(right)
    for a, b in itertools.product(range(len(right)), repeat=2):
        assert counts[a, b] == sum(x and not y for x, y in zip(right[a], right[b], strict=True))


@given(verdicts)
def test_all_pairs_at_once_are_the_single_tests_adjusted(right: np.ndarray) -> None:
    pairs = list(itertools.combinations(range(len(right)), 2))
    alone = [(int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())) for a, b in pairs]
    adjusted = holm([mcnemar_p(*counts) for counts in alone])
    expected = np.zeros((len(right), len(right)), dtype=bool)
    for (a, b), (only_a, only_b), p in zip(pairs, alone, adjusted, strict=True):
        expected[a, b], expected[b, a] = p < ALPHA and only_a > only_b, p < ALPHA and only_b > only_a
    assert (significantly_ahead(right) == expected).all()


@given(verdicts)
def test_a_range_holds_the_rank_by_count(right: np.ndarray) -> None:
    order = np.argsort(-right.sum(axis=1), kind="stable")
    ranges = rank_ranges(right)
    assert all(ranges[model].best <= place <= ranges[model].worst for place, model in enumerate(order, start=1))


@pytest.mark.parametrize(
    ("eps", "rates", "area"),
    [((0, 1), (1, 0), 0.5), ((0, 0.25, 1), (0.8, 0.8, 0.8), 0.8), ((0, 1, 4), (1, 0, 0), 0.125)],
    ids=["a straight line", "a constant", "uneven radii"],
)
def test_the_area_is_the_mean_over_the_radii(eps: tuple[float, ...], rates: tuple[float, ...], area: float) -> None:
    assert area_under_curve(eps, rates) == pytest.approx(area)
