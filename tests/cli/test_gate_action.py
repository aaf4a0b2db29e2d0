"""The composite action: what it runs is taken from its file and run as GitHub's runner would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from junitparser import JUnitXml

from tests.cli.conftest import Run
from tests.conftest import ROOT

_ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"
_CONFIG = """
baseline = "baselines"
[[evaluations]]
models = ["tests.cli.factories:nearest_mean"]
dataset = "digits"
attack = "fgsm"
eps = ["1/10"]
n_examples = 20
"""


def action() -> dict[str, Any]:
    return yaml.safe_load(_ACTION.read_text())


def test_every_input_has_a_description_and_a_default_and_is_used() -> None:
    content = action()
    used = _ACTION.read_text().partition("runs:")[2]
    for name, declared in content["inputs"].items():
        assert declared.keys() == {"description", "default"}
        assert f"${{{{ inputs.{name} }}}}" in used


def test_no_script_takes_an_input_but_by_its_environment() -> None:
    """An expression inside a script is replaced before the shell reads it: whoever chooses the input could run code."""
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert len(scripts) == 2
    assert [script for script in scripts if "${{" in script] == []


def run_gate_step(here: Path, *, config: str) -> subprocess.CompletedProcess[str]:
    """Run the last step as GitHub's runner starts one whose shell is bash."""
    environment = {
        "CONFIG": config,
        "JUNIT": "gate.xml",
        "ALLOW_INCONCLUSIVE": "false",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(here / "steps.md"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", action()["runs"]["steps"][-1]["run"]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_gate_step_writes_its_reports(here: Path, mixbench: Run) -> None:
    (here / "my gate.toml").write_text(_CONFIG)
    assert mixbench("gate", "--config", "my gate.toml", "--update-baseline").code == 0
    ended = run_gate_step(here, config="my gate.toml")
    assert ended.returncode == 0, ended.stderr
    assert JUnitXml.fromfile(str(here / "gate.xml")).tests == 2
    assert (here / "steps.md").read_text().startswith("## mixbench gate: pass")


def test_the_gate_step_ends_with_the_gates_exit_code(here: Path) -> None:
    ended = run_gate_step(here, config="gone.toml")
    assert ended.returncode == 2
    assert "cannot read gone.toml" in ended.stderr
