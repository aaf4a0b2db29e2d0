"""The composite action: what it runs is taken from its file and run as GitHub's runner would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml

from mixbench.store import Store
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


@pytest.mark.parametrize(
    ("n_examples", "allow_inconclusive", "code"), [(20, "false", 0), (21, "false", 2)], ids=["passes", "other examples"]
)
def test_the_gate_step_ends_with_the_gates_exit_code_and_writes_reports(
    n_examples: int, allow_inconclusive: str, code: int, here: Path, mixbench: Run
) -> None:
    config = here / "my gate.toml"
    config.write_text(_CONFIG)
    assert mixbench("gate", "--config", config, "--update-baseline").code == 0
    assert len(Store(here / "baselines").records()) == 1
    config.write_text(_CONFIG.replace("= 20", f"= {n_examples}"))
    environment = {
        "CONFIG": config.name,
        "JUNIT": "gate.xml",
        "ALLOW_INCONCLUSIVE": allow_inconclusive,
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(here / "steps.md"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    # How the runner starts a step whose shell is bash.
    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", action()["runs"]["steps"][-1]["run"]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert (here / "gate.xml").is_file() == (here / "steps.md").is_file() == (code == 0)
    if code == 0:
        assert JUnitXml.fromfile(str(here / "gate.xml")).tests == 2
        assert (here / "steps.md").read_text().startswith("## mixbench gate: pass")
