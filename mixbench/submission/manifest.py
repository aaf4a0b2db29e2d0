"""The manifest of a submission: its name, and every file with size and hash; its own hash stands for the whole."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mixbench.errors import InvalidInputError
from mixbench.records import Name, Sha256
from mixbench.store import EXAMPLES_NAME, RECORD_NAME
from mixbench.submission.strict_json import parse_strictly

MANIFEST_FORMAT = "mixbench.submission/1"
MANIFEST_NAME = "submission.json"
CARD_NAME = "card.json"
ENVIRONMENT_NAME = "environment.json"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CODE_PATH = "code/model.py"
RECORDS_FOLDER = "records"
PACKED_ADVERSARIALS_NAME = "adversarials.safetensors.xz"
FOREIGN = "foreign"
"""The part before the dot in the name of a submission that brings its own code."""

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_TOP_LIMITS: Mapping[str, int] = {
    MANIFEST_NAME: 256 * _KIB,
    CARD_NAME: 64 * _KIB,
    ENVIRONMENT_NAME: 64 * _KIB,
    CONFIG_NAME: _MIB,
    WEIGHTS_NAME: _GIB,
    CODE_PATH: 256 * _KIB,
}
_RECORD_LIMITS: Mapping[str, int] = {
    RECORD_NAME: 256 * _KIB,
    EXAMPLES_NAME: 64 * _MIB,
    PACKED_ADVERSARIALS_NAME: 512 * _MIB,
}
MOST_RECORDS = 32
MOST_FILES = 3 * MOST_RECORDS + len(_TOP_LIMITS)
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_-])?"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}\.[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)

FilePath = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART}){{0,2}}$", max_length=300)]
SubmissionName = Annotated[str, StringConstraints(pattern=rf"^{_NAME.pattern}$")]


def size_limit(path: str) -> int | None:
    """Return the most bytes that the file at `path` may have, or None if a submission has no such file."""
    parts = PurePosixPath(path).parts
    if len(parts) == 3 and parts[0] == RECORDS_FOLDER:  # noqa: PLR2004 - records, the id, the file
        return _RECORD_LIMITS.get(parts[2])
    return _TOP_LIMITS.get(path)


def check_submission_name(name: str) -> None:
    """Raise InvalidInputError unless `name` is `architecture.tag` in lower-case ASCII."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!a} is no name of a submission: give a tag of at most 40 of a-z, 0-9, '_' and '-', such as smith2026"
        )


class ListedFile(BaseModel):
    """A file of the submission: path with forward slashes, size in bytes, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: FilePath
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256

    @model_validator(mode="after")
    def _check(self) -> Self:
        limit = size_limit(self.path)
        if limit is None or self.path == MANIFEST_NAME:
            raise ValueError(f"{self.path} is no file of a submission")
        if self.size > limit:
            raise ValueError(f"{self.path} has {self.size} bytes, expected at most {limit}")
        return self


class Manifest(BaseModel):
    """What a submission consists of.

    Attributes:
        name: `architecture.tag`; `foreign.tag` for an architecture that is not of this registry.
        factory: The function in code/model.py that builds a foreign network; None for registered ones.
        mixbench: The version that packed it.
        files: Every file but the manifest itself, in order of path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mixbench.submission/1"]
    name: SubmissionName
    factory: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,59}$")] | None
    mixbench: Name
    files: Annotated[tuple[ListedFile, ...], Field(max_length=MOST_FILES)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        paths = [file.path for file in self.files]
        if len({path.lower() for path in paths}) != len(paths) or paths != sorted(paths):
            raise ValueError("files are not in order of path, each once")
        if (self.factory is None) == self.name.startswith(f"{FOREIGN}."):
            raise ValueError(f"name and factory contradict: code goes with a name that begins with {FOREIGN}.")
        network = CONFIG_NAME if self.factory is None else CODE_PATH
        expected = {CARD_NAME, ENVIRONMENT_NAME, WEIGHTS_NAME, network} | {
            f"{RECORDS_FOLDER}/{record}/{name}" for record in self.record_ids for name in _RECORD_LIMITS
        }
        if not self.record_ids or len(self.record_ids) > MOST_RECORDS:
            raise ValueError(f"{len(self.record_ids)} records, expected 1 to {MOST_RECORDS}")
        for path in sorted(expected.symmetric_difference(paths)):
            raise ValueError(f"{path} is {'missing from' if path in expected else 'not expected in'} the files")
        return self

    @property
    def record_ids(self) -> tuple[str, ...]:
        """The folder names of the records, in order."""
        parts = (PurePosixPath(file.path).parts for file in self.files)
        return tuple(dict.fromkeys(part[1] for part in parts if part[0] == RECORDS_FOLDER))

    def to_bytes(self) -> bytes:
        """Return the manifest as indented JSON with a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str = MANIFEST_NAME) -> Self:
        """Return the manifest written in `content`; raises RecordError."""
        return parse_strictly(cls, content, source=source, limit=_TOP_LIMITS[MANIFEST_NAME])


def bundle_hash(content: bytes) -> str:
    """Return the SHA-256 of a manifest as it stands, which through its hashes covers every file."""
    return hashlib.sha256(content).hexdigest()
