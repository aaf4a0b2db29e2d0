"""Where a network learns: the settled device, which makes a run repeatable, and the memory it took."""

import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def settled_on(device: torch.device) -> Generator[None]:
    """Train on one CPU thread, since sums split over threads round differently; on CUDA, launch kernels on `device`."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the highest memory use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The kernel counts in kibibytes, but for macOS, which counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
