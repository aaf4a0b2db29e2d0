import hashlib
import io
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.errors import RecordError
from mixbench.records import EXAMPLES_COLUMNS, EvaluationRecord
from mixbench.store import (
    ADVERSARIALS_NAME,
    EXAMPLES_NAME,
    RECORD_NAME,
    Store,
    decode_examples,
    encode_examples,
    load_record,
    read_examples,
    record_schema,
)
from tests.json_schema import fits
from tests.records_for_tests import record_of_three, three_examples, with_seed


@pytest.fixture
def examples() -> bytes:
    """The per-example file of `record`."""
    return encode_examples(three_examples())


@pytest.fixture
def record(examples: bytes) -> EvaluationRecord:
    """A record with `examples` as its per-example file."""
    return record_of_three(examples)


def test_a_record_is_found_again_as_it_was_added(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    store = Store(tmp_path / "runs")
    folder = store.add(record, examples=examples, adversarials=b"images")
    assert folder == tmp_path / "runs" / record.id
    assert {path.name for path in folder.iterdir()} == {RECORD_NAME, EXAMPLES_NAME, ADVERSARIALS_NAME}
    assert (folder / ADVERSARIALS_NAME).read_bytes() == b"images"
    assert store.find(record.id) == store.records()[0] == load_record(folder) == load_record(folder / RECORD_NAME)
    assert load_record(folder) == record.model_copy(
        update={"adversarials_sha256": hashlib.sha256(b"images").hexdigest()}
    )


def test_adversarials_of_an_earlier_run_do_not_stay(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    store = Store(tmp_path)
    folder = store.add(record, examples=examples, adversarials=b"images")
    store.add(load_record(folder), examples=examples)
    assert {path.name for path in folder.iterdir()} == {RECORD_NAME, EXAMPLES_NAME}
    assert store.records() == (record,)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Path.unlink, "is missing: keep it beside record.json"),
        (lambda path: path.write_bytes(b"other"), "is not the file that record.json was written with"),
    ],
    ids=["missing", "other"],
)
def test_adversarials_that_were_changed_are_refused_by_name(
    tmp_path: Path, record: EvaluationRecord, examples: bytes, edit: Callable[[Path], object], message: str
) -> None:
    file = Store(tmp_path).add(record, examples=examples, adversarials=b"images") / ADVERSARIALS_NAME
    edit(file)
    with pytest.raises(RecordError, match=f"{re.escape(str(file))} {message}"):
        load_record(file.parent)


def test_a_failed_change_of_adversarials_never_pairs_the_old_record_with_none(
    tmp_path: Path, record: EvaluationRecord, examples: bytes
) -> None:
    store = Store(tmp_path)
    folder = store.add(record, examples=examples, adversarials=b"images")
    (folder / EXAMPLES_NAME).unlink()
    _block(folder / EXAMPLES_NAME)
    with pytest.raises(RecordError, match="cannot write"):
        store.add(record, examples=examples, adversarials=b"others")
    assert store.records() == ()


def test_records_come_in_the_order_of_their_ids(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    store, added = Store(tmp_path), [with_seed(record, seed) for seed in range(5)]
    for one in added:
        store.add(one, examples=examples)
    assert [one.id for one in store.records()] == sorted(one.id for one in added)
    assert len(store.records()) == 5


def test_an_empty_or_missing_store_has_no_records(tmp_path: Path, record: EvaluationRecord) -> None:
    assert Store(tmp_path).records() == Store(tmp_path / "missing").records() == ()
    assert Store(tmp_path / "missing").find(record.id) is None


def test_adding_the_same_again_changes_no_byte(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    folder = Store(tmp_path).add(record, examples=examples)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    Store(tmp_path).add(record, examples=examples)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_examples_of_another_record_are_not_added(tmp_path: Path, record: EvaluationRecord) -> None:
    with pytest.raises(RecordError, match=f"does not belong to record {record.id}: its hash differs"):
        Store(tmp_path).add(record, examples=b"another file")
    assert list(tmp_path.iterdir()) == []


def _block(path: Path) -> None:
    """Make writing to `path` fail, as a full disk would: a folder stands there."""
    (path / "full").mkdir(parents=True)


def test_the_record_is_written_last(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    store = Store(tmp_path)
    _block(tmp_path / record.id / ADVERSARIALS_NAME)
    with pytest.raises(RecordError, match=f"cannot write .*{ADVERSARIALS_NAME}"):
        store.add(record, examples=examples, adversarials=b"images")
    assert (tmp_path / record.id / EXAMPLES_NAME).is_file()
    assert store.records() == ()
    assert store.find(record.id) is None


def test_a_failed_second_run_never_pairs_the_old_record_with_new_examples(
    tmp_path: Path, record: EvaluationRecord, examples: bytes
) -> None:
    store = Store(tmp_path)
    store.add(record, examples=examples)
    columns = three_examples() | {"margin": np.array([0.5, -1.25, 3.5], dtype=np.float32)}
    other = encode_examples(columns)
    again = record.model_copy(update={"examples_sha256": hashlib.sha256(other).hexdigest()})
    assert again.id == record.id
    _block(tmp_path / record.id / ADVERSARIALS_NAME)
    with pytest.raises(RecordError, match="cannot write"):
        store.add(again, examples=other, adversarials=b"images")
    assert store.records() == ()


def test_a_failed_addition_of_adversarials_keeps_the_record(
    tmp_path: Path, record: EvaluationRecord, examples: bytes
) -> None:
    store = Store(tmp_path)
    store.add(record, examples=examples)
    _block(tmp_path / record.id / ADVERSARIALS_NAME)
    with pytest.raises(RecordError, match="cannot write"):
        store.add(record, examples=examples, adversarials=b"images")
    assert store.records() == (record,)


def test_tampered_examples_are_refused_by_name(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    store = Store(tmp_path)
    file = store.add(record, examples=examples) / EXAMPLES_NAME
    file.write_bytes(examples[:-1] + bytes([examples[-1] ^ 1]))
    message = f"{re.escape(str(file))} is not the file that {RECORD_NAME} was written with: evaluate again"
    for load in (store.records, lambda: store.find(record.id), lambda: load_record(file.parent)):
        with pytest.raises(RecordError, match=message):
            load()


def test_missing_examples_are_refused_by_name(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    file = Store(tmp_path).add(record, examples=examples) / EXAMPLES_NAME
    file.unlink()
    with pytest.raises(RecordError, match=f"{re.escape(str(file))} is missing: keep it beside {RECORD_NAME}"):
        Store(tmp_path).records()


def test_a_tampered_record_is_refused_by_name(tmp_path: Path, record: EvaluationRecord, examples: bytes) -> None:
    file = Store(tmp_path).add(record, examples=examples) / RECORD_NAME
    file.write_text(file.read_text(encoding="utf-8").replace('"eps": "1/10"', '"eps": "1/5"'), encoding="utf-8")
    with pytest.raises(RecordError, match=f"{re.escape(str(file))} is not a valid record: .*protocol.hash"):
        Store(tmp_path).records()


def test_a_folder_without_a_record_and_a_file_of_other_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*record\.json \(No such file.*: give a run folder"):
        load_record(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(RecordError, match=r"picture\.png is not a record: it is not text"):
        load_record(tmp_path / "picture.png")


def test_the_table_has_the_documented_columns_and_types(examples: bytes) -> None:
    schema = pq.read_schema(pa.BufferReader(examples))
    assert {field.name: str(field.type) for field in schema} == {
        "index": "int64",
        "label": "int64",
        "clean_prediction": "int64",
        "margin": "float",
        "broken": "bool",
        "broken_by": "string",
        "eps": "string",
        "adversarial_prediction": "int64",
        "adversarial_margin": "float",
        "norm": "double",
        "forwards": "int64",
        "backwards": "int64",
    }
    assert schema.names == list(EXAMPLES_COLUMNS)


def test_the_table_is_read_back_with_integers_as_integers_and_nulls_as_nulls(tmp_path: Path, examples: bytes) -> None:
    (tmp_path / EXAMPLES_NAME).write_bytes(examples)
    table = read_examples(tmp_path / EXAMPLES_NAME)
    for name, values in three_examples().items():
        found = [None if pd.isna(value) else value for value in table[name]]
        assert found == values.tolist(), name
    assert str(table["adversarial_prediction"].dtype) == "Int64"
    null = table.columns[table.isna().any()]
    assert list(null) == ["broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm"]


def test_equal_tables_are_equal_bytes_and_others_are_not(examples: bytes) -> None:
    assert encode_examples(dict(reversed(three_examples().items()))) == examples
    assert encode_examples(three_examples() | {"forwards": np.array([51, 1, 250])}) != examples


def _parquet(table: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def _with_words_of_no_text() -> bytes:
    table = pq.read_table(io.BytesIO(encode_examples(three_examples())))
    garbled = pa.array([b"\xff\xfe", None, None], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 3, garbled.buffers())
    place = table.schema.names.index("broken_by")
    buffer = io.BytesIO()
    pq.write_table(table.set_column(place, "broken_by", words), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "runs/x is not a readable parquet file"),
        (b"<html>" * 100, "runs/x is not a readable parquet file"),
        (encode_examples(three_examples())[:-20], "runs/x is not a readable parquet file"),
        (_parquet({"index": [1]}), r"runs/x has columns \['index'\], expected \['index', 'label'"),
        (
            _parquet({name: [None] for name in EXAMPLES_COLUMNS}),
            r"runs/x has columns",
        ),
        (encode_examples(three_examples()).replace(b"index", b"\xffndex"), "runs/x is not a readable parquet file"),
        (_with_words_of_no_text(), "runs/x is not a readable parquet file .*UTF8"),
    ],
    ids=[
        "empty",
        "web page",
        "truncated",
        "other columns",
        "other types",
        "a name that is no text",
        "words of no text",
    ],
)
def test_a_table_that_is_none_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        decode_examples(content, source="runs/x")


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*x\.parquet \(No such file or directory\): evaluate again"):
        read_examples(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ((), None, True),
        (("model", "filter_seed"), None, True),
        (("provenance", "commit"), None, True),
        (("broken_by", "square"), 0, True),
        (("adversarials_sha256",), "0" * 64, True),
        (("adversarials_sha256",), "0", False),
        (("format",), "mixbench.evaluation/2", False),
        (("surprise",), 1, False),
        (("model", "surprise"), 1, False),
        (("clean", "correct"), "351", False),
        (("clean", "correct"), -1, False),
        (("clean", "total"), 0, False),
        (("model", "mixing"), "chans", False),
        (("model", "sha256"), "f" * 63, False),
        (("threat_model", "eps"), "0.1", False),
        (("threat_model", "eps"), 0.1, False),
        (("threat_model", "norm"), "inf", False),
        (("dataset", "name"), "", False),
        (("broken_by", "pgd"), -1, False),
        (("warnings", 0), 3, False),
    ],
    ids=str,
)
def test_the_schema_takes_the_golden_record_and_refuses_edited_ones(
    golden_record_path: Path, path: tuple[str | int, ...], value: object, *, expected: bool
) -> None:
    schema = json.loads(record_schema())
    content = json.loads(golden_record_path.read_text(encoding="utf-8"))
    place = content
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    assert fits(content, schema, schema["$defs"]) is expected


def test_the_schema_asks_for_every_key_of_the_golden_record(golden_record_path: Path) -> None:
    schema = json.loads(record_schema())
    content = json.loads(golden_record_path.read_text(encoding="utf-8"))
    for key in content:
        assert not fits({k: v for k, v in content.items() if k != key}, schema, schema["$defs"]), key


def test_the_eps_of_the_golden_record_is_stored_as_text(golden_record_path: Path) -> None:
    content = json.loads(golden_record_path.read_text(encoding="utf-8"))
    assert Fraction(content["threat_model"]["eps"]) == Fraction(1, 10)
