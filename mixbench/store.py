"""A folder of records: `<id>/record.json`, `examples.parquet` and, if kept, `adversarials.safetensors`.

Records of probes lie beside them as `<id>/probe.json` and, if there are images to show, `samples.npz`.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from mixbench.errors import RecordError
from mixbench.example_table import WORDS, ArrowTable, Columns, columns_of, disagreement
from mixbench.files import sha256_of, storage_error, write_atomically
from mixbench.probe_examples import check_probe_examples, decode_probe_columns, read_probe_columns
from mixbench.probe_record import ProbeRecord
from mixbench.records import EXAMPLES_COLUMNS, EvaluationRecord

if TYPE_CHECKING:
    import pandas as pd

RECORD_NAME = "record.json"
EXAMPLES_NAME = "examples.parquet"
ADVERSARIALS_NAME = "adversarials.safetensors"
PROBE_NAME = "probe.json"
SAMPLES_NAME = "samples.npz"

_SCHEMA = pa.schema(
    [(name, getattr(pa, kind if kind != "bool" else "bool_")()) for name, kind in EXAMPLES_COLUMNS.items()]
)
_READ_SCHEMA = pa.schema(
    [(field.name, pa.dictionary(pa.int32(), field.type) if field.name in WORDS else field.type) for field in _SCHEMA]
)


def encode_examples(columns: Mapping[str, np.ndarray]) -> bytes:
    """Return the per-example table as parquet, the same bytes for the same content; None stands for null."""
    arrays = [pa.array(columns[field.name].tolist(), type=field.type) for field in _SCHEMA]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_examples(path: Path) -> "pd.DataFrame":
    """Return the per-example table at `path`, a row an example; raises RecordError if it is not one."""
    return _as_frame(_read_table(path))


def _read_table(path: Path) -> ArrowTable:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror}): evaluate again with --overwrite") from None
    return _decode_table(content, source=str(path))


def decode_examples(content: bytes, *, source: str) -> "pd.DataFrame":
    """Return the table that `encode_examples` wrote; raises RecordError that names `source`."""
    return _as_frame(_decode_table(content, source=source))


def _decode_table(content: bytes, *, source: str) -> ArrowTable:
    try:
        # Starting threads for tables this small takes longer than reading them.
        table = _open_table(content).read(use_threads=False)
        names = table.schema.names
        for name in set(WORDS) & set(names):
            table.column(name).validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:  # a name that is no UTF-8 is a ValueError
        raise RecordError(
            f"{source} is not a readable parquet file ({error}): evaluate again with --overwrite"
        ) from None
    # A schema may differ in what it says of nulls; comparing lists of types takes far longer than comparing schemas.
    found = table.schema
    if not found.equals(_READ_SCHEMA) and (names, found.types) != (_READ_SCHEMA.names, _READ_SCHEMA.types):
        raise RecordError(f"{source} has columns {names}, expected {_SCHEMA.names}: evaluate again with --overwrite")
    return table


def _open_table(content: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(WORDS))
    except KeyError:
        # It lacks one of them, which whoever asked will say with the columns that it has.
        return pq.ParquetFile(pa.BufferReader(content))


def _as_frame(table: ArrowTable) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415 - takes 0.2 s to import, and whoever needs verdicts alone needs no frame

    # Nullable integers stay integers; pandas would make them floats.
    return table.cast(_SCHEMA).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """A record with its per-example table, which agree with each other.

    Attributes:
        table: A row an example, with the columns of `mixbench.records.EXAMPLES_COLUMNS`.
        folder: Where both were read.
    """

    record: EvaluationRecord
    table: "pd.DataFrame"
    folder: Path


@dataclass(frozen=True, eq=False)
class StoredVerdicts:
    """A record with no more of its table than what became of each example.

    Attributes:
        index: Position of each example in its split.
        label: Its class.
        fate: ROBUST, MISCLASSIFIED (without attack), or the position after these two in `record.broken_by` of the
            stage that broke it.
        folder: Where the record was read.
    """

    record: EvaluationRecord
    index: Int64[np.ndarray, " example"]
    label: Int64[np.ndarray, " example"]
    fate: Int64[np.ndarray, " example"]
    folder: Path


ROBUST, MISCLASSIFIED = 0, 1


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
        _check_agreement(record, columns_of(_decode_table(examples, source=source)), source=source)
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

    def add_probe(self, record: ProbeRecord, *, samples: bytes | None, examples: bytes | None) -> Path:
        """Write the record of a probe, last, and return its folder; raises RecordError if it cannot be written.

        Files that are not the record's, or a per-example file that disagrees with it, are refused.
        """
        for kind, content, expected in (
            ("samples", samples, record.samples_sha256),
            ("per-example values", examples, record.examples_sha256),
        ):
            digest = None if content is None else hashlib.sha256(content).hexdigest()
            if digest != expected:
                raise RecordError(f"the {kind} do not belong to record {record.id}: their hash differs")
        folder = self.folder / record.id
        if examples is not None:
            source = f"the per-example file of record {record.id}"
            check_probe_examples(record, decode_probe_columns(examples, source=source), source=source)
            write_atomically(folder / EXAMPLES_NAME, examples)
        if samples is not None:
            write_atomically(folder / SAMPLES_NAME, samples)
        write_atomically(folder / PROBE_NAME, record.to_json().encode())
        return folder

    def find_probe(self, record_id: str) -> ProbeRecord | None:
        """Return the record of a probe called `record_id`, or None where there is none."""
        folder = self.folder / record_id
        return load_probe(folder) if (folder / PROBE_NAME).is_file() else None

    def probes(self) -> tuple[ProbeRecord, ...]:
        """Return every record of a probe, in order of id; raises RecordError for the first that cannot be trusted."""
        return tuple(load_probe(path.parent) for path in sorted(self.folder.glob(f"*/{PROBE_NAME}")))


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


def load_probe(path: Path) -> ProbeRecord:
    """Return the record in `path`, a folder or a probe.json; raises RecordError if it or its files were changed."""
    file = path / PROBE_NAME if path.is_dir() else path
    record = ProbeRecord.from_json(_read_text(file, name=PROBE_NAME), source=str(file))
    if record.samples_sha256 is not None:
        _check_hash(file.with_name(SAMPLES_NAME), record.samples_sha256, record_name=file.name, again="probe")
    if record.examples_sha256 is not None:
        examples = file.with_name(EXAMPLES_NAME)
        _check_hash(examples, record.examples_sha256, record_name=file.name, again="probe")
        check_probe_examples(record, read_probe_columns(examples), source=str(examples))
    return record


def load_record(path: Path) -> EvaluationRecord:
    """Return the record in `path`, a folder or a record.json; raises RecordError if it or its examples were changed."""
    return load_evaluation(path).record


def load_evaluation(path: Path) -> StoredEvaluation:
    """Return record and table in `path`, a folder or a record.json; raises RecordError if either was changed."""
    record, table, _, folder = _load(path)
    return StoredEvaluation(record, _as_frame(table), folder)


def load_verdicts(folders: Sequence[Path]) -> list[StoredVerdicts | RecordError | OSError]:
    """Return record and verdicts in each of `folders`, or the error that `load_evaluation` raises there.

    As strict as that, and several times quicker.
    """
    with ThreadPoolExecutor() as executor:
        # Decoding leaves Python's lock to others, so it alone is given to threads: all before the rest needs the lock.
        contents = list(executor.map(_read_content, [folder / EXAMPLES_NAME for folder in folders]))
    found: list[StoredVerdicts | RecordError | OSError] = []
    for folder, content in zip(folders, contents, strict=True):
        try:
            found.append(_verdicts_of(_load(folder, content)))
        except (RecordError, OSError) as error:
            found.append(error)
    return found


def _verdicts_of(loaded: "_Loaded") -> StoredVerdicts:
    record, _, columns, folder = loaded
    index, label, broken, broken_by = (columns[name] for name in ("index", "label", "broken", "broken_by"))
    codes = {stage: code for code, stage in enumerate(record.broken_by, start=MISCLASSIFIED + 1)}
    # A file may list words that no row has.
    stages = np.array([codes.get(word, MISCLASSIFIED) for word in broken_by.words], dtype=np.int64)
    fate = np.where(label.data == columns["clean_prediction"].data, ROBUST, MISCLASSIFIED)
    fate[broken.data] = stages[broken_by.data[broken.data]]
    return StoredVerdicts(record, index.data, label.data, fate, folder)


_Loaded = tuple[EvaluationRecord, ArrowTable, Columns, Path]


@dataclass(frozen=True, eq=False)
class _Content:
    """A per-example file, read once: its hash, and its table or why it has none."""

    sha256: str
    table: ArrowTable | RecordError


def _read_content(file: Path) -> _Content:
    try:
        content = file.read_bytes()
    except OSError:
        content = b""
    try:
        table = _decode_table(content, source=str(file))
    except RecordError as error:
        table = error
    return _Content(hashlib.sha256(content).hexdigest(), table)


def _load(path: Path, content: _Content | None = None) -> _Loaded:
    """Return the record in `path`, its checked table, the columns of it and the folder of all."""
    file = path / RECORD_NAME if path.is_dir() else path
    record = EvaluationRecord.from_json(_read_text(file, name=RECORD_NAME), source=str(file))
    examples = file.with_name(EXAMPLES_NAME)
    content = content or _read_content(examples)
    if content.sha256 != record.examples_sha256:
        _check_hash(examples, record.examples_sha256, record_name=file.name)
    if record.adversarials_sha256 is not None:
        _check_hash(file.with_name(ADVERSARIALS_NAME), record.adversarials_sha256, record_name=file.name)
    table = content.table
    if isinstance(table, RecordError):
        raise table
    columns = columns_of(table)
    _check_agreement(record, columns, source=str(examples))
    return record, table, columns, file.parent


def _read_text(file: Path, *, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot read {file} ({error.strerror}): give a run folder or its {name}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{file} is not a record: it is not text; give a run folder or its {name}") from None


def _check_hash(file: Path, expected: str, *, record_name: str, again: str = "evaluate") -> None:
    """Raise RecordError unless `file` is there and has the hash `expected`."""
    if not file.is_file():
        raise RecordError(f"{file} is missing: keep it beside {record_name}, or {again} again with --overwrite")
    if sha256_of(file) != expected:
        raise RecordError(f"{file} is not the file that {record_name} was written with: {again} again with --overwrite")


def _check_agreement(record: EvaluationRecord, columns: Columns, *, source: str) -> None:
    """Raise RecordError naming the first number of `record` or column of its table that contradicts the others."""
    fault = disagreement(record, columns)
    if fault is not None:
        raise RecordError(f"{source} disagrees with its record: {fault}; evaluate again with --overwrite")


def record_schema() -> str:
    """Return the JSON Schema of an evaluation record."""
    return _schema_of(EvaluationRecord)


def probe_schema() -> str:
    """Return the JSON Schema of the record of a probe."""
    return _schema_of(ProbeRecord)


def _schema_of(kind: type[EvaluationRecord] | type[ProbeRecord]) -> str:
    schema = kind.model_json_schema()
    # Decoding asks for the format too, though it has a default in code.
    schema["required"] = list(schema["properties"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"
