"""Little data and little training."""

from dataclasses import replace

import numpy as np
import pytest

from mixbench.datasets import Examples
from mixbench.datasets.digits import read_digits
from mixbench.threat_model import ThreatModel
from mixbench.training import AdversarialTraining, Recipe


@pytest.fixture(scope="session")
def train_digits() -> Examples:
    """90 training digits: two batches of 32 and one of 26."""
    return read_digits(split="train").take(np.arange(90), subset="first-90")


@pytest.fixture(scope="session")
def test_digits() -> Examples:
    """50 test digits."""
    return read_digits(split="test").take(np.arange(50), subset="first-50")


@pytest.fixture
def tiny() -> Recipe:
    """Two epochs."""
    return Recipe("tiny", epochs=2, batch_size=32, learning_rate=0.01, weight_decay=0.5, max_shift=1)


@pytest.fixture
def tiny_linf() -> Recipe:
    """Two epochs of adversarial training."""
    adversarial = AdversarialTraining(ThreatModel.parse("Linf 1/10"), steps=2, relative_step_size=0.75)
    return Recipe(
        "tiny_linf",
        epochs=2,
        batch_size=32,
        learning_rate=0.01,
        weight_decay=0.01,
        max_shift=1,
        flip=True,
        adversarial=adversarial,
    )


@pytest.fixture
def tiny_l2(tiny_linf: Recipe) -> Recipe:
    """Two epochs of adversarial training in L2."""
    adversarial = AdversarialTraining(ThreatModel.parse("L2 1/2"), steps=2, relative_step_size=0.75)
    return replace(tiny_linf, name="tiny_l2", adversarial=adversarial)
