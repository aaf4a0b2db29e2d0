"""Small data sets in the shapes that people bring along."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixbench.datasets.examples import Examples

Row = tuple[bytes | None, str | None, int | None]
WriteParquet = Callable[..., Path]


def encode(pixels: np.ndarray, *, mode: str = "RGB", format_: str = "PNG") -> bytes:
    """Return an image file with `pixels`, (height, width) or (height, width, 3), stored in `mode`."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format_)
    return file.getvalue()


@pytest.fixture
def photos() -> np.ndarray:
    """Six different RGB images, (6, 4, 5, 3)."""
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The function that encodes an image."""
    return encode


@pytest.fixture
def rows(photos: np.ndarray) -> list[Row]:
    """The six photos as rows of a parquet file, in two classes."""
    return [(encode(photo), f"test/{n:05d}.png", n % 2) for n, photo in enumerate(photos)]


@pytest.fixture
def write_parquet() -> WriteParquet:
    """A function that writes rows as one parquet file in the Hugging Face layout."""

    def write(path: Path, rows: Sequence[Row], *, names: tuple[str, ...] | None = None, column: str = "image") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": content, "path": name} for content, name, _ in rows], image_type)
        table = pa.table({column: images, "label": pa.array([label for *_, label in rows], pa.int64())})
        if names is not None:
            features = {column: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path)
        return path

    return write


@pytest.fixture
def make_examples() -> Callable[[Sequence[int]], Examples]:
    """A function that makes examples with the given labels, each image different."""

    def make(labels: Sequence[int]) -> Examples:
        n = len(labels)
        return Examples(
            name="toy",
            split="test",
            subset="all",
            images=np.arange(n * 2, dtype=np.uint8).reshape(n, 1, 1, 2),
            labels=np.array(labels, dtype=np.int64),
            indices=np.arange(n, dtype=np.int64),
            class_names=tuple(str(number) for number in range(max(labels) + 1)),
        )

    return make
