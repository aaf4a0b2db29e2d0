import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.evaluations_for_tests import evaluation_of

_FIRST = ["robust", "robust", "robust", "apgd-ce", "apgd-t", "wrong", "wrong", "robust"]
_SECOND = ["robust", "apgd-t", "wrong", "robust", "apgd-ce", "robust", "apgd-ce", "apgd-t"]


@pytest.fixture
def folders(here: Path) -> tuple[Path, Path]:
    """Two records of the same eight examples."""
    first = evaluation_of(here / "runs", _FIRST, model={"name": "convmixer_trained.digits"})
    return first.folder, evaluation_of(here / "runs", _SECOND).folder


def test_json_holds_the_counts_and_what_they_say(folders: tuple[Path, Path], mixbench: Run) -> None:
    outcome = mixbench("compare", *folders, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(outcome.out)
    assert (content["first"], content["second"]) == (folders[0].name, folders[1].name)
    robust, clean = content["robust"], content["clean"]
    assert [robust[name] for name in ("n", "both", "only_first", "only_second", "neither")] == [8, 1, 3, 2, 2]
    assert [clean[name] for name in ("n", "both", "only_first", "only_second", "neither")] == [8, 5, 1, 2, 0]
    assert robust["difference"] == 0.125
    assert robust["interval"]["low"] < 0.125 < robust["interval"]["high"]
    assert robust["mcnemar_p"] == 1.0
    assert robust["second_lost_to"] == {"clean": 1, "apgd-ce": 0, "apgd-t": 2}
    assert robust["first_lost_to"] == {"clean": 1, "apgd-ce": 1, "apgd-t": 0}


def test_the_table_says_who_is_right_alone_and_what_cost_the_other_one(
    folders: tuple[Path, Path], mixbench: Run
) -> None:
    shown = mixbench("compare", folders[0], folders[1] / "record.json")
    assert (shown.code, shown.err) == (0, "")
    assert "A convmixer_trained.digits (aaaaaaaaaa) and B convmixer_frozen.digits (aaaaaaaaaa)" in shown.out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.out.splitlines() if "│" in line]
    robust = next(row for row in rows if row[0] == "robust")
    assert robust[1:3] == ["50.00", "37.50"]
    assert robust[3].startswith("+12.50 [-")
    assert robust[4:] == ["1", "3", "2", "2", "1"]
    assert rows[-3:] == [
        ["misclassified without attack", "1", "1"],
        ["broken by apgd-ce", "0", "1"],
        ["broken by apgd-t", "2", "0"],
    ]


def test_records_of_other_examples_are_refused(folders: tuple[Path, Path], here: Path, mixbench: Run) -> None:
    other = evaluation_of(here / "other", _FIRST, dataset={"fingerprint": "9" * 64}).folder
    assert mixbench("compare", folders[0], other).refuses("cannot be compared", "dataset fingerprint", "9999")


def test_what_is_no_record_is_refused(folders: tuple[Path, Path], here: Path, mixbench: Run) -> None:
    assert mixbench("compare", folders[0], here / "nothing").refuses("cannot read", "record.json")
