"""The package asks pip for all that it imports: a clean installation lacks nothing."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.conftest import ROOT

# torch for CUDA brings Triton along, and nothing is imported from it where there is no GPU.
_WITH_TORCH = {"triton"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {normalised(match.group()) for entry in declared if (match := re.match(r"[A-Za-z0-9._-]+", entry))}
    distributions = packages_distributions()
    imported: set[str] = set()
    for file in (ROOT / "mixbench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"mixbench"} - _WITH_TORCH
    missing = {module for module in foreign if not {normalised(d) for d in distributions[module]} & names}
    assert missing == set()
