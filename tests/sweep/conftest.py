"""Sweeps of seconds: one epoch on digits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mixbench.sweep import SweepProgress, read_sweep, run_sweep
from mixbench.training import Places

RunSweep = Callable[..., tuple[int, list[SweepProgress]]]
HEAD = '[[grid]]\nmodels = ["convmixer_spatial"]\ndataset = "digits"\nepochs = 1\n'
FGSM = '[[grid.evaluation]]\nattack = "fgsm"\neps = ["1/10"]\nn_examples = 20\n'
L2 = '[[grid.evaluation]]\nattack = "fgsm"\nnorm = "L2"\neps = ["1/2"]\nn_examples = 20\n'


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for decoded digits."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The output of HEAD + FGSM, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "sweep.toml").write_text(HEAD + FGSM)
    places = Places(folder / "out", "", None, cache)
    assert run_sweep(read_sweep(folder / "sweep.toml"), places, devices=["cpu"]) == 0
    return folder / "out"


@pytest.fixture
def sweep(tmp_path: Path, cache: Path) -> RunSweep:
    """Run the sweep in a text, into the folder `out`; returns the failures and what was heard."""

    def run(
        text: str, *, devices: tuple[str, ...] = ("cpu",), hear: Callable[[SweepProgress], None] = lambda _: None
    ) -> tuple[int, list[SweepProgress]]:
        heard: list[SweepProgress] = []

        def note(moment: SweepProgress) -> None:
            heard.append(moment)
            hear(moment)

        path = tmp_path / "sweep.toml"
        path.write_text(text)
        places = Places(tmp_path / "out", "", None, cache)
        return run_sweep(read_sweep(path), places, devices=devices, progress=note), heard

    return run
