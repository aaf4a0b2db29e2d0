"""From a network and its evaluations to a folder that is ready for a pull request."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mixbench
from mixbench.errors import RecordError
from mixbench.files import storage_error, write_atomically
from mixbench.store import EXAMPLES_NAME, RECORD_NAME
from mixbench.submission.card import Environment, SubmissionCard
from mixbench.submission.manifest import (
    CARD_NAME,
    ENVIRONMENT_NAME,
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    PACKED_ADVERSARIALS_NAME,
    RECORDS_FOLDER,
    ListedFile,
    Manifest,
    bundle_hash,
)
from mixbench.submission.network_files import NetworkFiles
from mixbench.submission.results import Result
from mixbench.submission.tensor_files import packed


@dataclass(frozen=True)
class Submission:
    """A packed submission on disk."""

    folder: Path
    manifest: Manifest
    bundle_sha256: str


def pack(output: Path, network: NetworkFiles, results: Sequence[Result], card: SubmissionCard) -> Submission:
    """Write the submission to the folder `output`/NAME in one step and return it.

    Raises RecordError if the folder exists, if a result is of other weights, or if it cannot be written.
    """
    folder = output / network.name
    if folder.exists():
        raise RecordError(f"{folder} exists already: choose another --name or --output, or delete it")
    files = {**network.files, CARD_NAME: card.to_bytes(), ENVIRONMENT_NAME: Environment.collect().to_bytes()}
    for result in results:
        files |= _result_files(result)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        name=network.name,
        factory=network.factory,
        mixbench=mixbench.__version__,
        files=tuple(
            ListedFile(path=path, size=len(files[path]), sha256=hashlib.sha256(files[path]).hexdigest())
            for path in sorted(files)
        ),
    )
    # Last, so that a folder with a manifest is complete.
    files[MANIFEST_NAME] = manifest.to_bytes()
    _write(folder, files)
    return Submission(folder, manifest, bundle_hash(files[MANIFEST_NAME]))


def _result_files(result: Result) -> dict[str, bytes]:
    folder = f"{RECORDS_FOLDER}/{result.record.id}"
    return {
        f"{folder}/{RECORD_NAME}": result.record.to_json().encode(),
        f"{folder}/{EXAMPLES_NAME}": result.examples,
        f"{folder}/{PACKED_ADVERSARIALS_NAME}": packed(result.adversarials),
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            complete = Path(temporary) / folder.name
            for path, content in files.items():
                write_atomically(complete / path, content)
            complete.rename(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise storage_error(folder, error) from error
