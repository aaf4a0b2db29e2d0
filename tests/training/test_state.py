import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixbench.datasets import Examples
from mixbench.errors import MixbenchError, RecordError
from mixbench.models import ARCHITECTURES, Checkpoint, ModelSpec, read_config
from mixbench.training import Epoch, Places, Recipe, TrainingFolder, TrainingRun, run_key, train, train_to_folder
from mixbench.training.schedule import Rate, rate
from mixbench.training.state import STATE_NAME
from tests.conftest import ROOT

SPEC = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=0)
CPU = torch.device("cpu")


class _KilledError(Exception):
    """In place of a signal, inside one process."""


@pytest.fixture(autouse=True)
def _states_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbench.training.loop._SECONDS_BETWEEN_STATES", 0.0)


@pytest.fixture
def long(tiny_linf: Recipe) -> Recipe:
    """Five epochs with everything that a state has to carry."""
    return replace(tiny_linf, epochs=5, validation=20)


def _train(
    train_digits: Examples,
    test_digits: Examples,
    recipe: Recipe,
    workspace: Path | None,
    *,
    stop_after: int | None = None,
    heard: list[Epoch] | None = None,
) -> Checkpoint:
    def hear(epoch: Epoch) -> None:
        if heard is not None:
            heard.append(epoch)
        if epoch.number == stop_after:
            raise _KilledError

    return train(SPEC, train_digits, test_digits, recipe, seed=0, command="x", workspace=workspace, progress=hear)


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    stop_after: int, train_digits: Examples, test_digits: Examples, long: Recipe, tmp_path: Path
) -> None:
    whole: list[Epoch] = []
    expected = _train(train_digits, test_digits, long, None, heard=whole)
    with pytest.raises(_KilledError):
        _train(train_digits, test_digits, long, tmp_path, stop_after=stop_after)
    heard: list[Epoch] = []
    resumed = _train(train_digits, test_digits, long, tmp_path, heard=heard)
    assert resumed.card.sha256 == expected.card.sha256
    assert [replace(epoch, seconds=0.0) for epoch in heard] == [replace(epoch, seconds=0.0) for epoch in whole]


def test_a_finished_run_is_not_trained_again(
    train_digits: Examples, test_digits: Examples, long: Recipe, tmp_path: Path
) -> None:
    first = _train(train_digits, test_digits, long, tmp_path)
    heard: list[Epoch] = []
    again = _train(train_digits, test_digits, long, tmp_path, heard=heard)
    assert again.card == first.card
    assert len(heard) == 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a state", b"\x80\x02."], ids=["empty", "torn", "pickle"])
def test_a_damaged_state_costs_time_alone(
    content: bytes, train_digits: Examples, test_digits: Examples, tiny: Recipe, tmp_path: Path
) -> None:
    expected = _train(train_digits, test_digits, tiny, None)
    (tmp_path / STATE_NAME).write_bytes(content)
    assert _train(train_digits, test_digits, tiny, tmp_path).card.sha256 == expected.card.sha256


def test_a_state_cannot_run_code(tmp_path: Path) -> None:
    class _Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": _Evil()}, tmp_path / STATE_NAME)
    assert TrainingFolder(tmp_path, "key").load(device=CPU) is None
    assert not (tmp_path / "ran").exists()


def test_the_state_of_another_run_is_refused(
    train_digits: Examples, test_digits: Examples, tiny: Recipe, tmp_path: Path
) -> None:
    _train(train_digits, test_digits, tiny, tmp_path)
    with pytest.raises(RecordError, match=r"state.pt is the state of another training run: choose another folder"):
        _train(train_digits, test_digits, replace(tiny, learning_rate=0.02), tmp_path)


def test_the_key_depends_on_all_that_decides_the_weights(train_digits: Examples, tiny: Recipe) -> None:
    other = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=1)
    keys = [
        run_key(SPEC, train_digits, tiny, 0, "cpu"),
        run_key(SPEC, train_digits, tiny, 1, "cpu"),
        run_key(other, train_digits, tiny, 0, "cpu"),
        run_key(SPEC, train_digits, replace(tiny, epochs=3), 0, "cpu"),
        run_key(SPEC, train_digits.take(train_digits.indices[:80], subset="x"), tiny, 0, "cpu"),
        run_key(SPEC, train_digits, tiny, 0, "cuda"),
    ]
    assert len(set(keys)) == len(keys)
    # Which of several GPUs it is decides nothing.
    assert run_key(SPEC, train_digits, tiny, 0, "cuda:1") == keys[-1]


def test_a_collapse_leaves_the_last_good_state(
    train_digits: Examples, test_digits: Examples, long: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate breaks the third epoch; the state is that of the second, and the message says where."""
    monkeypatch.setattr("mixbench.training.loop.rate", _breaking)
    with pytest.raises(MixbenchError, match=rf"epoch 3.*; the last good state is kept in {tmp_path / STATE_NAME}"):
        _train(train_digits, test_digits, long, tmp_path)
    state = TrainingFolder(tmp_path, run_key(SPEC, train_digits, long, 0, "cpu")).load(device=CPU)
    assert state is not None
    assert len(state.epochs) == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.model.values())


def _breaking(recipe: Recipe, update: int, *, updates: int) -> Rate:
    usual = rate(recipe, update, updates=updates)
    return replace(usual, learning_rate=1e30 if update >= 2 * updates // recipe.epochs else 0.01)


def test_a_full_disk_keeps_the_state_before(
    train_digits: Examples, test_digits: Examples, long: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(_KilledError):
        _train(train_digits, test_digits, long, tmp_path, stop_after=2)
    before = (tmp_path / STATE_NAME).read_bytes()

    def full(descriptor: int) -> None:
        del descriptor
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecordError, match=r"state\.pt: the disk is full; what was finished before is kept"):
        _train(train_digits, test_digits, long, tmp_path)
    assert (tmp_path / STATE_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]


@pytest.mark.slow
def test_kill_9_in_the_middle_costs_no_bit(tmp_path: Path) -> None:
    """The command itself, killed once its first state is on disk, then run again."""
    run = TrainingRun("convmixer_frozen", "digits", "standard", 0, 0, epochs=20)
    places = Places(tmp_path / "whole", "cpu", None, tmp_path / "cache")
    expected, _ = train_to_folder(run, places, overwrite=False)
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "mixbench.cli.main", "train", "--model", "convmixer_frozen", "--epochs", "20"]
    command += ["--device", "cpu", "--output", str(output), "--cache-dir", str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(output.glob(f".unfinished/*/{STATE_NAME}")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / run.name).exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert read_config(output / run.name)[1].sha256 == expected.card.sha256
    assert [path.name for path in output.iterdir()] == [run.name]
