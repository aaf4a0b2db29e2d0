"""Accepting: all of it or nothing, and never over something that is there."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mixbench.errors import InvalidInputError, RecordError
from mixbench.leaderboard import build
from mixbench.models import load_checkpoint, load_model
from mixbench.store import Store
from mixbench.submission import VerificationReport, accept
from tests.submission.conftest import Verify
from tests.submission.forging import CARD, CONFIG, copied, edited

NAME = "convmixer_frozen.honest"


@pytest.fixture
def checkout(tmp_path: Path, honest: Path) -> Path:
    """A checkout with a board, a zoo, and a submission that waits."""
    root = tmp_path / "checkout"
    for folder in ("model_zoo/convmixer_frozen.digits", "leaderboards/protocols", "leaderboards/incoming"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text("title page")
    (root / "leaderboards" / "README.md").write_text("old board")
    copied(honest, root / "leaderboards" / "incoming")
    return root


def waiting(checkout: Path) -> Path:
    return checkout / "leaderboards" / "incoming" / NAME


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def rebuild(boards: Path) -> None:
    (boards / "README.md").write_text("new board")
    (boards / "index.html").write_text(f"{len(Store(boards / 'records').records())} records")


def test_an_accepted_submission_is_where_it_belongs(checkout: Path, report: VerificationReport, honest: Path) -> None:
    accepted = accept(waiting(checkout), report, checkout, rebuild=rebuild)
    assert accepted.name == NAME
    assert all(place.exists() for place in accepted.places)
    assert not waiting(checkout).exists()
    boards = checkout / "leaderboards"
    assert (boards / "index.html").read_text() == "1 records"
    kept = boards / "submissions" / NAME
    assert everything(kept) == everything(honest)
    beside = boards / "submissions" / f"{NAME}.verification.json"
    assert VerificationReport.from_json(beside.read_bytes(), source="it") == report
    (record,) = Store(boards / "records").records()
    assert record.model == load_model_identity(checkout)
    assert {path.name for path in (boards / "records" / record.id).iterdir()} == {"record.json", "examples.parquet"}
    assert {path.name for path in (checkout / "model_zoo" / NAME).iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    text = (checkout / "model_zoo" / NAME / "README.md").read_text()
    for fact in ("license_name: mit\n", "datasets:\n- digits\n", "`mixbench train --model", "97.50% (351 of 360 "):
        assert fact in text
    assert [path for path in boards.iterdir() if path.name.startswith(".")] == []


def load_model_identity(checkout: Path) -> object:
    load_checkpoint(checkout / "model_zoo" / NAME)
    return load_model(f"local-dir:{checkout / 'model_zoo' / NAME}").identity


def _fails(boards: Path) -> None:
    rebuild(boards)
    (boards / "half").mkdir()
    (boards / "half" / "page.html").write_text("half a page")
    (boards.parent / "README.md").write_text("overwritten")
    raise RuntimeError("the build broke")


def _is_interrupted(boards: Path) -> None:
    rebuild(boards)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("build", "raised"), [(_fails, RuntimeError), (_is_interrupted, KeyboardInterrupt)])
def test_a_failed_build_leaves_everything_as_it_was(
    build: Callable[[Path], None], raised: type[BaseException], checkout: Path, report: VerificationReport
) -> None:
    before = {name: content for name, content in everything(checkout).items() if content is not None}
    with pytest.raises(raised):
        accept(waiting(checkout), report, checkout, rebuild=build)
    after = {name: content for name, content in everything(checkout).items() if content is not None}
    assert after == before


@pytest.mark.parametrize(
    "taken",
    [
        f"model_zoo/{NAME}",
        f"model_zoo/{NAME.upper()}",
        f"leaderboards/submissions/{NAME}",
        f"leaderboards/submissions/{NAME}.verification.json",
        "leaderboards/records/{record}",
    ],
)
def test_a_name_that_exists_is_refused(taken: str, checkout: Path, report: VerificationReport) -> None:
    (record,) = (waiting(checkout) / "records").iterdir()
    (checkout / taken.format(record=record.name)).mkdir(parents=True)
    before = everything(checkout)
    with pytest.raises(RecordError, match="exists already"):
        accept(waiting(checkout), report, checkout, rebuild=rebuild)
    assert everything(checkout) == before


def test_a_submission_changed_since_its_verification_is_refused(checkout: Path, report: VerificationReport) -> None:
    edited(CARD, lambda card: card.update(licence="WTFPL"))(waiting(checkout))
    before = everything(checkout)
    with pytest.raises(RecordError, match="is not the submission that was verified"):
        accept(waiting(checkout), report, checkout, rebuild=rebuild)
    assert everything(checkout) == before


def test_a_submission_that_did_not_pass_is_refused(checkout: Path, report: VerificationReport) -> None:
    failed = report.model_copy(update={"checks": ()})
    with pytest.raises(RecordError, match="did not pass"):
        accept(waiting(checkout), failed, checkout, rebuild=rebuild)


def test_a_folder_that_is_no_checkout_is_refused(honest: Path, report: VerificationReport, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="has no folder leaderboards"):
        accept(honest, report, tmp_path, rebuild=rebuild)
    assert honest.is_dir()


def test_a_card_with_markup_is_text_in_the_zoo(checkout: Path, check: Verify) -> None:
    evil = "<script>alert(1)</script> [x](https://evil.example) |`\n@everyone".replace("\n", " ")
    edited(CARD, lambda card: card.update(licence=evil, authors=[evil], recipe="---\n".strip()))(waiting(checkout))
    verified = check(waiting(checkout), survivors=1)
    accept(waiting(checkout), verified, checkout, rebuild=rebuild)
    text = (checkout / "model_zoo" / NAME / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert "license_name: see-below" in head.splitlines()
    assert "&lt;script&gt;" in body
    for harmful in ("<script", "](http", "@everyone"):
        assert harmful not in body


_PROTOCOL = """
title = "Digits"
dataset = "digits"
split = "test"
seed = 0
block_size = 1000
headline = { attack = "fgsm", threat_model = "Linf 1/10", subset = "all" }
subsets.all = { n = 360, fingerprint = "3d663bae755b6db966a821397f7763a21517f7053525d9d304c17d875a438bdc" }
evaluations = [{ attack = "fgsm", norm = "Linf", eps = ["1/10"], subset = "all" }]
"""


class _Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [f"{name}={value}" for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_the_words_of_a_stranger_as_text(checkout: Path, honest_fgsm: Path, check: Verify) -> None:
    """A hostile card, accepted by mistake, on the real page."""
    shutil.rmtree(waiting(checkout))
    evil = "<img src=x onerror=alert(7)></script><script>alert(8)</script>'\"`{{ 7*7 }}"
    folder = copied(honest_fgsm, checkout / "leaderboards" / "incoming")
    edited(CARD, lambda card: card.update(dict.fromkeys(("licence", "recipe", "training_data"), evil)))(folder)
    edited(CARD, lambda card: card.update(authors=[evil]))(folder)
    edited(CONFIG, lambda config: config["mixbench"].update(recipe=evil, command=evil, device=evil))(folder)
    (checkout / "leaderboards" / "protocols" / "digits.toml").write_text(_PROTOCOL)
    verified = check(folder, survivors=1)
    assert verified.passed, verified.to_markdown()
    accept(folder, verified, checkout, rebuild=build)
    (record,) = Store(checkout / "leaderboards" / "records").records()
    page = _Page((checkout / "leaderboards" / "index.html").read_text())
    assert record.model.name in page.text
    assert evil in page.text
    assert "img" not in page.elements
    assert not any("alert(" in attribute and attribute.startswith("on") for attribute in page.attributes)
    for table in ("leaderboards/README.md", f"model_zoo/{NAME}/README.md"):
        # Markdown shows what stands behind a backslash as it is.
        assert not re.search(r"(?<!\\)<(script|img)", (checkout / table).read_text(), flags=re.IGNORECASE)
