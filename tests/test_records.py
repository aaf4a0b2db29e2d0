import copy
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from pydantic import ValidationError

from mixbench.records import (
    Accuracy,
    EvaluationRecord,
    ParameterCounts,
    Provenance,
)
from mixbench.threat_model import Norm, ThreatModel
from tests.records_for_tests import GOLDEN_TEXT, ROOT, Content, records, with_hash, with_value


@pytest.fixture
def golden() -> EvaluationRecord:
    """The golden record, decoded."""
    return EvaluationRecord.from_json(GOLDEN_TEXT)


def test_the_golden_record_is_read_as_it_was_meant(golden: EvaluationRecord) -> None:
    assert golden.threat_model.value == ThreatModel(Norm.LINF, Fraction(1, 10))
    assert golden.protocol.eps_grid == (Fraction(1, 20), Fraction(1, 10))
    assert (golden.clean.rate, golden.robust.rate) == (0.975, pytest.approx(1 / 3))
    assert golden.provenance.started == datetime(2025, 11, 22, 12, 30, tzinfo=UTC)
    assert golden.model.parameters == ParameterCounts(trained=11002, frozen=1920)


def test_the_golden_record_is_written_as_it_was(golden: EvaluationRecord) -> None:
    assert golden.to_json() == GOLDEN_TEXT


@pytest.mark.parametrize(
    ("path", "value"),
    [(("model", "sha256"), "0" * 64), (("cost", "seconds"), 1.0), (("provenance", "device"), "NVIDIA H200")],
    ids=str,
)
def test_model_cost_and_machine_are_no_part_of_the_protocol(path: tuple[str, ...], value: object) -> None:
    assert (
        EvaluationRecord.from_json(json.dumps(with_value(path, value))).protocol.hash
        == (json.loads(GOLDEN_TEXT)["protocol"]["hash"])
    )


def test_the_id_of_the_golden_record_stays(golden: EvaluationRecord) -> None:
    assert golden.id == "digits-convmixer_frozen.digits-pgd-Linf_1_10-4ad731dcfb"


@given(records())
def test_an_id_is_a_name_that_every_file_system_takes(record: EvaluationRecord) -> None:
    assert set(record.id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert len(record.id) <= 255
    assert record.id.count("-") == 4


@pytest.mark.parametrize(
    "name", ["x" * 200, "ä" * 200, "../" * 60, "parquet:C:\\digits"], ids=["long", "accents", "path", "drive"]
)
def test_the_longest_and_oddest_names_still_make_a_folder(golden: EvaluationRecord, name: str, tmp_path: Path) -> None:
    record = golden.model_copy(
        update={
            "model": golden.model.model_copy(update={"name": name}),
            "dataset": golden.dataset.model_copy(update={"name": name}),
            "attack": golden.attack.model_copy(update={"name": name}),
        }
    )
    (tmp_path / record.id).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [record.id]


@pytest.mark.parametrize(
    "edit",
    [
        lambda: with_value(("model", "sha256"), "0" * 64),
        lambda: with_hash(("protocol", "seed"), 8),
        lambda: with_hash(("protocol", "eps_grid", 0), "1/40"),
        lambda: with_hash(("attack", "parameters", "steps"), "500"),
    ],
    ids=["weights", "seed", "eps grid", "attack parameter"],
)
def test_another_model_or_protocol_has_another_id(golden: EvaluationRecord, edit: Callable[[], Content]) -> None:
    assert EvaluationRecord.from_json(json.dumps(edit())).id != golden.id


def test_time_and_machine_leave_the_id_alone(golden: EvaluationRecord) -> None:
    assert golden.without_measurements().id == golden.id


def test_records_of_two_runs_are_equal_without_measurements(golden: EvaluationRecord) -> None:
    content = json.loads(GOLDEN_TEXT)
    content["cost"] |= {"seconds": 99.5, "seconds_by_stage": {"clean": 99.5}, "peak_memory_bytes": 1}
    content["provenance"]["started"] = "2026-01-01T00:00:00Z"
    resumed = EvaluationRecord.from_json(json.dumps(content))
    assert resumed != golden
    assert resumed.without_measurements() == golden.without_measurements()
    assert golden.to_json() == GOLDEN_TEXT


@pytest.mark.parametrize("path", [("cost", "forwards"), ("borderline",), ("provenance", "device")], ids=str)
def test_all_else_still_counts_without_measurements(golden: EvaluationRecord, path: tuple[str, ...]) -> None:
    content = with_value(path, "other" if path[-1] == "device" else 1)
    assert EvaluationRecord.from_json(json.dumps(content)).without_measurements() != golden.without_measurements()


def test_records_cannot_be_changed(golden: EvaluationRecord) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        golden.clean.correct = 360  # type: ignore[misc]


def test_a_rate_of_nothing_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Accuracy(correct=0, total=0)


def test_collected_provenance_says_where_the_code_stood() -> None:
    before = datetime.now(UTC)
    provenance = Provenance.collect(device="cpu")
    assert timedelta(seconds=-1) <= provenance.started - before <= timedelta(seconds=60)
    assert provenance.packages.keys() >= {"torch", "timm", "foolbox", "pyautoattack"}
    assert provenance.device == "cpu"
    if not (ROOT / ".git").exists():
        assert (provenance.commit, provenance.dirty) == (None, None)
        return
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance.commit == head.stdout.strip()
    assert isinstance(provenance.dirty, bool)


def test_decoding_leaves_nothing_shared(golden: EvaluationRecord) -> None:
    other = copy.deepcopy(golden)
    other.broken_by["pgd"] = 0
    assert golden.broken_by["pgd"] == 80
