"""Whatever bytes a stranger writes: a value or one sentence, never a traceback."""

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixbench.errors import InvalidInputError, RecordError
from mixbench.records import EvaluationRecord
from mixbench.submission import Environment, Manifest, SubmissionCard, VerificationReport
from mixbench.submission.evidence import check_parquet
from mixbench.submission.examination import merged
from mixbench.submission.manifest import check_submission_name, size_limit
from mixbench.submission.markdown import as_text
from mixbench.submission.report import printable
from mixbench.submission.strict_json import check_json
from mixbench.submission.tensor_files import packed, read_headers, unpack
from tests.records_for_tests import GOLDEN_TEXT
from tests.submission.conftest import CARD, Verify
from tests.submission.forging import copied, reseal

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fuzzing = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def _record(content: bytes) -> object:
    check_json(content, source="record.json", limit=2**18)
    return EvaluationRecord.from_json(content.decode(), source="record.json")


def _report(content: bytes) -> object:
    return VerificationReport.from_json(content, source="x.verification.json")


PARSERS: dict[str, Callable[[bytes], object]] = {
    "manifest": Manifest.from_bytes,
    "card": SubmissionCard.from_bytes,
    "environment": Environment.from_bytes,
    "record": _record,
    "verification record": _report,
}


@pytest.fixture(scope="module")
def valid(honest: Path) -> dict[str, bytes]:
    """What each parser takes."""
    report = json.dumps(
        {
            "format": "mixbench.verification/1",
            "submission": "a.b",
            "bundle_sha256": None,
            "seed": 1,
            "full": False,
            "trusted_code": False,
            "checks": [{"check": "files", "status": "pass", "reason": "8"}],
            "seconds": 1.5,
            "provenance": json.loads(GOLDEN_TEXT)["provenance"],
        }
    )
    return {
        "manifest": (honest / "submission.json").read_bytes(),
        "card": CARD.to_bytes(),
        "environment": (honest / "environment.json").read_bytes(),
        "record": GOLDEN_TEXT.encode(),
        "verification record": report.encode(),
    }


def parses(parser: str, content: bytes) -> bool:
    """Whether the parser takes `content`; it may refuse it with a RecordError alone."""
    try:
        PARSERS[parser](content)
    except RecordError:
        return False
    return True


@pytest.mark.parametrize("parser", PARSERS)
def test_what_is_valid_parses(parser: str, valid: dict[str, bytes]) -> None:
    assert parses(parser, valid[parser])


@pytest.mark.parametrize("parser", PARSERS)
@_fuzzing
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | _values.map(lambda v: json.dumps(v).encode())
)
def test_any_bytes(parser: str, content: bytes) -> None:
    assert not parses(parser, content)


@pytest.mark.parametrize("parser", PARSERS)
@_fuzzing
@given(choices=st.data())
def test_any_value_in_any_place(parser: str, valid: dict[str, bytes], choices: st.DataObject) -> None:
    content: Any = json.loads(valid[parser])
    place = content
    while isinstance(place, dict | list) and place:
        key = choices.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or choices.draw(st.booleans()):
            place[key] = choices.draw(_values)
            break
        place = place[key]
    parses(parser, json.dumps(content).encode())


@pytest.mark.parametrize("parser", PARSERS)
@_fuzzing
@given(choices=st.data())
def test_any_byte_in_any_place(parser: str, valid: dict[str, bytes], choices: st.DataObject) -> None:
    content = bytearray(valid[parser])
    start = choices.draw(st.integers(0, len(content) - 1))
    content[start : start + choices.draw(st.integers(0, 8))] = choices.draw(st.binary(max_size=8))
    parses(parser, bytes(content))


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b'{"a": 1, "a": 2}', "one name twice"),
        (b'{"a": NaN}', "no JSON number"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b"[1]", "not a JSON object"),
        (b'{"a":' * 13 + b"1" + b"}" * 13, "deeper than 12"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"{}" + b" " * 100, "at most 64"),
    ],
)
def test_json_that_readers_disagree_on(content: bytes, fragment: str) -> None:
    with pytest.raises(RecordError, match=fragment):
        check_json(content, source="x", limit=10_000 if fragment != "at most 64" else 64)


def test_brackets_in_texts_are_no_depth() -> None:
    check_json(json.dumps({"a": "[{" * 500 + '\\"'}).encode(), source="x", limit=10_000)


@pytest.mark.parametrize(
    "name", ["a", "a.", ".b", "A.b", "a.B", "a.b.c", "a.b\n", "a.\u0131", "../a.b", "a.b/c", "a" * 70 + ".b"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="is no name of a submission"):
        check_submission_name(name)


def test_files_that_a_submission_has_no_place_for() -> None:
    assert size_limit("model.safetensors") == 2**30
    for path in ("model.bin", "records/x/model.safetensors", "records/record.json", "code/other.py", "a/b/c/d"):
        assert size_limit(path) is None


@_fuzzing
@given(content=st.binary(max_size=300))
def test_any_bytes_as_tensors_tables_and_archives(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    for head in (b"", b"PAR1", (60).to_bytes(8, "little") + b"{"):
        path.write_bytes(head + content + (b"PAR1" if head == b"PAR1" else b""))
        for read in (read_headers, lambda p: check_parquet(p, rows=3), lambda p: unpack(p, tmp_path / "out", limit=99)):
            with pytest.raises(RecordError):
                read(path)


@given(content=st.binary(max_size=5000), limit=st.integers(0, 5000))
def test_unpacking_stops_at_its_limit(content: bytes, limit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("xz")
    (folder / "a.xz").write_bytes(packed(content))
    if len(content) > limit:
        with pytest.raises(RecordError, match="unpacks to more than"):
            unpack(folder / "a.xz", folder / "a", limit=limit)
        assert (folder / "a").stat().st_size <= limit
    else:
        unpack(folder / "a.xz", folder / "a", limit=limit)
        assert (folder / "a").read_bytes() == content
    assert lzma.decompress((folder / "a.xz").read_bytes()) == content


@given(text=st.text(max_size=2000))
def test_printable_text_is_short_ascii_on_one_line(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 600
    assert all(" " <= character <= "~" for character in shown)


def test_many_findings_keep_every_doubt_and_the_first_reasons() -> None:
    said = [(f"reason {number}", (f"doubt {number}",)) for number in range(5)]
    reason, doubts = merged(said)
    assert reason == "reason 0; reason 1; reason 2; and 2 more records like these"
    assert doubts == tuple(f"doubt {number}" for number in range(5))
    assert merged(said[:2]) == ("reason 0; reason 1", ("doubt 0", "doubt 1"))


@given(text=st.text(max_size=200))
def test_text_in_markdown_is_no_markup(text: str) -> None:
    shown = as_text(text)
    assert not set("<>`*_[]()|\\@\n") & set(shown)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(choices=st.data())
def test_verification_survives_any_damage(
    toppled: Path, tmp_path_factory: pytest.TempPathFactory, check: Verify, choices: st.DataObject
) -> None:
    """Any bytes in any place of any file, with hashes that fit: a table each time, and no library's error in it."""
    names = sorted(str(path.relative_to(toppled)) for path in toppled.rglob("*") if path.is_file())
    folder = copied(toppled, tmp_path_factory.mktemp("damaged"))
    path = folder / choices.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    start = choices.draw(st.integers(0, len(content)))
    content[start : start + choices.draw(st.integers(0, 60))] = choices.draw(st.binary(max_size=60))
    path.write_bytes(content)
    if path.name != "submission.json":
        reseal(folder)
    report = check(folder, survivors=1)
    assert [row.check for row in report.checks][:3] == ["files", "manifest", "hashes"]
    assert VerificationReport.from_json(report.to_json().encode(), source="report") == report
    assert "raised" not in report.to_json(), report.to_markdown()
