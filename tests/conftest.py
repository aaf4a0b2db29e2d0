"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests that ask for it are skipped where there is none."""
    named = os.environ.get("MIXBENCH_DATA_DIR")
    if named is not None and not Path(named).is_dir():
        pytest.fail(f"MIXBENCH_DATA_DIR names {named}, which is not a folder")
    folder = Path(named) if named is not None else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets: set MIXBENCH_DATA_DIR to the folder that holds mnist/mnist and others")
    return folder
