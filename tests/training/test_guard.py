from dataclasses import replace

import pytest
import torch
from torch import nn

from mixbench.errors import MixbenchError
from mixbench.records import Accuracy
from mixbench.training import Epoch, Recipe
from mixbench.training.guard import OverfittingGuard

IMAGES, LABELS = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.long)


class _Brightness(nn.Module):
    """Says class 0 while the mean pixel is above `threshold`."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.threshold = threshold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = self.scale * (images.flatten(1).mean(1) - self.threshold)
        return torch.stack([margin, -margin], dim=1)


def _guard(threshold: float, recipe: Recipe) -> OverfittingGuard:
    return OverfittingGuard(_Brightness(threshold).train(), IMAGES, LABELS, recipe, seed=0)


@pytest.mark.parametrize(("threshold", "correct"), [(0.41, 0), (0.39, 32)])
def test_it_counts_what_withstands_the_attack(threshold: float, correct: int, tiny_linf: Recipe) -> None:
    """The worst image at eps 1/10 has mean 0.4; the batch is the recipe's 32."""
    assert _guard(threshold, tiny_linf).measure() == Accuracy(correct=correct, total=32)


def test_measuring_changes_nothing(tiny_linf: Recipe) -> None:
    guard = _guard(0.3, tiny_linf)
    before = torch.random.get_rng_state()
    assert guard.measure() == guard.measure()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_adversarial_training_nothing_is_measured(tiny: Recipe) -> None:
    assert _guard(0.3, tiny).measure() is None


def _epochs(*correct: int | None) -> list[Epoch]:
    return [
        Epoch(
            number=number,
            epochs=len(correct),
            loss=1.0,
            accuracy=Accuracy(correct=0, total=1),
            validation=None,
            robust=None if count is None else Accuracy(correct=count, total=100),
            learning_rate=0.1,
            seconds=1.0,
        )
        for number, count in enumerate(correct, start=1)
    ]


@pytest.mark.parametrize("correct", [(None, None), (10,), (10, 50, 31), (50, 30), (50, 10, 90)[::2], (0, 0)])
def test_what_rises_or_falls_a_little_goes_on(correct: tuple[int | None, ...], tiny_linf: Recipe) -> None:
    assert _guard(0.3, tiny_linf).check(_epochs(*correct), kept="") is None


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        ((10, 52, 31), r"fell from 52.0% in epoch 2 to 31.0% in epoch 3: catastrophic overfitting"),
        ((60, 45, 30), r"fell from 60.0% in epoch 1 to 30.0% in epoch 3"),
    ],
)
def test_a_fall_of_more_than_20_points_below_the_best_stops(
    correct: tuple[int, ...], message: str, tiny_linf: Recipe
) -> None:
    with pytest.raises(MixbenchError, match=f"{message}.*; kept here"):
        _guard(0.3, replace(tiny_linf)).check(_epochs(*correct), kept="; kept here")
