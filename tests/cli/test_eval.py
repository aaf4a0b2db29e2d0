import json
import re
import sys
from fractions import Fraction
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from mixbench.datasets import CATALOGUE
from mixbench.datasets.digits import read_digits
from mixbench.models import load_model
from mixbench.records import EvaluationRecord
from mixbench.store import load_record, read_examples
from tests.cli.conftest import Run, save_digits, tree

_FGSM = ("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--n-examples", 20)
_PGD = ("eval", "--model", "convmixer_frozen", "--attack", "pgd", "--steps", 10, "--n-examples", 30)


def run_folders(runs: Path) -> list[Path]:
    return sorted(path for path in runs.iterdir() if not path.name.startswith("."))


def the_run(runs: Path) -> Path:
    (folder,) = run_folders(runs)
    return folder


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The interval as Wilson (1927) writes it, in percent."""
    z, p = 1.959963984540054, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    return 100 * (middle - half), 100 * (middle + half)


def rows(table: str) -> list[list[str]]:
    """The cells of the body of a printed table."""
    lines = (re.split("[│|]", line) for line in table.splitlines() if re.match("[│|]", line))
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def test_a_run_is_a_folder_with_the_record_and_its_examples(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_FGSM)
    folder = the_run(here / "runs")
    assert outcome.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["examples.parquet", "record.json"]
    record, examples = load_record(folder), read_examples(folder / "examples.parquet")
    assert folder.name == record.id
    assert f"record: {Path('runs') / record.id}" in outcome.out.splitlines()
    clean = examples["clean_prediction"] == examples["label"]
    assert (len(examples), record.dataset.n) == (20, 20)
    assert record.clean.correct == clean.sum()
    assert record.robust.correct == (clean & ~examples["broken"]).sum()
    assert record.broken_by == {"fgsm": examples["broken"].sum()}
    assert 0 < record.robust.correct < record.clean.correct
    assert [name for name in tree(here / "runs") if "unfinished" in name] == []


def test_the_table_shows_clean_and_robust_accuracy_with_intervals_and_what_broke_how_many(
    here: Path, mixbench: Run
) -> None:
    outcome = mixbench(*_FGSM, "--eps", "0.1")
    record = load_record(the_run(here / "runs"))
    clean, robust = record.clean.correct, record.robust.correct
    (row,) = rows(outcome.out)
    assert row == [
        "Linf 1/10",
        "{:.2f} [{:.2f}, {:.2f}]".format(5 * clean, *wilson(clean, 20)),
        "{:.2f} [{:.2f}, {:.2f}]".format(5 * robust, *wilson(robust, 20)),
        str(clean - robust),
        f"{record.cost.seconds:.1f}",
    ]
    for word in ("convmixer_frozen.digits", "digits (test, 20 examples, balanced-20-seed-0)", "broken by fgsm"):
        assert word in outcome.out


@pytest.mark.slow
def test_autoattack_says_which_stage_broke_how_many(here: Path, mixbench: Run) -> None:
    outcome = mixbench(
        *("eval", "--model", "tests.cli.factories:nearest_mean", "--dataset", "digits", "--attack", "autoattack"),
        *("--n-examples", 16, "--eps", "1/8"),
    )
    record = load_record(the_run(here / "runs"))
    (row,) = rows(outcome.out)
    assert list(record.broken_by) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert row[3:7] == [str(count) for count in record.broken_by.values()]
    assert sum(record.broken_by.values()) == record.clean.correct - record.robust.correct > 0


_NEAREST = (
    *("eval", "--model", "tests.cli.factories:nearest_mean", "--dataset", "digits", "--attack", "autoattack"),
    *("--n-examples", 8),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "implementation"),
    [
        (["--eps", "1"], "mixbench fast engine 1"),
        (["--eps", "1", "--engine", "reference"], f"pyautoattack {version('pyautoattack')}"),
        (["--eps", "40", "--norm", "L1"], f"pyautoattack {version('pyautoattack')}"),
    ],
    ids=["by default", "the reference", "a norm that the fast engine does not know"],
)
def test_the_record_says_which_engine_ran_autoattack(
    arguments: list[str], implementation: str, here: Path, mixbench: Run
) -> None:
    assert mixbench(*_NEAREST, *arguments).code == 0
    record = load_record(the_run(here / "runs"))
    assert record.attack.implementation == implementation
    assert record.robust.correct == 0


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--engine", "fasst"], ["unknown engine 'fasst'", "did you mean 'fast'"]),
        (["--engine", "fast", "--norm", "L1", "--eps", "1"], ["no L1 version of AutoAttack", "--engine reference"]),
    ],
)
def test_an_engine_that_cannot_be_is_refused(
    arguments: list[str], fragments: list[str], here: Path, mixbench: Run
) -> None:
    assert mixbench(*_NEAREST, *arguments).refuses(*fragments)
    assert tree(here) == {}


def test_the_same_command_again_reads_the_records_and_writes_nothing(here: Path, mixbench: Run) -> None:
    first = mixbench(*_FGSM)
    before = {path: path.stat() for path in the_run(here / "runs").iterdir()}
    second = mixbench(*_FGSM)
    assert (second.code, second.out) == (0, first.out)
    assert re.search(r"these records exist already \(made 20..-..-.. on cpu\); --overwrite", second.err)
    after = {path: path.stat() for path in the_run(here / "runs").iterdir()}
    assert {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()} == {
        path: (stat.st_ino, stat.st_mtime_ns) for path, stat in after.items()
    }


def test_overwrite_evaluates_again_and_finds_the_same(here: Path, mixbench: Run) -> None:
    mixbench(*_FGSM)
    file = the_run(here / "runs") / "record.json"
    record, written = load_record(file), file.stat()
    outcome = mixbench(*_FGSM, "--overwrite")
    assert outcome.code == 0
    assert "exist already" not in outcome.err
    assert file.stat().st_ino != written.st_ino
    assert load_record(file).without_measurements() == record.without_measurements()


def test_json_is_a_list_of_folders_and_records_and_all_there_is_on_stdout(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_FGSM, "--eps", "1/20,1/10", "--json")
    content = json.loads(outcome.out)
    assert [sorted(item) for item in content] == [["folder", "record"]] * 2
    for item, eps in zip(content, ("1/20", "1/10"), strict=True):
        record = EvaluationRecord.from_json(json.dumps(item["record"]))
        assert str(record.threat_model.eps) == eps
        assert record == load_record(here / item["folder"])


def test_output_that_is_no_terminal_has_no_control_characters(mixbench: Run) -> None:
    printed = [mixbench(*_FGSM), mixbench("datasets"), mixbench("eval", "--model", "x", "--eps", "x")]
    for outcome in printed:
        assert re.findall(r"[^\n -~\u2500-\u257f]", outcome.out + outcome.err) == []


def test_several_eps_give_a_record_each_and_carry_the_broken_examples_over(here: Path, mixbench: Run) -> None:
    outcome = mixbench(*_PGD, "--eps", "3/20,1/20,1/10")
    records = {record.threat_model.eps: record for record in map(load_record, run_folders(here / "runs"))}
    grid = (Fraction(1, 20), Fraction(1, 10), Fraction(3, 20))
    assert [row[0] for row in rows(outcome.out)] == ["Linf 1/20", "Linf 1/10", "Linf 3/20"]
    assert set(records) == set(grid)
    tables = {eps: read_examples(here / "runs" / records[eps].id / "examples.parquet") for eps in grid}
    broken = {eps: table["broken"].to_numpy(dtype=bool) for eps, table in tables.items()}
    assert 0 < broken[grid[0]].sum() < broken[grid[1]].sum() < broken[grid[2]].sum() < 30
    for number, eps in enumerate(grid):
        assert records[eps].protocol.eps_grid == grid[: number + 1]
    for smaller, larger in pairwise(grid):
        carried = broken[smaller]
        columns = ["index", "broken_by", "eps", "adversarial_prediction", "adversarial_margin", "norm"]
        pd.testing.assert_frame_equal(tables[larger].loc[carried, columns], tables[smaller].loc[carried, columns])


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "1/10"), ("L2", "0.7")])
def test_saved_adversarials_replay(norm: str, eps: str, here: Path, mixbench: Run) -> None:
    """Each image is in its ball and in the box, and the model itself gets it wrong."""
    mixbench(*_PGD, "--norm", norm, "--eps", eps, "--save-adversarials")
    folder = the_run(here / "runs")
    saved, examples = load_file(folder / "adversarials.safetensors"), read_examples(folder / "examples.parquet")
    broken, digits = examples[examples["broken"]], read_digits(split="test")
    assert saved["index"].tolist() == broken["index"].tolist()
    assert len(broken) > 0
    clean = digits.images[saved["index"]].astype(np.float64) / 255
    order = {"Linf": np.inf, "L2": 2}[norm]
    norms = np.linalg.norm((saved["images"] - clean).reshape(len(clean), -1), ord=order, axis=1)
    assert norms.max() <= float(Fraction(eps)) + 1e-5
    assert norms == pytest.approx(broken["norm"].tolist(), abs=1e-6)
    assert saved["images"].min() >= 0
    assert saved["images"].max() <= 1
    with torch.no_grad():
        logits = load_model("convmixer_frozen").module(torch.from_numpy(saved["images"]))
    assert logits.argmax(1).tolist() == broken["adversarial_prediction"].tolist()
    assert (logits.argmax(1).numpy() != digits.labels[saved["index"]]).all()


def test_adversarials_asked_for_later_are_made_although_the_record_exists(here: Path, mixbench: Run) -> None:
    mixbench(*_FGSM)
    mixbench(*_FGSM, "--save-adversarials")
    assert (the_run(here / "runs") / "adversarials.safetensors").is_file()


def test_n_examples_is_a_balanced_choice_that_the_seed_decides(here: Path, mixbench: Run) -> None:
    chosen = []
    for seed in (0, 1):
        mixbench(*_FGSM, "--seed", seed, "--runs", f"runs{seed}")
        examples = read_examples(the_run(here / f"runs{seed}") / "examples.parquet")
        assert examples["label"].value_counts().to_dict() == dict.fromkeys(range(10), 2)
        chosen.append(set(examples["index"]))
    assert chosen[0] != chosen[1]


def test_without_a_choice_the_whole_split_is_evaluated(here: Path, mixbench: Run) -> None:
    mixbench("eval", "--model", "convmixer_frozen", "--attack", "fgsm")
    record = load_record(the_run(here / "runs"))
    assert (record.dataset.n, record.dataset.subset, str(record.threat_model.value)) == (360, "all", "Linf 1/10")


def test_a_named_subset_is_evaluated(data_dir: Path, here: Path, mixbench: Run) -> None:
    outcome = mixbench(
        *("eval", "--model", "tests.cli.factories:photos", "--attack", "fgsm", "--dataset", "cifar10_jpeg75"),
        *("--subset", "test_1k", "--data-dir", data_dir),
    )
    assert outcome.code == 0, outcome.err
    record = load_record(the_run(here / "runs"))
    assert (record.dataset.n, record.dataset.subset) == (1000, "test_1k")
    assert record.threat_model.value == CATALOGUE["cifar10_jpeg75"].default_threat_model


def test_a_factory_of_the_users_own_code_is_a_model(
    here: Path, tmp_path: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\ndef wide():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        outcome = mixbench(*_FGSM[:2], "my_networks:wide", *_FGSM[3:], "--dataset", "digits")
    finally:
        sys.modules.pop("my_networks", None)
    assert outcome.code == 0, outcome.err
    model = load_record(the_run(here / "runs")).model
    assert (model.name, model.mixing, model.filter_seed) == ("my_networks:wide", "foreign", None)
    assert (model.parameters.trained, model.parameters.frozen) == (650, 0)


def write_parquet(folder: Path, source: Path) -> None:
    """Write the images that `save_digits` made as one file in the Hugging Face layout."""
    files = sorted(source.rglob("*.png"))
    images = pa.array([{"bytes": file.read_bytes(), "path": file.name} for file in files])
    labels = pa.array([int(file.parent.name) for file in files], pa.int64())
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "test-00000-of-00001.parquet")


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_a_folder_of_ones_own_is_a_dataset(kind: str, here: Path, tmp_path: Path, mixbench: Run) -> None:
    """The same pictures of digits, from a folder, get the predictions that the network gives them directly."""
    source = save_digits(tmp_path / "digits[v2]", classes=10, n=40)
    if kind == "parquet":
        source = tmp_path / "pq[v2]"
        write_parquet(source, tmp_path / "digits[v2]")
    outcome = mixbench(
        *("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--dataset", f"{kind}:{source}", "--eps", "1/20")
    )
    assert outcome.code == 0, outcome.err
    assert f"{kind}:{source.name} (test, 40 examples, all)" in outcome.out
    folder = the_run(here / "runs")
    digits = read_digits(split="test")
    order = np.argsort(digits.labels[:40], kind="stable")
    with torch.no_grad():
        expected = load_model("convmixer_frozen").module(torch.from_numpy(digits.images[:40][order]).float() / 255)
    examples = read_examples(folder / "examples.parquet")
    assert examples["label"].tolist() == digits.labels[:40][order].tolist()
    assert examples["clean_prediction"].tolist() == expected.argmax(1).tolist()
    assert load_record(folder).dataset.name == f"{kind}:{source.name}"


def test_the_runs_folder_and_the_workspace_may_lie_anywhere(here: Path, tmp_path: Path, mixbench: Run) -> None:
    outcome = mixbench(*_FGSM, "--runs", tmp_path / "a" / "b", "--workspace", tmp_path / "w")
    assert outcome.code == 0
    assert load_record(the_run(tmp_path / "a" / "b")).dataset.n == 20
    assert not (tmp_path / "w").exists()
    assert tree(here) == {}


def test_warnings_of_the_record_go_to_stderr(mixbench: Run) -> None:
    outcome = mixbench(*_FGSM)
    assert "warning: fgsm: a single gradient step only bounds robust accuracy from above" in outcome.err
    assert "warning" not in outcome.out


def test_progress_is_drawn_on_stderr_and_leaves_stdout_alone(mixbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mixbench(*_PGD, "--json")
    # This is how rich is told that it talks to a terminal.
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    drawn = mixbench(*_PGD, "--json", "--overwrite")
    assert plain.err == ""
    assert "block 1/1 eps 1/10 pgd" in drawn.err
    assert "100%" in drawn.err
    robust = json.loads(drawn.out)[0]["record"]["robust"]
    assert robust == json.loads(plain.out)[0]["record"]["robust"]
