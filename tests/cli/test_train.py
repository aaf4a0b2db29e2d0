import re
import signal
import types
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixbench.models import load_checkpoint, load_model
from tests.cli.conftest import Run, tree

_TRAIN = ("train", "--model", "convmixer_frozen", "--epochs", 1)


def test_training_writes_a_folder_that_loads_as_a_model(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_TRAIN, "--output", "out")
    folder = here / "out" / "convmixer_frozen.digits"
    card = load_checkpoint(folder).card
    assert outcome.code == 0
    assert sorted(path.name for path in here.rglob("*")) == [
        *("README.md", "config.json", "convmixer_frozen.digits", "model.safetensors", "out")
    ]
    assert outcome.out == (
        f"out/convmixer_frozen.digits: clean accuracy {card.clean.rate:.2%} ({card.clean.correct} of 360 test"
        " examples)\n"
    )
    assert (card.dataset, card.recipe, card.epochs, card.seed, card.filter_seed) == ("digits", "standard", 1, 0, 0)
    shown = mixbench("models", f"local-dir:{folder}")
    assert (shown.code, "convmixer_frozen.digits" in shown.out) == (0, True)


def test_a_trained_folder_can_be_evaluated(here: Path, mixbench: Run) -> None:
    mixbench(*_TRAIN, "--output", here, "--tag", "mine")
    outcome = mixbench("eval", "--model", "local-dir:convmixer_frozen.mine", "--attack", "fgsm", "--n-examples", 20)
    assert (outcome.code, "convmixer_frozen.mine on digits (test, 20 examples" in outcome.out) == (0, True)


def test_the_seeds_decide_the_weights_and_nothing_else_does(here: Path, mixbench: Run) -> None:
    choices = {"a": (), "b": (), "seed": ("--seed", 1), "filters": ("--filter-seed", 1)}
    for name, options in choices.items():
        mixbench(*_TRAIN, "--output", here / name, *options)
    hashes = {name: load_checkpoint(here / name / "convmixer_frozen.digits").card.sha256 for name in choices}
    assert hashes["a"] == hashes["b"]
    assert len(set(hashes.values())) == 3


def test_the_card_names_the_command_that_repeats_it(here: Path, mixbench: Run) -> None:
    mixbench(*_TRAIN, "--output", "first", "--seed", 3, "--filter-seed", 5)
    first = load_checkpoint(here / "first" / "convmixer_frozen.digits").card
    program, *arguments = first.command.split()
    mixbench(*arguments, "--output", "second")
    assert program == "mixbench"
    assert load_checkpoint(here / "second" / "convmixer_frozen.digits").card.sha256 == first.sha256


def test_an_existing_folder_is_kept_unless_overwrite_is_asked_for(here: Path, mixbench: Run) -> None:
    mixbench(*_TRAIN, "--output", here)
    before = tree(here)
    outcome = mixbench(*_TRAIN, "--output", here, "--seed", 1)
    assert outcome.refuses("convmixer_frozen.digits exists already", "--overwrite", "another --output")
    assert tree(here) == before
    assert mixbench(*_TRAIN, "--output", here, "--seed", 1, "--overwrite").code == 0
    assert load_checkpoint(here / "convmixer_frozen.digits").card.seed == 1
    assert [path.name for path in here.iterdir()] == ["convmixer_frozen.digits"]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        pytest.param(
            ["--model", "convmixer_frozn"],
            ["unknown architecture 'convmixer_frozn'", "did you mean 'convmixer_frozen'"],
            id="architecture",
        ),
        pytest.param(["--recipe", "lin"], ["'lin'", "did you mean 'linf'"], id="recipe"),
        pytest.param(["--dataset", "digit"], ["'digit'", "did you mean 'digits'"], id="dataset"),
        pytest.param(["--epochs", "0"], ["epochs 0 is not at least 1", "leave it out"], id="no epochs"),
        pytest.param(["--filter-seed", "-1"], ["filter seed -1 is not in 0 to", "choose"], id="filter seed"),
        pytest.param(["--device", "tpu"], ["device 'tpu' is unknown", "use cpu, cuda"], id="device"),
        pytest.param(["--tag", "../x"], ["tag '../x'", "use letters"], id="tag with a slash"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    arguments: list[str], fragments: list[str], here: Path, mixbench: Run
) -> None:
    assert mixbench(*_TRAIN, *arguments).refuses(*fragments)
    assert tree(here) == {}


def test_an_output_below_a_file_is_refused_before_the_training(here: Path, mixbench: Run) -> None:
    (here / "notes.txt").write_text("keep me")
    outcome = mixbench("train", "--model", "convmixer_frozen", "--epochs", 10**6, "--output", "notes.txt/out")
    assert outcome.refuses("cannot write into notes.txt/out", "choose another --output")
    assert tree(here) == {"notes.txt": b"keep me"}


@contextmanager
def _ctrl_c_after(seconds: float) -> Generator[None]:
    """Send this process SIGINT, as a terminal does, once `seconds` have passed."""

    def send(number: int, frame: types.FrameType | None) -> None:
        del number, frame
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, send)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_exits_130_and_leaves_nothing(here: Path, mixbench: Run) -> None:
    load_model("convmixer_frozen")
    with _ctrl_c_after(1.0):
        outcome = mixbench("train", "--model", "convmixer_frozen", "--epochs", 10**6, "--output", "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted; no checkpoint was written: run the same command again" in outcome.err
    assert tree(here) == {}


def test_progress_is_drawn_on_stderr_alone(mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    outcome = mixbench(*_TRAIN)
    assert re.search(r"loss \d\.\d{4}  accuracy \d+\.\d%", outcome.err)
    assert "100%" in outcome.err
    assert outcome.out.startswith("checkpoints/convmixer_frozen.digits: clean accuracy ")
