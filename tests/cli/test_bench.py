import json
from pathlib import Path

import pytest

from mixbench.records import EvaluationRecord
from tests.cli.conftest import Run, tree

_BENCH = ("bench", "eval", "--model", "tests.cli.factories:nearest_mean", "--dataset", "digits", "--n-examples", 12)


@pytest.mark.slow
def test_bench_eval_shows_the_harness_beside_the_bare_library(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_BENCH, "--eps", "1/4", "--batch-sizes", "6,12", "--json")
    content = json.loads(outcome.out)
    record = EvaluationRecord.from_json(json.dumps(content["record"]))
    assert [run["batch_size"] for run in content["bare"]] == [6, 12]
    assert content["bare"][1]["robust"] == record.robust.correct
    assert content["agreement"] == 1.0
    assert content["ratio"] == content["harness_seconds"] / min(run["seconds"] for run in content["bare"]) > 0
    assert record.cost.seconds <= content["harness_seconds"]
    assert tree(here) == {}


@pytest.mark.slow
def test_bench_autoattack_shows_both_engines_on_the_same_examples(here: Path, mixbench: Run) -> None:
    model = ("--model", "tests.cli.factories:nearest_mean", "--dataset", "digits", "--n-examples", "4,8")
    outcome = mixbench(
        "bench", "autoattack", *model, "--eps", "1", "--batch-sizes", "4,8,1000", "--json", "--plot", "times.svg"
    )
    few, content = json.loads(outcome.out)
    assert [run["record"]["dataset"]["n"] for run in [*few["fast"], *few["reference"]]] == [4, 4]
    records = [
        EvaluationRecord.from_json(json.dumps(run["record"])) for run in [*content["fast"], *content["reference"]]
    ]
    assert [record.protocol.block_size for record in records] == [1000, 4, 8]
    assert [record.attack.implementation.split()[0] for record in records] == ["mixbench", *2 * ["pyautoattack"]]
    assert (content["agreement"], content["only_fast"], content["only_reference"]) == (1, [], [])
    assert content["ratio"] == min(run["seconds"] for run in content["reference"]) / content["fast"][0]["seconds"]
    assert len(outcome.err.strip().splitlines()) == 5
    assert list(tree(here)) == ["times.svg"]
    assert "fast engine" in (here / "times.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--n-examples", "10,none"], ["n-examples '10,none'", "100,300,1000"]),
        (["--plot", "times"], ["times names no picture format", ".svg"]),
        (["--eps", "1/4,1/2"], ["several radii", "one at a time"]),
    ],
)
def test_a_value_that_bench_autoattack_cannot_use_is_refused(
    arguments: list[str], fragments: list[str], mixbench: Run
) -> None:
    assert mixbench("bench", "autoattack", *arguments).refuses(*fragments)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--batch-sizes", "many"], ["batch sizes 'many'", "250,500,1000"]),
        (["--batch-sizes", "10,0"], ["batch sizes '10,0'", "250,500,1000"]),
        (["--eps", "small"], ["eps 'small' is not a number"]),
        (["--dataset", "digit"], ["unknown dataset 'digit'", "did you mean 'digits'"]),
        (["--n-examples", "361"], ["from 1 to 360"]),
    ],
)
def test_a_value_that_cannot_be_is_refused(arguments: list[str], fragments: list[str], mixbench: Run) -> None:
    assert mixbench(*_BENCH, *arguments).refuses(*fragments)


def test_bench_train_shows_an_epoch_beside_the_usual_loop(mixbench: Run) -> None:
    outcome = mixbench("bench", "train", "--model", "convmixer_frozen", "--epochs", 2, "--device", "cpu")
    assert outcome.code == 0
    for words in ("convmixer_frozen on digits, standard, CPU", "mixbench", "DataLoader, float32", "s an epoch"):
        assert words in outcome.out


def test_bench_train_as_json_has_a_time_a_way(mixbench: Run) -> None:
    outcome = mixbench("bench", "train", "--kernel-size", 5, "--epochs", 2, "--device", "cpu", "--json")
    own, usual = json.loads(outcome.out)
    assert (own["way"], usual["way"]) == ("mixbench", "DataLoader, float32")
    assert min(own["seconds"], usual["seconds"], own["first_seconds"]) > 0


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--model", "resnet_frozen", "--kernel-size", "5"], ["resnet_frozen has no kernel size to choose"]),
        (["--model", "resnet_frosen"], ["unknown architecture 'resnet_frosen'", "did you mean 'resnet_frozen'"]),
        (["--recipe", "lin"], ["'lin'", "did you mean 'linf'"]),
        (["--dataset", "digit"], ["'digit'", "did you mean 'digits'"]),
    ],
)
def test_bench_train_refuses_what_cannot_be(arguments: list[str], fragments: list[str], mixbench: Run) -> None:
    assert mixbench("bench", "train", *arguments).refuses(*fragments)
