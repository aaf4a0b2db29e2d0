import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.records import EvaluationRecord
from mixbench.store import load_record
from tests.cli.conftest import Run

_EVAL = ("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--n-examples", 20, "--json")


@pytest.fixture
def folder(here: Path, mixbench: Run) -> Path:
    """A run folder."""
    (item,) = json.loads(mixbench(*_EVAL).out)
    return here / item["folder"]


def test_a_record_is_shown_from_its_folder_and_from_its_file(folder: Path, mixbench: Run) -> None:
    shown = mixbench("show", folder)
    assert (shown.code, shown.err) == (0, "")
    assert mixbench("show", folder / "record.json") == shown


def test_what_is_shown_is_what_the_record_says(folder: Path, mixbench: Run) -> None:
    record, shown = load_record(folder), mixbench("show", folder).out
    for expected in (
        *(record.id, record.model.sha256, record.dataset.fingerprint, record.protocol.hash),
        *(record.attack.implementation, "step_size eps", "block size 1000, seed 0, eps grid 1/10"),
        *(f"{record.cost.forwards} forwards", f"{record.borderline} examples", record.provenance.python),
        *record.warnings,
    ):
        assert expected in shown


def test_json_is_the_record_itself(folder: Path, mixbench: Run) -> None:
    shown = mixbench("show", folder, "--json")
    assert shown.out == (folder / "record.json").read_text()
    assert EvaluationRecord.from_json(shown.out) == load_record(folder)


def _edit(key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "record.json").read_text())
        content[key] = value
        (folder / "record.json").write_text(json.dumps(content))

    return edit


def _truncate(name: str) -> Callable[[Path], None]:
    def truncate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return truncate


def _lose_examples(folder: Path) -> None:
    (folder / "examples.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        pytest.param(_edit("robust", {"correct": 20, "total": 20}), ["20 robust", "evaluate again"], id="count raised"),
        pytest.param(_edit("note", "trust me"), ["note", "evaluate again"], id="key added"),
        pytest.param(
            _edit("format", "mixbench.evaluation/9"), ["'mixbench.evaluation/9'", "read it with"], id="format"
        ),
        pytest.param(
            _edit("threat_model", {"norm": "Linf", "eps": "1/5"}), ["protocol.hash", "evaluate again"], id="eps raised"
        ),
        pytest.param(_truncate("record.json"), ["is not JSON", "evaluate again"], id="record truncated"),
        pytest.param(_truncate("examples.parquet"), ["not the file", "evaluate again"], id="examples truncated"),
        pytest.param(_lose_examples, ["is missing", "evaluate again"], id="alone"),
        pytest.param(shutil.rmtree, ["cannot read", "give a run folder or its record.json"], id="gone"),
    ],
)
def test_a_record_that_was_tampered_with_is_refused(
    damage: Callable[[Path], None], fragments: list[str], folder: Path, mixbench: Run
) -> None:
    damage(folder)
    for option in ((), ("--json",)):
        assert mixbench("show", folder, *option).refuses(*fragments)


def test_a_record_that_was_tampered_with_is_not_reused(folder: Path, mixbench: Run) -> None:
    _edit("robust", {"correct": 20, "total": 20})(folder)
    assert mixbench(*_EVAL).refuses("record.json", "evaluate again")
    assert mixbench(*_EVAL, "--overwrite").code == 0
    assert mixbench("show", folder).code == 0
