"""A folder of records: `<id>/record.json`, `examples.parquet` and, if kept, `adversarials.safetensors`."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixbench.errors import RecordError
from mixbench.files import sha256_of, storage_error, write_atomically
from mixbench.records import EXAMPLES_COLUMNS, EvaluationRecord

RECORD_NAME = "record.json"
EXAMPLES_NAME = "examples.parquet"
ADVERSARIALS_NAME = "adversarials.safetensors"

_SCHEMA = pa.schema(
    [(name, getattr(pa, kind if kind != "bool" else "bool_")()) for name, kind in EXAMPLES_COLUMNS.items()]
)


def encode_examples(columns: Mapping[str, np.ndarray]) -> bytes:
    """Return the per-example table as parquet, the same bytes for the same content; None stands for null."""
    arrays = [pa.array(columns[field.name].tolist(), type=field.type) for field in _SCHEMA]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_examples(path: Path) -> pd.DataFrame:
    """Return the per-example table at `path`, a row an example; raises RecordError if it is not one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror}): evaluate again with --overwrite") from None
    return decode_examples(content, source=str(path))


def decode_examples(content: bytes, *, source: str) -> pd.DataFrame:
    """Return the table that `encode_examples` wrote; raises RecordError that names `source`."""
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise RecordError(
            f"{source} is not a readable parquet file ({error}): evaluate again with --overwrite"
        ) from None
    if table.schema.names != _SCHEMA.names or table.schema.types != _SCHEMA.types:
        raise RecordError(
            f"{source} has columns {table.schema.names}, expected {_SCHEMA.names}: evaluate again with --overwrite"
        )
    # Nullable integers stay integers; pandas would make them floats.
    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


@dataclass(frozen=True)
class Store:
    """The records under `folder`; adding is atomic, and nothing is edited in place."""

    folder: Path

    def add(self, record: EvaluationRecord, *, examples: bytes, adversarials: bytes | None = None) -> Path:
        """Write `record` with its files and return its folder; raises RecordError if it cannot be written.

        The record is written last, so a folder with a record is complete.
        """
        if hashlib.sha256(examples).hexdigest() != record.examples_sha256:
            raise RecordError(f"the per-example file does not belong to record {record.id}: its hash differs")
        folder = self.folder / record.id
        _retire_other(folder, record.examples_sha256)
        write_atomically(folder / EXAMPLES_NAME, examples)
        if adversarials is not None:
            write_atomically(folder / ADVERSARIALS_NAME, adversarials)
        write_atomically(folder / RECORD_NAME, record.to_json().encode())
        return folder

    def find(self, record_id: str) -> EvaluationRecord | None:
        """Return the record called `record_id`, or None where there is none."""
        folder = self.folder / record_id
        return load_record(folder) if (folder / RECORD_NAME).is_file() else None

    def records(self) -> tuple[EvaluationRecord, ...]:
        """Return every record, in order of id; raises RecordError for the first that cannot be trusted."""
        return tuple(load_record(path.parent) for path in sorted(self.folder.glob(f"*/{RECORD_NAME}")))


def _retire_other(folder: Path, examples_sha256: str) -> None:
    """Delete a record whose per-example file is about to be replaced by another: a crash must not leave the pair."""
    examples, record = folder / EXAMPLES_NAME, folder / RECORD_NAME
    try:
        if record.is_file() and not (examples.is_file() and sha256_of(examples) == examples_sha256):
            record.unlink()
    except OSError as error:
        raise storage_error(record, error) from error


def load_record(path: Path) -> EvaluationRecord:
    """Return the record in `path`, a folder or a record.json; raises RecordError if it or its examples were changed."""
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot read {file} ({error.strerror}): give a run folder or its {RECORD_NAME}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{file} is not a record: it is not text; give a run folder or its {RECORD_NAME}") from None
    record = EvaluationRecord.from_json(text, source=str(file))
    examples = file.with_name(EXAMPLES_NAME)
    if not examples.is_file():
        raise RecordError(f"{examples} is missing: keep it beside {file.name}, or evaluate again with --overwrite")
    if sha256_of(examples) != record.examples_sha256:
        raise RecordError(
            f"{examples} is not the file that {file.name} was written with: evaluate again with --overwrite"
        )
    return record


def record_schema() -> str:
    """Return the JSON Schema of an evaluation record."""
    schema = EvaluationRecord.model_json_schema()
    # Decoding asks for the format too, though it has a default in code.
    schema["required"] = list(schema["properties"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"
