"""Folders in the Hugging Face parquet layout: `test-00000-of-00001.parquet` with an image and a label column."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from mixbench.datasets.cache import content_signature
from mixbench.datasets.examples import Examples
from mixbench.datasets.pixels import EncodedImage, decode_all
from mixbench.errors import DatasetError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMN = "label"
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


class _ClassLabel(BaseModel):
    names: tuple[str, ...]


class _Features(BaseModel):
    label: _ClassLabel


class _Info(BaseModel):
    features: _Features


class _HuggingFace(BaseModel):
    info: _Info


@dataclass(frozen=True)
class _Row:
    image: EncodedImage
    label: int
    path: str | None


@dataclass(frozen=True)
class ParquetSource:
    """A folder of parquet files, one or more for each split.

    Attributes:
        folder: Holds `{split}-*.parquet`, or else files with the split's name in theirs; they are read in name order.
        class_names: One name a class; None takes them from the file's Hugging Face metadata, or else numbers.
        in_path_order: Sort by the `path` of each image, for sets where it holds the official position; where the
            rows have no paths, their order is kept.
    """

    folder: Path
    class_names: tuple[str, ...] | None = None
    in_path_order: bool = False

    def signature(self, split: str) -> str:
        """Return a hash of the files' content and of how they are read; raises DatasetError where there are none."""
        facts = (*(self.class_names or ()), f"in_path_order={self.in_path_order}")
        return content_signature(self._files(split), root=self.folder, facts=facts)

    def read(self, *, name: str, split: str) -> Examples:
        """Return all examples of `split`; raises DatasetError that names the file, and the row where there is one."""
        files = self._files(split)
        rows = [row for file in files for row in _read_rows(file)]
        if self.in_path_order and all(row.path for row in rows):
            rows.sort(key=lambda row: row.path or "")
        labels = np.array([row.label for row in rows], dtype=np.int64)
        return Examples(
            name=name,
            split=split,
            subset="all",
            images=decode_all((row.image for row in rows), n=len(rows)),
            labels=labels,
            indices=np.arange(len(rows), dtype=np.int64),
            class_names=self.class_names or _class_names(files[0]) or _numbered(labels),
        )

    def _files(self, split: str) -> tuple[Path, ...]:
        files = find_shards(self.folder, split=split)
        if not files:
            raise DatasetError(f"{self.folder} has no {split}-*.parquet: point at a folder in the Hugging Face layout")
        return files


def find_shards(folder: Path, *, split: str) -> tuple[Path, ...]:
    """Return the files of `split` in `folder`, sorted, or none; raises DatasetError when a numbered one is missing."""
    files = tuple(sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"*{split}*.parquet")))
    numbers = [match for match in (_SHARD.search(file.name) for file in files) if match]
    if numbers and len(numbers) == len(files):
        found, total = {int(match[1]) for match in numbers}, int(numbers[0][2])
        if found != set(range(total)):
            raise DatasetError(
                f"{folder} has {len(files)} of the {total} files of split {split}: fetch the missing ones, or delete"
                " those of another version"
            )
    return files


def _read_rows(file: Path) -> Iterator[_Row]:
    table = _read_table(file)
    column = next(name for name in _IMAGE_COLUMNS if name in table.column_names)
    images, labels = table[column].to_pylist(), table[_LABEL_COLUMN].to_pylist()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = f"{file} row {number}"
        content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if not isinstance(content, bytes):
            raise DatasetError(f"{place} has no image bytes: write the images into the file, not only their paths")
        if not isinstance(label, int):
            raise DatasetError(
                f"{place} has the label {label!r}, expected an integer: give every image its class number"
            )
        yield _Row(EncodedImage(content, place), label, path)


def _read_table(file: Path) -> Any:
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            columns = [name for name in _IMAGE_COLUMNS if name in names][:1]
            if not columns or _LABEL_COLUMN not in names:
                raise DatasetError(
                    f"{file} has the columns {', '.join(names)}, expected image (or img) and {_LABEL_COLUMN}:"
                    " rename them"
                )
            table = parquet.read(columns=[*columns, _LABEL_COLUMN])
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DatasetError(
            f"{file} is not a readable parquet file ({reason}): it may be truncated, so fetch it again"
        ) from None


def _class_names(file: Path) -> tuple[str, ...] | None:
    metadata = pq.read_schema(file).metadata or {}
    try:
        return _HuggingFace.model_validate_json(metadata.get(b"huggingface", b"")).info.features.label.names
    except ValidationError:
        return None


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
