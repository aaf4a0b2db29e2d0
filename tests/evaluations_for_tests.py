"""Stored evaluations with chosen verdicts, made of the golden record."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixbench.records import Accuracy, EvaluationRecord
from mixbench.store import Store, StoredEvaluation, encode_examples, load_evaluation
from tests.records_for_tests import GOLDEN_TEXT, with_seed

STAGES = ("apgd-ce", "apgd-t")


def table_of(fates: Sequence[str]) -> dict[str, np.ndarray]:
    """A table of examples with these fates: "robust", "wrong" (misclassified), or the stage that broke them."""
    n = len(fates)
    label = np.arange(n) % 10
    broken = [fate in STAGES for fate in fates]

    def where_broken(values: Sequence[object]) -> np.ndarray:
        return np.array([value if hit else None for value, hit in zip(values, broken, strict=True)], dtype=object)

    return {
        "index": np.arange(n),
        "label": label,
        "clean_prediction": (label + np.array([fate == "wrong" for fate in fates])) % 10,
        "margin": np.array([-1.0 if fate == "wrong" else 1.0 for fate in fates], dtype=np.float32),
        "broken": np.array(broken, dtype=bool),
        "broken_by": where_broken(fates),
        "eps": where_broken(["1/10"] * n),
        "adversarial_prediction": where_broken([int(y + 1) % 10 for y in label]),
        "adversarial_margin": where_broken([-0.5] * n),
        "norm": where_broken([0.1] * n),
        "forwards": np.ones(n, dtype=np.int64),
        "backwards": np.zeros(n, dtype=np.int64),
    }


def evaluation_of(
    store: Path,
    fates: Sequence[str],
    *,
    sha256: str = "a" * 64,
    seed: int = 0,
    model: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    columns: dict[str, np.ndarray] | None = None,
) -> StoredEvaluation:
    """The evaluation of examples with these `fates`, as it is read back from the folder `store` that it is added to.

    `model` and `dataset` change fields of the record, `columns` of the table.
    """
    examples = encode_examples(table_of(fates) | (columns or {}))
    record = _record(fates, model={"sha256": sha256} | (model or {}), dataset=dataset or {}, examples=examples)
    return load_evaluation(Store(store).add(with_seed(record, seed), examples=examples))


def unstored(fates: Sequence[str], *, sha256: str = "a" * 64) -> StoredEvaluation:
    """As `evaluation_of`, without a file: for thousands of them."""
    record = _record(fates, model={"sha256": sha256}, dataset={}, examples=b"")
    return StoredEvaluation(with_seed(record, 0), pd.DataFrame(table_of(fates)), Path("memory"))


def _record(
    fates: Sequence[str], *, model: dict[str, Any], dataset: dict[str, Any], examples: bytes
) -> EvaluationRecord:
    golden = EvaluationRecord.from_json(GOLDEN_TEXT)
    n, wrong = len(fates), fates.count("wrong")
    changes = {
        "model": golden.model.model_copy(update=model),
        "dataset": golden.dataset.model_copy(update={"n": n} | dataset),
        "clean": Accuracy(correct=n - wrong, total=n),
        "robust": Accuracy(correct=fates.count("robust"), total=n),
        "broken_by": {stage: fates.count(stage) for stage in STAGES},
        "borderline": 0,
        "cost": golden.cost.model_copy(update={"forwards": n, "backwards": 0}),
        "examples_sha256": hashlib.sha256(examples).hexdigest(),
    }
    return golden.model_copy(update=changes)
