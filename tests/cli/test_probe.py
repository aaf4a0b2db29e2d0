import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.probe_record import ProbeRecord
from mixbench.store import Store
from tests.cli.conftest import Run, tree

_SHORT = ("probe", "--model", "convmixer_frozen", "--n-examples", 20, "--width", 4, "--epochs", 1)
_RECOGNIZE = ("probe", "--probe", "recognize", "--model", "convmixer_frozen", "--n-examples", 20)


def test_unshuffle_writes_a_record_and_a_picture_and_is_not_repeated(here: Path, mixbench: Run) -> None:
    command = (*_SHORT, "--permutation-seeds", 0, "--pictures", "sheets")
    outcome = mixbench(*command)
    assert outcome.code == 0, outcome
    assert "only 1 of at least 3 permutations" in outcome.err
    (record,) = Store(here / "runs").probes()
    (sheet,) = (here / "sheets").iterdir()
    assert f"pictures: sheets/{sheet.name}" in outcome.out
    assert sheet.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not (here / "runs" / ".unfinished").exists()
    before = tree(here)
    again = mixbench(*command, "--json")
    assert "exists already" in again.err
    assert ProbeRecord.from_json(json.dumps(json.loads(again.out)[0]["record"])) == record
    assert tree(here) == before
    assert "circular_trained_on_noise" in mixbench("show", f"runs/{record.id}").out


def test_recognize_measures_a_checkpoint_and_a_readout(here: Path, mixbench: Run) -> None:
    assert mixbench(*_RECOGNIZE, "--retrain", "--permutation-seeds", "0,1").code == 0
    (record,) = Store(here / "runs").probes()
    assert record.model.name == "convmixer_frozen.digits"
    assert [measurement.subject for measurement in record.measurements] == ["model", "model", "readout", "readout"]


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--model", "convmixer_evil"), ("convmixer_evil", "convmixer_frozen")),
        (("--model", "convmixer_frozen", "--depth", 3), ("reach 6", "moved by 7", "depth 4 or kernel 7")),
        (("--model", "convmixer_frozen", "--kernel", 4), ("kernel 4 is even",)),
        (("--model", "convmixer_frozen", "--epochs", 0), ("epochs 0",)),
        (("--model", "convmixer_frozen", "--width", 0), ("width 0",)),
        (("--model", "convmixer_frozen", "--size", "huge"), ("huge", "large, small, tiny")),
        (("--model", "convmixer_frozen", "--permutation-seeds", "0,-1"), ("0,-1", "0,1,2")),
        (("--model", "convmixer_frozen", "--retrain"), ("--retrain", "unshuffle")),
        (("--model", "convmixer_frozen", "--probe", "recognize", "--depth", 4), ("--depth 4", "recognize")),
        (("--model", "tests.cli.factories:nearest_mean", "--probe", "recognize", "--dataset", "digits"), ("spatial",)),
        (("--model", "tests.cli.factories:nearest_mean", "--probe", "recognize"), ("--dataset",)),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(
    options: tuple[object, ...], fragments: tuple[str, ...], here: Path, mixbench: Run
) -> None:
    assert mixbench("probe", *options).refuses(*fragments)
    assert tree(here) == {}


def states(here: Path) -> list[Path]:
    return list(here.glob("runs/.unfinished/*/*.pt"))


def test_an_interrupted_probe_goes_on(here: Path, start: Callable[..., subprocess.Popen[str]], mixbench: Run) -> None:
    command = (*_SHORT, "--permutation-seeds", 0)
    for finished, how in enumerate((signal.SIGINT, signal.SIGKILL), start=1):
        process = start(*command)
        while len(states(here)) < finished:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130 if how is signal.SIGINT else -how, "")
        assert ("run the same command again" in err) is (how is signal.SIGINT)
    assert mixbench(*command).code == 0
    assert mixbench(*command, "--runs", "whole").code == 0
    resumed, whole = (Store(here / name).probes()[0] for name in ("runs", "whole"))
    assert resumed.without_measured_costs() == whole.without_measured_costs()
    assert states(here) == []


def test_the_benchmark_times_both_ways(mixbench: Run) -> None:
    outcome = mixbench("bench", "probe", "--json")
    assert [one["way"] for one in json.loads(outcome.out)] == ["mixbench", "eager float32"]
