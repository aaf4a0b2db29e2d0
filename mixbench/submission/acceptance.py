"""Taking a verified submission into a checkout: all of it, or nothing."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixbench.errors import InvalidInputError, RecordError
from mixbench.files import storage_error, write_atomically
from mixbench.models.checkpoints import read_config
from mixbench.store import EXAMPLES_NAME, Store
from mixbench.submission.card import SubmissionCard
from mixbench.submission.evidence import read_records
from mixbench.submission.intake import Intake, list_files, read_manifest, take_in
from mixbench.submission.manifest import CARD_NAME, CONFIG_NAME, MANIFEST_NAME, RECORDS_FOLDER, WEIGHTS_NAME
from mixbench.submission.report import VerificationReport
from mixbench.submission.zoo_card import zoo_card

BOARDS = "leaderboards"
ZOO = "model_zoo"
SUBMISSIONS = "submissions"
_GENERATED_ELSEWHERE = frozenset({"records", SUBMISSIONS, "incoming"})
_TITLE_PAGE = "README.md"

Rebuild = Callable[[Path], object]
"""Builds the pages of the folder of leaderboards anew; raises if it cannot."""


@dataclass(frozen=True)
class Accepted:
    """What was taken in, and where it lies now."""

    name: str
    places: tuple[Path, ...]


def accept(submission: Path, report: VerificationReport, root: Path, *, rebuild: Rebuild) -> Accepted:
    """Move a verified submission into the checkout at `root` and return where it lies.

    The whole goes to leaderboards/submissions/NAME with `report` beside it, the network to model_zoo/NAME unless it
    brings its own code, the records to leaderboards/records, and the pages are built anew. Any failure leaves the
    checkout and the submission as they were. Raises RecordError if the submission is not the one that passed, or if
    something of its name is there already, and InvalidInputError if `root` is no checkout.
    """
    if not report.passed:
        raise RecordError(f"{submission} did not pass its verification: mend it, or refuse it")
    for folder in (root / BOARDS, root / ZOO):
        if not folder.is_dir():
            raise InvalidInputError(f"{root} has no folder {folder.name}: give a checkout of mixbench as --root")
    try:
        with tempfile.TemporaryDirectory(dir=root / BOARDS, prefix=".accept-") as staging:
            intake = _take_in_again(submission, report, Path(staging) / "intake")
            moves = _stage(intake, report, root, Path(staging))
            _refuse_existing(moves)
            _commit(moves, root, rebuild)
    except OSError as error:
        raise storage_error(root, error) from error
    shutil.rmtree(submission, ignore_errors=True)
    return Accepted(intake.manifest.name, tuple(moves.values()))


def _take_in_again(submission: Path, report: VerificationReport, into: Path) -> Intake:
    listing = list_files(submission)
    intake = take_in(listing, read_manifest(listing), into)
    if intake.bundle_sha256 != report.bundle_sha256:
        raise RecordError(f"{submission} is not the submission that was verified: verify it again")
    write_atomically(intake.folder / MANIFEST_NAME, (submission / MANIFEST_NAME).read_bytes())
    return intake


def _stage(intake: Intake, report: VerificationReport, root: Path, staging: Path) -> dict[Path, Path]:
    """Prepare everything on the same file system; return what is to be renamed to what."""
    name, records = intake.manifest.name, read_records(intake)
    verification = staging / f"{name}.verification.json"
    write_atomically(verification, report.to_json().encode())
    submissions = root / BOARDS / SUBMISSIONS
    moves = {verification: submissions / verification.name}
    store = Store(staging / "records")
    for record in records:
        examples = intake.read(f"{RECORDS_FOLDER}/{record.id}/{EXAMPLES_NAME}")
        # The adversarial images stay with the submission: the store of the boards is meant to stay small.
        moves[store.add(record, examples=examples)] = root / BOARDS / "records" / record.id
    if intake.manifest.factory is None:
        zoo = staging / "zoo"
        card = SubmissionCard.from_bytes(intake.read(CARD_NAME))
        text = zoo_card(name, card, read_config(intake.folder), records, bundle_sha256=intake.bundle_sha256)
        for file, content in (
            (CONFIG_NAME, intake.read(CONFIG_NAME)),
            (WEIGHTS_NAME, intake.read(WEIGHTS_NAME)),
            (_TITLE_PAGE, text.encode()),
        ):
            write_atomically(zoo / file, content)
        moves[zoo] = root / ZOO / name
    moves[intake.folder] = submissions / name
    return moves


def _refuse_existing(moves: dict[Path, Path]) -> None:
    for target in moves.values():
        # File systems may not tell cases apart.
        taken = {path.name.lower() for path in target.parent.iterdir()} if target.parent.is_dir() else set[str]()
        if target.name.lower() in taken:
            raise RecordError(f"{target} exists already: the submitter must choose another name")


def _commit(moves: dict[Path, Path], root: Path, rebuild: Rebuild) -> None:
    pages = _pages(root)
    done: list[tuple[Path, Path]] = []
    made = [folder for folder in {target.parent for target in moves.values()} if not folder.exists()]
    try:
        for folder in made:
            folder.mkdir()
        for source, target in moves.items():
            source.rename(target)
            done.append((source, target))
        rebuild(root / BOARDS)
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        for folder in made:
            if folder.exists():
                folder.rmdir()
        _restore(pages, root)
        raise


def _pages(root: Path) -> dict[Path, bytes]:
    """Return what a build may write: the files of the boards that no submission adds, and the title page."""
    below = (path for path in (root / BOARDS).rglob("*") if path.is_file())
    found = [path for path in below if not _is_content(path.relative_to(root / BOARDS))]
    return {path: path.read_bytes() for path in (*found, root / _TITLE_PAGE) if path.is_file()}


def _is_content(path: Path) -> bool:
    return path.parts[0] in _GENERATED_ELSEWHERE or path.parts[0].startswith(".")


def _restore(pages: dict[Path, bytes], root: Path) -> None:
    for path in _pages(root).keys() - pages.keys():
        path.unlink()
    for path, content in pages.items():
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
