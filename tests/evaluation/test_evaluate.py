"""The engine on attacks and models whose outcome is known in closed form."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor, nn

from mixbench.attacks import PGD, AutoAttack, attack_named
from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.errors import InvalidInputError
from mixbench.evaluation import Evaluation, Plan, evaluate, plan
from mixbench.records import Accuracy, EvaluationRecord
from mixbench.store import Store, decode_examples
from mixbench.threat_model import Norm, ThreatModel
from tests.canaries.digits_model import Wrapped
from tests.evaluation.attacks_for_tests import Does, Push, Staged, pixel_examples, pushed_plan
from tests.models_for_tests import (
    as_floats,
    grey_levels,
    labelled_by,
    linear_model,
    loaded,
    one_pixel_model,
    small_convmixer,
)

radii = one_pixel_model().radii(as_floats(pixel_examples().images), Norm.LINF)
EPS = ("1/50", "1/10", "2/5")


def run(run_plan: Plan, workspace: Path, *, micro_batch: int | None = None) -> tuple[Evaluation, ...]:
    return evaluate(run_plan, workspace=workspace, micro_batch=micro_batch)


def table(evaluation: Evaluation) -> pd.DataFrame:
    return decode_examples(evaluation.examples, source="test")


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("block_size", [3, 16, 1000])
def test_the_counts_are_those_of_the_closed_form(eps: str, block_size: int, tmp_path: Path) -> None:
    wrong = np.isin(np.arange(16), [2, 7, 15])
    (evaluation,) = run(pushed_plan(eps, wrong=(2, 7, 15), block_size=block_size), tmp_path)
    record, radius = evaluation.record, float(Fraction(eps))
    assert record.clean == Accuracy(correct=13, total=16)
    assert record.broken_by == {
        "half": int((~wrong & (radii < radius / 2)).sum()),
        "full": int((~wrong & (radii >= radius / 2) & (radii < radius)).sum()),
    }
    assert record.robust == Accuracy(correct=int((~wrong & (radii > radius)).sum()), total=16)


def test_every_row_of_the_table_is_what_the_closed_form_says(tmp_path: Path) -> None:
    run_plan = pushed_plan("1/10", wrong=(2,))
    (evaluation,) = run(run_plan, tmp_path)
    rows, broken = table(evaluation), (radii < 0.1) & (np.arange(16) != 2)
    labels = run_plan.examples.labels
    correct = np.where(np.arange(16) == 2, -1, 1)
    assert rows["index"].tolist() == list(range(16))
    assert rows["label"].tolist() == labels.tolist()
    assert ((rows["clean_prediction"] == rows["label"]) == (correct == 1)).all()
    np.testing.assert_allclose(rows["margin"], radii * correct, atol=1e-6)
    assert rows["broken"].tolist() == broken.tolist()
    found = rows[broken]
    assert found["broken_by"].tolist() == np.where(radii < 0.05, "half", "full")[broken].tolist()
    assert set(found["eps"]) == {"1/10"}
    assert (found["adversarial_prediction"] == 1 - labels[broken]).all()
    share = np.where(radii < 0.05, 0.05, 0.1)[broken]
    np.testing.assert_allclose(found["norm"], share, atol=1e-6)
    np.testing.assert_allclose(found["adversarial_margin"], radii[broken] - share, atol=1e-6)
    unbroken = ["broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm"]
    assert rows.loc[~broken, unbroken].isna().all(axis=None)
    # One clean forward; each stage a forward, a backward and a forward to verify the result.
    attacked_twice = (radii >= 0.05) & (correct == 1)
    assert rows["forwards"].tolist() == (1 + 2 * (correct == 1) + 2 * attacked_twice).tolist()
    assert rows["backwards"].tolist() == (1 * (correct == 1) + attacked_twice).tolist()


@pytest.mark.parametrize("block_size", [5, 1000])
def test_record_table_and_images_tell_the_same_story(block_size: int, tmp_path: Path) -> None:
    evaluations = run(pushed_plan(*EPS, wrong=(3,), block_size=block_size), tmp_path / "run")
    examples = pixel_examples(wrong=(3,))
    for evaluation in evaluations:
        record, rows = evaluation.record, table(evaluation)
        assert record.robust.correct == record.clean.correct - sum(record.broken_by.values())
        assert record.broken_by == {name: int((rows["broken_by"] == name).sum()) for name in ("half", "full")}
        assert (record.cost.forwards, record.cost.backwards) == (rows["forwards"].sum(), rows["backwards"].sum())
        assert evaluation.indices.tolist() == rows["index"][rows["broken"]].tolist()
        verified = one_pixel_model()(torch.from_numpy(evaluation.adversarials)).argmax(1).numpy()
        assert verified.tolist() == rows["adversarial_prediction"].dropna().tolist()
        assert (verified != examples.labels[evaluation.indices]).all()
        kept = load(evaluation.adversarials_bytes())
        assert kept["index"].tolist() == evaluation.indices.tolist()
        np.testing.assert_array_equal(kept["images"], evaluation.adversarials)
        Store(tmp_path / "store").add(record, examples=evaluation.examples)
    assert len(Store(tmp_path / "store").records()) == len(EPS)


def test_a_record_survives_its_own_json(tmp_path: Path) -> None:
    (evaluation,) = run(pushed_plan("1/10"), tmp_path)
    assert EvaluationRecord.from_json(evaluation.record.to_json()) == evaluation.record


def test_with_several_eps_each_record_is_that_of_the_closed_form(tmp_path: Path) -> None:
    evaluations = run(pushed_plan(*EPS), tmp_path)
    for evaluation, eps in zip(evaluations, EPS, strict=True):
        broken = radii < float(Fraction(eps))
        assert table(evaluation)["broken"].tolist() == broken.tolist()
        assert evaluation.record.robust.correct == (~broken).sum()


def test_what_is_found_at_a_smaller_eps_counts_at_every_larger_one(tmp_path: Path) -> None:
    """The stage at the larger radii does nothing, so all they have is carried over."""

    def shy(model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel) -> Tensor:
        small = threat_model.eps == Fraction(1, 50)
        return Push().perturb(model, images, labels, threat_model, seed=0) if small else images

    small, middle, large = run(pushed_plan(*EPS, stages=(Does(shy),)), tmp_path)
    broken = radii < 1 / 50
    assert broken.any()
    for evaluation in (small, middle, large):
        assert table(evaluation)["broken"].tolist() == broken.tolist()
        assert set(table(evaluation)["eps"].dropna()) == {"1/50"}
        np.testing.assert_array_equal(evaluation.adversarials, small.adversarials)


def test_larger_radii_attack_the_survivors_alone_and_cost_adds_up(tmp_path: Path) -> None:
    stage = Push("push", queries=3)
    evaluations = run(pushed_plan(*EPS, stages=(stage,)), tmp_path)
    survivors = [16, *((radii > float(Fraction(eps))).sum() for eps in EPS[:-1])]
    assert stage.attacked == survivors
    spent = np.cumsum(survivors)
    assert [evaluation.record.cost.forwards for evaluation in evaluations] == (16 + 4 * spent).tolist()
    assert [evaluation.record.cost.backwards for evaluation in evaluations] == (3 * spent).tolist()


def test_robust_accuracy_never_rises_with_eps(tmp_path: Path) -> None:
    """A stage that is lazier at larger radii would by itself seem to show the opposite."""
    model = linear_model()
    examples = labelled_by(model, grey_levels(40))
    grid = [ThreatModel(Norm.L2, Fraction(n, 200)) for n in (1, 3, 6, 12, 24)]
    attack = PGD(steps=2, relative_step_size=0.3)
    robust = [
        evaluation.record.robust.correct
        for evaluation in run(plan(loaded(model), examples, attack, grid, seed=0), tmp_path)
    ]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[-1]


def test_the_first_of_many_eps_is_the_record_of_that_eps_alone(tmp_path: Path) -> None:
    alone, *_ = run(pushed_plan(EPS[0]), tmp_path / "alone")
    first, second, _ = run(pushed_plan(*EPS), tmp_path / "many")
    assert first.record.without_measurements() == alone.record.without_measurements().model_copy(
        update={"provenance": first.record.without_measurements().provenance}
    )
    assert first.examples == alone.examples
    other, *_ = run(pushed_plan(EPS[1]), tmp_path / "other")
    assert second.record.protocol.eps_grid == (Fraction(EPS[0]), Fraction(EPS[1]))
    assert second.record.protocol.hash != other.record.protocol.hash


RADIUS_OF_128 = Fraction(128, 255) - Fraction(1, 2)


@pytest.mark.parametrize(
    ("eps", "borderline"),
    [(RADIUS_OF_128 + Fraction(1, 20_000), 1), (RADIUS_OF_128 + Fraction(1, 5_000), 0)],
    ids=["margin-5e-5", "margin-2e-4"],
)
def test_examples_that_other_hardware_may_decide_otherwise_are_counted(
    eps: Fraction, borderline: int, tmp_path: Path
) -> None:
    (evaluation,) = run(pushed_plan(str(eps), stages=(Push(),), levels=(128, 200)), tmp_path)
    assert evaluation.record.broken_by == {"push": 1}
    assert evaluation.record.borderline == borderline


def test_misclassified_examples_are_never_attacked(tmp_path: Path) -> None:
    stage = Push()
    (evaluation,) = run(pushed_plan("1/10", stages=(stage,), wrong=range(16)), tmp_path)
    assert stage.attacked == []
    assert evaluation.record.clean == evaluation.record.robust == Accuracy(correct=0, total=16)
    assert evaluation.adversarials.shape == (0, 1, 2, 2)


def test_nothing_of_the_process_is_changed(tmp_path: Path) -> None:
    model = linear_model()
    run_plan = plan(loaded(model), labelled_by(model, grey_levels(6)), PGD(), [ThreatModel.parse("Linf 1/50")], seed=0)
    before = torch.random.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002 - the one that must not move
    run(run_plan, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002 - as above
    assert torch.is_grad_enabled()
    assert model.weights.requires_grad
    assert not model.training


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce", "fab-t"])
def test_no_attack_fills_the_gradients_of_parameters(name: str, tmp_path: Path) -> None:
    """They cost memory and time, and a training loop that goes on afterwards would step along them."""
    model = linear_model()
    attack = attack_named(name) if name in {"fgsm", "pgd"} else Staged((AutoAttackStage(name),))
    examples = labelled_by(model, grey_levels(6))
    (evaluation,) = run(plan(loaded(model), examples, attack, [ThreatModel.parse("Linf 1/50")], seed=0), tmp_path)
    assert evaluation.record.cost.backwards > 0
    assert model.weights.grad is None


def test_what_the_library_and_the_attack_have_to_say_is_in_the_record(tmp_path: Path) -> None:
    """Zero gradients are announced once for each target; numbers aside it is one message. FGSM adds its doubts."""
    model = linear_model()
    examples, threat_models = labelled_by(model, grey_levels(6)), [ThreatModel.parse("Linf 1/1000")]
    staged = Staged((AutoAttackStage("apgd-t"),))
    (evaluation,) = run(plan(loaded(model), examples, staged, threat_models, seed=0), tmp_path / "apgd-t")
    (said,) = evaluation.record.warnings
    assert said.startswith("apgd-t: there are 6 points with zero gradient!")
    (evaluation,) = run(plan(loaded(model), examples, attack_named("fgsm"), threat_models, seed=0), tmp_path / "fgsm")
    (said,) = evaluation.record.warnings
    assert said.startswith("fgsm: a single gradient step")


def test_a_randomised_model_is_reported_at_every_eps(tmp_path: Path) -> None:
    model = Wrapped(linear_model(), before=lambda images: images + 1e-3 * torch.randn_like(images)).eval()
    examples = labelled_by(linear_model(), grey_levels(6))

    class Inspected(Staged):
        def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
            AutoAttack().inspect(model, images, labels)

    grid = [ThreatModel.parse("Linf 1/1000"), ThreatModel.parse("Linf 1/500")]
    attack = Inspected((Push(),))
    for evaluation in run(plan(loaded(model), examples, attack, grid, seed=0), tmp_path):
        assert [said for said in evaluation.record.warnings if "randomized defense" in said]


def test_a_micro_batch_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="micro-batch 0 is not at least 1: leave it out to fit the device"):
        run(pushed_plan("1/10"), tmp_path, micro_batch=0)


def test_a_model_in_train_mode_is_refused(tmp_path: Path) -> None:
    run_plan = pushed_plan("1/10", model=one_pixel_model().train())
    with pytest.raises(InvalidInputError, match="train mode"):
        run(run_plan, tmp_path)


def test_a_model_of_other_classes_is_refused_before_the_attack(tmp_path: Path) -> None:
    stage = Push()
    model = small_convmixer()
    examples = labelled_by(linear_model((1, 8, 8)), grey_levels(6, (1, 8, 8)))
    run_plan = plan(loaded(model), examples, Staged((stage,)), [ThreatModel.parse("Linf 1/10")], seed=0)
    with pytest.raises(InvalidInputError, match="returned 10 classes and the dataset has 4"):
        run(run_plan, tmp_path)
    assert stage.attacked == []
