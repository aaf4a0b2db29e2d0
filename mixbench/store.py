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
from mixbench.threat_model import ThreatModel

RECORD_NAME = "record.json"
EXAMPLES_NAME = "examples.parquet"
ADVERSARIALS_NAME = "adversarials.safetensors"

_SCHEMA = pa.schema(
    [(name, getattr(pa, kind if kind != "bool" else "bool_")()) for name, kind in EXAMPLES_COLUMNS.items()]
)
_OF_BROKEN = ("broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm")


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


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """A record with its per-example table, which agree with each other.

    Attributes:
        table: A row an example, with the columns of `mixbench.records.EXAMPLES_COLUMNS`.
        folder: Where both were read.
    """

    record: EvaluationRecord
    table: pd.DataFrame
    folder: Path


@dataclass(frozen=True)
class Store:
    """The records under `folder`; adding is atomic, and nothing is edited in place."""

    folder: Path

    def add(self, record: EvaluationRecord, *, examples: bytes, adversarials: bytes | None = None) -> Path:
        """Write `record` with its files and return its folder; raises RecordError if it cannot be written.

        The record is written with the hash of `adversarials`, and last, so a folder with a record is complete. A table
        that disagrees with its record is refused; adversarials of an earlier run are removed.
        """
        if hashlib.sha256(examples).hexdigest() != record.examples_sha256:
            raise RecordError(f"the per-example file does not belong to record {record.id}: its hash differs")
        source = f"the per-example file of record {record.id}"
        _check_agreement(record, decode_examples(examples, source=source), source=source)
        folder = self.folder / record.id
        kept = None if adversarials is None else hashlib.sha256(adversarials).hexdigest()
        _retire_other(folder, examples_sha256=record.examples_sha256, adversarials_sha256=kept)
        write_atomically(folder / EXAMPLES_NAME, examples)
        if adversarials is not None:
            write_atomically(folder / ADVERSARIALS_NAME, adversarials)
        written = record.model_copy(update={"adversarials_sha256": kept})
        write_atomically(folder / RECORD_NAME, written.to_json().encode())
        return folder

    def find(self, record_id: str) -> EvaluationRecord | None:
        """Return the record called `record_id`, or None where there is none."""
        folder = self.folder / record_id
        return load_record(folder) if (folder / RECORD_NAME).is_file() else None

    def records(self) -> tuple[EvaluationRecord, ...]:
        """Return every record, in order of id; raises RecordError for the first that cannot be trusted."""
        return tuple(evaluation.record for evaluation in self.evaluations())

    def evaluations(self) -> tuple[StoredEvaluation, ...]:
        """Return every record with its table, in order of id; raises RecordError for the first not to be trusted."""
        return tuple(load_evaluation(path.parent) for path in sorted(self.folder.glob(f"*/{RECORD_NAME}")))


def _retire_other(folder: Path, *, examples_sha256: str, adversarials_sha256: str | None) -> None:
    """Delete a record one of whose files is about to change, and old adversarials: a crash must not leave the pair."""
    examples, adversarials, record = folder / EXAMPLES_NAME, folder / ADVERSARIALS_NAME, folder / RECORD_NAME
    try:
        same = examples.is_file() and sha256_of(examples) == examples_sha256
        stale = adversarials.is_file() and sha256_of(adversarials) != adversarials_sha256
        if stale or not same:
            record.unlink(missing_ok=True)
        if stale:
            adversarials.unlink()
    except OSError as error:
        raise storage_error(record, error) from error


def load_record(path: Path) -> EvaluationRecord:
    """Return the record in `path`, a folder or a record.json; raises RecordError if it or its examples were changed."""
    return load_evaluation(path).record


def load_evaluation(path: Path) -> StoredEvaluation:
    """Return record and table in `path`, a folder or a record.json; raises RecordError if either was changed."""
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot read {file} ({error.strerror}): give a run folder or its {RECORD_NAME}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{file} is not a record: it is not text; give a run folder or its {RECORD_NAME}") from None
    record = EvaluationRecord.from_json(text, source=str(file))
    examples = file.with_name(EXAMPLES_NAME)
    _check_hash(examples, record.examples_sha256, record_name=file.name)
    if record.adversarials_sha256 is not None:
        _check_hash(file.with_name(ADVERSARIALS_NAME), record.adversarials_sha256, record_name=file.name)
    table = read_examples(examples)
    _check_agreement(record, table, source=str(examples))
    return StoredEvaluation(record, table, file.parent)


def _check_hash(file: Path, expected: str, *, record_name: str) -> None:
    """Raise RecordError unless `file` is there and has the hash `expected`."""
    if not file.is_file():
        raise RecordError(f"{file} is missing: keep it beside {record_name}, or evaluate again with --overwrite")
    if sha256_of(file) != expected:
        raise RecordError(
            f"{file} is not the file that {record_name} was written with: evaluate again with --overwrite"
        )


def _check_agreement(record: EvaluationRecord, table: pd.DataFrame, *, source: str) -> None:
    """Raise RecordError naming the first number of `record` or column of `table` that contradicts the others."""
    fault = _null_fault(table) or _count_fault(record, table) or _broken_fault(record, table.loc[table["broken"]])
    if fault is not None:
        raise RecordError(f"{source} disagrees with its record: {fault}; evaluate again with --overwrite")


def _null_fault(table: pd.DataFrame) -> str | None:
    """Return what is null and should not be, or the other way round."""
    broken = table["broken"].to_numpy(dtype=bool)
    for name in EXAMPLES_COLUMNS:
        expected = ~broken if name in _OF_BROKEN else np.zeros_like(broken)
        wrong = int((table[name].isna().to_numpy() != expected).sum())
        if wrong:
            meant = "have a value where broken and only there" if name in _OF_BROKEN else "have a value everywhere"
            return f"{name} should {meant}, but does not in {wrong} rows"
    return None


def _count_fault(record: EvaluationRecord, table: pd.DataFrame) -> str | None:
    """Return the first count of `record` that is not the count of `table`."""
    clean = table["label"] == table["clean_prediction"]
    stages = table["broken_by"].value_counts()
    counts = (
        ("dataset.n", record.dataset.n, len(table)),
        ("clean.correct", record.clean.correct, clean.sum()),
        ("robust.correct", record.robust.correct, (clean & ~table["broken"]).sum()),
        *((f"broken_by.{name}", count, stages.get(name, 0)) for name, count in record.broken_by.items()),
        ("cost.forwards", record.cost.forwards, table["forwards"].sum()),
        ("cost.backwards", record.cost.backwards, table["backwards"].sum()),
    )
    return next((f"{name} is {told}, the table has {found}" for name, told, found in counts if told != found), None)


def _broken_fault(record: EvaluationRecord, broken: pd.DataFrame) -> str | None:
    """Return what the rows of broken examples claim that cannot be."""
    norm, grid = record.threat_model.norm, record.protocol.eps_grid
    allowed = {str(eps): float(eps) + ThreatModel(norm, eps).tolerance() for eps in grid}
    limits = np.array([allowed.get(eps, np.nan) for eps in broken["eps"]], dtype=np.float64)
    label, clean, adversarial, norms = (
        broken[name].to_numpy() for name in ("label", "clean_prediction", "adversarial_prediction", "norm")
    )
    faults: tuple[tuple[str, np.ndarray], ...] = (
        ("broken is set where the clean prediction is wrong", clean != label),
        ("eps is not in protocol.eps_grid", np.isnan(limits)),
        ("norm is not within eps", ~((norms >= 0) & (norms <= limits))),
        ("adversarial_prediction is the label", adversarial == label),
    )
    return next((f"{text} in {int(wrong.sum())} rows" for text, wrong in faults if wrong.any()), None)


def record_schema() -> str:
    """Return the JSON Schema of an evaluation record."""
    schema = EvaluationRecord.model_json_schema()
    # Decoding asks for the format too, though it has a default in code.
    schema["required"] = list(schema["properties"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"
