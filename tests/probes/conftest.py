"""A few digits and a plan that takes a second."""

import numpy as np
import pytest

from mixbench.datasets import Examples
from mixbench.datasets.digits import read_digits
from mixbench.probes import DecoderChoice, UnshufflePlan, plan_unshuffle


@pytest.fixture(scope="session")
def train_digits() -> Examples:
    """96 training digits: three batches."""
    return read_digits(split="train").take(np.arange(96), subset="first-96")


@pytest.fixture(scope="session")
def test_digits() -> Examples:
    """40 test digits."""
    return read_digits(split="test").take(np.arange(40), subset="first-40")


@pytest.fixture
def plan(train_digits: Examples, test_digits: Examples) -> UnshufflePlan:
    """Two epochs of a decoder of four channels, for three permutations."""
    return plan_unshuffle(
        "convmixer_frozen",
        train_digits,
        test_digits,
        permutation_seeds=(2, 0, 1),
        seed=0,
        choice=DecoderChoice(width=4, epochs=2),
    )
