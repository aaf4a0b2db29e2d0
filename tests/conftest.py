"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The clock of a busy machine fails no test, and every run tries the same cases.
settings.register_profile("mixbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mixbench")

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


@pytest.fixture
def golden_record_path() -> Path:
    """A record as it was once written: the format on disk, which later versions must go on reading."""
    return ROOT / "tests" / "golden" / "record.json"
