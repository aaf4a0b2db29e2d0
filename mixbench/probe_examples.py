"""The per-example file of an un-shuffle probe: how well each test image was decoded under each permutation.

With it intervals can be computed again, and two records with the same protocol be compared image by image.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from mixbench.errors import RecordError
from mixbench.example_table import columns_of
from mixbench.probe_record import ProbeRecord

if TYPE_CHECKING:
    import pandas as pd

PROBE_EXAMPLES_COLUMNS = {"permutation_seed": "int64", "index": "int64", "mse": "float32", "ssim": "float32"}
"""The columns of the file and their types: a row for each permutation and test image, `index` being its position in the
split. The PSNR of an image is -10 log10 of its mse."""

ProbeTable = Any
"""The columns above by name: a pandas.DataFrame, or as `read_probe_columns` has them."""

_SCHEMA = pa.schema([(name, getattr(pa, kind)()) for name, kind in PROBE_EXAMPLES_COLUMNS.items()])
_REMEDY = "probe again with --overwrite"
_ROUNDING, _SMALL = 1e-5, 1e-3
"""Values are float32, the record's means are not: they may differ by this share, of small ones by that of 0.001."""


def encode_probe_examples(
    index: Int64[np.ndarray, " example"],
    decoded: dict[int, tuple[Float32[np.ndarray, " example"], Float32[np.ndarray, " example"]]],
) -> bytes:
    """Return the table as parquet, the same bytes for the same content.

    `decoded` has mse and ssim of each example by the seed of the permutation.
    """
    columns: dict[str, Any] = {
        "permutation_seed": np.repeat(np.array(sorted(decoded), dtype=np.int64), len(index)),
        "index": np.tile(index, len(decoded)),
        "mse": np.concatenate([decoded[seed][0] for seed in sorted(decoded)]),
        "ssim": np.concatenate([decoded[seed][1] for seed in sorted(decoded)]),
    }
    table = pa.Table.from_arrays([pa.array(columns[field.name], type=field.type) for field in _SCHEMA], schema=_SCHEMA)
    buffer = io.BytesIO()
    # Bytes of equal weight side by side, and steps instead of positions, make the file a quarter smaller.
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=False,
        column_encoding={"index": "DELTA_BINARY_PACKED", "mse": "BYTE_STREAM_SPLIT", "ssim": "BYTE_STREAM_SPLIT"},
    )
    return buffer.getvalue()


def read_probe_examples(path: Path) -> "pd.DataFrame":
    """Return the table at `path`, a row an image and permutation; raises RecordError if it is not one."""
    return decode_probe_examples(_read(path), source=str(path))


def read_probe_columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns at `path`, without pandas; raises RecordError if it is not such a table."""
    return decode_probe_columns(_read(path), source=str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror}): {_REMEDY}") from None


def decode_probe_examples(content: bytes, *, source: str) -> "pd.DataFrame":
    """Return the table that `encode_probe_examples` wrote; raises RecordError that names `source`."""
    return _decode(content, source=source).to_pandas()


def decode_probe_columns(content: bytes, *, source: str) -> dict[str, np.ndarray]:
    """Return the columns that `encode_probe_examples` wrote, without pandas; raises RecordError that names `source`."""
    columns = columns_of(_decode(content, source=source))
    if empty := [name for name, column in columns.items() if not column.valid.all()]:
        raise RecordError(f"{source} has empty cells in column {empty[0]}: {_REMEDY}")
    return {name: column.data for name, column in columns.items()}


def _decode(content: bytes, *, source: str) -> Any:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        names = table.schema.names
    except (OSError, ValueError, pa.ArrowException) as error:  # a name that is no UTF-8 is a ValueError
        raise RecordError(f"{source} is not a readable parquet file ({error}): {_REMEDY}") from None
    if names != _SCHEMA.names or table.schema.types != _SCHEMA.types:
        raise RecordError(f"{source} has columns {names}, expected {_SCHEMA.names}: {_REMEDY}")
    return table


def check_probe_examples(record: ProbeRecord, table: ProbeTable, *, source: str) -> None:
    """Raise RecordError naming what of `table` contradicts `record`, whose decoder it tells of image by image."""
    fault = _fault(record, table)
    if fault is not None:
        raise RecordError(f"{source} disagrees with its record: {fault}; {_REMEDY}")


def _fault(record: ProbeRecord, table: ProbeTable) -> str | None:
    seeds, n = record.protocol.permutation_seeds, record.dataset.n
    permuted = np.asarray(table["permutation_seed"])
    if not np.array_equal(permuted, np.repeat(seeds, n)):
        return f"it has {len(permuted)} rows, not {n} for each of the permutations {seeds} in turn"
    positions = np.asarray(table["index"]).reshape(len(seeds), n)
    if (positions != positions[0]).any() or len(np.unique(positions[0])) != n or int(positions.min()) < 0:
        return "its permutations are not of the same examples, each once"
    told = {measurement.permutation_seed: measurement.metrics for measurement in record.of("decoder")}
    for name in ("mse", "ssim"):
        means = np.asarray(table[name]).reshape(len(seeds), n).mean(axis=1, dtype=np.float64)
        for seed, mean in zip(seeds, means, strict=True):
            if seed not in told or name not in told[seed]:
                return f"the record has no {name} of a decoder under permutation {seed}"
            value = told[seed][name].value
            if not abs(value - mean) <= _ROUNDING * max(abs(value), _SMALL):
                return f"the mean {name} under permutation {seed} is {mean:.6g}, not {value:.6g}"
    return None
