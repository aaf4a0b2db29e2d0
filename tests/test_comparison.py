from pathlib import Path

import numpy as np
import pytest

from mixbench.comparison import check_comparable, compare
from mixbench.errors import RecordError
from mixbench.paired_difference import exact_difference_interval
from mixbench.statistics import mcnemar_p
from tests.evaluations_for_tests import evaluation_of

# Eight examples, worked by hand below.
FIRST = ["robust", "robust", "robust", "apgd-ce", "apgd-t", "wrong", "wrong", "robust"]
SECOND = ["robust", "apgd-t", "wrong", "robust", "apgd-ce", "robust", "apgd-ce", "apgd-t"]


def test_robust_verdicts_are_paired_example_by_example(tmp_path: Path) -> None:
    first, second = evaluation_of(tmp_path / "a", FIRST), evaluation_of(tmp_path / "b", SECOND)
    found = compare(first, second, outcome="robust")
    assert (found.n, found.both, found.only_first, found.only_second, found.neither) == (8, 1, 3, 2, 2)
    assert found.second_lost_to == {"clean": 1, "apgd-ce": 0, "apgd-t": 2}
    assert found.first_lost_to == {"clean": 1, "apgd-ce": 1, "apgd-t": 0}
    assert found.difference == 1 / 8


def test_clean_verdicts_are_paired_example_by_example(tmp_path: Path) -> None:
    first, second = evaluation_of(tmp_path / "a", FIRST), evaluation_of(tmp_path / "b", SECOND)
    found = compare(first, second, outcome="clean")
    assert (found.n, found.both, found.only_first, found.only_second, found.neither) == (8, 5, 1, 2, 0)
    assert (found.first_lost_to, found.second_lost_to) == ({"clean": 2}, {"clean": 1})


def test_p_and_interval_are_those_of_the_discordant_counts(tmp_path: Path) -> None:
    first = evaluation_of(tmp_path / "a", ["robust"] * 40 + ["apgd-ce"] * 20)
    second = evaluation_of(tmp_path / "b", ["robust"] * 30 + ["apgd-t"] * 28 + ["robust"] * 2)
    found = compare(first, second, outcome="robust")
    assert (found.only_first, found.only_second, found.n) == (10, 2, 60)
    assert found.p == mcnemar_p(10, 2)
    assert found.interval == exact_difference_interval(10, 2, 60, confidence=0.95)


def test_the_other_way_round_is_the_mirror_image(tmp_path: Path) -> None:
    first, second = evaluation_of(tmp_path / "a", FIRST), evaluation_of(tmp_path / "b", SECOND)
    forth, back = compare(first, second, outcome="robust"), compare(second, first, outcome="robust")
    assert (back.only_first, back.only_second) == (forth.only_second, forth.only_first)
    assert (back.first_lost_to, back.second_lost_to) == (forth.second_lost_to, forth.first_lost_to)
    assert back.difference == -forth.difference
    assert (back.interval.low, back.interval.high) == (-forth.interval.high, -forth.interval.low)
    assert back.p == forth.p


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, FIRST)
    found = compare(evaluation, evaluation, outcome="robust")
    assert (found.only_first, found.only_second, found.difference, found.p) == (0, 0, 0.0, 1.0)


def test_other_examples_are_refused_by_fingerprint(tmp_path: Path) -> None:
    first = evaluation_of(tmp_path / "a", FIRST)
    second = evaluation_of(tmp_path / "b", FIRST, dataset={"fingerprint": "9" * 64})
    with pytest.raises(RecordError, match=f"dataset fingerprint is '{first.record.dataset.fingerprint}' and '9999"):
        compare(first, second, outcome="clean")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param({"seed": 5}, "seed is 0 and 5", id="seed"),
        pytest.param({"dataset": {"split": "train"}}, "split is 'test' and 'train'", id="split"),
        pytest.param({"dataset": {"name": "mnist"}}, "dataset is 'digits' and 'mnist'", id="dataset"),
    ],
)
def test_another_protocol_is_refused_by_the_name_of_what_differs(
    changes: dict[str, object], fragment: str, tmp_path: Path
) -> None:
    first = evaluation_of(tmp_path / "a", FIRST)
    second = evaluation_of(tmp_path / "b", FIRST, **changes)  # pyright: ignore[reportArgumentType] - of mixed types
    with pytest.raises(RecordError, match=f"cannot be compared: their {fragment}; evaluate both the same way"):
        check_comparable(first.record, second.record)


@pytest.mark.parametrize("column", ["index", "label"])
def test_tables_of_other_examples_are_refused_though_the_records_agree(column: str, tmp_path: Path) -> None:
    first = evaluation_of(tmp_path / "a", ["robust"] * 4)
    shifted = {"index": np.arange(4) + 1} if column == "index" else {"label": np.arange(4)[::-1]}
    shifted |= {"clean_prediction": shifted["label"]} if column == "label" else {}
    second = evaluation_of(tmp_path / "b", ["robust"] * 4, columns=shifted)
    with pytest.raises(RecordError, match=f"differ in {column} though their fingerprints agree"):
        compare(first, second, outcome="robust")
