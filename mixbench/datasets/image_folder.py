"""Folders of image files with one subfolder a class: `FOLDER/test/cat/1.png`, or `FOLDER/cat/1.png`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixbench.datasets.cache import content_signature
from mixbench.datasets.examples import Examples
from mixbench.datasets.pixels import EncodedImage, decode_all
from mixbench.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_SPLIT_FOLDERS = frozenset({"train", "test", "val", "validation"})


@dataclass(frozen=True)
class ImageFolderSource:
    """A folder with one subfolder a class, below a folder for each split or, without splits, directly.

    Classes and files are sorted by name. Where there are splits, the classes are those of all splits together, so a
    class that one split lacks does not shift the numbers of the others; where there are none, every split is the
    whole folder.
    """

    folder: Path

    def signature(self, split: str) -> str:
        """Return a hash of the class names and of the files' names and content."""
        return content_signature(self._files(split), root=self.folder, facts=self._class_names())

    def read(self, *, name: str, split: str) -> Examples:
        """Return all examples of `split`; raises DatasetError that names the file at fault."""
        files, class_names = self._files(split), self._class_names()
        numbers = {class_name: number for number, class_name in enumerate(class_names)}
        return Examples(
            name=name,
            split=split,
            subset="all",
            images=decode_all((EncodedImage(_read(file), str(file)) for file in files), n=len(files)),
            labels=np.array([numbers[file.parent.name] for file in files], dtype=np.int64),
            indices=np.arange(len(files), dtype=np.int64),
            class_names=class_names,
        )

    def _files(self, split: str) -> tuple[Path, ...]:
        splits = self._split_folders()
        if splits and self.folder / split not in splits:
            raise DatasetError(f"{self.folder} has no split {split!r}, only {', '.join(path.name for path in splits)}")
        classes = _subfolders(self.folder / split if splits else self.folder)
        files = tuple(file for folder in classes for file in sorted(folder.iterdir()) if _is_image(file))
        if not files:
            raise DatasetError(
                f"{self.folder} has no images for split {split!r}: expected {split}/CLASS/*.png or CLASS/*.png"
                f" (or {', '.join(sorted(IMAGE_SUFFIXES - {'.png'}))})"
            )
        return files

    def _class_names(self) -> tuple[str, ...]:
        parents = self._split_folders() or (self.folder,)
        return tuple(sorted({folder.name for parent in parents for folder in _subfolders(parent)}))

    def _split_folders(self) -> tuple[Path, ...]:
        return tuple(path for path in _subfolders(self.folder) if path.name in _SPLIT_FOLDERS)


def _subfolders(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}; check its path") from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror}; check its permissions") from error
