"""The gate: does a candidate hold the clean and robust accuracy of its baseline? Reads records alone.

::

    verdict = gate(load_evaluation(old), load_evaluation(new), margin=1.0, alpha=0.05)
    verdict.verdict, [check.fall for check in verdict.checks]
"""

from mixbench.gate.config import EvaluationEntry, GateConfig, read_config
from mixbench.gate.pairing import EvaluatedModel, baseline_of, is_superseded, pair_up, read_evaluations
from mixbench.gate.report import annotations, explanation, junit, rows, summary, to_json
from mixbench.gate.verdict import Check, GateVerdict, Pair, Verdict, gate, gate_all, worst

__all__ = [
    "Check",
    "EvaluatedModel",
    "EvaluationEntry",
    "GateConfig",
    "GateVerdict",
    "Pair",
    "Verdict",
    "annotations",
    "baseline_of",
    "explanation",
    "gate",
    "gate_all",
    "is_superseded",
    "junit",
    "pair_up",
    "read_config",
    "read_evaluations",
    "rows",
    "summary",
    "to_json",
    "worst",
]
