import sys
from collections.abc import Iterator

import pytest
import torch
from pyautoattack import checks

from tests.canaries.digits_model import Target, digits_target


@pytest.fixture(scope="session")
def target() -> Target:
    return digits_target()


@pytest.fixture(autouse=True)
def process_left_as_found() -> Iterator[None]:
    """Put back what the libraries overwrite: torch's generators, the tracer and pyautoattack's call counters."""
    tracer, counters, threads = sys.gettrace(), dict(checks.funcs), torch.get_num_threads()
    # Operations this small lose by threads, and on a busy machine they lose a factor of ten.
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    torch.set_num_threads(threads)
    sys.settrace(tracer)
    checks.funcs.update(counters)
