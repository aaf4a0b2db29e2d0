"""`mixbench submit`, `verify` and `accept`, as their users meet them."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from mixbench.attacks import FGSM, PGD
from mixbench.cli.main import main
from mixbench.models import zoo_folder
from tests.cli.conftest import Run, tree
from tests.conftest import ROOT
from tests.submission.forging import sealed_record

_ZOO = zoo_folder() / "convmixer_frozen.digits"
_MODEL = ("submit", "--checkpoint", _ZOO, "--model", "convmixer_frozen", "--name", "mine", "--dataset", "digits")
_CARD = (
    *("--author", "A. N. Author", "--author", "B. Co", "--licence", "MIT", "--training-data", "digits"),
    *("--recipe", "standard", "--extra-data", "none", "--reference", "unpublished"),
)
# At this radius no example survives, so there is nothing to attack again.
_QUICK = ("--attack", "pgd", "--eps", "1/2", "--n-examples", "24", "--device", "cpu")
_NAME = "convmixer_frozen.mine"


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission, made by the command itself."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in (*_MODEL, *_CARD, *_QUICK, "--output", folder)])
    assert not ended.value.code
    return folder / _NAME


@pytest.fixture
def submitted(packed_once: Path, here: Path) -> Path:
    return Path(shutil.copytree(packed_once, here / "submissions" / _NAME))


def test_a_submission_is_verified_and_left_as_it_is(submitted: Path, mixbench: Run) -> None:
    card = json.loads((submitted / "card.json").read_text())
    assert card["authors"] == ["A. N. Author", "B. Co"]
    packed = tree(submitted)

    first = mixbench("verify", submitted, "--seed", "5", "--json", "--summary", "summary.md")
    assert (first.code, first.err) == (0, "")
    beside = submitted.with_name(f"{_NAME}.verification.json")
    assert beside.read_text() == first.out
    report = json.loads(first.out)
    assert (report["seed"], report["submission"]) == (5, _NAME)
    assert {row["status"] for row in report["checks"]} <= {"pass", "warn"}
    assert Path("summary.md").read_text().startswith("### convmixer&#95;frozen.mine: verification passed")

    again = mixbench("verify", submitted, "--seed", "5", "--output", "again.json")
    assert json.loads(Path("again.json").read_text())["checks"] == report["checks"]
    assert "passed: bundle" in again.out
    assert tree(submitted) == packed


def test_the_seed_is_drawn_where_none_is_given(submitted: Path, mixbench: Run) -> None:
    (submitted / "card.json").unlink()
    seeds = [json.loads(mixbench("verify", submitted, "--json", "--output", "v.json").out)["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_a_submission_that_fails_ends_with_1(submitted: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (submitted / "card.json").write_text("{}")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "step.md")
    outcome = mixbench("verify", submitted)
    assert outcome.code == 1
    assert "card.json has 2 bytes, the manifest says" in outcome.out
    assert "failed: bundle unknown" in outcome.out
    assert "| manifest | fail |" in Path("step.md").read_text()
    assert "Traceback" not in outcome.out + outcome.err


def test_accepting_what_fails_changes_nothing(submitted: Path, mixbench: Run, here: Path) -> None:
    (submitted / "card.json").write_text("{}")
    for folder in ("leaderboards", "model_zoo"):
        (here / folder).mkdir()
    before = tree(here)
    assert mixbench("accept", submitted).code == 1
    assert tree(here) == before


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        pytest.param([], ["--author, --licence, --training-data, --recipe, --extra-data, --reference"], id="no card"),
        pytest.param([*_CARD[:-2]], ["the card lacks --reference"], id="a field missing"),
        pytest.param([*_CARD, "--reference", "ftp://x"], ["--reference 'ftp://x'", "https://"], id="an odd address"),
        pytest.param([*_CARD, "--licence", "M\u200bIT"], ["--licence", "U+200B"], id="an invisible character"),
        pytest.param([*_CARD, "--name", "My Model"], ["'convmixer_frozen.My Model'", "give a tag"], id="name"),
        pytest.param([*_CARD, "--model", "convmixer"], ["unknown architecture 'convmixer'"], id="architecture"),
        pytest.param([*_CARD, "--model", "timm:resnet18"], ["timm:resnet18", "function of your own"], id="timm"),
        pytest.param([*_CARD, "--dataset", "digit"], ["unknown dataset 'digit'", "digits"], id="dataset"),
        pytest.param([*_CARD, "--checkpoint", "nowhere"], ["cannot read the checkpoint nowhere"], id="checkpoint"),
        pytest.param([*_CARD, "--attack", "pdg"], ["unknown attack 'pdg'"], id="attack"),
        pytest.param([*_CARD, "--record", "nowhere"], ["cannot read nowhere"], id="record"),
    ],
)
def test_what_cannot_be_submitted(arguments: list[str], fragments: list[str], here: Path, mixbench: Run) -> None:
    assert mixbench(*_MODEL, *_QUICK, "--no-input", *arguments).refuses(*fragments)
    assert tree(here) == {}


def test_a_record_that_kept_no_adversarial_images(here: Path, mixbench: Run) -> None:
    assert mixbench("eval", "--model", "convmixer_frozen", *_QUICK).code == 0
    (run,) = (path.parent for path in here.glob("runs/*/record.json"))
    assert mixbench(*_MODEL, *_CARD, "--n-examples", "24", "--record", run).refuses("--save-adversarials")
    assert not (here / "submissions").exists()


def test_a_record_that_is_there_already_is_taken(here: Path, mixbench: Run) -> None:
    evaluated = mixbench("eval", "--model", "convmixer_frozen", *_QUICK, "--save-adversarials")
    assert evaluated.code == 0
    (run,) = (path.parent for path in here.glob("runs/*/record.json"))
    outcome = mixbench(*_MODEL, *_CARD, "--n-examples", "24", "--record", run)
    assert outcome.code == 0, outcome
    (record,) = (here / "submissions" / _NAME / "records").glob("*/record.json")
    packed, stored = json.loads(record.read_text()), json.loads((run / "record.json").read_text())
    assert packed["model"].pop("name") == _NAME
    assert stored["model"].pop("name") == "convmixer_frozen.digits"
    assert packed == stored


def test_a_terminal_is_asked_for_what_is_missing(here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO("Me; You\nhttps://example.org/paper\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    outcome = mixbench(*_MODEL, *_CARD[4:-2], *_QUICK)
    assert outcome.code == 0, outcome
    assert "Authors, separated by semicolons" in outcome.err
    card = json.loads((here / "submissions" / _NAME / "card.json").read_text())
    assert (card["authors"], card["reference"]) == (["Me", "You"], "https://example.org/paper")


def test_an_interrupted_evaluation_goes_on(here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*_MODEL, *_CARD, *_QUICK, "--attack", "pgd,fgsm")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(FGSM, "perturb", _interrupt)
        outcome = mixbench(*command)
    assert outcome.code == 130
    assert "run the same command again" in outcome.err
    assert {path.name for path in here.glob("submissions/*")} == {".unfinished"}
    assert list(here.glob("submissions/.unfinished/*/*.npz"))
    with monkeypatch.context() as unneeded:
        unneeded.setattr(PGD, "perturb", _interrupt)
        assert mixbench(*command).code == 0
    assert {path.name for path in here.glob("submissions/*")} == {_NAME}


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


_BOARD = """
title = "Digits"
dataset = "{dataset}"
split = "test"
seed = 3
block_size = 1000
headline = {{ attack = "pgd", threat_model = "Linf 1/2", subset = "all" }}
subsets.all = {{ n = 360, fingerprint = "3d663bae755b6db966a821397f7763a21517f7053525d9d304c17d875a438bdc" }}
evaluations = [
  {{ attack = "pgd", norm = "L2", eps = ["4"], subset = "all" }},
  {{ attack = "pgd", norm = "Linf", eps = ["2/5", "1/2"], subset = "all" }},
]
"""


def test_a_board_says_what_is_evaluated_and_shows_what_is_accepted(here: Path, mixbench: Run) -> None:
    protocols = here / "leaderboards" / "protocols"
    protocols.mkdir(parents=True)
    (here / "model_zoo").mkdir()
    (protocols / "digits.toml").write_text(_BOARD.format(dataset="digits"))
    board = ("--protocol", protocols / "digits.toml", "--device", "cpu", "--output", "leaderboards/incoming")
    assert mixbench(*_MODEL, *_CARD, *board).code == 0
    records = [json.loads(path.read_text()) for path in here.glob("leaderboards/incoming/*/records/*/record.json")]
    evaluated = {(record["threat_model"]["norm"], record["threat_model"]["eps"]) for record in records}
    assert evaluated == {("L2", "4"), ("Linf", "2/5"), ("Linf", "1/2")}
    assert {record["protocol"]["seed"] for record in records} == {3}
    assert mixbench("accept", f"leaderboards/incoming/{_NAME}").code == 0
    assert "convmixer\\_frozen.mine" in (here / "leaderboards" / "README.md").read_text()
    assert "A. N. Author" in (here / "leaderboards" / "index.html").read_text()


def test_a_board_of_other_data(here: Path, mixbench: Run) -> None:
    (here / "mnist.toml").write_text(_BOARD.format(dataset="mnist"))
    outcome = mixbench(*_MODEL, *_CARD, "--protocol", "mnist.toml")
    assert outcome.refuses("mnist.toml is about all of mnist", "expected one subset of digits")


def test_a_name_that_is_taken(here: Path, mixbench: Run) -> None:
    (here / "submissions" / _NAME).mkdir(parents=True)
    assert mixbench(*_MODEL, *_CARD, *_QUICK).refuses("exists already", "--name")


@pytest.mark.parametrize("verb", ["verify", "accept"])
def test_a_folder_that_is_not_there(verb: str, here: Path, mixbench: Run) -> None:
    assert mixbench(verb, "nowhere").refuses("nowhere is no folder", "mixbench submit")
    assert tree(here) == {}


def test_data_that_is_not_here_is_not_the_submissions_fault(submitted: Path, mixbench: Run) -> None:
    def say_cifar(record: dict[str, dict[str, object]]) -> None:
        record["dataset"] |= {"name": "cifar10_jpeg75", "subset": "all"}

    sealed_record(say_cifar)(submitted)
    assert mixbench("verify", submitted).refuses("cifar10_jpeg75 cannot be downloaded", "pass --data-dir")


def test_an_accepted_submission_is_on_the_boards(submitted: Path, mixbench: Run, here: Path) -> None:
    shutil.copytree(ROOT / "leaderboards" / "protocols", here / "leaderboards" / "protocols")
    (here / "model_zoo").mkdir()
    outcome = mixbench("accept", submitted)
    assert outcome.code == 0, outcome
    assert f"added: model_zoo/{_NAME}" in outcome.out
    assert not submitted.exists()
    boards = here / "leaderboards"
    assert (boards / "index.html").is_file()
    assert mixbench("verify", boards / "submissions" / _NAME, "--output", "v.json").code == 0
    again = mixbench("accept", boards / "submissions" / _NAME)
    assert (again.code, "exists already" in again.err) == (2, True)


def test_pages_that_cannot_be_built_leave_everything_as_it_was(submitted: Path, mixbench: Run, here: Path) -> None:
    for folder in ("leaderboards", "model_zoo"):
        (here / folder).mkdir()
    before = tree(here)
    outcome = mixbench("accept", submitted)
    assert outcome.code == 2
    assert "it has no protocols/*.toml" in outcome.err
    assert tree(here) == before
