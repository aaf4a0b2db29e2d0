import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.errors import RecordError
from mixbench.probe_examples import (
    PROBE_EXAMPLES_COLUMNS,
    check_probe_examples,
    decode_probe_columns,
    decode_probe_examples,
    encode_probe_examples,
    read_probe_examples,
)
from mixbench.probe_record import ProbeRecord
from mixbench.store import EXAMPLES_NAME, Store, load_probe
from tests.test_probe_record import GOLDEN_TEXT

RECORD = ProbeRecord.from_json(GOLDEN_TEXT)
INDEX = np.arange(360)


def decoded() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Values of each image whose means are those of the golden record."""
    around = np.linspace(-1e-3, 1e-3, 360)
    means = {one.permutation_seed: one.metrics for one in RECORD.of("decoder") if one.permutation_seed is not None}
    return {
        seed: tuple((metrics[name].value + around).astype(np.float32) for name in ("mse", "ssim"))  # type: ignore[misc]
        for seed, metrics in means.items()
    }


CONTENT = encode_probe_examples(INDEX, decoded())
WITH_EXAMPLES = RECORD.model_copy(update={"examples_sha256": hashlib.sha256(CONTENT).hexdigest()})


def test_the_table_is_read_back_bit_for_bit_with_equal_bytes_for_equal_content(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(CONTENT)
    table = read_probe_examples(tmp_path / "x.parquet")
    assert list(table.columns) == list(PROBE_EXAMPLES_COLUMNS)
    for seed, (mse, ssim) in decoded().items():
        rows = table[table["permutation_seed"] == seed]
        assert rows["index"].tolist() == INDEX.tolist()
        assert np.array_equal(rows["mse"], mse)
        assert np.array_equal(rows["ssim"], ssim)
    assert encode_probe_examples(INDEX, dict(reversed(decoded().items()))) == CONTENT


def test_three_permutations_of_ten_thousand_images_take_less_than_200_kilobytes() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    values = {seed: (np.exp(generator.normal(-4, 0.6, 10_000)), 1 - generator.beta(2, 8, 10_000)) for seed in range(3)}
    narrow = {seed: (mse.astype(np.float32), ssim.astype(np.float32)) for seed, (mse, ssim) in values.items()}
    assert len(encode_probe_examples(np.arange(10_000), narrow)) < 200_000


def test_a_store_keeps_it_beside_the_record_and_notices_another(tmp_path: Path) -> None:
    folder = Store(tmp_path).add_probe(WITH_EXAMPLES, samples=None, examples=CONTENT)
    assert load_probe(folder) == WITH_EXAMPLES
    (folder / EXAMPLES_NAME).write_bytes(encode_probe_examples(INDEX + 1, decoded()))
    with pytest.raises(RecordError, match=r"not the file that probe\.json was written with: probe again"):
        load_probe(folder)
    (folder / EXAMPLES_NAME).unlink()
    with pytest.raises(RecordError, match="is missing"):
        load_probe(folder)
    with pytest.raises(RecordError, match="per-example values do not belong"):
        Store(tmp_path).add_probe(WITH_EXAMPLES, samples=None, examples=None)


def _half(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[: len(table) // 2]


def _set(column: str, row: int, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table = table.copy()
        table.loc[row, column] = value
        return table

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_half, "it has 540 rows, not 360 for each of the permutations"),
        (_set("permutation_seed", 0, 1), "it has 1080 rows, not 360 for each"),
        (_set("index", 400, 7), "its permutations are not of the same examples, each once"),
        (_set("index", 0, -1), "its permutations are not of the same examples"),
        (_set("mse", 5, 0.5), "the mean mse under permutation 0 is 0.00936"),
        (_set("mse", 365, float("nan")), "the mean mse under permutation 1 is nan"),
        (_set("ssim", 725, 0.99), "the mean ssim under permutation 2 is"),
    ],
)
def test_a_table_that_contradicts_its_record_is_refused(
    edit: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    table = decode_probe_examples(CONTENT, source="x")
    check_probe_examples(RECORD, table, source="x")
    with pytest.raises(RecordError, match=f"x disagrees with its record: {message}"):
        check_probe_examples(RECORD, edit(table), source="x")


def test_a_record_without_decoders_has_no_such_table() -> None:
    others = RECORD.model_copy(update={"measurements": RECORD.of("mean_image")})
    with pytest.raises(RecordError, match="no mse of a decoder under permutation 0"):
        check_probe_examples(others, decode_probe_examples(CONTENT, source="x"), source="x")


def test_what_is_no_such_table_is_refused() -> None:
    for content in (b"nothing", CONTENT.replace(b"index", b"\xffndex")):
        with pytest.raises(RecordError, match="x is not a readable parquet file"):
            decode_probe_examples(content, source="x")
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"index": [1]}), buffer)
    with pytest.raises(RecordError, match=r"x has columns \['index'\]"):
        decode_probe_examples(buffer.getvalue().to_pybytes(), source="x")


def test_columns_are_those_of_the_table_and_have_no_empty_cells() -> None:
    columns = decode_probe_columns(CONTENT, source="x")
    table = decode_probe_examples(CONTENT, source="x")
    assert {name: column.tolist() for name, column in columns.items()} == table.to_dict("list")
    whole = pq.read_table(pa.BufferReader(CONTENT))
    ssim = whole["ssim"].to_pylist()
    buffer = io.BytesIO()
    pq.write_table(whole.set_column(3, "ssim", pa.array([None, *ssim[1:]], type=pa.float32())), buffer)
    with pytest.raises(RecordError, match="x has empty cells in column ssim: probe again"):
        decode_probe_columns(buffer.getvalue(), source="x")
