"""Decoded examples on disk: a source is decoded once, then memory-mapped.

A cache folder holds `images.npy`, `labels.npy` and, written last, `meta.json`. It appears under its final name
complete or not at all, and is trusted only while its content has the fingerprint that it was written with.
"""

import hashlib
import json
import tempfile
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from mixbench.datasets.examples import Examples
from mixbench.errors import DatasetError
from mixbench.files import sha256_of, storage_error

CACHE_FORMAT = "mixbench.dataset_cache/1"
_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, DatasetError)


class Source(Protocol):
    """Where a dataset's examples come from."""

    def signature(self, split: str) -> str:
        """Return a hash of everything that the decoded examples depend on."""
        ...

    def read(self, *, name: str, split: str) -> Examples:
        """Return all examples of `split`, decoded, under the dataset name `name`."""
        ...


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mixbench.dataset_cache/1"] = CACHE_FORMAT
    fingerprint: str
    class_names: tuple[str, ...]


def load_cached(source: Source, *, name: str, split: str, cache_dir: Path) -> Examples:
    """Return all examples of `source`, memory-mapped from `cache_dir`, decoding them first where necessary.

    A missing or damaged cache is built anew. Raises DatasetError when the source is damaged and RecordError when
    the cache cannot be written.
    """
    key = source.signature(split)[:16]
    safe_name = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:64]
    folder = cache_dir / "datasets" / f"{safe_name}-{split}-{key}"
    cached = _open(folder, name=name, split=split)
    if cached is not None:
        return cached
    examples = source.read(name=name, split=split)
    _write(folder, examples)
    return _open(folder, name=name, split=split) or examples


def content_signature(files: Iterable[Path], *, root: Path, facts: Iterable[str] = ()) -> str:
    """Return a hash of the names below `root` and the content of `files`, and of further `facts`, in order."""
    try:
        content = [[file.relative_to(root).as_posix(), sha256_of(file)] for file in files]
    except OSError as error:
        raise DatasetError(
            f"cannot read {error.filename}: {error.strerror}; check the folder and its permissions"
        ) from error
    return hashlib.sha256(json.dumps([CACHE_FORMAT, content, list(facts)]).encode()).hexdigest()


def _open(folder: Path, *, name: str, split: str) -> Examples | None:
    """Return the examples kept in `folder`, or None where there are none or they are damaged."""
    try:
        manifest = _Manifest.model_validate_json((folder / "meta.json").read_bytes())
        images, labels = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")
        if (images.dtype, images.ndim, labels.dtype, labels.ndim) != (np.uint8, 4, np.int64, 1):
            return None
        examples = Examples(
            name=name,
            split=split,
            subset="all",
            images=images,
            labels=labels,
            indices=np.arange(len(labels), dtype=np.int64),
            class_names=manifest.class_names,
        )
    except _DAMAGE:
        return None
    return examples if examples.fingerprint == manifest.fingerprint else None


def _write(folder: Path, examples: Examples) -> None:
    manifest = _Manifest(fingerprint=examples.fingerprint, class_names=examples.class_names)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part") as part:
            complete = Path(part) / "complete"
            complete.mkdir()
            _write_array(complete / "images.npy", examples.images)
            _write_array(complete / "labels.npy", examples.labels)
            (complete / "meta.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                folder.replace(Path(part) / "damaged")
            complete.replace(folder)
    except OSError as error:
        # Another process may have put the same folder there in the meantime; then there is nothing left to do.
        if _open(folder, name=examples.name, split=examples.split) is None:
            raise storage_error(folder, error) from error


def _write_array(path: Path, array: np.ndarray) -> None:
    # numpy.save reports a full disk without its error number, so only the header is left to NumPy.
    contiguous = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(contiguous))
        file.write(contiguous.data)
