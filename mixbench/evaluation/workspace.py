"""Finished pieces of a run on disk: what survives `kill -9`."""

import contextlib
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from mixbench.errors import RecordError
from mixbench.files import write_atomically

_MANIFEST_NAME = "manifest.json"
_FORMAT = "mixbench.workspace/1"


@dataclass(frozen=True, eq=False)
class StageResult:
    """What one stage did to the examples of one block that were still robust, at one eps.

    Attributes:
        positions: Positions of the attacked examples in the evaluated set.
        broken: Which of them were broken, verified.
        adversarials: The adversarial images of the broken ones.
        predictions: Their predicted classes.
        margins: Their margins, at most 0.
        norms: Sizes of their perturbations.
        forwards: Forward passes of each attacked example.
        backwards: Backward passes of each attacked example.
        warnings: What the attack library said.
        seconds: Wall time.
        peak_memory_bytes: Highest memory use seen so far.
    """

    positions: Int64[np.ndarray, " attacked"]
    broken: Bool[np.ndarray, " attacked"]
    adversarials: Float[np.ndarray, "found channel height width"]
    predictions: Int64[np.ndarray, " found"]
    margins: Float[np.ndarray, " found"]
    norms: Float[np.ndarray, " found"]
    forwards: Int64[np.ndarray, " attacked"]
    backwards: Int64[np.ndarray, " attacked"]
    warnings: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int

    def to_bytes(self, *, key: str) -> bytes:
        """Return the result as an uncompressed npz archive that belongs to the run called `key`."""
        buffer = io.BytesIO()
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"warnings": json.dumps(self.warnings), "key": key}
        np.savez(buffer, allow_pickle=False, **values)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, key: str) -> "StageResult":
        """Return the result written by `to_bytes`; raises ValueError if it belongs to another run."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                raise ValueError(f"a stage of the run {archive['key']}, not of {key}")
            values: dict[str, Any] = {field.name: archive[field.name] for field in fields(cls)}
        values["warnings"] = tuple(json.loads(str(values["warnings"])))
        values["seconds"] = float(values["seconds"])
        values["peak_memory_bytes"] = int(values["peak_memory_bytes"])
        return cls(**values)


@dataclass(frozen=True)
class Workspace:
    """The folder in which a run keeps its finished stages; `key` says which run it belongs to."""

    folder: Path
    key: dict[str, str]

    @property
    def _manifest(self) -> dict[str, Any]:
        return {"format": _FORMAT, **self.key}

    @property
    def _run(self) -> str:
        return hashlib.sha256(json.dumps(self._manifest, sort_keys=True).encode()).hexdigest()

    def open(self) -> None:
        """Claim the folder for this run; raises RecordError if it holds anything else or cannot be written."""
        manifest = self.folder / _MANIFEST_NAME
        if manifest.is_file():
            found = _read_manifest(manifest)
            if found != self._manifest:
                differing = sorted(
                    name for name in self._manifest | found if found.get(name) != self._manifest.get(name)
                )
                raise RecordError(
                    f"{self.folder} holds the finished blocks of another run (other {', '.join(differing)}): choose"
                    " another --workspace, or delete it"
                )
            return
        if self.folder.is_dir() and any(not _is_ours(path) for path in self.folder.iterdir()):
            raise RecordError(f"{self.folder} holds files of yours: choose an empty or a new folder as --workspace")
        write_atomically(manifest, json.dumps(self._manifest, indent=2).encode())

    def load(self, name: str) -> StageResult | None:
        """Return the finished stage called `name`, or None where it must be run (again)."""
        try:
            return StageResult.from_bytes((self.folder / f"{name}.npz").read_bytes(), key=self._run)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
            # A damaged file costs time, not truth: the stage is deterministic.
            return None

    def save(self, name: str, result: StageResult) -> None:
        """Keep a finished stage."""
        write_atomically(self.folder / f"{name}.npz", result.to_bytes(key=self._run))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_ours(path: Path) -> bool:
    """Return whether a run may have written `path`: a stage, or what a crash left of one."""
    return path.suffix in {".npz", ".part"}


def remove_workspace(folder: Path) -> None:
    """Delete what a run kept in `folder`, once its records are stored, and the folder if that leaves it empty."""
    if not (folder / _MANIFEST_NAME).is_file():
        return
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _is_ours(path):
                path.unlink()
        # Last, so that a crash here leaves a folder that still says whose it is.
        (folder / _MANIFEST_NAME).unlink()
        folder.rmdir()
