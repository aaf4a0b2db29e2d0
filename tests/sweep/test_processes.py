"""Processes that are killed, and a sweep that is broken off, with a process a device."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from mixbench.sweep import results
from tests.sweep.conftest import HEAD, RunSweep

ENDLESS = HEAD.replace("_spatial", "_trained").replace("epochs = 1", "epochs = 1000000")


def _kill_when_alone(output: Path) -> None:
    """Kill -9 every process of the sweep once the short run is over and the endless one has kept a state."""
    while not (list(output.glob("results/*.json")) and list(output.glob(".unfinished/*/state.pt"))):
        time.sleep(0.05)
    for process in multiprocessing.active_children():
        process.kill()


@pytest.mark.slow
def test_a_killed_process_fails_its_run_and_no_other(tmp_path: Path, sweep: RunSweep) -> None:
    killer = threading.Thread(target=_kill_when_alone, args=(tmp_path / "out",), daemon=True)
    killer.start()
    failures, heard = sweep(ENDLESS + HEAD, devices=("cpu", "cpu:0"))
    assert (failures, [moment.name for moment in heard if moment.failure]) == (1, ["convmixer_trained.digits"])
    assert "was killed, perhaps for want of memory: run the same command again" in (heard[-1].failure or "")
    assert [result.name for result in results(tmp_path / "out")] == ["convmixer_spatial.digits"]


@pytest.mark.slow
def test_breaking_off_ends_the_processes_that_still_train(tmp_path: Path, sweep: RunSweep) -> None:
    def break_off(_: object) -> None:
        raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        sweep(ENDLESS + HEAD, devices=("cpu", "cpu:0"), hear=break_off)
    until = time.monotonic() + 30
    while (left := set(multiprocessing.active_children()) - before) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == set()
    assert [result.name for result in results(tmp_path / "out")] == ["convmixer_spatial.digits"]
