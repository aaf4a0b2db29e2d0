"""Files that are either complete or absent, and their hashes."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from mixbench.errors import InvalidInputError, RecordError

_STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a file is in the way",
}


PICTURE_FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Raise InvalidInputError if `path` does not end in the name of a known picture format."""
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise InvalidInputError(f"{path} names no picture format: end it with {', '.join(PICTURE_FORMATS)}")


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a crash leaves the old file or the new one, never a part.

    Raises RecordError, with the old file untouched, when the disk is full or the folder is not writable.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a record is meant to be read by others.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def storage_error(path: Path, error: OSError) -> RecordError:
    """Return the error to raise for an OSError met while writing `path`."""
    reason = _STORAGE_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return RecordError(
        f"cannot write {path}: {reason}; what was finished before is kept, so make room or choose another folder and"
        " run the same command again"
    )
