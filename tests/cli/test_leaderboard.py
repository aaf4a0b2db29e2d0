"""`mixbench leaderboard` and `mixbench plot`, as a user runs them."""

import json
import shutil
from pathlib import Path

import pytest

from mixbench.store import Store
from tests.cli.conftest import Run, tree
from tests.conftest import ROOT

PROTOCOL = """
title = "Digits"
dataset = "digits"
split = "test"
seed = 3
block_size = 1000
headline = { attack = "fgsm", threat_model = "Linf 1/10", subset = "all" }
subsets.all = { n = 360, fingerprint = "3d663bae755b6db966a821397f7763a21517f7053525d9d304c17d875a438bdc" }

[[evaluations]]
attack = "fgsm"
norm = "Linf"
eps = ["1/20", "1/10"]
subset = "all"

[[evaluations]]
attack = "fgsm"
norm = "L2"
eps = ["1/2"]
subset = "all"
"""


@pytest.fixture
def boards(here: Path) -> Path:
    """A folder of leaderboards without records in the working folder."""
    folder = here / "leaderboards"
    (folder / "protocols").mkdir(parents=True)
    (folder / "protocols" / "digits.toml").write_text(PROTOCOL)
    return folder


@pytest.mark.usefixtures("one_thread")
class TestRun:
    def test_it_evaluates_what_lacks_a_record_and_nothing_twice(self, boards: Path, mixbench: Run) -> None:
        command = ("leaderboard", "run", "--models", "*_frozen.digits", "--device", "cpu")
        first = mixbench(*command)
        assert (first.code, "4 evaluations, 4 of them to do" in first.err) == (0, True), first
        assert first.out == "4 of 4 evaluations have their records in leaderboards/records\n"
        records = Store(boards / "records").records()
        assert {record.model.name for record in records} == {"convmixer_frozen.digits", "resnet_frozen.digits"}
        assert len(records) == 6
        before = tree(boards)
        assert "4 evaluations, 0 of them to do" in mixbench(*command).err
        assert tree(boards) == before

    def test_a_threat_model_cuts_the_grid(self, boards: Path, mixbench: Run) -> None:
        narrow = ("--models", "convmixer_frozen.digits", "--threat-model", "Linf 1/20", "--device", "cpu")
        assert mixbench("leaderboard", "run", "--dataset", "digits", *narrow).code == 0
        (record,) = Store(boards / "records").records()
        assert (str(record.threat_model.eps), record.threat_model.norm) == ("1/20", "Linf")

    def test_a_subset_leaves_out_the_evaluations_of_the_others(self, boards: Path, mixbench: Run) -> None:
        protocol = boards / "protocols" / "digits.toml"
        tenth = PROTOCOL.rpartition("[[evaluations]]")[2].replace('subset = "all"', 'subset = "tenth"')
        also = f'{PROTOCOL}\n[[evaluations]]{tenth}\n[subsets.tenth]\nn = 36\nfingerprint = "{"0" * 64}"\n'
        protocol.write_text(also)
        narrow = ("--models", "convmixer_frozen.digits", "--threat-model", "L2 1/2", "--device", "cpu")
        assert "1 evaluations, 1 of them" in mixbench("leaderboard", "run", *narrow, "--subset", "all").err
        (record,) = Store(boards / "records").records()
        assert record.dataset.n == 360

    def test_one_failure_is_listed_and_does_not_stop_the_rest(self, boards: Path, mixbench: Run) -> None:
        broken = boards / "submissions" / "convmixer_frozen.broken"
        shutil.copytree(ROOT / "model_zoo" / "convmixer_frozen.digits", broken)
        (broken / "model.safetensors").write_bytes(b"no weights")
        narrow = ("--models", "convmixer_frozen.[db]*s*", "--models", "convmixer_frozen.*", "--attack", "fgsm")
        ended = mixbench("leaderboard", "run", *narrow, "--threat-model", "L2 1/2", "--device", "cpu")
        assert ended.code == 2
        assert "failed: convmixer_frozen.broken, fgsm, L2 1/2, all: " in ended.err
        assert ended.out == "2 of 3 evaluations have their records in leaderboards/records\n"

    def test_a_protocol_that_this_version_does_not_run_is_refused(self, boards: Path, mixbench: Run) -> None:
        protocol = boards / "protocols" / "digits.toml"
        protocol.write_text(PROTOCOL.replace('norm = "L2"', 'norm = "L2"\nparameters = { steps = "9" }'))
        narrow = ("--models", "convmixer_frozen.digits", "--threat-model", "L2 1/2", "--device", "cpu")
        ended = mixbench("leaderboard", "run", *narrow)
        assert (ended.code, "asks for other parameters" in ended.err) == (2, True)
        assert not (boards / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--dataset", "digit"), ("unknown board 'digit'", "did you mean 'digits'")),
        (("--models", "vgg*"), ("no checkpoint matches --models 'vgg*'", "mixbench models")),
        (("--threat-model", "Linf"), ("has no radius",)),
        (("--threat-model", "Linf 1/3"), ("no checkpoint matches",)),
        (("--subset", "half"), ("--subset as given", "leaderboards/protocols")),
        (("--folder", "nowhere"), ("nowhere is no folder of leaderboards", "--folder")),
    ],
    ids=["board", "pattern", "threat model", "radius", "subset", "folder"],
)
@pytest.mark.usefixtures("boards")
def test_run_refuses(mixbench: Run, arguments: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    assert mixbench("leaderboard", "run", *arguments).refuses(*fragments)


@pytest.fixture
def evaluated(here: Path) -> Path:
    """The digits board as it is committed, PGD at Linf alone."""
    folder = here / "leaderboards"
    shutil.copytree(ROOT / "leaderboards" / "protocols", folder / "protocols")
    for path in ROOT.glob("leaderboards/records/digits-*-pgd-Linf_*"):
        shutil.copytree(path, folder / "records" / path.name)
    return folder


def test_build_writes_the_pages_and_then_nothing(evaluated: Path, mixbench: Run) -> None:
    first = mixbench("leaderboard", "build", "--strict")
    assert (first.code, first.out) == (0, "leaderboards: 40 records, 6 files, 6 of them changed\n")
    assert "40 records, 6 files, 0 of them changed" in mixbench("leaderboard", "build").out
    assert (evaluated / "index.html").read_text().startswith("<!doctype html>")


def test_build_names_what_it_leaves_out_and_strict_refuses(evaluated: Path, mixbench: Run) -> None:
    edited = next((evaluated / "records").iterdir()) / "record.json"
    content = json.loads(edited.read_text())
    edited.write_text(json.dumps(content | {"borderline": 361}))
    lenient, strict = mixbench("leaderboard", "build"), mixbench("leaderboard", "build", "--strict")
    assert (lenient.code, strict.code) == (0, 2)
    assert lenient.err == strict.err
    assert lenient.err.startswith(f"left out: leaderboards/records/{edited.parent.name}/record.json is not a valid")
    assert "39 records" in lenient.out


def test_build_needs_a_folder_of_leaderboards(mixbench: Run) -> None:
    assert mixbench("leaderboard", "build").refuses("leaderboards is no folder of leaderboards")


def test_plot_writes_a_figure(evaluated: Path, here: Path, mixbench: Run) -> None:
    records = sorted(evaluated.glob("records/digits-convmixer_*"))
    ended = mixbench("plot", *records, "--output", "figure.svg")
    assert (ended.code, ended.out) == (0, "figure.svg\n")
    assert b"convmixer_frozen.digits, PGD-20" in (here / "figure.svg").read_bytes()


def test_plot_refuses(evaluated: Path, mixbench: Run) -> None:
    record = next((evaluated / "records").iterdir())
    assert mixbench("plot", record, "--output", "figure.gif").refuses("'gif'", ".png or .svg")
    assert mixbench("plot", "nowhere").refuses("cannot read nowhere")
