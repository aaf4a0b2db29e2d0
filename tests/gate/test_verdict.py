"""The gate's promises about errors, checked on thousands of seeded synthetic pairs, and what it makes of odd ones."""

from functools import cache

import numpy as np
import pytest

from mixbench.errors import InvalidInputError, RecordError
from mixbench.gate import Pair, Verdict, gate, gate_all, worst
from mixbench.paired_difference import exceeds_p
from mixbench.statistics import holm
from mixbench.store import StoredEvaluation
from tests.evaluations_for_tests import unstored

_DRAWS = 4000
# Three standard errors of a rate of 5% among the draws.
_ERROR = 3 * (0.05 * 0.95 / _DRAWS) ** 0.5


def pair(only_baseline: int, only_candidate: int, n: int) -> tuple[StoredEvaluation, StoredEvaluation]:
    """Two models that lose examples without attack, so that clean and robust accuracy fall alike."""
    rest = ["robust"] * (n - only_baseline - only_candidate)
    before = ["robust"] * only_baseline + ["wrong"] * only_candidate + rest
    after = ["wrong"] * only_baseline + ["robust"] * only_candidate + rest
    return unstored(before), unstored(after, sha256="b" * 64)


@cache
def verdict_of(only_baseline: int, only_candidate: int, n: int, margin: float) -> Verdict:
    return gate(*pair(only_baseline, only_candidate, n), margin=margin, alpha=0.05).verdict


def rates(*, n: int, fall: float, gained: float, margin: float, seed: int = 0) -> dict[Verdict, float]:
    """How often each verdict comes over synthetic pairs of `n` examples.

    `fall` and `margin` are in points; `gained` is the rate of examples that are right for the candidate alone.
    """
    lost = fall / 100 + gained
    draws = np.random.Generator(np.random.PCG64(seed)).multinomial(n, [lost, gained, 1 - lost - gained], size=_DRAWS)
    outcomes, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    found = dict.fromkeys(Verdict, 0.0)
    for (only_baseline, only_candidate), count in zip(outcomes.tolist(), counts.tolist(), strict=True):
        found[verdict_of(only_baseline, only_candidate, n, margin)] += count / _DRAWS
    return found


@pytest.mark.parametrize(
    ("n", "margin", "gained"),
    [
        pytest.param(12, 10.0, 0.05, id="few examples"),
        pytest.param(60, 5.0, 0.0, id="nothing gained"),
        pytest.param(30, 5.0, 0.4, id="nearly all discordant"),
        pytest.param(360, 1.0, 0.002, id="small margin"),
        pytest.param(300, 2.0, 0.005, id="300 examples"),
        pytest.param(200, 0.0, 0.015, id="no margin"),
    ],
)
def test_at_the_margin_false_alarms_and_false_passes_are_rarer_than_alpha(n: int, margin: float, gained: float) -> None:
    found = rates(n=n, fall=margin, gained=gained, margin=margin)
    assert found[Verdict.FAIL] <= 0.05 + _ERROR
    assert found[Verdict.PASS] <= 0.05 + _ERROR


def test_without_a_change_false_alarms_are_rare_and_enough_examples_pass() -> None:
    found = rates(n=900, fall=0.0, gained=0.003, margin=1.0)
    assert found[Verdict.FAIL] <= 0.001
    assert found[Verdict.PASS] >= 0.75


def test_a_candidate_that_is_as_good_passes_as_often_as_the_examples_needed_promise() -> None:
    check = gate(*pair(2, 2, 200), margin=3.0, alpha=0.05).checks[0]
    assert check.examples_needed is not None
    assert rates(n=check.examples_needed, fall=0.0, gained=0.01, margin=3.0)[Verdict.PASS] == pytest.approx(
        0.8, abs=0.06
    )


@pytest.mark.parametrize(("n", "gained", "margin"), [(200, 0, 1.0), (150, 1, 3.0)])
def test_a_fall_as_big_as_the_detectable_one_fails_as_often_as_promised(n: int, gained: int, margin: float) -> None:
    check = gate(*pair(gained, gained, n), margin=margin, alpha=0.05).checks[1]
    assert check.detectable_fall is not None
    found = rates(n=n, fall=check.detectable_fall, gained=gained / n, margin=margin)
    assert 0.77 <= found[Verdict.FAIL] <= 0.87
    assert found[Verdict.PASS] == 0


def test_a_big_fall_all_but_always_fails() -> None:
    assert rates(n=360, fall=8.0, gained=0.0, margin=1.0)[Verdict.FAIL] >= 0.995


@pytest.mark.parametrize(
    ("counts", "margin", "verdict"),
    [
        pytest.param((60, 0, 360), 1.0, Verdict.FAIL, id="a fall of 17 points"),
        pytest.param((0, 0, 360), 1.0, Verdict.PASS, id="equal verdicts of many examples"),
        pytest.param((0, 0, 298), 1.0, Verdict.INCONCLUSIVE, id="equal verdicts, one example too few"),
        pytest.param((0, 0, 299), 1.0, Verdict.PASS, id="equal verdicts, just enough"),
        pytest.param((0, 0, 20), 1.0, Verdict.INCONCLUSIVE, id="equal verdicts of few examples"),
        pytest.param((0, 0, 10_000), 0.0, Verdict.INCONCLUSIVE, id="equal verdicts without a margin"),
        pytest.param((0, 12, 360), 0.0, Verdict.PASS, id="an improvement without a margin"),
        pytest.param((12, 0, 360), 0.0, Verdict.FAIL, id="a fall without a margin"),
        pytest.param((5, 0, 360), 1.0, Verdict.INCONCLUSIVE, id="a fall beyond the margin, without confidence"),
        pytest.param((1, 0, 1), 50.0, Verdict.INCONCLUSIVE, id="one example"),
    ],
)
def test_verdicts(counts: tuple[int, int, int], margin: float, verdict: Verdict) -> None:
    assert gate(*pair(*counts), margin=margin, alpha=0.05).verdict is verdict


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_same_weights_with_the_same_outputs_pass_at_any_size(margin: float) -> None:
    evaluation = unstored(["robust", "wrong", "apgd-ce"])
    found = gate(evaluation, evaluation, margin=margin, alpha=0.05)
    assert found.verdict is Verdict.PASS
    assert [check.reproduced for check in found.checks] == [True, True]


@pytest.mark.parametrize("moved", [5e-5, 0.01])
def test_the_same_weights_are_the_same_model_only_if_margins_agree_up_to_rounding(moved: float) -> None:
    before, after = unstored(["robust"] * 5), unstored(["robust"] * 5)
    after.table["margin"] += np.float32(moved)
    found = gate(before, after, margin=1.0, alpha=0.05)
    assert found.verdict is (Verdict.PASS if moved < 1e-4 else Verdict.INCONCLUSIVE)


def test_one_flipped_verdict_of_the_same_weights_is_judged_by_the_margin() -> None:
    before, after = unstored(["robust"] * 360), unstored(["apgd-ce"] + ["robust"] * 359)
    clean, robust = gate(before, after, margin=1.0, alpha=0.05).checks
    assert (clean.verdict, clean.reproduced) == (Verdict.PASS, True)
    assert (robust.verdict, robust.reproduced) == (Verdict.INCONCLUSIVE, False)
    assert gate(before, after, margin=3.0, alpha=0.05).verdict is Verdict.PASS


def test_clean_and_robust_accuracy_are_judged_apart() -> None:
    before, after = unstored(["robust"] * 400), unstored(["apgd-t"] * 80 + ["robust"] * 320, sha256="b" * 64)
    clean, robust = gate(before, after, margin=1.0, alpha=0.05).checks
    assert (clean.comparison.outcome, clean.verdict) == ("clean", Verdict.PASS)
    assert (robust.comparison.outcome, robust.verdict) == ("robust", Verdict.FAIL)
    assert robust.comparison.second_lost_to == {"clean": 0, "apgd-ce": 0, "apgd-t": 80}


def test_all_checks_of_a_call_share_alpha_by_holms_rule() -> None:
    pairs = [Pair(*pair(lost, 0, 200), margin=2.0) for lost in (10, 12, 3, 0)]
    found = [check for verdict in gate_all(pairs, alpha=0.05) for check in verdict.checks]
    raw = [exceeds_p(lost, 0, 200, difference=0.02) for lost in (10, 10, 12, 12, 3, 3, 0, 0)]
    assert [check.regression_p for check in found] == holm(raw).tolist()
    alone = gate(*pair(10, 0, 200), margin=2.0, alpha=0.05)
    assert alone.verdict is Verdict.FAIL
    assert gate_all(pairs, alpha=0.05)[0].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("counts", [(0, 0, 40), (3, 1, 40), (9, 2, 40), (20, 0, 40), (1, 8, 40), (30, 5, 300)])
@pytest.mark.parametrize("margin", [0.0, 2.0, 20.0])
def test_the_interval_of_the_fall_tells_what_the_verdict_says(counts: tuple[int, int, int], margin: float) -> None:
    check = gate(*pair(*counts), margin=margin, alpha=0.05).checks[0]
    # The ends are found by bisection, to 2e-4 points.
    assert (check.verdict is Verdict.PASS) == (check.fall.high <= margin + 2e-4)
    if check.verdict is Verdict.FAIL:
        assert check.fall.low >= margin - 2e-4


def test_another_model_is_refused_unless_it_is_allowed() -> None:
    before = unstored(["robust"] * 400)
    record = before.record.model_copy(
        update={"model": before.record.model.model_copy(update={"name": "convmixer_trained.digits"})}
    )
    after = StoredEvaluation(record, before.table, before.folder)
    with pytest.raises(RecordError, match=r"is of convmixer_trained\.digits, its baseline .* of convmixer_f"):
        gate(before, after, margin=1.0, alpha=0.05)
    assert gate(before, after, margin=1.0, alpha=0.05, allow_other_model=True).verdict is Verdict.PASS


def test_no_baseline_is_no_pass() -> None:
    with pytest.raises(InvalidInputError, match="there is no baseline"):
        gate_all([], alpha=0.05)


@pytest.mark.parametrize("alpha", [-0.1, 0.0, 0.5, 1.0, float("nan")])
def test_a_level_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(InvalidInputError, match=r"is not between 0 and 0\.5"):
        gate(*pair(0, 0, 5), margin=1.0, alpha=alpha)


@pytest.mark.parametrize("margin", [-1.0, 100.0, float("nan")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InvalidInputError, match="is not from 0 up to 100 points"):
        gate(*pair(0, 0, 5), margin=margin, alpha=0.05)


def test_the_worst_verdict_counts() -> None:
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
