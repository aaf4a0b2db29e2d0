"""Everything evaluated again, as the record's protocol says and with its own seed."""

import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from mixbench.datasets import Examples
from mixbench.errors import RecordError
from mixbench.evaluation import evaluate, plan
from mixbench.models import LoadedModel
from mixbench.store import decode_examples
from mixbench.submission.evidence import Evidence
from mixbench.submission.protocol import attack_of
from mixbench.submission.reattack import FAIL_BELOW
from mixbench.threat_model import ThreatModel


def reevaluate(
    loaded: LoadedModel, examples: Examples, evidence: Evidence, *, records: int
) -> tuple[str, tuple[str, ...]]:
    """Return how the record's verdicts compare with those of the same run here; raises RecordError if they are better.

    The seed is the record's, so on the same device and versions not one verdict differs. On others rounding carries
    examples over in both directions: fails if, by an exact sign test at 0.001 / `records`, more are broken here alone.
    """
    record = evidence.record
    protocol = record.protocol
    grid = [ThreatModel(record.threat_model.norm, eps) for eps in protocol.eps_grid]
    run = plan(loaded, examples, attack_of(record.attack), grid, seed=protocol.seed, block_size=protocol.block_size)
    with tempfile.TemporaryDirectory(prefix="mixbench-") as workspace:
        again = evaluate(run, workspace=Path(workspace))[-1]
    broken = decode_examples(again.examples, source="the evaluation")["broken"].to_numpy(bool)
    here, there = int((broken & ~evidence.broken).sum()), int((evidence.broken & ~broken).sum())
    p_value = float(stats.binomtest(here, here + there, 0.5, alternative="greater").pvalue) if here + there else 1.0
    found, told = again.record.robust.correct, record.robust.correct
    numbers = f"{evidence.title}: {found} of {len(broken)} robust here, {told} in the record"
    if p_value < FAIL_BELOW / records:
        raise RecordError(
            f"{numbers}; {here} examples are broken here alone and {there} there alone"
            f" (p = {p_value:.2g}): evaluate again"
        )
    differing = np.count_nonzero(broken != evidence.broken)
    return numbers, (f"{evidence.title}: {differing} verdicts differ",) if differing else ()
