"""Pass, fail or inconclusive: a paired test of non-inferiority for clean and for robust accuracy.

The fall is the baseline's accuracy less the candidate's on the same examples. A check fails if the fall is more than
the margin with confidence 1 - alpha, passes if it is less than the margin with that confidence, and is inconclusive in
between, where the examples are too few to tell.

All regressions that one call could find share its alpha by Holm's rule, so the chance that it fails by mistake is at
most alpha, however many models it looks at. A pass of all needs a pass of each, each at alpha, so the chance that a
call passes although some accuracy fell by the margin is at most alpha too (an intersection-union test, Berger,
Technometrics 24:295, 1982).

Verdicts that are all equal are no exception: 50 examples cannot show a fall below 1 point. But weights that are the
same (SHA-256) and that give the same verdicts with the same margins up to rounding are the same model. There is nothing
to infer: the baseline is reproduced, which passes at any number of examples and any margin.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import pandas as pd

from mixbench.comparison import Outcome, PairedComparison, compare
from mixbench.errors import InvalidInputError, RecordError
from mixbench.paired_difference import detectable_difference, exact_difference_interval, examples_needed, exceeds_p
from mixbench.records import EvaluationRecord
from mixbench.statistics import Interval, holm
from mixbench.store import StoredEvaluation

POWER = 0.8
_OUTCOMES: tuple[Outcome, ...] = ("clean", "robust")
# What float32 rounding on other hardware leaves of a margin; as for `borderline` in a record.
_MARGIN_TOLERANCE = 1e-4


class Verdict(StrEnum):
    """What the gate says, from good to bad."""

    PASS = "pass"  # noqa: S105 - no password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """What the gate says about one accuracy of one candidate.

    Attributes:
        comparison: The baseline as first, the candidate as second model.
        margin: The fall that is tolerated, in points.
        alpha: The level of the call, which `among` checks share.
        reproduced: Whether the same weights gave the same verdicts and margins.
        regression_p: Of the fall being at most the margin, adjusted for all checks of the call.
        equality_p: Of the fall being at least the margin.
    """

    comparison: PairedComparison
    margin: float
    alpha: float
    among: int
    reproduced: bool
    regression_p: float
    equality_p: float

    @property
    def verdict(self) -> Verdict:
        """Pass, fail or inconclusive."""
        if self.reproduced or self.equality_p <= self.alpha:
            return Verdict.PASS
        return Verdict.FAIL if self.regression_p <= self.alpha else Verdict.INCONCLUSIVE

    @cached_property
    def fall(self) -> Interval:
        """The exact interval of the fall at confidence 1 - 2 alpha, in points: each end is a bound at 1 - alpha."""
        found = self.comparison
        interval = exact_difference_interval(
            found.only_first, found.only_second, found.n, confidence=1 - 2 * self.alpha
        )
        return Interval(100 * interval.low, 100 * interval.high)

    @cached_property
    def detectable_fall(self) -> float | None:
        """The fall, in points, for which the gate fails with a power of 80% on these examples; None if there is none.

        It supposes that the candidate alone is right as often as seen here, and that no other check fails.
        """
        found = self.comparison
        detectable = detectable_difference(
            found.n,
            only_second_rate=found.only_second / found.n,
            difference=self.margin / 100,
            # Holm's rule asks this of the smallest p-value.
            alpha=self.alpha / self.among,
            power=POWER,
        )
        return None if detectable is None else 100 * detectable

    @cached_property
    def examples_needed(self) -> int | None:
        """About how many examples pass an equally good candidate with a power of 80%; None without a margin.

        It supposes as many discordant ones as seen here.
        """
        found = self.comparison
        return examples_needed(
            discordant_rate=(found.only_first + found.only_second) / found.n,
            margin=self.margin / 100,
            alpha=self.alpha,
            power=POWER,
        )


@dataclass(frozen=True)
class GateVerdict:
    """What the gate says about one candidate."""

    baseline: EvaluationRecord
    candidate: EvaluationRecord
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst one of the checks."""
        return worst(check.verdict for check in self.checks)


@dataclass(frozen=True, eq=False)
class Pair:
    """A candidate beside its baseline; `margin` is in points of accuracy, from 0 up to 100."""

    baseline: StoredEvaluation
    candidate: StoredEvaluation
    margin: float

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 100:  # noqa: PLR2004 - percent
            raise InvalidInputError(f"margin {self.margin} is not from 0 up to 100 points of accuracy: 1.0 is usual")


def gate(
    baseline: StoredEvaluation,
    candidate: StoredEvaluation,
    *,
    margin: float,
    alpha: float,
    allow_other_model: bool = False,
) -> GateVerdict:
    """Return what `gate_all` says about one candidate alone."""
    return gate_all([Pair(baseline, candidate, margin)], alpha=alpha, allow_other_model=allow_other_model)[0]


def gate_all(pairs: Sequence[Pair], *, alpha: float, allow_other_model: bool = False) -> tuple[GateVerdict, ...]:
    """Return a verdict for each pair, in order, at the level `alpha` in (0, 0.5) for all of them together.

    Raises InvalidInputError without a pair: no baseline is no pass. Raises RecordError if a pair differs in protocol or
    examples, or in the name of its model unless `allow_other_model` is set; other weights of that name are the rule.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004 - beyond it both verdicts could hold at once
        raise InvalidInputError(f"alpha {alpha} is not between 0 and 0.5: 0.05 is usual")
    if not pairs:
        raise InvalidInputError("there is no baseline to hold a candidate against: name one that exists")
    if not allow_other_model:
        for pair in pairs:
            _check_model(pair.baseline.record, pair.candidate.record)
    compared = [
        (pair, compare(pair.baseline, pair.candidate, outcome=outcome)) for pair in pairs for outcome in _OUTCOMES
    ]
    adjusted = holm([_regression_p(found, margin=pair.margin) for pair, found in compared])
    checks = [
        Check(
            comparison=found,
            margin=pair.margin,
            alpha=alpha,
            among=len(compared),
            reproduced=_reproduced(pair, found),
            regression_p=float(p),
            equality_p=exceeds_p(found.only_second, found.only_first, found.n, difference=-pair.margin / 100),
        )
        for (pair, found), p in zip(compared, adjusted, strict=True)
    ]
    return tuple(
        GateVerdict(pair.baseline.record, pair.candidate.record, (clean, robust))
        for pair, clean, robust in zip(pairs, checks[::2], checks[1::2], strict=True)
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of some verdicts."""
    return max(verdicts, key=list(Verdict).index)


def _regression_p(found: PairedComparison, *, margin: float) -> float:
    return exceeds_p(found.only_first, found.only_second, found.n, difference=margin / 100)


def _check_model(baseline: EvaluationRecord, candidate: EvaluationRecord) -> None:
    if baseline.model.name != candidate.model.name:
        raise RecordError(
            f"the candidate {candidate.id} is of {candidate.model.name}, its baseline {baseline.id} of"
            f" {baseline.model.name}: gate the same model, or pass --allow-other-model"
        )


def _reproduced(pair: Pair, comparison: PairedComparison) -> bool:
    if pair.baseline.record.model.sha256 != pair.candidate.record.model.sha256:
        return False
    if comparison.only_first or comparison.only_second:
        return False
    first, second = _outputs(pair.baseline.table), _outputs(pair.candidate.table)
    return bool(np.allclose(first, second, rtol=_MARGIN_TOLERANCE, atol=_MARGIN_TOLERANCE))


def _outputs(table: pd.DataFrame) -> np.ndarray:
    return table[["clean_prediction", "margin"]].to_numpy(dtype=np.float64)
