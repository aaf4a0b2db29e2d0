"""From a stranger's folder to a private copy: after this, nothing else of the folder is opened.

What is checked must be what is used later, so each file is read once, by a descriptor that follows no link, while it
is hashed and copied.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mixbench.errors import RecordError
from mixbench.submission.manifest import (
    MANIFEST_NAME,
    MOST_FILES,
    MOST_RECORDS,
    FilePath,
    Manifest,
    bundle_hash,
    size_limit,
)

_MOST_ENTRIES = MOST_FILES + MOST_RECORDS + 2
_DEEPEST = 3
_CHUNK = 2**20
_FILE_PATH: TypeAdapter[str] = TypeAdapter(FilePath)


@dataclass(frozen=True)
class Listing:
    """The files of a folder: path with forward slashes and size in bytes."""

    folder: Path
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Intake:
    """A submission whose files are all there, are what the manifest says, and lie in a folder of our own."""

    folder: Path
    manifest: Manifest
    bundle_sha256: str

    def read(self, path: str) -> bytes:
        """Return the content of the file at `path`."""
        return (self.folder / path).read_bytes()


def list_files(folder: Path) -> Listing:
    """Return what lies in `folder`; raises RecordError for links, odd names, other kinds of files, or too much."""
    if folder.is_symlink():
        raise RecordError(f"{folder.name!a} is a symbolic link: put the folder itself there")
    sizes: dict[str, int] = {}
    entries = [0]
    _walk(folder, "", sizes, entries)
    if MANIFEST_NAME not in sizes:
        raise RecordError(f"{MANIFEST_NAME} is missing: pack the submission with mixbench submit")
    return Listing(folder, sizes)


def _walk(folder: Path, prefix: str, sizes: dict[str, int], entries: list[int]) -> None:
    # Listed at most once over the limit: a folder of a million names must not fill the memory.
    with os.scandir(folder) as found:
        first = sorted(itertools.islice(found, _MOST_ENTRIES + 1), key=lambda entry: entry.name)
    for entry in first:
        entries[0] += 1
        path = f"{prefix}{entry.name}"
        if entries[0] > _MOST_ENTRIES:
            raise RecordError(f"more than {_MOST_ENTRIES} files and folders: leave only what mixbench submit wrote")
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise RecordError(f"{path!a} is a symbolic link: put the file itself there")
        _check_path(path)
        if stat.S_ISDIR(status.st_mode):
            if path.count("/") + 1 >= _DEEPEST:
                raise RecordError(f"{path} is a folder too deep: leave only what mixbench submit wrote")
            _walk(folder / entry.name, f"{path}/", sizes, entries)
        elif stat.S_ISREG(status.st_mode):
            sizes[path] = _accepted_size(path, status.st_size)
        else:
            raise RecordError(f"{path} is neither a file nor a folder: leave only what mixbench submit wrote")


def _check_path(path: str) -> None:
    try:
        _FILE_PATH.validate_python(path)
    except ValidationError:
        raise RecordError(
            f"{path!a} has an odd name: use letters, digits, '.', '_' and '-' of ASCII, no dot in front"
        ) from None


def _accepted_size(path: str, size: int) -> int:
    limit = size_limit(path)
    if limit is None:
        raise RecordError(f"{path} is no file of a submission: leave only what mixbench submit wrote")
    if size > limit:
        raise RecordError(f"{path} has {size} bytes, expected at most {limit}: leave only what mixbench submit wrote")
    return size


def read_manifest(listing: Listing) -> Manifest:
    """Return the manifest of a listed folder; raises RecordError if it lists other files than there are."""
    manifest = Manifest.from_bytes(_read(listing.folder / MANIFEST_NAME, size=listing.sizes[MANIFEST_NAME]))
    listed = {file.path for file in manifest.files}
    for path in sorted(listed.symmetric_difference(listing.sizes.keys() - {MANIFEST_NAME})):
        fault = "is missing" if path in listed else "is not in the manifest"
        raise RecordError(f"{path} {fault}: pack the submission again")
    for file in manifest.files:
        if listing.sizes[file.path] != file.size:
            raise RecordError(
                f"{file.path} has {listing.sizes[file.path]} bytes, the manifest says {file.size}: pack it again"
            )
    return manifest


def take_in(listing: Listing, manifest: Manifest, into: Path) -> Intake:
    """Copy the files to `into`/NAME and return them; raises RecordError for the first with another hash."""
    folder = into / manifest.name
    for file in manifest.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _copy(listing.folder / file.path, target, size=file.size)
        if found != file.sha256:
            raise RecordError(f"{file.path} has SHA-256 {found}, the manifest says {file.sha256}: pack it again")
    content = _read(listing.folder / MANIFEST_NAME, size=listing.sizes[MANIFEST_NAME])
    if Manifest.from_bytes(content) != manifest:
        raise RecordError(f"{MANIFEST_NAME} changed while it was read: leave the folder alone")
    return Intake(folder, manifest, bundle_hash(content))


def _open(path: Path) -> int:
    # O_NONBLOCK, so that a pipe put there in the meantime does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordError(f"{path.name} is no regular file: leave only what mixbench submit wrote")
    return descriptor


def _read(path: Path, *, size: int) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        return file.read(size + 1)


def _copy(path: Path, target: Path, *, size: int) -> str:
    """Copy at most `size` bytes and one more, and return the SHA-256 of what was copied."""
    digest, left = hashlib.sha256(), size + 1
    with os.fdopen(_open(path), "rb") as source, target.open("wb") as copy:
        while left and (chunk := source.read(min(_CHUNK, left))):
            digest.update(chunk)
            copy.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()
