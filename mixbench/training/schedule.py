"""The course of the learning rate."""

import math
from dataclasses import dataclass

import numpy as np

from mixbench.training.recipes import Recipe, Schedule

_BETAS = (0.9, 0.999)
_PIECES = (0.0, 0.4, 0.8, 1.0), (0.0, 1.0, 0.05, 0.0)
# The defaults of torch's OneCycleLR.
_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25 / 1e4
_LEAST_BETA, _MOST_BETA = 0.85, 0.95


@dataclass(frozen=True)
class Rate:
    """AdamW's settings for one update."""

    learning_rate: float
    betas: tuple[float, float]


def rate(recipe: Recipe, update: int, *, updates: int) -> Rate:
    """Return the settings of `update`, from 0, of a run of `updates` by `recipe`."""
    peak = recipe.learning_rate
    if recipe.schedule is Schedule.PIECEWISE:
        return Rate(float(peak * np.interp((update + 1) / updates, *_PIECES)), _BETAS)
    turn = _RISE * updates - 1
    if update <= turn:
        share = update / turn
        return Rate(_cosine(peak * _FIRST, peak, share), (_cosine(_MOST_BETA, _LEAST_BETA, share), _BETAS[1]))
    share = (update - turn) / (updates - 1 - turn)
    return Rate(_cosine(peak, peak * _LAST, share), (_cosine(_LEAST_BETA, _MOST_BETA, share), _BETAS[1]))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
