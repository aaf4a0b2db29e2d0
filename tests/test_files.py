import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixbench.errors import RecordError
from mixbench.files import sha256_of, storage_error, write_atomically

OLD, NEW = b"old content", b"new content" * 1000
NEEDS_POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and limits")

FULL_DISK = """
import resource, sys
from pathlib import Path
from mixbench.errors import RecordError
from mixbench.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 8192)
except RecordError as error:
    print(error)
"""

POWER_CUT = """
import os, sys
from pathlib import Path
from mixbench import files
os.fsync = lambda descriptor: os._exit(9)
files.write_atomically(Path(sys.argv[1]), b"x" * 8192)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "record.json"
    path.write_bytes(OLD)
    return path


def _run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)


def test_content_arrives_whole_in_folders_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "record.json"
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def test_an_old_file_is_replaced_and_nothing_is_left_beside_it(path: Path) -> None:
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_a_failing_rename_leaves_the_old_file_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((RecordError, KeyboardInterrupt)):
        write_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


@NEEDS_POSIX
def test_a_full_disk_is_reported_and_leaves_the_old_file_alone(path: Path) -> None:
    done = _run(FULL_DISK, path)
    assert done.stdout.startswith(f"cannot write {path}: File too large; what was finished before is kept"), done.stderr
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_power_cut_leaves_the_old_file_alone(path: Path) -> None:
    assert _run(POWER_CUT, path).returncode == 9
    assert path.read_bytes() == OLD


@NEEDS_POSIX
def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        write_atomically(tmp_path / "record.json", NEW)
    finally:
        os.umask(previous)
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("record.json/x", "a file is in the way"),
        ("record.json/x/y", "a part of the path is a file"),
        ("folder", "Is a directory"),
    ],
)
def test_a_place_that_cannot_hold_a_file_is_named(path: Path, place: str, reason: str) -> None:
    (path.parent / "folder").mkdir()
    target = path.parent / place
    with pytest.raises(RecordError, match=f"cannot write {target}: {reason}; .* choose another folder"):
        write_atomically(target, NEW)
    assert path.read_bytes() == OLD


@NEEDS_POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RecordError, match="there is no permission to write there"):
        write_atomically(tmp_path / "record.json", NEW)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "there is no permission to write there"),
        (errno.EPERM, "there is no permission to write there"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_storage_errors_are_told_in_plain_words(number: int, reason: str) -> None:
    message = str(storage_error(Path("runs/record.json"), OSError(number, os.strerror(number))))
    assert message.startswith(f"cannot write runs/record.json: {reason}; ")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_hash_is_the_sha256_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"\x00" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
