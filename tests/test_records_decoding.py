import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbench.errors import RecordError
from mixbench.records import (
    EvaluationRecord,
)
from tests.records_for_tests import GOLDEN_TEXT, leaves, records, texts, with_hash, with_value


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
        EvaluationRecord.from_json(json.dumps(with_value(("format",), version)))


@pytest.mark.parametrize("place", [(), ("model",), ("model", "parameters"), ("threat_model",), ("clean",), ("cost",)])
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(place: tuple[str, ...]) -> None:
    path = ".".join((*place, "surprise"))
    with pytest.raises(RecordError, match=f"not a valid record: {path}: Extra inputs are not permitted"):
        EvaluationRecord.from_json(json.dumps(with_value((*place, "surprise"), 1)))


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
        EvaluationRecord.from_json(json.dumps(with_value(path, value)))


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
        EvaluationRecord.from_json(json.dumps(with_value(("clean", "correct"), value)))


@given(
    st.sampled_from(leaves(json.loads(GOLDEN_TEXT))),
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(st.integers(), max_size=1),
)
def test_an_edited_value_is_refused_or_kept_as_it_is(path: tuple[str | int, ...], value: object) -> None:
    edited = with_value(path, value)
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
        EvaluationRecord.from_json(json.dumps(with_value(path, value)))
    if path != ("protocol", "hash"):
        sealed = with_hash(path, value)
        assert sealed["protocol"]["hash"] != json.loads(GOLDEN_TEXT)["protocol"]["hash"]
        EvaluationRecord.from_json(json.dumps(sealed))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([], r"protocol: .*eps_grid \[\] is not a strictly ascending list"),
        (["1/10", "1/20"], r"protocol: .*eps_grid \[1/10, 1/20\] is not a strictly ascending list"),
        (["1/10", "1/10"], r"protocol: .*eps_grid \[1/10, 1/10\] is not a strictly ascending list"),
        (["1/20"], r"record: .*protocol\.eps_grid ends at 1/20, not at the record's eps 1/10"),
        (["1/10", "1/5"], r"record: .*protocol\.eps_grid ends at 1/5, not at the record's eps 1/10"),
    ],
    ids=["empty", "descending", "repeated", "too short", "too long"],
)
def test_the_radii_ascend_to_the_record_s_own(grid: list[str], message: str) -> None:
    content = with_hash(("protocol", "eps_grid"), grid)
    with pytest.raises(RecordError, match=f"not a valid record: {message}"):
        EvaluationRecord.from_json(json.dumps(content))
