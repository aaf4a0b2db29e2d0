"""The evaluation engine: a model, examples and an attack in, verified evaluation records out.

::

    run_plan = plan(load_model("convmixer_frozen"), examples, attack_named("autoattack"), [threat_model], seed=0)
    for evaluation in evaluate(run_plan, workspace=folder):
        Store(runs).add(evaluation.record, examples=evaluation.examples)
"""

from mixbench.evaluation.benchmark import BareRun, Comparison, compare_with_bare
from mixbench.evaluation.blocks import BLOCK_SIZE, block_seed
from mixbench.evaluation.engine_benchmark import EngineComparison, EngineRun, compare_engines
from mixbench.evaluation.engine_curves import draw_engine_times
from mixbench.evaluation.evaluate import evaluate
from mixbench.evaluation.ledger import Evaluation
from mixbench.evaluation.plan import Plan, plan
from mixbench.evaluation.progress import Progress, ProgressCallback
from mixbench.evaluation.workspace import remove_workspace

__all__ = [
    "BLOCK_SIZE",
    "BareRun",
    "Comparison",
    "EngineComparison",
    "EngineRun",
    "Evaluation",
    "Plan",
    "Progress",
    "ProgressCallback",
    "block_seed",
    "compare_engines",
    "compare_with_bare",
    "draw_engine_times",
    "evaluate",
    "plan",
    "remove_workspace",
]
