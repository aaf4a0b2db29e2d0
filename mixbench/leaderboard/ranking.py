"""Ranks as ranges: two models share one where the paired data cannot tell them apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from mixbench.statistics import holm, mcnemar_p_values

ALPHA = 0.05
"""Two models are told apart where the Holm-adjusted McNemar p-value of their pair is below this."""


@dataclass(frozen=True)
class RankRange:
    """The ranks that the data leaves open, 1 the most robust."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def rank_ranges(verdicts: Bool[np.ndarray, "model example"]) -> tuple[RankRange, ...]:
    """Return the rank range of each model, from which examples it is robust on.

    A model ranks behind those that are significantly better, and before those that are significantly worse: exact
    McNemar tests on the discordant examples of every pair, adjusted together by Holm's rule, at the level `ALPHA`.
    """
    ahead = significantly_ahead(verdicts)
    n = len(verdicts)
    better, worse = ahead.sum(axis=0), ahead.sum(axis=1)
    return tuple(RankRange(1 + int(b), n - int(w)) for b, w in zip(better, worse, strict=True))


def significantly_ahead(verdicts: Bool[np.ndarray, "model example"]) -> Bool[np.ndarray, "model model"]:
    """Return where the model of the row is significantly better than that of the column."""
    only_row = discordant(verdicts)
    upper = np.triu_indices(len(verdicts), k=1)
    adjusted = np.ones(only_row.shape)
    adjusted[upper] = holm(mcnemar_p_values(only_row[upper], only_row.T[upper]).tolist())
    adjusted = np.minimum(adjusted, adjusted.T)
    return (adjusted < ALPHA) & (only_row > only_row.T)


def discordant(verdicts: Bool[np.ndarray, "model example"]) -> Int64[np.ndarray, "model model"]:
    """Return on how many examples the model of the row alone is right, and that of the column is wrong."""
    # Sums of zeros and ones are exact in float64, whose matrix product is far quicker than that of integers.
    right = verdicts.astype(np.float64)
    return np.rint(right @ (1 - right).T).astype(np.int64)


def area_under_curve(eps: Sequence[float], rates: Sequence[float]) -> float:
    """Return the mean robust accuracy over radii from 0 to the last, in [0, 1], by the trapezoidal rule.

    `eps` are radii ascending from 0, where `rates` is the clean accuracy.
    """
    radii: Float[np.ndarray, " radius"] = np.asarray(eps, dtype=np.float64)
    return float(np.trapezoid(np.asarray(rates, dtype=np.float64), radii) / radii[-1])
