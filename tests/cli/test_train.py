import json
import re
import signal
import statistics
import types
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixbench.models import load_checkpoint
from tests.cli.conftest import Run, tree

_TRAIN = ("train", "--model", "convmixer_frozen", "--epochs", 1)


def test_training_writes_a_folder_that_loads_as_a_model(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_TRAIN, "--output", "out")
    folder = here / "out" / "convmixer_frozen.digits"
    card = load_checkpoint(folder).card
    assert outcome.code == 0
    assert sorted(path.name for path in here.rglob("*")) == [
        *("README.md", "config.json", "convmixer_frozen.digits", "model.safetensors", "out", "training.csv")
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
def _ctrl_c_once_there_is(pattern: str) -> Generator[None]:
    """Send this process SIGINT, as a terminal does, as soon as a file matches `pattern`."""

    def look(number: int, frame: types.FrameType | None) -> None:
        del number, frame
        if any(Path.cwd().glob(pattern)):
            # Once more much later, should this one fall into a place where Python drops exceptions.
            signal.setitimer(signal.ITIMER_REAL, 10.0, 10.0)
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_exits_130_and_the_same_command_goes_on(
    here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixbench.training.loop._SECONDS_BETWEEN_STATES", 0.0)
    command = ("train", "--model", "convmixer_frozen", "--epochs", 12, "--device", "cpu")
    assert mixbench(*command, "--output", "whole").code == 0
    with _ctrl_c_once_there_is("out/.unfinished/*/state.pt"):
        outcome = mixbench(*command, "--output", "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted; the last whole epochs are kept in out/.unfinished: run the same command again" in outcome.err
    assert {path.name for path in (here / "out").rglob("*") if path.is_file()} <= {"state.pt"}
    assert mixbench(*command, "--output", "out").code == 0
    hashes = {load_checkpoint(here / name / "convmixer_frozen.digits").card.sha256 for name in ("whole", "out")}
    assert len(hashes) == 1
    assert not (here / "out" / ".unfinished").exists()


def test_the_curves_are_drawn_into_a_file(here: Path, mixbench: Run) -> None:
    assert mixbench(*_TRAIN, "--output", "out", "--plot", "curves.png").code == 0
    assert (here / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_no_known_format_is_refused_before_the_training(here: Path, mixbench: Run) -> None:
    outcome = mixbench("train", "--model", "convmixer_frozen", "--epochs", 10**6, "--plot", "curves.gif")
    assert outcome.refuses("curves.gif names no picture format", "end it with .png, .svg, .pdf")
    assert tree(here) == {}


@pytest.mark.parametrize("arguments", [[], ["--model", "convmixer_frozen", "--sweep", "s.toml"]], ids=["none", "both"])
def test_exactly_one_of_model_and_sweep_is_needed(arguments: list[str], mixbench: Run) -> None:
    assert mixbench("train", *arguments).refuses("give one of --model and --sweep, and not both")


_SWEEP = """
[[grid]]
models = ["convmixer_frozen", "convmixer_trained"]
dataset = "digits"
seeds = [0, 1]
epochs = 1
keep_weights = false
[[grid.evaluation]]
attack = "fgsm"
eps = ["1/10"]
n_examples = 20
"""


def test_a_sweep_prints_means_over_seeds_and_is_done_once(here: Path, mixbench: Run) -> None:
    (here / "s.toml").write_text(_SWEEP)
    command = ("train", "--sweep", "s.toml", "--output", "out", "--device", "cpu")
    outcome = mixbench(*command)
    assert outcome.code == 0
    assert [line.split(":")[0] for line in outcome.err.splitlines()] == [
        f"[{number}/4] {name}"
        for number, name in enumerate(
            (f"{model}.digits{tag}" for tag in ("", "_s1_f0") for model in ("convmixer_frozen", "convmixer_trained")),
            start=1,
        )
    ]
    found = {path.stem: json.loads(path.read_text())["card"] for path in (here / "out" / "results").iterdir()}
    for model in ("convmixer_frozen", "convmixer_trained"):
        rates = [card["clean"]["correct"] / 3.6 for name, card in found.items() if name.startswith(f"{model}.")]
        row = next(line for line in outcome.out.splitlines() if f"{model}.digits" in line)
        assert f"{statistics.mean(rates):.2f} +- {statistics.stdev(rates):.2f}" in row
    again = mixbench(*command)
    assert (again.code, again.err, again.out) == (0, "", outcome.out)


@pytest.mark.parametrize("option", [["--tag", "x"], ["--plot", "x.png"], ["--overwrite"]], ids=lambda option: option[0])
def test_what_is_for_a_single_run_is_refused_in_a_sweep(option: list[str], here: Path, mixbench: Run) -> None:
    (here / "s.toml").write_text(_SWEEP)
    assert mixbench("train", "--sweep", "s.toml", *option).refuses(f"{option[0]} is for a single run", "--sweep")
    assert set(tree(here)) == {"s.toml"}


def test_a_sweep_with_a_failed_run_ends_with_2_and_says_why(here: Path, mixbench: Run) -> None:
    (here / "s.toml").write_text(_SWEEP)
    mixbench(*_TRAIN, "--output", "out", "--recipe", "linf", "--tag", "digits")
    outcome = mixbench("train", "--sweep", "s.toml", "--output", "out", "--device", "cpu")
    assert outcome.code == 2
    assert "convmixer_frozen.digits failed: out/convmixer_frozen.digits holds another run" in outcome.err
    assert "mixbench: 1 of the runs of s.toml failed: see above, and run the same command again" in outcome.err
    assert "convmixer_trained.digits" in outcome.out


def test_progress_is_drawn_on_stderr_alone(mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    outcome = mixbench(*_TRAIN)
    assert re.search(r"loss \d\.\d{4}  accuracy \d+\.\d%", outcome.err)
    assert "1/1" in outcome.err
    assert outcome.out.startswith("checkpoints/convmixer_frozen.digits: clean accuracy ")
