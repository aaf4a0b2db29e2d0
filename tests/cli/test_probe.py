import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbench.probe_examples import read_probe_examples
from mixbench.probe_record import ProbeRecord
from mixbench.probes.metrics import estimate
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


def test_a_pattern_probes_every_checkpoint_that_it_matches(here: Path, mixbench: Run) -> None:
    pattern = "convmixer_[ft]*.digits,convmixer_frozen"
    outcome = mixbench(*_RECOGNIZE[:3], "--model", pattern, "--n-examples", 20, "--permutation-seeds", 0)
    assert outcome.code == 0, outcome
    names = ["convmixer_frozen.digits", "convmixer_frozen_smooth.digits", "convmixer_trained.digits"]
    assert [record.model.name for record in Store(here / "runs").probes()] == names


def test_modes_are_compared_image_by_image_from_their_files(here: Path, mixbench: Run) -> None:
    models = ("--model", "convmixer_frozen,convmixer_trained", "--n-train", 100, "--epochs", 20)
    outcome = mixbench(*_SHORT, *models, "--permutation-seeds", "0,1", "--pictures", "sheets")
    assert outcome.code == 0, outcome
    assert "[2/2] digits-convmixer_trained-unshuffle-" in outcome.err
    assert len(list((here / "sheets").iterdir())) == 1
    tables = []
    for record in Store(here / "runs").probes():
        assert record.probe.parameters["train_subset"] == "balanced-100-seed-0"
        tables.append(read_probe_examples(here / "runs" / record.id / "examples.parquet"))
        for measurement in record.of("decoder"):
            rows = tables[-1][tables[-1]["permutation_seed"] == measurement.permutation_seed]
            again, told = estimate(rows["mse"].to_numpy()), measurement.metrics["mse"]
            assert (again.value, again.low, again.high) == pytest.approx((told.value, told.low, told.high), rel=1e-6)
    first, second = tables
    assert first["index"].tolist() == second["index"].tolist()
    assert not np.array_equal(first["mse"], second["mse"])


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_what_cannot_be_is_refused_before_data_are_looked_for(dataset: str, here: Path, mixbench: Run) -> None:
    options = ("--dataset", f"digits,{dataset}", "--data-dir", here / "nothing")
    refused = mixbench("probe", "--model", "convmixer_trained", "--depth", 5, "--kernel", 7, *options)
    assert refused.refuses("reach 15 pixels", "32x32")
    other = mixbench("probe", "--probe", "recognize", "--model", "*.digits", *options)
    assert other.refuses("takes images of 1x8x8", f"{dataset} has 3x32x32")
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--model", "convmixer_frozen", "--batch-size", 0), ("batch size 0",)),
        (("--model", "convmixer_frozen", "--learning-rate", 0), ("learning rate 0",)),
        (("--model", "convmixer_frozen", "--probe", "recognize", "--n-train", 9), ("--n-train 9", "recognize")),
        (("--model", "*.nothing", "--probe", "recognize"), ("unknown model '*.nothing'",)),
        (("--model", "*.digits", "--probe", "recognize", "--checkpoint", "x"), ("--checkpoint x", "one model")),
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
    outcome = mixbench("bench", "probe", "--n-train", 100, "--json")
    assert [one["way"] for one in json.loads(outcome.out)] == ["mixbench", "eager float32"]
