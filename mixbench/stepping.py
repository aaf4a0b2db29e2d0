"""How a network learns: the settled device, which makes a run repeatable, the captured step, and the memory it took."""

import resource
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 2


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


def forget_peak_memory(device: torch.device) -> None:
    """Count the highest memory use of a GPU from here; that of a process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the highest memory use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The kernel counts in kibibytes, but for macOS, which counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class CapturedStep:
    """A step without arguments, captured as a CUDA graph: one launch repeats it on what its tensors then hold."""

    def __init__(self, step: Callable[[], None], *, moved: Iterable[Tensor]) -> None:
        """Capture `step`; `moved` are the sums and running statistics that warming up moves, and are put back."""
        before = [(tensor, tensor.clone()) for tensor in moved]
        side: Any = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step()
        for tensor, value in before:
            tensor.copy_(value)

    def __call__(self) -> None:
        """Do what the step does."""
        self._graph.replay()
