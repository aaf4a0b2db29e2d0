"""AutoAttack by the fast engine, as the harness runs it."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixbench.attacks import AutoAttack, FastAutoAttack, attack_named
from mixbench.datasets import Examples, load_examples
from mixbench.evaluation import Evaluation, compare_engines, evaluate, plan
from mixbench.evaluation.engine import engine_for
from mixbench.evaluation.engine_benchmark import operations_of
from mixbench.models import load_model
from mixbench.store import decode_examples
from mixbench.threat_model import Norm, ThreatModel
from tests.canaries.digits_model import Wrapped
from tests.models_for_tests import as_floats, grey_levels, labelled_by, linear_model, loaded

RADII = [ThreatModel.parse("Linf 1/10")]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return load_examples("digits", data_dir=None, cache_dir=tmp_path_factory.mktemp("cache"), n_examples=12, seed=0)


def broken(evaluation: Evaluation) -> np.ndarray:
    return decode_examples(evaluation.examples, source="test")["broken"].to_numpy(bool)


@pytest.fixture(scope="module")
def whole(digits: Examples, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    run_plan = plan(load_model("convmixer_frozen.digits"), digits, FastAutoAttack(), RADII, seed=0)
    return evaluate(run_plan, workspace=tmp_path_factory.mktemp("whole"))[-1]


def test_the_record_names_the_engine_and_what_it_searched_in(whole: Evaluation) -> None:
    record = whole.record
    assert record.attack.implementation == "mixbench fast engine 1"
    assert record.provenance.precision == "float32; searched in float32 (folded)"
    assert record.attack.parameters["square_queries"] == "5000"


def test_a_survivor_was_given_the_whole_budget_and_a_broken_example_less(whole: Evaluation, digits: Examples) -> None:
    table = decode_examples(whole.examples, source="test")
    stages = [stage.passes(RADII[-1], num_classes=10) for stage in FastAutoAttack().stages]
    survivors = table[~table["broken"] & (table["clean_prediction"] == table["label"])]
    assert len(survivors) >= 1
    assert (survivors["backwards"] == len(RADII) * sum(passes.backwards for passes in stages)).all()
    assert (survivors["forwards"] >= len(RADII) * sum(passes.forwards for passes in stages)).all()
    early = table[table["broken"] & (table["eps"] == str(RADII[0].eps))]
    assert (early["backwards"] < stages[0].backwards).any()
    assert len(table) == len(digits)


def linear_verdicts(workspace: Path, *, block_size: int = 1000, micro_batch: int = 64) -> np.ndarray:
    model = linear_model()
    radii = model.radii(as_floats(grey_levels(20)), Norm.LINF)
    run_plan = plan(
        loaded(model),
        labelled_by(model, grey_levels(20), wrong=(3,)),
        FastAutoAttack(),
        [ThreatModel(Norm.LINF, Fraction(float(np.median(radii))))],
        seed=0,
        block_size=block_size,
    )
    return broken(evaluate(run_plan, workspace=workspace, micro_batch=micro_batch)[-1])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return linear_verdicts(tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize(("block_size", "micro_batch"), [(1, 64), (1000, 16), (3, 8)])
def test_blocks_and_micro_batches_change_no_verdict(
    together: np.ndarray, tmp_path: Path, block_size: int, micro_batch: int
) -> None:
    cut = linear_verdicts(tmp_path, block_size=block_size, micro_batch=micro_batch)
    assert np.array_equal(cut, together)
    assert 0 < together.sum() < 19


def test_a_model_that_nobody_knows_how_to_hasten_is_attacked_as_it_is(tmp_path: Path) -> None:
    model = linear_model()
    examples = labelled_by(model, grey_levels(12), wrong=(0,))
    fast, reference = (
        evaluate(plan(loaded(model), examples, attack, RADII, seed=0), workspace=tmp_path / attack.implementation)[-1]
        for attack in (FastAutoAttack(), AutoAttack())
    )
    assert fast.record.provenance.precision == "float32; searched in float32 (eager)"
    assert np.array_equal(broken(fast), broken(reference))


def test_the_judge_is_asked_about_all_that_the_executor_might_misjudge() -> None:
    """Suspicion is a multiple of the largest disagreement between network and judge."""
    model = linear_model()
    images = as_floats(grey_levels(12))
    labels = model(images).argmax(1)
    engine, executor = engine_for(model, images, labels, micro_batch=5)
    assert (executor.network is model, engine.suspicion, engine.slots) == (True, 0, 4)
    assert torch.equal(engine.judge(images, labels) >= 0, torch.ones(12, dtype=torch.bool))


@pytest.mark.parametrize("changed", ["activation", "bias"])
def test_a_changed_architecture_is_not_taken_for_the_known_one(changed: str, digits: Examples) -> None:
    """Its fast executor would compute another function, and the search would look for another model's weaknesses."""
    model: Any = load_model("convmixer_frozen.digits").module
    images = torch.from_numpy(digits.images.copy()).float() / 255
    labels = torch.from_numpy(digits.labels.copy())
    assert engine_for(model, images, labels, micro_batch=64)[1].kernels == "folded"
    if changed == "activation":
        model.blocks[2][2] = nn.ReLU()
    else:
        model.blocks[1][0].fn[0].register_forward_hook(lambda _module, _inputs, output: output + 1)
    engine, executor = engine_for(model, images, labels, micro_batch=64)
    assert (executor.kernels, executor.network) == ("eager", model)
    assert engine.suspicion == 0


def test_both_engines_are_compared_on_the_same_examples() -> None:
    model = linear_model()
    examples = labelled_by(model, grey_levels(12), wrong=(0,))
    fast, reference = (
        plan(loaded(model), examples, attack, RADII[-1:], seed=0) for attack in (FastAutoAttack(), AutoAttack())
    )
    result = compare_engines(fast, [reference], warm_up=[], device="cpu")
    assert result.agreement == 1
    assert (result.only_fast.size, result.only_reference.size) == (0, 0)
    assert result.ratio == result.reference[0].seconds / result.fast.seconds
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    assert operations_of(flat, (1, 6, 6)) == 2 * 36 * 5
    slower = replace(result.reference[0], seconds=result.reference[0].seconds + 100)
    assert replace(result, reference=(slower, *result.reference)).best is result.reference[0]


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_gradient_attacks_may_search_with_the_executor(name: str, digits: Examples, tmp_path: Path) -> None:
    model, found = load_model("convmixer_frozen.digits"), dict[str, Evaluation]()
    for engine in ("fast", "reference"):
        run_plan = plan(model, digits, attack_named(name, engine=engine), RADII, seed=0)
        (found[engine],) = evaluate(run_plan, workspace=tmp_path / engine)
    fast, reference = found["fast"].record, found["reference"].record
    assert (fast.attack.engine, reference.attack.engine) == ("fast", "reference")
    assert fast.provenance.precision == "float32; searched in float32 (folded)"
    assert fast.protocol.hash != reference.protocol.hash
    assert (fast.cost.forwards, fast.cost.backwards) == (reference.cost.forwards, reference.cost.backwards)
    assert np.array_equal(broken(found["fast"]), broken(found["reference"]))


def test_a_model_that_hides_its_gradients_is_named_in_the_record(tmp_path: Path) -> None:
    stairs = Wrapped(linear_model(), before=lambda images: torch.round(images * 15) / 15).eval()
    doubts: list[tuple[str, ...]] = []
    for name, model in (("stairs", stairs), ("linear", linear_model())):
        run_plan = plan(loaded(model), labelled_by(model, grey_levels(8)), FastAutoAttack(), RADII, seed=0)
        (evaluation,) = evaluate(run_plan, workspace=tmp_path / name)
        doubts.append(tuple(warning for warning in evaluation.record.warnings if "zero" in warning))
    assert len(doubts[0]) == 1
    assert re.fullmatch(r"apgd-t: \d of \d examples have a zero gradient at the start, .* overestimated", doubts[0][0])
    assert doubts[1] == ()
