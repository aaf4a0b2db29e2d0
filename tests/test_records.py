import copy
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixbench.errors import RecordError
from mixbench.records import (
    Accuracy,
    AttackIdentity,
    Cost,
    DatasetIdentity,
    EvaluationRecord,
    ModelIdentity,
    ParameterCounts,
    Protocol,
    Provenance,
    ThreatModelField,
    protocol_hash,
)
from mixbench.threat_model import Norm, ThreatModel

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_TEXT = (ROOT / "tests" / "golden" / "record.json").read_text(encoding="utf-8")
Content = dict[str, Any]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**40)
seeds = st.integers(0, 2**63)
seconds = st.floats(0, 1e9)
radii = st.fractions(min_value=0, max_value=1).filter(bool)


@st.composite
def records(draw: st.DrawFn) -> EvaluationRecord:
    """Any record that can be."""
    n = draw(st.integers(1, 10**6))
    correct = draw(st.integers(0, n))
    broken = draw(st.integers(0, correct))
    first = draw(st.integers(0, broken))
    dataset = draw(
        st.builds(DatasetIdentity, name=names, split=names, subset=names, fingerprint=hashes, n=st.just(n)),
    )
    attack = draw(
        st.builds(
            AttackIdentity,
            name=names,
            version=names,
            implementation=names,
            parameters=st.dictionaries(texts, texts, max_size=3),
        )
    )
    threat_model = ThreatModelField(norm=draw(st.sampled_from(Norm)), eps=draw(radii))
    settings: dict[str, Any] = {
        "block_size": draw(st.integers(1, 10**6)),
        "seed": draw(seeds),
        "eps_grid": draw(st.lists(radii, max_size=3).map(tuple)),
    }
    digest = protocol_hash(dataset=dataset, attack=attack, threat_model=threat_model, **settings)
    return EvaluationRecord(
        model=draw(
            st.builds(
                ModelIdentity,
                name=names,
                sha256=hashes,
                filter_seed=st.none() | seeds,
                parameters=st.builds(ParameterCounts, trained=counts, frozen=counts),
            )
        ),
        dataset=dataset,
        attack=attack,
        threat_model=threat_model,
        protocol=Protocol(**settings, hash=digest),
        clean=Accuracy(correct=correct, total=n),
        robust=Accuracy(correct=correct - broken, total=n),
        broken_by={"first": first, "second": broken - first},
        borderline=draw(st.integers(0, n)),
        warnings=draw(st.lists(texts, max_size=2).map(tuple)),
        cost=draw(
            st.builds(
                Cost,
                forwards=counts,
                backwards=counts,
                seconds=seconds,
                seconds_by_stage=st.dictionaries(texts, seconds, max_size=2),
                peak_memory_bytes=counts,
            )
        ),
        examples_sha256=draw(hashes),
        provenance=draw(
            st.builds(
                Provenance,
                commit=st.none() | texts,
                dirty=st.none() | st.booleans(),
                packages=st.dictionaries(texts, texts, max_size=2),
                started=st.datetimes(timezones=st.just(UTC)),
            )
        ),
    )


@pytest.fixture
def golden() -> EvaluationRecord:
    """The golden record, decoded."""
    return EvaluationRecord.from_json(GOLDEN_TEXT)


def _leaves(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else None
    return [path] if items is None else [leaf for key, value in items for leaf in _leaves(value, (*path, key))]


def _with(path: tuple[str | int, ...], value: Any) -> Content:
    """The content of the golden record with another value at `path`."""
    content = json.loads(GOLDEN_TEXT)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def _with_hash(path: tuple[str | int, ...], value: Any) -> Content:
    """As `_with`, sealed by the protocol hash that the edited record should have."""
    content = _with(path, value)
    content["protocol"]["hash"] = protocol_hash(
        dataset=DatasetIdentity(**content["dataset"]),
        attack=AttackIdentity(**content["attack"]),
        threat_model=ThreatModelField(**content["threat_model"]),
        block_size=content["protocol"]["block_size"],
        seed=content["protocol"]["seed"],
        eps_grid=tuple(Fraction(eps) for eps in content["protocol"]["eps_grid"]),
    )
    return content


def test_the_golden_record_is_read_as_it_was_meant(golden: EvaluationRecord) -> None:
    assert golden.threat_model.value == ThreatModel(Norm.LINF, Fraction(1, 10))
    assert golden.protocol.eps_grid == (Fraction(1, 20), Fraction(1, 10))
    assert (golden.clean.rate, golden.robust.rate) == (0.975, pytest.approx(1 / 3))
    assert golden.provenance.started == datetime(2025, 11, 22, 12, 30, tzinfo=UTC)
    assert golden.model.parameters == ParameterCounts(trained=11002, frozen=1920)


def test_the_golden_record_is_written_as_it_was(golden: EvaluationRecord) -> None:
    assert golden.to_json() == GOLDEN_TEXT


@given(records())
def test_what_is_encoded_is_decoded_to_the_same(record: EvaluationRecord) -> None:
    text = record.to_json()
    assert EvaluationRecord.from_json(text) == record
    assert EvaluationRecord.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "runs/x is not JSON .* it may be truncated; evaluate again"),
        ("<html>", "runs/x is not JSON"),
        ("[" * 100_000, "runs/x is not JSON"),
        ("[]", "runs/x is not a record: expected a JSON object with format 'mixbench.evaluation/1'"),
        ("null", "runs/x is not a record"),
        ("{}", "runs/x has format None, expected 'mixbench.evaluation/1'"),
    ],
    ids=["empty", "web page", "deep", "list", "null", "no format"],
)
def test_a_text_that_is_no_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        EvaluationRecord.from_json(text, source="runs/x")


def test_every_truncated_record_is_refused() -> None:
    for length in range(len(GOLDEN_TEXT) - 1):
        with pytest.raises(RecordError, match="is not JSON"):
            EvaluationRecord.from_json(GOLDEN_TEXT[:length])


@pytest.mark.parametrize("version", ["mixbench.evaluation/0", "mixbench.evaluation/2", "mixbench.probe/1", 1])
def test_another_format_is_refused_by_name(version: object) -> None:
    with pytest.raises(RecordError, match=f"has format {version!r}, expected 'mixbench.evaluation/1'"):
        EvaluationRecord.from_json(json.dumps(_with(("format",), version)))


@pytest.mark.parametrize("place", [(), ("model",), ("model", "parameters"), ("threat_model",), ("clean",), ("cost",)])
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(place: tuple[str, ...]) -> None:
    path = ".".join((*place, "surprise"))
    with pytest.raises(RecordError, match=f"not a valid record: {path}: Extra inputs are not permitted"):
        EvaluationRecord.from_json(json.dumps(_with((*place, "surprise"), 1)))


@pytest.mark.parametrize("key", [key for key in json.loads(GOLDEN_TEXT) if key != "format"])
def test_a_missing_key_is_refused_by_name(key: str) -> None:
    content = json.loads(GOLDEN_TEXT)
    del content[key]
    with pytest.raises(RecordError, match=f"not a valid record: {key}: Field required"):
        EvaluationRecord.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("clean", "correct"), 361, "clean: .*correct 361 is more than total 360"),
        (("clean", "correct"), 352, "record: .*352 correct less 231 broken examples are not 120 robust ones"),
        (("robust", "correct"), 121, "record: .*351 correct less 231 broken examples are not 121 robust ones"),
        (("broken_by", "pgd"), 79, "record: .*351 correct less 230 broken examples are not 120 robust ones"),
        (("broken_by", "pgd"), -1, "broken_by.pgd: .*greater than or equal to 0"),
        (("clean", "total"), 361, "record: .*must count all 360 examples"),
        (("robust", "total"), 0, "robust.total: .*greater than 0"),
        (("borderline",), 361, "record: .*borderline 361 is more than the 360 examples"),
        (("cost", "seconds"), -0.5, "cost.seconds: .*greater than or equal to 0"),
        (("dataset", "name"), "", "dataset.name: .*at least 1 character"),
        (("dataset", "name"), "x" * 201, "dataset.name: .*at most 200 characters"),
        (("dataset", "fingerprint"), "F" * 64, "dataset.fingerprint: "),
        (("model", "sha256"), "f" * 63, "model.sha256: "),
        (("model", "mixing"), "chans", "model.mixing: "),
        (("threat_model", "norm"), "linf", "threat_model.norm: "),
        (("threat_model", "eps"), 0.1, "threat_model.eps: .*must be a string such as '8/255'"),
        (("threat_model", "eps"), "0", "threat_model.eps: .*eps 0 is not above 0"),
        (("threat_model", "eps"), "nan", "threat_model.eps: .*'nan' is not a number"),
        (("threat_model", "eps"), "1e999999999", "threat_model.eps: .*is not a number"),
        (("threat_model", "eps"), "2/20", "threat_model.eps: .*'2/20' is not a fraction in lowest terms, .* '1/10'"),
        (("threat_model", "eps"), "8", r"threat_model: .*did you mean 8/255\?"),
        (("provenance", "precision"), "bfloat16", "provenance.precision: "),
        (("provenance", "started"), "yesterday", "provenance.started: "),
    ],
)
def test_what_cannot_be_is_refused_by_name(path: tuple[str, ...], value: object, message: str) -> None:
    with pytest.raises(RecordError, match=f"^record is not a valid record: {message}"):
        EvaluationRecord.from_json(json.dumps(_with(path, value)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("name", ["seconds", "forwards"])
def test_a_number_that_is_not_finite_is_refused_by_name(name: str, number: str) -> None:
    value = json.dumps(json.loads(GOLDEN_TEXT)["cost"][name])
    text = GOLDEN_TEXT.replace(f'"{name}": {value}', f'"{name}": {number}')
    assert text != GOLDEN_TEXT
    with pytest.raises(RecordError, match=f"cost.{name}: "):
        EvaluationRecord.from_json(text)


@pytest.mark.parametrize("value", ["351", 351.0, True], ids=repr)
def test_nothing_is_taken_for_a_count_but_an_integer(value: object) -> None:
    with pytest.raises(RecordError, match=r"clean\.correct: "):
        EvaluationRecord.from_json(json.dumps(_with(("clean", "correct"), value)))


@given(
    st.sampled_from(_leaves(json.loads(GOLDEN_TEXT))),
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(st.integers(), max_size=1),
)
def test_an_edited_value_is_refused_or_kept_as_it_is(path: tuple[str | int, ...], value: object) -> None:
    edited = _with(path, value)
    try:
        record = EvaluationRecord.from_json(json.dumps(edited))
    except RecordError:
        return
    # repr tells 1 from 1.0 and from True; only whole seconds may gain their ".0".
    expected = float(value) if path[0] == "cost" and "seconds" in str(path[1]) and isinstance(value, int) else value
    found = json.loads(record.to_json())
    for key in path:
        found = found[key]
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("threat_model", "eps"), "1/5"),
        (("threat_model", "norm"), "L2"),
        (("protocol", "seed"), 8),
        (("protocol", "block_size"), 500),
        (("protocol", "eps_grid", 0), "1/40"),
        (("protocol", "hash"), "0" * 64),
        (("dataset", "fingerprint"), "0" * 64),
        (("dataset", "subset"), "balanced-360-seed-0"),
        (("attack", "version"), "10 steps, 1 restarts"),
        (("attack", "implementation"), "foolbox 3.3.3"),
        (("attack", "parameters", "steps"), "500"),
    ],
    ids=str,
)
def test_a_protocol_that_was_edited_no_longer_has_its_hash(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(RecordError, match=r"protocol\.hash is not the hash of the protocol"):
        EvaluationRecord.from_json(json.dumps(_with(path, value)))
    if path != ("protocol", "hash"):
        sealed = _with_hash(path, value)
        assert sealed["protocol"]["hash"] != json.loads(GOLDEN_TEXT)["protocol"]["hash"]
        EvaluationRecord.from_json(json.dumps(sealed))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("model", "sha256"), "0" * 64), (("cost", "seconds"), 1.0), (("provenance", "device"), "NVIDIA H200")],
    ids=str,
)
def test_model_cost_and_machine_are_no_part_of_the_protocol(path: tuple[str, ...], value: object) -> None:
    assert (
        EvaluationRecord.from_json(json.dumps(_with(path, value))).protocol.hash
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
        lambda: _with(("model", "sha256"), "0" * 64),
        lambda: _with_hash(("protocol", "seed"), 8),
        lambda: _with_hash(("protocol", "eps_grid", 0), "1/40"),
        lambda: _with_hash(("attack", "parameters", "steps"), "500"),
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
    content = _with(path, "other" if path[-1] == "device" else 1)
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
