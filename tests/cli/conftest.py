"""The command line, run in this process or in one of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbench.cli.main import main
from mixbench.datasets.digits import read_digits
from tests.conftest import ROOT


@dataclass(frozen=True)
class Outcome:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    def refuses(self, *fragments: str) -> bool:
        """Whether this is a user's error: exit code 2, one sentence with all `fragments`, nothing else anywhere."""
        assert (self.code, self.out) == (2, ""), self
        assert self.err.startswith("mixbench: "), self
        assert (self.err.count("\n"), len(self.err) < 1000) == (1, True), self
        assert [fragment for fragment in fragments if fragment not in self.err] == [], self
        return True


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C works here and in child processes, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; caches lie beside it, and nothing of the user's environment is looked at."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("MIXBENCH_DATA_DIR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIXBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return folder


@pytest.fixture
def mixbench(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, in the folder `here`."""
    assert here == Path.cwd()

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def start(here: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a command in a process of its own, in the folder `here`."""

    def start(*arguments: object, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mixbench.cli.main", *(str(argument) for argument in arguments)],
            cwd=here,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,  # noqa: PLW1509 - these tests have one thread that matters
        )

    return start


@pytest.fixture
def mixbench_process(start: Callable[..., subprocess.Popen[str]]) -> Run:
    """Run a command in a process of its own, for what one process must not do to another."""

    def run(*arguments: object, before: Callable[[], object] | None = None) -> Outcome:
        process = start(*arguments, before=before)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)

    return run


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything below `folder`: the content of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def save_digits(folder: Path, *, classes: int, n: int) -> Path:
    """Write the first `n` test digits below `classes` as `folder/CLASS/NUMBER.png` and return `folder`."""
    digits = read_digits(split="test")
    chosen = np.flatnonzero(digits.labels < classes)[:n]
    for number, (image, label) in enumerate(zip(digits.images[chosen], digits.labels[chosen], strict=True)):
        path = folder / str(label) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder
