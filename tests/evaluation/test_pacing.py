import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbench.evaluation import Plan, Progress, evaluate
from mixbench.evaluation.blocks import Block, blocks
from mixbench.evaluation.ledger import Ledger
from mixbench.evaluation.pacing import Pace
from mixbench.evaluation.workspace import StageResult
from mixbench.records import Accuracy
from mixbench.threat_model import parse_eps
from tests.evaluation.attacks_for_tests import HALF_AND_FULL, LEVELS, Push, pushed_plan


def moments(plan: Plan, workspace: Path, *, micro_batch: int | None = None) -> list[Progress]:
    heard: list[Progress] = []
    evaluate(plan, workspace=workspace, micro_batch=micro_batch, progress=heard.append)
    return heard


class Walk:
    """A run without models: each stage says what it spends and breaks."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan)
        self.heard: list[Progress] = []
        self.blocks = list(blocks(len(plan.examples), block_size=plan.protocols[0].block_size))
        self.pace = Pace(plan, n_blocks=len(self.blocks), callback=self.heard.append)

    def enter_clean(self, block: Block) -> None:
        labels = self.plan.examples.labels[block.start : block.stop]
        self.ledger.enter_clean(
            block, predictions=labels, margins=np.ones(len(labels), np.float32), seconds=0, peak_memory_bytes=0
        )

    def stage(self, block: Block, number: int, *, spend: Callable[[], None], breaks: int) -> None:
        stage = self.plan.attack.stages[number]
        positions = self.ledger.robust_positions(block, 0)
        self.pace.enter(stage, block, self.ledger, 0)
        spend()
        broken = np.arange(len(positions)) < breaks
        self.ledger.enter_stage(stage.name, 0, stage_result(positions, broken))
        self.pace.leave()

    @property
    def work(self) -> list[tuple[int, int]]:
        return [(moment.done, moment.total) for moment in self.heard]


def stage_result(positions: np.ndarray, broken: np.ndarray) -> StageResult:
    found, n = int(broken.sum()), len(positions)
    return StageResult(
        positions=positions,
        broken=broken,
        adversarials=np.zeros((found, 1, 2, 2), np.float32),
        predictions=np.ones(found, np.int64),
        margins=-np.ones(found, np.float32),
        norms=np.ones(found),
        forwards=np.zeros(n, np.int64),
        backwards=np.zeros(n, np.int64),
        warnings=(),
        seconds=0,
        peak_memory_bytes=0,
    )


def test_work_is_counted_against_an_estimate_that_falls_as_examples_break() -> None:
    """Sixteen examples, two stages of five queries: 5 forwards, 5 backwards at twice the price and a verification."""
    stages = (Push("one", queries=5), Push("two", queries=5))
    walk = Walk(pushed_plan("1/10", stages=stages))
    (block,) = walk.blocks
    each = 5 + 2 * 5 + 1
    walk.enter_clean(block)
    walk.stage(block, 0, spend=lambda: walk.pace.passes(16, 16), breaks=12)
    walk.stage(block, 1, spend=lambda: walk.pace.passes(4 * each, 0), breaks=0)
    assert walk.work == [
        (0, 2 * 16 * each),
        (48, 2 * 16 * each),
        (48, 48 + 16 * each),  # the stage was cheaper than feared; how many it broke is not known yet
        (48, 48 + 4 * each),
        (48 + 4 * each, 48 + 4 * each),
        (48 + 4 * each, 48 + 4 * each),
    ]


def test_a_stage_that_overspends_never_makes_the_total_fall_below_what_is_done() -> None:
    walk = Walk(pushed_plan("1/10", stages=(Push("one"), Push("two"))))
    (block,) = walk.blocks
    walk.enter_clean(block)
    walk.stage(block, 0, spend=lambda: walk.pace.passes(1000, 1000), breaks=0)
    assert all(total >= done for done, total in walk.work)
    assert walk.work[-1] == (3000, 3000 + 16 * 4)


def test_a_restart_forgets_the_work_of_the_stage_alone() -> None:
    walk = Walk(pushed_plan("1/10"))
    (block,) = walk.blocks
    walk.enter_clean(block)

    def run_out_of_memory() -> None:
        walk.pace.passes(7, 0)
        walk.pace.restart()
        walk.pace.passes(5, 0)

    walk.stage(block, 0, spend=lambda: walk.pace.passes(10, 0), breaks=0)
    walk.stage(block, 1, spend=run_out_of_memory, breaks=0)
    assert [done for done, _ in walk.work] == [0, 10, 10, 10, 17, 15, 15]


def test_blocks_to_come_are_expected_to_cost_what_the_finished_ones_did() -> None:
    walk = Walk(pushed_plan("1/10", stages=(Push("one"),), levels=LEVELS[:12], block_size=4))
    first, second, third = walk.blocks
    walk.enter_clean(first)
    walk.stage(first, 0, spend=lambda: walk.pace.passes(2, 0), breaks=0)
    assert walk.work[0] == (0, 3 * 4 * 4)
    walk.pace.block_done()
    walk.enter_clean(second)
    walk.stage(second, 0, spend=lambda: walk.pace.passes(4, 0), breaks=0)
    assert walk.work[3] == (2, 2 + 4 * 4 + 2)
    walk.pace.block_done()
    walk.enter_clean(third)
    walk.stage(third, 0, spend=lambda: walk.pace.passes(3, 0), breaks=0)
    assert walk.work[-1] == (9, 9)


@pytest.mark.parametrize("eps", [("1/10",), ("1/100", "1/10", "1/4")], ids=["one-eps", "three-eps"])
@pytest.mark.parametrize("block_size", [5, 1000])
@pytest.mark.parametrize("micro_batch", [3, None], ids=["cut", "whole"])
def test_a_run_reaches_its_total_and_never_passes_it(
    eps: tuple[str, ...], block_size: int, micro_batch: int | None, tmp_path: Path
) -> None:
    heard = moments(pushed_plan(*eps, block_size=block_size, wrong=(0, 9)), tmp_path, micro_batch=micro_batch)
    assert all(moment.total >= moment.done for moment in heard)
    assert all(later.done >= earlier.done for earlier, later in itertools.pairwise(heard))
    assert heard[-1].done == heard[-1].total > 0


def test_a_run_with_nothing_to_attack_ends_at_once(tmp_path: Path) -> None:
    heard = moments(pushed_plan("1/10", levels=(10, 200), wrong=(0, 1)), tmp_path)
    assert {(moment.done, moment.total) for moment in heard} == {(0, 0)}


def test_a_moment_says_what_is_running_and_what_is_known(tmp_path: Path) -> None:
    heard = moments(pushed_plan("1/100", "1/10", block_size=8, wrong=(0,)), tmp_path)
    assert {moment.stage for moment in heard} == {stage.name for stage in HALF_AND_FULL}
    assert {moment.eps for moment in heard} == {parse_eps("1/100"), parse_eps("1/10")}
    assert [moment.block for moment in heard] == sorted(moment.block for moment in heard)
    assert {moment.blocks for moment in heard} == {2}
    assert heard[0].clean == heard[0].robust == Accuracy(correct=7, total=8)
    assert heard[-1].clean == Accuracy(correct=15, total=16)


def test_what_is_taken_up_from_the_workspace_is_no_work(tmp_path: Path) -> None:
    plan = pushed_plan("1/10", block_size=8)
    moments(plan, tmp_path)
    assert {(moment.done, moment.total > 0) for moment in moments(plan, tmp_path)[-1:]} == {(0, False)}
