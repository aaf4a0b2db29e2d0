"""The records of a submission with the tables and adversarial images that stand behind them."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixbench.datasets import CATALOGUE
from mixbench.errors import RecordError
from mixbench.records import EXAMPLES_COLUMNS, EvaluationRecord
from mixbench.store import ADVERSARIALS_NAME, EXAMPLES_NAME, RECORD_NAME, load_evaluation
from mixbench.submission.card import check_no_invisible
from mixbench.submission.intake import Intake
from mixbench.submission.manifest import PACKED_ADVERSARIALS_NAME, RECORDS_FOLDER
from mixbench.submission.strict_json import check_json
from mixbench.submission.tensor_files import Adversarials, adversarials_size, read_adversarials, unpack

_MOST_EXAMPLES = 100_000
_LONGEST_FOOTER = 2**20
# Ten numbers and two short texts a row.
_BYTES_A_ROW = 256
_RECORD_LIMIT = 256 * 2**10


@dataclass(frozen=True, eq=False)
class Evidence:
    """A record and its table, agreeing with each other, and its adversarial images, whole and of the right shape.

    The images are verified by nobody yet.
    """

    record: EvaluationRecord
    table: pd.DataFrame
    adversarials: Adversarials

    @property
    def title(self) -> str:
        """Attack and threat model, as in "pgd at Linf 8/255"."""
        return f"{self.record.attack.name} at {self.record.threat_model.value}"

    @property
    def clean_correct(self) -> np.ndarray:
        """Whether each example is claimed to be classified correctly."""
        return self.table["label"].to_numpy(np.int64) == self.table["clean_prediction"].to_numpy(np.int64)

    @property
    def broken(self) -> np.ndarray:
        """Whether each example is claimed to be broken."""
        return self.table["broken"].to_numpy(bool)

    @property
    def broken_eps(self) -> list[Fraction]:
        """The radius at which each broken example is claimed to be broken."""
        return [Fraction(eps) for eps in self.table.loc[self.broken, "eps"]]


def read_records(intake: Intake) -> tuple[EvaluationRecord, ...]:
    """Return the records of a submission; raises RecordError for one that is not valid, or not of this model."""
    records: list[EvaluationRecord] = []
    for record_id in intake.manifest.record_ids:
        path = f"{RECORDS_FOLDER}/{record_id}/{RECORD_NAME}"
        content = intake.read(path)
        check_json(content, source=path, limit=_RECORD_LIMIT)
        record = EvaluationRecord.from_json(content.decode(), source=path)
        if record.model.name != intake.manifest.name or record.id != record_id:
            raise RecordError(f"{path} is the record {record.id!a} of {record.model.name!a}: pack the submission again")
        if record.adversarials_sha256 is None:
            raise RecordError(f"{path} names no adversarial examples: evaluate again with --save-adversarials")
        if record.dataset.name not in CATALOGUE or record.dataset.n > _MOST_EXAMPLES:
            raise RecordError(
                f"{path} is about {record.dataset.n} examples of {record.dataset.name!a}: a submission is"
                f" evaluated on one of {', '.join(CATALOGUE)}"
            )
        try:
            # A library's warning may have several lines.
            check_no_invisible("".join(_texts(record.model_dump(mode="json"))), allowed="\n\t")
        except ValueError as error:
            raise RecordError(f"{path} {error}: pack the submission again") from None
        records.append(record)
    return tuple(records)


def _texts(content: object) -> Iterator[str]:
    """Yield every text in a JSON value, names included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        parts: Iterable[object] = content if isinstance(content, list) else itertools.chain(content, content.values())
        for part in parts:
            yield from _texts(part)


def read_evidence(intake: Intake, records: tuple[EvaluationRecord, ...]) -> tuple[Evidence, ...]:
    """Return the records with all that belongs to them; raises RecordError for the first that contradicts itself."""
    return tuple(_evidence(intake.folder / RECORDS_FOLDER / record.id, record) for record in records)


def _evidence(folder: Path, record: EvaluationRecord) -> Evidence:
    check_parquet(folder / EXAMPLES_NAME, rows=record.dataset.n)
    image_size = CATALOGUE[record.dataset.name].image_size
    broken = record.clean.correct - record.robust.correct
    limit = adversarials_size(broken, image_size)
    unpack(folder / PACKED_ADVERSARIALS_NAME, folder / ADVERSARIALS_NAME, limit=limit)
    table = load_evaluation(folder).table
    adversarials = read_adversarials(folder / ADVERSARIALS_NAME, broken=broken, image_size=image_size)
    if not np.array_equal(adversarials.indices, table.loc[table["broken"], "index"].to_numpy(np.int64)):
        raise RecordError(
            f"{record.id}/{PACKED_ADVERSARIALS_NAME} is for other examples than those that the table calls broken:"
            " pack the record again"
        )
    return Evidence(record, table, adversarials)


def check_parquet(path: Path, *, rows: int) -> None:
    """Raise RecordError unless `path` says that it is a per-example table of `rows` rows; no row is decoded."""
    place = f"{path.parent.name}/{path.name}"
    content = path.read_bytes()
    if content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        raise RecordError(f"{place} is not a parquet file, or is truncated: pack the record again")
    if int.from_bytes(content[-8:-4], "little") > min(_LONGEST_FOOTER, len(content)):
        raise RecordError(f"{place} has a footer over {_LONGEST_FOOTER} bytes: pack the record again")
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            metadata, schema = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{place} is not a readable parquet file ({error}): pack the record again") from None
    names: list[str] = schema.names
    if names != list(EXAMPLES_COLUMNS) or schema.metadata or any(field.metadata for field in schema):
        # Metadata of pandas would decide how the columns are read.
        raise RecordError(f"{place} has other columns or metadata than a per-example table: pack the record again")
    if metadata.num_rows != rows:
        raise RecordError(f"{place} has {metadata.num_rows} rows, its record counts {rows}: pack the record again")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    unpacked = sum(group.column(number).total_uncompressed_size for group in groups for number in range(len(names)))
    if sum(group.num_rows for group in groups) != rows or unpacked > _BYTES_A_ROW * rows + _LONGEST_FOOTER:
        raise RecordError(f"{place} unpacks to {unpacked} bytes, too many for {rows} rows: pack the record again")
