import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixbench.cli.sweep import seed_table
from mixbench.models import read_config, zoo_folder
from mixbench.records import Accuracy
from mixbench.sweep import SweepResult, columns
from mixbench.training import TrainingFolder
from tests.cli.conftest import Run, tree

_GRID = '[[grid]]\nmodels = ["convmixer_frozen", "convmixer_spatial"]\ndataset = "digits"\nepochs = 8\n'
_SWEEP = ("train", "--sweep", "s.toml", "--output", "out", "--device", "cpu")


def _result(seed: int, filter_seed: int, correct: int) -> SweepResult:
    card = read_config(zoo_folder() / "convmixer_frozen.digits")[1].model_copy(
        update={"seed": seed, "filter_seed": filter_seed, "clean": Accuracy(correct=correct, total=100)}
    )
    name = f"convmixer_frozen.digits_s{seed}_f{filter_seed}"
    return SweepResult(name=name, model="convmixer_frozen", card=card, records=())


def _cells(found: list[SweepResult]) -> dict[str, str]:
    table = seed_table(columns(found, ()))
    return {str(column.header): next(iter(column.cells)) for column in table.columns}


def test_a_full_cross_tells_the_spread_over_each_seed() -> None:
    """Worked by hand: draws (rows) 1 2 | 3 6 percent have means 1.5 and 4.5, seeds (columns) 2 and 4."""
    found = [_result(seed, draw, value) for (draw, seed), value in {(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 6}.items()]
    assert _cells(found) == {
        "model": "convmixer_frozen.digits",
        "recipe": "standard",
        "runs": "4",
        "clean": "3.00 +- 2.16",
        "clean, sd of filter-draw means": "2.12",
        "sd of training-seed means": "1.41",
    }


@pytest.mark.parametrize("missing", [(0, 0), (1, 1)])
def test_a_cross_with_a_hole_is_not_split(missing: tuple[int, int]) -> None:
    pairs = [(seed, draw) for seed in (0, 1) for draw in (0, 1) if (seed, draw) != missing]
    assert set(_cells([_result(*pair, 90) for pair in pairs])) == {"model", "recipe", "runs", "clean"}


@contextmanager
def _ctrl_c_at_state(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Send this process SIGINT, as a terminal does, right after it has kept its training state `number` times."""
    kept, save = [], TrainingFolder.save

    def save_and_interrupt(self: TrainingFolder, state: object) -> None:
        save(self, state)  # pyright: ignore[reportArgumentType]
        kept.append(state)
        if len(kept) == number:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("mixbench.training.loop._SECONDS_BETWEEN_STATES", 0.0)
        patch.setattr(TrainingFolder, "save", save_and_interrupt)
        yield


def test_ctrl_c_in_a_sweep_keeps_what_is_finished_and_the_same_command_goes_on(
    here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "s.toml").write_text(_GRID)
    assert mixbench(*_SWEEP[:3], "--output", "whole", "--device", "cpu").code == 0
    with _ctrl_c_at_state(monkeypatch, 8 + 3):
        outcome = mixbench(*_SWEEP)
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted; what was finished is kept in out: run the same command again" in outcome.err
    assert [path.name for path in (here / "out" / "results").iterdir()] == ["convmixer_frozen.digits.json"]
    assert [path.name for path in (here / "out" / ".unfinished").glob("*/*")] == ["state.pt"]
    again = mixbench(*_SWEEP)
    assert (again.code, again.err.count("[1/1] convmixer_spatial.digits: clean accuracy")) == (0, 1)
    assert not (here / "out" / ".unfinished").exists()
    for model in ("convmixer_frozen", "convmixer_spatial"):
        whole, resumed = (read_config(here / name / f"{model}.digits")[1] for name in ("whole", "out"))
        assert resumed.sha256 == whole.sha256


@pytest.mark.parametrize(
    "option",
    [
        *(["--dataset", "digits"], ["--recipe", "linf"], ["--seed", 0], ["--filter-seed", 1], ["--epochs", 3]),
        *(["--tag", "x"], ["--plot", "x.png"], ["--overwrite"]),
    ],
    ids=lambda option: option[0],
)
def test_an_option_of_a_single_run_is_not_ignored(option: list[object], here: Path, mixbench: Run) -> None:
    (here / "s.toml").write_text(_GRID)
    assert mixbench(*_SWEEP, *option).refuses(f"{option[0]} is for a single run", "leave it out with --sweep")
    assert set(tree(here)) == {"s.toml"}


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (("convmixer_spatial", "convmixer_spatal"), ["s.toml: grid.0: unknown architecture 'convmixer_spatal'"]),
        (("epochs", "epoch"), ["s.toml is not a sweep: grid.0.epoch: Extra inputs"]),
    ],
    ids=["architecture", "key"],
)
def test_a_faulty_file_is_one_sentence_and_leaves_nothing(
    change: tuple[str, str], fragments: list[str], here: Path, mixbench: Run
) -> None:
    (here / "s.toml").write_text(_GRID.replace(*change))
    assert mixbench(*_SWEEP).refuses(*fragments)
    assert set(tree(here)) == {"s.toml"}


def test_a_file_that_is_not_there_is_named(mixbench: Run) -> None:
    assert mixbench(*_SWEEP).refuses("cannot read the sweep s.toml (No such file or directory)")
