"""The columns of a per-example table as numpy arrays, and whether they say what their record says.

Boards read a thousand tables: nothing here imports pandas, which pyarrow's own ways to numpy do, and each column is
looked at where it lies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from mixbench.records import EXAMPLES_COLUMNS, EvaluationRecord
from mixbench.threat_model import Norm, ThreatModel

WORDS = ("broken_by", "eps")
"""The columns of strings, which repeat few words."""

ArrowArray = Any
ArrowTable = Any
"""pyarrow ships no types; a table has the columns of `EXAMPLES_COLUMNS`, the strings dictionary encoded."""
_OF_BROKEN = ("broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm")


@dataclass(frozen=True, eq=False)
class Column:
    """One column.

    Attributes:
        data: The values, or for strings the position of each in `words`; any value where it is null.
        valid: Where it is not null.
    """

    data: np.ndarray
    valid: Bool[np.ndarray, " example"]
    words: tuple[str, ...]


Columns = Mapping[str, Column]


def columns_of(table: ArrowTable) -> Columns:
    """Return the columns of `table` by name."""
    return {name: _column(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def _column(column: ArrowArray) -> Column:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    words: tuple[str, ...] = ()
    if isinstance(array, pa.DictionaryArray):
        words, array = tuple(array.dictionary.to_pylist()), array.indices
    validity, values = array.buffers()
    n, offset = len(array), array.offset
    valid = np.ones(n, dtype=np.bool_) if validity is None else _bits(validity, n, offset)
    if array.type == pa.bool_():
        return Column(_bits(values, n, offset), valid, words)
    return Column(np.frombuffer(values, dtype=array.type.to_pandas_dtype(), count=n + offset)[offset:], valid, words)


def _bits(buffer: ArrowArray, n: int, offset: int) -> Bool[np.ndarray, " example"]:
    bits = np.unpackbits(np.frombuffer(buffer, dtype=np.uint8), count=n + offset, bitorder="little")
    return bits[offset:].view(np.bool_)


def disagreement(record: EvaluationRecord, columns: Columns) -> str | None:
    """Return the first number of `record` or column of its table that contradicts the others, or None."""
    return _null_fault(columns) or _count_fault(record, columns) or _broken_fault(record, columns)


def _null_fault(columns: Columns) -> str | None:
    """Return what is null and should not be, or the other way round."""
    for name in EXAMPLES_COLUMNS:
        valid = columns[name].valid
        if name not in _OF_BROKEN and not valid.all():
            return f"{name} should have a value everywhere, but does not in {np.count_nonzero(~valid)} rows"
    broken = columns["broken"].data
    for name in _OF_BROKEN:
        if wrong := np.count_nonzero(columns[name].valid != broken):
            return f"{name} should have a value where broken and only there, but does not in {wrong} rows"
    return None


def _count_fault(record: EvaluationRecord, columns: Columns) -> str | None:
    """Return the first count of `record` that is not the count of its table."""
    clean = columns["label"].data == columns["clean_prediction"].data
    broken = columns["broken"].data
    stages = _word_counts(columns["broken_by"])
    counts = (
        ("dataset.n", record.dataset.n, len(broken)),
        ("clean.correct", record.clean.correct, np.count_nonzero(clean)),
        ("robust.correct", record.robust.correct, np.count_nonzero(clean & ~broken)),
        *((f"broken_by.{name}", count, stages.get(name, 0)) for name, count in record.broken_by.items()),
        ("cost.forwards", record.cost.forwards, columns["forwards"].data.sum()),
        ("cost.backwards", record.cost.backwards, columns["backwards"].data.sum()),
    )
    return next((f"{name} is {told}, the table has {found}" for name, told, found in counts if told != found), None)


def _word_counts(column: Column) -> dict[str, int]:
    counts: dict[str, int] = {}
    found = np.bincount(column.data[column.valid], minlength=len(column.words)).tolist()
    for word, count in zip(column.words, found, strict=True):
        counts[word] = counts.get(word, 0) + count
    return counts


def _broken_fault(record: EvaluationRecord, columns: Columns) -> str | None:
    """Return what the rows of broken examples claim that cannot be."""
    wrong = ((text, np.count_nonzero(rows)) for text, rows in _impossible(record, columns))
    return next((f"{text} in {count} rows" for text, count in wrong if count), None)


def _impossible(record: EvaluationRecord, columns: Columns) -> Iterator[tuple[str, np.ndarray]]:
    allowed = _allowed_norms(record.threat_model.norm, record.protocol.eps_grid)
    broken = np.flatnonzero(columns["broken"].data)
    label, clean, adversarial, norms, eps = (
        columns[name].data[broken] for name in ("label", "clean_prediction", "adversarial_prediction", "norm", "eps")
    )
    limits = np.array([allowed.get(word, np.nan) for word in columns["eps"].words], dtype=np.float64)[eps]
    yield "broken is set where the clean prediction is wrong", clean != label
    yield "eps is not in protocol.eps_grid", np.isnan(limits)
    yield "norm is not within eps", ~((norms >= 0) & (norms <= limits))
    yield "adversarial_prediction is the label", adversarial == label


@cache
def _allowed_norms(norm: Norm, grid: tuple[Fraction, ...]) -> Mapping[str, float]:
    """Return for each eps of a grid, as text, the largest norm that counts as within."""
    return {str(eps): float(eps) + ThreatModel(norm, eps).tolerance() for eps in grid}
