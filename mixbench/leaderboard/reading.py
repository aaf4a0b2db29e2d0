"""A folder of leaderboards as values: what can be trusted, and what was left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixbench.errors import RecordError
from mixbench.leaderboard.cards import Card, Submitted, card_folders, read_card, read_submitted
from mixbench.leaderboard.protocols import NamedProtocol, read_protocols
from mixbench.probe_record import ProbeRecord
from mixbench.store import PROBE_NAME, RECORD_NAME, StoredVerdicts, load_probe, load_verdicts

RECORDS_NAME = "records"
PICTURES_NAME = "pictures"
SUBMISSIONS_NAME = "submissions"
_ZOO_NAME = "model_zoo"


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder of leaderboards holds.

    Attributes:
        protocols: In order of name.
        verdicts: The records that can be trusted, in order of id.
        probes: The probe records that can be trusted, in order of id.
        pictures: Paths of the contact sheets, from the pages, by file name.
        cards: The checkpoints of the zoo and of accepted submissions, by name.
        submitted: What the authors of accepted submissions say, by name.
        faults: What was left out and why, a sentence each.
    """

    protocols: tuple[NamedProtocol, ...]
    verdicts: tuple[StoredVerdicts, ...]
    probes: tuple[ProbeRecord, ...]
    pictures: Mapping[str, str]
    cards: Mapping[str, Card]
    submitted: Mapping[str, Submitted]
    faults: tuple[str, ...]


def read(folder: Path) -> Contents:
    """Return what `folder` and the `model_zoo` beside it hold; raises RecordError if it has no readable protocols.

    A record is left out, and named in `faults`, where it is damaged, edited, of another version, or a second copy.
    """
    protocols = read_protocols(folder)
    faults: list[str] = []
    cards = _read_cards(folder, faults)
    submitted = _read_submitted(folder / SUBMISSIONS_NAME, faults)
    verdicts = _without_misplaced(_read_records(folder / RECORDS_NAME, faults), faults)
    evaluations = _with_equal_examples(verdicts, faults)
    probes = _read_probes(folder / RECORDS_NAME, faults)
    pictures = {path.name: f"{PICTURES_NAME}/{path.name}" for path in sorted((folder / PICTURES_NAME).glob("*.png"))}
    return Contents(protocols, evaluations, probes, pictures, cards, submitted, tuple(faults))


def _read_records(folder: Path, faults: list[str]) -> list[StoredVerdicts]:
    found: list[StoredVerdicts] = []
    folders = [path for path in _record_folders(folder) if not _is_probe(path)]
    for path, loaded in zip(folders, load_verdicts(folders), strict=True):
        if isinstance(loaded, StoredVerdicts):
            found.append(loaded)
        elif isinstance(loaded, RecordError):
            faults.append(str(loaded))
        else:
            faults.append(f"{path / RECORD_NAME} cannot be read ({loaded.strerror})")
    return found


def _read_probes(folder: Path, faults: list[str]) -> tuple[ProbeRecord, ...]:
    found: list[ProbeRecord] = []
    for path in filter(_is_probe, _record_folders(folder)):
        try:
            record = load_probe(path)
        except RecordError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{path / PROBE_NAME} cannot be read ({error.strerror})")
        else:
            if path.name == record.id:
                found.append(record)
            else:
                faults.append(_misplaced(path / PROBE_NAME, path.with_name(record.id)))
    return tuple(found)


def _record_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def _is_probe(path: Path) -> bool:
    return (path / PROBE_NAME).is_file() and not (path / RECORD_NAME).exists()


def _without_misplaced(verdicts: list[StoredVerdicts], faults: list[str]) -> list[StoredVerdicts]:
    """Leave out the copies: a record lies in the folder of its own name, once."""
    kept: list[StoredVerdicts] = []
    for found in verdicts:
        if found.folder.name == found.record.id:
            kept.append(found)
            continue
        faults.append(_misplaced(found.folder / RECORD_NAME, found.folder.with_name(found.record.id)))
    return kept


def _misplaced(file: Path, home: Path) -> str:
    what = "is a duplicate of" if home.is_dir() else "is not in its own folder, which is"
    return f"{file} {what} {home}: delete or move it"


def _with_equal_examples(verdicts: list[StoredVerdicts], faults: list[str]) -> tuple[StoredVerdicts, ...]:
    """Leave out the tables that list other examples than the first record with the same fingerprint does."""
    first: dict[str, StoredVerdicts] = {}
    kept: list[StoredVerdicts] = []
    for found in verdicts:
        reference = first.setdefault(found.record.dataset.fingerprint, found)
        same = np.array_equal(reference.index, found.index) and np.array_equal(reference.label, found.label)
        if same:
            kept.append(found)
        else:
            faults.append(
                f"{found.folder / RECORD_NAME} lists other examples than {reference.folder.name}, though their"
                " fingerprints agree: one of them was edited, evaluate again"
            )
    return tuple(kept)


def _read_cards(folder: Path, faults: list[str]) -> dict[str, Card]:
    cards: dict[str, Card] = {}
    for path, shown_as in _checkpoints(folder):
        try:
            # The zoo comes last: an accepted checkpoint that was moved there is the zoo's.
            cards[path.name] = read_card(path, shown_as=shown_as)
        except RecordError as error:
            faults.append(str(error))
    return cards


def _read_submitted(folder: Path, faults: list[str]) -> dict[str, Submitted]:
    submitted: dict[str, Submitted] = {}
    for path in sorted(folder.glob("[!.]*/card.json")):
        try:
            submitted[path.parent.name] = read_submitted(path)
        except RecordError as error:
            faults.append(str(error))
    return submitted


def _checkpoints(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every checkpoint folder, and its path from the pages."""
    for path in card_folders(folder / SUBMISSIONS_NAME):
        yield path, f"{SUBMISSIONS_NAME}/{path.name}"
    for path in card_folders(folder.resolve().parent / _ZOO_NAME):
        yield path, f"../{_ZOO_NAME}/{path.name}"
