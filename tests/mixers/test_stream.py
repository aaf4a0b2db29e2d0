import math

import numpy as np
import pytest
import scipy.stats

from mixbench.errors import InvalidInputError
from mixbench.mixers.stream import FilterStream, cosine_of_turns, gaussian_weights, log

GOLDEN_INTEGERS = [5737240835340368, 2430022687152954, 369056694262205]


def test_the_bits_of_seed_0_never_change() -> None:
    assert FilterStream(0, 0).integers(3).tolist() == GOLDEN_INTEGERS
    assert FilterStream(0, 1).integers(1).tolist() != GOLDEN_INTEGERS[:1]
    assert FilterStream(1, 0).integers(1).tolist() != GOLDEN_INTEGERS[:1]


def test_each_call_goes_on_where_the_last_one_stopped() -> None:
    whole, parts = FilterStream(3, 5), FilterStream(3, 5)
    assert np.array_equal(whole.uniform(7), np.concatenate([parts.uniform(3), parts.uniform(4)]))


def test_uniform_numbers_are_those_of_numpys_own_generator() -> None:
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 2])))
    assert np.array_equal(FilterStream(7, 2).uniform(100), generator.random(100))


@pytest.mark.parametrize(("seed", "layer"), [(-1, 0), (2**32, 0), (0, -1), (0, 2**32)])
def test_a_seed_or_layer_that_could_share_a_stream_is_refused(seed: int, layer: int) -> None:
    with pytest.raises(InvalidInputError, match="is not in 0 to 4294967295"):
        FilterStream(seed, layer)


def test_without_that_limit_two_seeds_would_share_a_stream() -> None:
    streams = [np.random.PCG64(np.random.SeedSequence(words)).random_raw() for words in ([2**32, 0], [0, 1])]
    assert streams[0] == streams[1]


def test_normal_numbers_follow_the_normal_distribution() -> None:
    numbers = FilterStream(0, 0).normal(100_000)
    assert scipy.stats.kstest(numbers, "norm").pvalue > 0.01
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


def test_the_logarithm_agrees_with_the_c_library() -> None:
    edges = [2.0**-53, 0.5, math.nextafter(math.sqrt(0.5), 0), math.sqrt(0.5), math.nextafter(1, 0), 1.0, 3.0, 1e300]
    values = np.concatenate([edges, 1.0 - FilterStream(0, 0).uniform(5000)])
    expected = np.array([math.log(value) for value in values])
    assert np.abs(log(values) - expected).max(initial=0, where=np.abs(expected) < 1) < 2.3e-16
    assert np.allclose(log(values), expected, rtol=4e-16, atol=2.3e-16)


def test_the_cosine_agrees_with_the_c_library() -> None:
    turns = np.concatenate([[0.0, 0.25, 0.5, 0.75, math.nextafter(1, 0)], FilterStream(0, 0).uniform(5000)])
    expected = np.array([math.cos(2 * math.pi * turn) for turn in turns])
    assert np.abs(cosine_of_turns(turns) - expected).max() < 1e-15


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_gaussian_weights_are_the_normalised_bell(sigma: float) -> None:
    bell = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    assert np.allclose(gaussian_weights(sigma=sigma, reach=4), bell / bell.sum(), rtol=1e-14)


def test_a_vanishing_sigma_leaves_the_centre_alone() -> None:
    assert gaussian_weights(sigma=1e-200, reach=1) == (0.0, 1.0, 0.0)
