"""What a user gets who installs the wheel: the package, the zoo, and nothing taken from this checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mixbench.models import zoo_names
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    run(*pip, cwd=target)
    return target


def run(*command: object, cwd: Path, **environment: str) -> str:
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_the_wheel_holds_the_package_its_types_and_the_zoo(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mixbench").rglob("*.py")}
    modules |= {str(path.relative_to(ROOT)) for path in (ROOT / "mixbench" / "leaderboard" / "templates").iterdir()}
    zoo = {
        f"mixbench/model_zoo/{name}/{file}"
        for name in zoo_names()
        for file in ("config.json", "model.safetensors", "README.md")
    }
    assert zoo
    assert modules | zoo | {"mixbench/py.typed"} <= names
    assert [name for name in names if name.startswith(("tests/", "model_zoo/", "leaderboards/"))] == []
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_works_by_itself(installed: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(installed), "MIXBENCH_CACHE_DIR": str(tmp_path / "cache")}
    python = (sys.executable, "-P")
    program = "import mixbench; print(mixbench.__file__)"
    assert Path(run(*python, "-c", program, cwd=tmp_path, **environment).strip()).is_relative_to(installed)
    mixbench = (*python, "-m", "mixbench.cli.main")
    assert list(json.loads(run(*mixbench, "models", "--json", cwd=tmp_path, **environment))) == list(zoo_names())
    evaluation = ("eval", "--model", "convmixer_frozen", "--attack", "fgsm", "--n-examples", 10, "--json")
    (item,) = json.loads(run(*mixbench, *evaluation, cwd=tmp_path, **environment))
    assert item["record"]["clean"]["total"] == 10
    assert item["record"]["provenance"]["commit"] is None
    assert (tmp_path / item["folder"] / "record.json").is_file()
