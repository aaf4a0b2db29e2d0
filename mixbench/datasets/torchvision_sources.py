"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision keeps them, downloaded on first use."""

import errno
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from mixbench.datasets.cache import content_signature
from mixbench.datasets.examples import Examples
from mixbench.errors import DatasetError
from mixbench.files import storage_error

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IDX_FILES = {
    "train": ("raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte"),
    "test": ("raw/t10k-images-idx3-ubyte", "raw/t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class _Layout:
    """The folder that torchvision makes below its root, and the files in it that hold each split."""

    folder: str
    files: Mapping[str, tuple[str, ...]]


_LAYOUTS: dict[str, _Layout] = {
    "MNIST": _Layout("MNIST", _IDX_FILES),
    "FashionMNIST": _Layout("FashionMNIST", _IDX_FILES),
    "CIFAR10": _Layout(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    ),
    "CIFAR100": _Layout("cifar-100-python", {"train": ("train",), "test": ("test",)}),
}


@dataclass(frozen=True)
class TorchvisionSource:
    """A data set of torchvision's.

    Attributes:
        dataset: The name of torchvision's class, such as "CIFAR10".
        root: The folder that torchvision's own folder is in, or is downloaded to.
        class_names: One name a class.
        lookalike: The dataset to suggest when the data is not the official one.
    """

    dataset: str
    root: Path
    class_names: tuple[str, ...]
    lookalike: str | None = None

    @property
    def folder(self) -> Path:
        """Where torchvision keeps the data below `root`."""
        return self.root / _LAYOUTS[self.dataset].folder

    def signature(self, split: str) -> str:
        """Return a hash of the files' content, after downloading them where they are not there yet.

        Raises DatasetError when the download fails and RecordError when it cannot be stored.
        """
        if not self.folder.exists():
            self._download()
        files = [self.folder / file for file in _LAYOUTS[self.dataset].files[split]]
        return content_signature(files, root=self.root, facts=self.class_names)

    def read(self, *, name: str, split: str) -> Examples:
        """Return all examples of `split`; raises DatasetError when the files are not the published ones."""
        try:
            dataset = self._open(self.root, train=split == "train", download=False)
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            hint = f"if the images went through JPEG, use {self.lookalike}; otherwise " if self.lookalike else ""
            raise DatasetError(
                f"{self.folder} does not hold the published {self.dataset} ({_one_line(error)}): {hint}delete that"
                " folder to download it again"
            ) from error
        pixels = np.asarray(dataset.data, dtype=np.uint8)
        labels = np.asarray(dataset.targets, dtype=np.int64)
        channels_first = pixels[:, np.newaxis] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)  # noqa: PLR2004
        return Examples(
            name=name,
            split=split,
            subset="all",
            images=np.ascontiguousarray(channels_first),
            labels=labels,
            indices=np.arange(len(labels), dtype=np.int64),
            class_names=self.class_names,
        )

    def _open(self, root: Path, *, train: bool, download: bool) -> Any:
        from torchvision import datasets  # noqa: PLC0415 - brings torch, which cached and embedded data do not need

        return getattr(datasets, self.dataset)(root, train=train, download=download)

    def _download(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # torchvision takes a half-unpacked file for a whole one, so its folder moves into place when complete.
            with tempfile.TemporaryDirectory(dir=self.root, prefix=f".{self.dataset}.", suffix=".part") as part:
                self._fetch(Path(part))
                (Path(part) / self.folder.name).replace(self.folder)
        except OSError as error:
            if not self.folder.exists():
                raise storage_error(self.folder, error) from error

    def _fetch(self, part: Path) -> None:
        try:
            self._open(part, train=False, download=True)
        except (RuntimeError, OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            raise DatasetError(
                f"could not download {self.dataset} with torchvision to {self.root} ({_one_line(error)}): check the"
                f" network, or pass --data-dir with a folder that has {self.folder.name} in it"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
