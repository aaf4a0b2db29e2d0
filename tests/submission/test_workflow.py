"""The workflow that verifies pull requests: no secrets, nothing of the pull request is run, names are data."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_checks import commands, parse

_WORKFLOW = (ROOT / ".github" / "workflows" / "verify-submission.yml").read_text()
_SCRIPT = ROOT / ".github" / "verify-changed.sh"


def test_every_command_of_the_way_in_parses() -> None:
    found = commands((ROOT / ".github" / "CONTRIBUTING.md").read_text())
    assert [arguments[0] for arguments in found] == ["submit", "verify", "accept"]
    for arguments in found:
        parse(arguments)


def test_the_workflow_has_no_secrets_and_may_only_read() -> None:
    assert "pull_request_target" not in _WORKFLOW
    assert "secrets." not in _WORKFLOW
    assert re.search(r"^permissions:\n  contents: read\n\n", _WORKFLOW, flags=re.MULTILINE)
    assert _WORKFLOW.count("permissions:") == 1
    assert _WORKFLOW.count("persist-credentials: false") == _WORKFLOW.count("actions/checkout@")


def test_actions_are_pinned_to_commits() -> None:
    actions = re.findall(r"uses: (\S+)", _WORKFLOW)
    assert actions
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)


def test_nothing_of_the_pull_request_is_put_into_a_command() -> None:
    """An expression inside `run` would be pasted into the script, whatever it holds."""
    commands = re.findall(r"run: (.*(?:\n {10}.*)*)", _WORKFLOW)
    assert len(commands) == 2
    assert not any("${{" in command for command in commands)
    assert "pip install ./tool" in commands[0]
    assert "./submitted" not in _WORKFLOW


@pytest.fixture
def checkouts(tmp_path: Path) -> Path:
    """Two checkouts, and a `mixbench` that notes its arguments and fails on request."""
    for side in ("tool", "submitted"):
        (tmp_path / side / "leaderboards" / "incoming" / "a.old").mkdir(parents=True)
        (tmp_path / side / "leaderboards" / "incoming" / "a.old" / "card.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mixbench"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/called\ncase "$5" in *bad*) exit 1;; esac\n')
    program.chmod(0o755)
    return tmp_path


def run(checkouts: Path) -> tuple[int, list[str]]:
    ended = subprocess.run(
        ["bash", str(_SCRIPT), "submitted", "tool", "0" * 40],
        cwd=checkouts,
        env={"PATH": f"{checkouts / 'bin'}:/usr/bin:/bin", "RUNNER_TEMP": str(checkouts)},
        capture_output=True,
        text=True,
        check=False,
    )
    called = checkouts / "called"
    return ended.returncode, called.read_text().splitlines()[4::5] if called.exists() else []


def test_only_what_changed_is_verified(checkouts: Path) -> None:
    incoming = checkouts / "submitted" / "leaderboards" / "incoming"
    (incoming / "a.new").mkdir()
    assert run(checkouts) == (0, ["submitted/leaderboards/incoming/a.new"])


def test_names_are_never_part_of_a_command(checkouts: Path) -> None:
    incoming = checkouts / "submitted" / "leaderboards" / "incoming"
    names = ["$(touch owned)", "-rf", "; touch owned #", ".hidden", "two words"]
    for name in names:
        (incoming / name).mkdir()
    code, called = run(checkouts)
    assert (code, sorted(called)) == (0, sorted(f"submitted/leaderboards/incoming/{name}" for name in names))
    assert not (checkouts / "owned").exists()


def test_one_that_fails_fails_the_job_and_the_others_are_verified(checkouts: Path) -> None:
    incoming = checkouts / "submitted" / "leaderboards" / "incoming"
    for name in ("a.bad", "b.good"):
        (incoming / name).mkdir()
    code, called = run(checkouts)
    assert code == 1
    assert len(called) == 2


def test_nothing_to_verify_is_no_success(checkouts: Path) -> None:
    assert run(checkouts) == (1, [])


def test_a_link_in_place_of_the_folder_is_refused(checkouts: Path) -> None:
    incoming = checkouts / "submitted" / "leaderboards" / "incoming"
    incoming.rename(checkouts / "elsewhere")
    incoming.symlink_to(checkouts / "elsewhere")
    assert run(checkouts) == (1, [])
