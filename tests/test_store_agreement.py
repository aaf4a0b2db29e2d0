import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbench.errors import RecordError
from mixbench.records import Accuracy, EvaluationRecord
from mixbench.store import (
    EXAMPLES_NAME,
    RECORD_NAME,
    Store,
    encode_examples,
    load_record,
)
from tests.records_for_tests import record_of_three, three_examples, with_seed


@pytest.fixture
def examples() -> bytes:
    """The per-example file of `record`."""
    return encode_examples(three_examples())


@pytest.fixture
def record(examples: bytes) -> EvaluationRecord:
    """A record with `examples` as its per-example file."""
    return record_of_three(examples)


_CONSISTENT_EDITS: list[tuple[Callable[[EvaluationRecord], dict[str, object]], str]] = [
    (
        lambda record: {
            "dataset": record.dataset.model_copy(update={"n": 4}),
            "clean": Accuracy(correct=2, total=4),
            "robust": Accuracy(correct=1, total=4),
        },
        "dataset.n is 4, the table has 3",
    ),
    (
        lambda _: {"clean": Accuracy(correct=3, total=3), "robust": Accuracy(correct=2, total=3)},
        "clean.correct is 3, the table has 2",
    ),
    (
        lambda _: {"robust": Accuracy(correct=2, total=3), "broken_by": {"fgsm": 0, "pgd": 0}},
        "robust.correct is 2, the table has 1",
    ),
    (lambda _: {"broken_by": {"fgsm": 1, "pgd": 0}}, "broken_by.fgsm is 1, the table has 0"),
    (
        lambda record: {"cost": record.cost.model_copy(update={"forwards": 302})},
        "cost.forwards is 302, the table has 303",
    ),
    (
        lambda record: {"cost": record.cost.model_copy(update={"backwards": 0})},
        "cost.backwards is 0, the table has 300",
    ),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    _CONSISTENT_EDITS,
    ids=["n", "clean", "robust", "broken_by", "forwards", "backwards"],
)
def test_a_record_that_disagrees_with_its_table_is_neither_added_nor_loaded(
    tmp_path: Path,
    record: EvaluationRecord,
    examples: bytes,
    changes: Callable[[EvaluationRecord], dict[str, object]],
    message: str,
) -> None:
    edited = with_seed(record.model_copy(update=changes(record)), 7)
    with pytest.raises(RecordError, match=f"of record {edited.id} disagrees with its record: {message}; evaluate"):
        Store(tmp_path / "added").add(edited, examples=examples)
    assert list(tmp_path.iterdir()) == []
    folder = Store(tmp_path).add(record, examples=examples)
    (folder / RECORD_NAME).write_text(edited.to_json(), encoding="utf-8")
    with pytest.raises(
        RecordError, match=f"{re.escape(str(folder / EXAMPLES_NAME))} disagrees .*: {message}; evaluate"
    ):
        load_record(folder)


def _cells(*values: object) -> np.ndarray:
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"broken_by": _cells(None, None, None)}, "broken_by should have a value where broken and only there"),
        ({"eps": _cells(None, None, None)}, "eps should have a value where broken"),
        ({"adversarial_prediction": _cells(None, None, None)}, "adversarial_prediction should have a value where"),
        ({"adversarial_margin": _cells(None, None, None)}, "adversarial_margin should have a value where"),
        ({"norm": _cells(None, None, None)}, "norm should have a value where"),
        ({"norm": _cells(0.1, 0.1, None)}, "norm should have a value where broken and only there, .* in 1 rows"),
        ({"label": _cells(1, 2, None)}, "label should have a value everywhere"),
        ({"broken": _cells(True, None, False)}, "broken should have a value everywhere"),
        ({"eps": _cells("1/5", None, None)}, "eps is not in protocol.eps_grid in 1 rows"),
        ({"norm": _cells(0.1 + 2e-6, None, None)}, "norm is not within eps in 1 rows"),
        ({"eps": _cells("1/20", None, None)}, "norm is not within eps in 1 rows"),
        ({"norm": _cells(-0.1, None, None)}, "norm is not within eps in 1 rows"),
        ({"adversarial_prediction": _cells(1, None, None)}, "adversarial_prediction is the label in 1 rows"),
        ({"broken_by": _cells("square", None, None)}, "broken_by.pgd is 1, the table has 0"),
        (
            {"label": np.array([1, 7, 3]), "clean_prediction": np.array([2, 7, 3])},
            "broken is set where the clean prediction is wrong in 1 rows",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_cannot_be_is_refused_by_column(
    tmp_path: Path, record: EvaluationRecord, changes: dict[str, np.ndarray], message: str
) -> None:
    content = encode_examples(three_examples() | changes)
    update: dict[str, object] = {"examples_sha256": hashlib.sha256(content).hexdigest()}
    if "clean_prediction" in changes:
        update |= {"robust": Accuracy(correct=2, total=3)}
    with pytest.raises(RecordError, match=f"disagrees with its record: {message}"):
        Store(tmp_path).add(record.model_copy(update=update), examples=content)
    assert list(tmp_path.iterdir()) == []


def test_rounding_within_the_tolerance_is_no_fault(tmp_path: Path, record: EvaluationRecord) -> None:
    content = encode_examples(three_examples() | {"norm": _cells(0.1 + 5e-7, None, None)})
    rounded = record.model_copy(update={"examples_sha256": hashlib.sha256(content).hexdigest()})
    assert load_record(Store(tmp_path).add(rounded, examples=content)) == rounded


def test_a_record_in_which_nothing_is_broken_is_kept(tmp_path: Path, record: EvaluationRecord) -> None:
    nothing = dict.fromkeys(
        ("broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm"), _cells(None, None, None)
    )
    content = encode_examples(three_examples() | nothing | {"broken": np.array([False, False, False])})
    changes = {
        "robust": Accuracy(correct=2, total=3),
        "broken_by": {"fgsm": 0, "pgd": 0},
        "examples_sha256": hashlib.sha256(content).hexdigest(),
    }
    robust = record.model_copy(update=changes)
    assert load_record(Store(tmp_path).add(robust, examples=content)) == robust
