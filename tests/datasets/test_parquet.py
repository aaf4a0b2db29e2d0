from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixbench.datasets.examples import Examples
from mixbench.datasets.parquet import ParquetSource
from mixbench.errors import DatasetError

Row = tuple[bytes | None, str | None, int | None]
WriteParquet = Callable[..., Path]
NAME = "test-00000-of-00001.parquet"
VALID, LARGER = b"stands for an image", b"stands for a larger image"


def read(folder: Path, *, in_path_order: bool = False) -> Examples:
    return ParquetSource(folder, in_path_order=in_path_order).read(name="toy", split="test")


@pytest.mark.parametrize("column", ["image", "img"])
def test_images_labels_and_class_names_come_back(
    tmp_path: Path, photos: np.ndarray, rows: list[Row], write_parquet: WriteParquet, column: str
) -> None:
    write_parquet(tmp_path / NAME, rows, names=("cat", "dog"), column=column)
    examples = read(tmp_path)
    assert (examples.images == photos.transpose(0, 3, 1, 2)).all()
    assert examples.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert examples.class_names == ("cat", "dog")
    assert (examples.name, examples.split, examples.subset) == ("toy", "test", "all")


def test_raw_bytes_are_images_too(tmp_path: Path, photos: np.ndarray, rows: list[Row]) -> None:
    table = pa.table({"image": [content for content, _, _ in rows], "label": [label for *_, label in rows]})
    pq.write_table(table, tmp_path / NAME)
    assert (read(tmp_path).images == photos.transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{"}, {"huggingface": '{"info": 3}'}, {"other": "x"}])
def test_without_class_names_the_classes_are_numbered(
    tmp_path: Path, rows: list[Row], write_parquet: WriteParquet, metadata: dict[str, str] | None
) -> None:
    path = write_parquet(tmp_path / NAME, [*rows[:-1], (rows[-1][0], None, 3)])
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    assert read(tmp_path).class_names == ("0", "1", "2", "3")


def test_given_class_names_go_before_those_of_the_file(
    tmp_path: Path, rows: list[Row], write_parquet: WriteParquet
) -> None:
    write_parquet(tmp_path / NAME, rows, names=("cat", "dog"))
    source = ParquetSource(tmp_path, class_names=("chat", "chien"))
    assert source.read(name="toy", split="test").class_names == ("chat", "chien")
    assert source.signature("test") != ParquetSource(tmp_path).signature("test")


def test_shards_are_read_in_the_order_of_their_names(
    tmp_path: Path, photos: np.ndarray, rows: list[Row], write_parquet: WriteParquet
) -> None:
    write_parquet(tmp_path / "test-00001-of-00002.parquet", rows[4:])
    write_parquet(tmp_path / "test-00000-of-00002.parquet", rows[:4])
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows[:1])
    assert (read(tmp_path).images == photos.transpose(0, 3, 1, 2)).all()


def test_a_missing_shard_is_noticed(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "test-00000-of-00003.parquet", rows)
    write_parquet(tmp_path / "test-00002-of-00003.parquet", rows)
    with pytest.raises(DatasetError, match=r"has 2 of the 3 files of split test"):
        read(tmp_path)


def test_a_file_may_have_the_split_anywhere_in_its_name(
    tmp_path: Path, rows: list[Row], write_parquet: WriteParquet
) -> None:
    write_parquet(tmp_path / "my_test_images.parquet", rows)
    assert len(read(tmp_path)) == 6


@pytest.mark.parametrize(
    ("in_path_order", "order"), [(True, [2, 0, 1, 3, 4, 5]), (False, [0, 1, 2, 3, 4, 5])], ids=["official", "file"]
)
def test_official_paths_decide_the_order_only_where_asked_for(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    photos: np.ndarray,
    rows: list[Row],
    write_parquet: WriteParquet,
    in_path_order: bool,  # noqa: FBT001 - pytest passes it by name
    order: list[int],
) -> None:
    paths = [f"test/{n:05d}.png" for n in (1, 2, 0, 3, 4, 5)]
    write_parquet(
        tmp_path / NAME, [(content, path, label) for (content, _, label), path in zip(rows, paths, strict=True)]
    )
    examples = read(tmp_path, in_path_order=in_path_order)
    assert (examples.images == photos[order].transpose(0, 3, 1, 2)).all()
    assert examples.labels.tolist() == [n % 2 for n in order]
    assert examples.indices.tolist() == list(range(6))


def test_rows_without_paths_keep_their_order(
    tmp_path: Path, photos: np.ndarray, rows: list[Row], write_parquet: WriteParquet
) -> None:
    write_parquet(tmp_path / NAME, [(content, None, label) for content, _, label in rows])
    assert (read(tmp_path, in_path_order=True).images == photos.transpose(0, 3, 1, 2)).all()


def test_the_signature_follows_the_content_and_not_the_place(
    tmp_path: Path, rows: list[Row], write_parquet: WriteParquet
) -> None:
    for folder, content in [("a", rows), ("b", rows), ("c", rows[1:])]:
        write_parquet(tmp_path / folder / NAME, content)
    first, twin, other = (ParquetSource(tmp_path / folder) for folder in "abc")
    assert first.signature("test") == twin.signature("test") != other.signature("test")
    assert first.signature("test") != replace(first, in_path_order=True).signature("test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, "x.png", 0), r"of-00001\.parquet row 6 has no image bytes"),
        ((b"\x89PNG\r\n", "x.png", 0), r"of-00001\.parquet row 6 is not a readable image"),
        ((VALID, "x.png", None), r"of-00001\.parquet row 6 has the label None"),
        ((VALID, "x.png", -1), r"labels -1 to 1, expected 0 to 1"),
        ((LARGER, "x.png", 0), r"of-00001\.parquet row 6 is 3x9x9 but the images before it are 3x4x5"),
    ],
    ids=["no bytes", "broken image", "no label", "negative label", "another size"],
)
def test_a_bad_row_is_named(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    rows: list[Row],
    write_parquet: WriteParquet,
    png: Callable[..., bytes],
    row: Row,
    message: str,
) -> None:
    contents: dict[bytes | None, bytes | None] = {VALID: rows[0][0], LARGER: png(np.zeros((9, 9, 3), dtype=np.uint8))}
    write_parquet(tmp_path / NAME, [*rows, (contents.get(row[0], row[0]), *row[1:])])
    with pytest.raises(DatasetError, match=message):
        read(tmp_path)


def test_labels_must_be_integers(tmp_path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.table({"image": [rows[0][0]], "label": ["cat"]}), tmp_path / NAME)
    with pytest.raises(DatasetError, match=r"row 0 has the label 'cat', expected an integer"):
        read(tmp_path)


@pytest.mark.parametrize("columns", [("picture", "label"), ("image", "class")])
def test_missing_columns_are_named_with_those_found(tmp_path: Path, columns: tuple[str, str]) -> None:
    pq.write_table(pa.table({columns[0]: [b""], columns[1]: [0]}), tmp_path / NAME)
    with pytest.raises(DatasetError, match=rf"{NAME} has the columns {columns[0]}, {columns[1]}, expected image"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -30])
def test_a_truncated_file_is_named(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet, keep: int) -> None:
    path = write_parquet(tmp_path / NAME, rows)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=rf"{NAME} is not a readable parquet file"):
        read(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / NAME, [])
    with pytest.raises(DatasetError, match=r"toy \(test\) has no examples"):
        read(tmp_path)


def test_a_folder_without_the_split_is_refused(tmp_path: Path, rows: list[Row], write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows)
    with pytest.raises(DatasetError, match=r"has no test-\*\.parquet"):
        read(tmp_path)
