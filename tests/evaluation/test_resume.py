"""A run that is killed and started again ends like one that was not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mixbench.attacks import PGD, Stage
from mixbench.attacks.autoattack import AutoAttackStage
from mixbench.errors import RecordError
from mixbench.evaluation import Evaluation, Plan, evaluate, plan
from mixbench.records import EvaluationRecord
from mixbench.threat_model import ThreatModel
from tests.evaluation.attacks_for_tests import HALF_AND_FULL, Does, KilledError, Mortal, Push, Staged, pushed_plan
from tests.models_for_tests import grey_levels, labelled_by, linear_model, loaded

EPS = ("1/50", "1/10")
WHOLE = [f"{stage} {eps}" for _block in range(3) for eps in EPS for stage in ("half", "full")]
"""The stages of a run in order: three blocks of six examples, two radii, two stages."""


def mortal_plan(calls: list[str], *, dies_at: int | None = None) -> Plan:
    stages = tuple(Mortal(stage, calls, dies_at) for stage in HALF_AND_FULL)
    return pushed_plan(*EPS, stages=stages, block_size=6, wrong=(1,))


def content(evaluations: tuple[Evaluation, ...]) -> list[tuple[EvaluationRecord, bytes, bytes]]:
    """Return all that must be equal, time, memory and start aside."""
    return [(e.record.without_measurements(), e.examples, e.adversarials_bytes()) for e in evaluations]


def shards(workspace: Path) -> list[str]:
    return sorted(path.name for path in workspace.glob("*.npz"))


@pytest.mark.parametrize("dies_at", range(len(WHOLE)))
def test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_record(dies_at: int, tmp_path: Path) -> None:
    calls: list[str] = []
    expected = content(evaluate(mortal_plan(calls), workspace=tmp_path / "whole"))
    assert calls == WHOLE
    calls.clear()
    with pytest.raises(KilledError):
        evaluate(mortal_plan(calls, dies_at=dies_at), workspace=tmp_path / "killed")
    assert calls == WHOLE[:dies_at]
    found = content(evaluate(mortal_plan(calls), workspace=tmp_path / "killed"))
    assert found == expected
    assert calls == WHOLE


def test_a_run_that_is_killed_again_and_again_ends_all_the_same(tmp_path: Path) -> None:
    expected = content(evaluate(mortal_plan([]), workspace=tmp_path / "whole"))
    calls: list[str] = []
    for dies_at in range(len(WHOLE)):
        with pytest.raises(KilledError):
            evaluate(mortal_plan(calls, dies_at=dies_at), workspace=tmp_path / "killed")
    assert content(evaluate(mortal_plan(calls), workspace=tmp_path / "killed")) == expected
    assert calls == WHOLE


def test_a_finished_run_is_read_back_without_any_attack(tmp_path: Path) -> None:
    expected = content(evaluate(mortal_plan([]), workspace=tmp_path))
    calls: list[str] = []
    assert content(evaluate(mortal_plan(calls), workspace=tmp_path)) == expected
    assert calls == []


@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage", "deleted"])
def test_a_damaged_shard_is_computed_again_and_alone(damage: str, tmp_path: Path) -> None:
    expected = content(evaluate(mortal_plan([]), workspace=tmp_path))
    before = {name: (tmp_path / name).read_bytes() for name in shards(tmp_path)}
    path = tmp_path / "block-00001.eps-1_10.half.npz"
    if damage == "deleted":
        path.unlink()
    else:
        size = path.stat().st_size
        path.write_bytes({"truncated": path.read_bytes()[: size // 2], "emptied": b"", "garbage": b"\0" * size}[damage])
    calls: list[str] = []
    assert content(evaluate(mortal_plan(calls), workspace=tmp_path)) == expected
    assert calls == ["half 1/10"]
    assert shards(tmp_path) == sorted(before)


def test_a_shard_of_other_examples_is_not_taken(tmp_path: Path) -> None:
    """As when a file of an earlier stage was damaged and its twin now finds something else."""
    expected = content(evaluate(mortal_plan([]), workspace=tmp_path))
    first, second = (tmp_path / f"block-0000{block}.eps-1_50.half.npz" for block in (0, 1))
    first.write_bytes(second.read_bytes())
    calls: list[str] = []
    assert content(evaluate(mortal_plan(calls), workspace=tmp_path)) == expected
    assert calls == ["half 1/50"]


def test_the_real_searches_go_on_bit_for_bit(tmp_path: Path) -> None:
    model = linear_model()
    examples = labelled_by(model, grey_levels(12))
    threat_models = [ThreatModel.parse("Linf 1/100")]

    def run(
        workspace: str, calls: list[str], dies_at: int | None = None
    ) -> list[tuple[EvaluationRecord, bytes, bytes]]:
        stages = tuple(Mortal(stage, calls, dies_at) for stage in (PGD(steps=5), AutoAttackStage("apgd-ce")))
        run_plan = plan(loaded(model), examples, Staged(stages), threat_models, seed=3, block_size=6)
        return content(evaluate(run_plan, workspace=tmp_path / workspace))

    expected = run("whole", [])
    assert sum(expected[0][0].broken_by.values()) not in {0, 12}
    with pytest.raises(KilledError):
        run("killed", [], dies_at=3)
    assert run("killed", []) == expected


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (pushed_plan("1/10", seed=1), "protocols"),
        (pushed_plan("1/5"), "protocols, threat models"),
        (pushed_plan("1/10", levels=(10, 200)), "protocols"),
        (pushed_plan("1/10", stages=(Push(),)), "protocols"),
    ],
    ids=["seed", "eps", "examples", "attack"],
)
def test_the_workspace_of_another_run_is_refused(other: Plan, differing: str, tmp_path: Path) -> None:
    evaluate(pushed_plan("1/10"), workspace=tmp_path)
    with pytest.raises(RecordError, match=rf"finished blocks of another run \(other {differing}\): choose another"):
        evaluate(other, workspace=tmp_path)


def test_another_model_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    run_plan = pushed_plan("1/10")
    evaluate(run_plan, workspace=tmp_path)
    other = loaded(run_plan.model.module, name="toy 2")
    twin = plan(other, run_plan.examples, run_plan.attack, run_plan.threat_models, seed=0)
    with pytest.raises(RecordError, match=r"another run \(other model, sha256\)"):
        evaluate(twin, workspace=tmp_path)


def test_a_workspace_that_cannot_be_written_ends_the_run_before_the_attack(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    calls: list[str] = []
    with pytest.raises(RecordError, match=r"cannot write .*: a (part of the path is a file|file is in the way)"):
        evaluate(mortal_plan(calls), workspace=tmp_path / "file" / "run")
    assert calls == []


def test_a_workspace_that_goes_away_ends_the_run_with_what_was_finished(tmp_path: Path) -> None:
    """The fourth stage replaces the folder by a file, as good as a full disk."""
    workspace, moved = tmp_path / "run", tmp_path / "moved"
    calls: list[str] = []

    def sabotage(stage: Stage, *arguments: Any) -> Tensor:
        if len(calls) == 3:
            workspace.rename(moved)
            workspace.touch()
        calls.append(stage.name)
        return stage.perturb(*arguments, seed=0)

    stages = tuple(Does(partial(sabotage, stage), stage.name) for stage in HALF_AND_FULL)
    run_plan = pushed_plan(*EPS, stages=stages, block_size=6, wrong=(1,))
    with pytest.raises(RecordError, match=r"cannot write .*; what was finished before is kept, so make room"):
        evaluate(run_plan, workspace=workspace)
    workspace.unlink()
    moved.rename(workspace)
    assert len(shards(workspace)) == 3
    calls.clear()
    assert content(evaluate(mortal_plan(calls), workspace=workspace)) == content(
        evaluate(mortal_plan([]), workspace=tmp_path / "whole")
    )
    assert calls == WHOLE[3:]
