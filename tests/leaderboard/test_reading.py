import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.leaderboard import read


def the_record(folder: Path) -> Path:
    return next(folder.glob("records/toy-convmixer_frozen*Linf_1_10*"))


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = the_record(folder) / "record.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def move_an_example(content: dict) -> None:
    content["robust"]["correct"] += 1
    content["broken_by"]["pgd"] -= 1


def _garble(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"index", b"\xffndex"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda at: (at / "record.json").write_text("{"), "not JSON"),
    "unknown version": (
        lambda at: (at / "record.json").write_text('{"format": "mixbench.evaluation/9"}'),
        "mixbench.evaluation/9",
    ),
    "edited table": (lambda at: (at / "examples.parquet").write_bytes(b"PAR1"), "is not the file"),
    "garbled table": (lambda at: _garble(at / "examples.parquet"), "is not the file"),
    "missing table": (lambda at: (at / "examples.parquet").unlink(), "is missing"),
    "missing record": (lambda at: (at / "record.json").unlink(), "cannot read"),
    "duplicate": (lambda at: shutil.copytree(at, at.with_name("copy")), "duplicate of"),
    "in another folder": (lambda at: at.rename(at.with_name("elsewhere")), "not in its own folder"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_record_that_cannot_be_trusted_is_named_and_left_out(folder: Path, name: str) -> None:
    damage, fragment = FAULTS[name]
    damage(the_record(folder))
    contents = read(folder)
    (fault,) = contents.faults
    assert fragment in fault
    assert len(contents.verdicts) == (6 if name == "duplicate" else 5)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (move_an_example, "disagrees with its record: robust.correct"),
        (lambda content: content["protocol"].update(seed=8), "protocol.hash"),
        (lambda content: content["cost"].update(forwards=1), "cost.forwards"),
    ],
    ids=["verdicts", "protocol", "cost"],
)
def test_an_edited_record_is_named_and_left_out(folder: Path, change: Callable[[dict], object], fragment: str) -> None:
    edit(folder, change)
    contents = read(folder)
    (fault,) = contents.faults
    assert (fragment in fault, len(contents.verdicts)) == (True, 5)


def test_a_checkpoint_with_a_broken_card_is_named(folder: Path) -> None:
    card = folder.parent / "model_zoo" / "convmixer_frozen.toy" / "config.json"
    card.write_text('{"architecture": "x", "mixbench": {"sha256": "short"}}')
    contents = read(folder)
    assert "no valid card: sha256" in contents.faults[0]
    assert "convmixer_frozen.toy" not in contents.cards


def test_what_the_authors_of_a_submission_say_is_read(folder: Path) -> None:
    submission = folder / "submissions" / "convmixer_frozen.toy"
    submission.mkdir(parents=True)
    words = {"authors": ["A"], "licence": "MIT", "training_data": "toy", "recipe": "long", "extra_data": "none"}
    (submission / "card.json").write_text(json.dumps(words | {"reference": "unpublished", "format": "any"}))
    assert read(folder).submitted["convmixer_frozen.toy"].authors == ("A",)
