"""What all tests share."""

import os
from collections.abc import Iterator
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
    # Without the variable, a folder of data beside the checkout will do.
    beside = (folder.parents[1] for folder in sorted(ROOT.parent.glob("*/data/mnist/mnist")))
    folder = Path(named) if named is not None else next(beside, None)
    if folder is None:
        pytest.skip("needs the real data sets: set MIXBENCH_DATA_DIR to the folder that holds mnist/mnist and others")
    return folder


@pytest.fixture
def golden_record_path() -> Path:
    """A record as it was once written: the format on disk, which later versions must go on reading."""
    return ROOT / "tests" / "golden" / "record.json"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on a single thread: tensors this small lose by more, and on a busy machine they lose a factor of ten."""
    import torch  # noqa: PLC0415 - most tests need no torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
