"""How much of a run is done, from the known number of passes."""

from mixbench.attacks import Stage
from mixbench.evaluation.blocks import Block
from mixbench.evaluation.ledger import Ledger
from mixbench.evaluation.plan import Plan
from mixbench.evaluation.progress import Progress, ProgressCallback
from mixbench.records import Accuracy
from mixbench.threat_model import ThreatModel


class Pace:
    """Counts work against an estimate that starts as an upper bound and falls as examples are broken.

    Blocks not yet begun are expected to cost what the finished ones did on average.
    """

    def __init__(self, plan: Plan, *, n_blocks: int, callback: ProgressCallback | None) -> None:
        self._plan = plan
        self._n_blocks = n_blocks
        self._callback = callback
        self._spent = 0
        self._spent_in_stage = 0
        self._expected_in_stage = 0
        self._expected_after = 0
        self._block_started_at = 0
        self._finished_blocks = 0
        self._moment: tuple[str, ThreatModel, Block, Accuracy | None, Accuracy | None] | None = None

    def enter(self, stage: Stage, block: Block, ledger: Ledger, radius: int) -> None:
        """Begin a stage of a block."""
        threat_model = self._plan.threat_models[radius]
        survivors = len(ledger.robust_positions(block, radius))
        later = self._work_after(stage, radius)
        self._spent_in_stage = 0
        self._expected_in_stage = survivors * self._work(stage, threat_model)
        self._expected_after = survivors * later
        self._moment = (stage.name, threat_model, block, ledger.clean_so_far(), ledger.robust_so_far(radius))
        self._report()

    def passes(self, forwards: int, backwards: int) -> None:
        """Count passes of single examples."""
        work = forwards + 2 * backwards
        self._spent += work
        self._spent_in_stage += work
        self._report()

    def restart(self) -> None:
        """Forget the work of the stage, which begins anew."""
        self._spent -= self._spent_in_stage
        self._spent_in_stage = 0

    def leave(self) -> None:
        """End a stage: what it did not need is no longer expected."""
        self._expected_in_stage = self._spent_in_stage
        self._report()

    def block_done(self) -> None:
        """End a block."""
        self._finished_blocks += 1
        self._block_started_at = self._spent
        self._expected_in_stage = self._spent_in_stage = self._expected_after = 0

    def _work(self, stage: Stage, threat_model: ThreatModel) -> int:
        # One more forward verifies the result.
        return stage.passes(threat_model, num_classes=self._plan.examples.num_classes).work + 1

    def _work_after(self, stage: Stage, radius: int) -> int:
        stages = self._plan.attack.stages
        position = [other.name for other in stages].index(stage.name)
        here = sum(self._work(other, self._plan.threat_models[radius]) for other in stages[position + 1 :])
        return here + sum(
            self._work(other, threat_model)
            for threat_model in self._plan.threat_models[radius + 1 :]
            for other in stages
        )

    def _total(self) -> int:
        remaining = max(self._expected_in_stage - self._spent_in_stage, 0) + self._expected_after
        blocks_left = self._n_blocks - self._finished_blocks - 1
        done = self._finished_blocks
        each = self._block_started_at // done if done else self._spent + remaining
        return self._spent + remaining + max(blocks_left, 0) * each

    def _report(self) -> None:
        if self._callback is None or self._moment is None:
            return
        stage, threat_model, block, clean, robust = self._moment
        self._callback(
            Progress(
                stage=stage,
                eps=threat_model.eps,
                block=block.index,
                blocks=self._n_blocks,
                clean=clean,
                robust=robust,
                done=self._spent,
                total=self._total(),
            )
        )
