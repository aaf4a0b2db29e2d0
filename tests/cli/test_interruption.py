"""Whatever ends a run, the same command goes on and finds what an uninterrupted run finds."""

import ctypes
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.store import load_record
from tests.cli import factories
from tests.cli.conftest import Run, tree

_OWN = ("--model", "tests.cli.factories:nearest_mean", "--dataset", "digits")
_PGD = ("eval", *_OWN, "--attack", "pgd", "--n-examples", 20, "--eps", "1/20,1/10,1/5")
_AUTOATTACK = ("eval", *_OWN, "--attack", "autoattack", "--n-examples", 24, "--eps", "1/16,1/3")

Start = Callable[..., subprocess.Popen[str]]


def results(runs: Path) -> dict[str, tuple[object, bytes]]:
    """Everything that must not depend on how often a run was interrupted, by record."""
    folders = [path for path in runs.iterdir() if not path.name.startswith(".")]
    return {
        folder.name: (load_record(folder).without_measurements(), (folder / "examples.parquet").read_bytes())
        for folder in folders
    }


def finished_stages(runs: Path) -> int:
    return len(list(runs.glob(".unfinished/*/*.npz")))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("passes", [3, 30, 52])
def test_ctrl_c_exits_130_names_the_workspace_and_the_same_command_goes_on(
    passes: int, here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixbench(*_PGD, "--runs", "whole")
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", passes)
    outcome = mixbench(*_PGD)
    (workspace,) = Path("runs/.unfinished").iterdir()
    assert (outcome.code, outcome.out) == (130, "")
    assert f"interrupted; what was finished is kept in {workspace}: run the same command again" in outcome.err
    assert [name for name in tree(here / "runs") if name.endswith(("record.json", "examples.parquet", ".part"))] == []
    assert finished_stages(here / "runs") == {3: 0, 30: 1, 52: 2}[passes]
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", None)
    assert mixbench(*_PGD).code == 0
    assert results(here / "runs") == results(here / "whole")
    assert not (here / "runs" / ".unfinished").exists()


def test_a_resumed_run_does_not_repeat_finished_stages(
    here: Path, mixbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", 52)
    mixbench(*_PGD)
    kept = {path: path.stat().st_ino for path in here.glob("runs/.unfinished/*/*.npz")}
    monkeypatch.setattr(factories, "PASSES_UNTIL_CTRL_C", 5)
    assert mixbench(*_PGD).code == 130
    assert {path: path.stat().st_ino for path in here.glob("runs/.unfinished/*/*.npz")} == kept
    assert len(kept) == 2


@pytest.mark.slow
def test_a_real_ctrl_c_while_stages_are_running(here: Path, start: Start, mixbench: Run) -> None:
    process = start(*_AUTOATTACK)
    wait_for(lambda: any((here / "runs").glob(".unfinished/*/manifest.json")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    (workspace,) = Path("runs/.unfinished").iterdir()
    assert (process.returncode, out) == (130, "")
    assert f"kept in {workspace}: run the same command again" in err
    assert mixbench(*_AUTOATTACK).code == 0
    assert len(results(here / "runs")) == 2


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(here: Path, start: Start, mixbench_process: Run) -> None:
    assert mixbench_process(*_AUTOATTACK, "--runs", "whole").code == 0
    seconds = max(load_record(path.parent).cost.seconds for path in (here / "whole").glob("*/record.json"))
    moments = random.Random(0)  # noqa: S311 - when to kill is no secret
    for stages in (0, 1, 3):
        process = start(*_AUTOATTACK)
        wait_for(lambda: any((here / "runs").glob(".unfinished/*/manifest.json")), process)
        wait_for(lambda wanted=stages: finished_stages(here / "runs") >= wanted, process)
        time.sleep(moments.uniform(0, 0.05 * seconds))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert [name for name in tree(here / "runs") if name.endswith("record.json")] == []
    assert mixbench_process(*_AUTOATTACK).code == 0
    assert results(here / "runs") == results(here / "whole")
    assert len(results(here / "whole")) == 2
    assert not (here / "runs" / ".unfinished").exists()


def _without_the_rights_of_root() -> None:
    """Let permissions hold for root too: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH for the next program."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; fails harmlessly for others than root


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["may not be written", "may not be entered"])
def test_a_runs_folder_without_permission_is_refused(mode: int, here: Path, mixbench_process: Run) -> None:
    closed = here / "closed"
    closed.mkdir(mode=mode)
    outcome = mixbench_process(*_PGD, "--runs", "closed/runs", before=_without_the_rights_of_root)
    assert outcome.refuses("closed", "permission")
    closed.chmod(0o755)
    assert tree(here) == {"closed": None}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hf-hub:nobody/nothing", "timm:resnet18.a1_in1k"])
def test_a_model_to_download_without_network_is_refused(
    model: str, here: Path, mixbench_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(here.parent / "hub"))
    outcome = mixbench_process("eval", "--model", model, "--dataset", "digits", "--attack", "fgsm")
    assert outcome.refuses(model.partition(":")[2], "check the network")
    assert tree(here) == {}
