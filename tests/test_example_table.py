"""The columns that boards read are those that pandas reads, however the file is laid out."""

import hashlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.errors import RecordError
from mixbench.example_table import columns_of
from mixbench.records import EXAMPLES_COLUMNS
from mixbench.store import (
    MISCLASSIFIED,
    RECORD_NAME,
    ROBUST,
    Store,
    StoredVerdicts,
    encode_examples,
    load_evaluation,
    load_verdicts,
    read_examples,
)
from tests.conftest import ROOT
from tests.records_for_tests import record_of_three, three_examples

COMMITTED = sorted(path.parent for path in (ROOT / "leaderboards").glob(f"records/*/{RECORD_NAME}"))


def verdicts_in(folder: Path) -> StoredVerdicts:
    (found,) = load_verdicts([folder])
    assert isinstance(found, StoredVerdicts), found
    return found


@pytest.mark.parametrize("path", COMMITTED[::35], ids=lambda path: path.name)
def test_verdicts_are_those_of_the_whole_table(path: Path) -> None:
    verdicts, whole = verdicts_in(path), load_evaluation(path)
    assert verdicts.record == whole.record
    assert verdicts.index.tolist() == whole.table["index"].tolist()
    assert verdicts.label.tolist() == whole.table["label"].tolist()
    stages = list(whole.record.broken_by)
    for row, fate in zip(whole.table.itertuples(), verdicts.fate, strict=True):
        intact = ROBUST if row.label == row.clean_prediction else MISCLASSIFIED
        assert fate == (2 + stages.index(row.broken_by) if row.broken else intact)


@pytest.mark.parametrize("rows", [(0, 3), (1, 2), (2, 1), (1, 0)], ids=str)
def test_columns_are_read_from_any_part_of_a_table(rows: tuple[int, int]) -> None:
    offset, n = rows
    content = encode_examples(three_examples())
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=["broken_by", "eps"]).read()
    part = table.slice(offset, n)
    for name, column in columns_of(part).items():
        told = [column.words[position] for position in column.data] if column.words else column.data.tolist()
        expected = part[name].to_pylist()
        assert [value if valid else None for value, valid in zip(told, column.valid, strict=True)] == expected


def test_a_file_of_several_row_groups_is_one_table(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    table = pq.read_table(pa.BufferReader(encode_examples(three_examples())))
    pq.write_table(table, buffer, row_group_size=1)
    record = record_of_three(buffer.getvalue())
    folder = Store(tmp_path).add(record, examples=buffer.getvalue())
    whole = load_evaluation(folder).table
    assert whole.equals(read_examples(folder / "examples.parquet"))
    assert list(whole.columns) == list(EXAMPLES_COLUMNS)
    alone = Store(tmp_path / "one").add(record_of_three(content := encode_examples(three_examples())), examples=content)
    assert whole.equals(load_evaluation(alone).table)
    assert np.array_equal(verdicts_in(folder).fate, verdicts_in(alone).fate)
    assert hashlib.sha256(content).hexdigest() != record.examples_sha256


def test_verdicts_come_in_order_with_the_errors_that_loading_one_raises(tmp_path: Path) -> None:
    folders = [shutil.copytree(path, tmp_path / path.name) for path in COMMITTED[:4]]
    (folders[1] / "examples.parquet").write_bytes(b"PAR1")
    (folders[2] / RECORD_NAME).unlink()
    first, edited, missing, last = load_verdicts(folders)
    assert [found.folder for found in (first, last) if isinstance(found, StoredVerdicts)] == [folders[0], folders[3]]
    for found, folder in ((edited, folders[1]), (missing, folders[2])):
        assert isinstance(found, RecordError)
        with pytest.raises(RecordError, match=re.escape(str(found))):
            load_evaluation(folder)


def test_verdicts_are_read_without_pandas() -> None:
    code = (
        f"import sys; from mixbench.store import *; load_verdicts([Path({str(COMMITTED[0])!r})]); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = loaded.stdout.split()
    assert "pyarrow" in modules
    assert "pandas" not in modules
