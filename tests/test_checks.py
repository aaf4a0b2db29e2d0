"""The project's own rules, each judged by the tool that knows it, and the README against the program."""

import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.core import TyperGroup

from mixbench.cli.main import app
from tests.conftest import ROOT

# What a shell would not hand over to mixbench.
_ENDS_OF_A_COMMAND = frozenset({"|", "||", "&&", ";", ">", ">>", "2>", "&"})
_README = ROOT / "README.md"


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(["-m", "ruff", "check", "--no-cache"], id="ruff check"),
        pytest.param(["-m", "ruff", "format", "--check", "--no-cache"], id="ruff format"),
        pytest.param(["-m", "pyright", "--pythonpath", sys.executable], id="pyright"),
        pytest.param(
            ["-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
            id="import contracts",
        ),
    ],
)
def test_the_project_passes(check: list[str]) -> None:
    ended = subprocess.run([sys.executable, *check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every `mixbench ...` command in the fenced blocks of a markdown text."""
    blocks = re.findall(r"^ *```(?:sh|bash|shell|console)\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found: list[list[str]] = []
    for line in lines:
        words = shlex.split(line, comments=True)
        for start in (number for number, word in enumerate(words) if word == "mixbench"):
            if start == 0 or words[start - 1] in _ENDS_OF_A_COMMAND or "=" in words[start - 1]:
                rest = words[start + 1 :]
                end = next((number for number, word in enumerate(rest) if word in _ENDS_OF_A_COMMAND), len(rest))
                found.append(rest[:end])
    return found


def parse(arguments: list[str]) -> None:
    """Parse `arguments` as the program would, without running anything; raises typer's usage errors."""
    command, name, rest, parent = typer.main.get_command(app), "mixbench", arguments, None
    while isinstance(command, TyperGroup):
        parent = command.make_context(name, rest, parent=parent)
        rest = [*parent._protected_args, *parent.args]  # pyright: ignore[reportPrivateUsage] - as groups do themselves
        found, command, rest = command.resolve_command(parent, rest)
        name = found or name
    assert command is not None
    command.make_context(name, rest, parent=parent)


def verbs() -> list[str]:
    return list(typer.main.get_group(app).commands)


def test_commands_are_found_in_fenced_blocks_alone() -> None:
    text = "```sh\n$ mixbench a \\\n  --b 1 | head\npip install mixbench && X=1 mixbench c # no\n```\n`mixbench d`\n"
    assert commands(text) == [["a", "--b", "1"], ["c"]]


@pytest.mark.parametrize("arguments", [["evil"], ["eval", "--modle", "x"], ["eval"], ["bench", "evil"]])
def test_a_command_that_does_not_exist_does_not_parse(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"evil|modle|model"):
        parse(arguments)


def test_every_command_in_the_readme_parses() -> None:
    found = commands(_README.read_text())
    assert ["eval", "--model", "convmixer_frozen", "--attack", "autoattack"] in found
    for arguments in found:
        parse(arguments)


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"mixbench {verb}" in _README.read_text()
