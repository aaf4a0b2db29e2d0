"""The model as an attack library sees it: split into micro-batches, with every pass counted for its example."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixbench.attacks import Engine
from mixbench.errors import InvalidInputError

PassCallback = Callable[[int, int], None]
"""Called with the forward and backward passes just made, counted per example."""


class MeteredModel(nn.Module):
    """Wraps a model for one stage on one set of examples.

    Attack libraries drop examples as they break them, keeping the others in order; the wrapper aligns each smaller
    batch with the examples it holds, so that passes are counted for the right ones. A batch larger than `micro_batch`
    is cut; where gradients are asked for, each cut is recomputed in the backward pass, so that memory stays that of
    one cut. The fast engine, if there is one, counts for itself what it passes by this wrapper.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        images: Float[Tensor, "batch channel height width"],
        num_classes: int,
        micro_batch: int,
        on_pass: PassCallback | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        self.inner = model
        if engine is not None:
            self.engine = engine
        self.num_classes = num_classes
        self.forwards = np.zeros(len(images), dtype=np.int64)
        self.backwards = np.zeros(len(images), dtype=np.int64)
        self._clean = images.detach()
        self._micro_batch = micro_batch
        self._on_pass = on_pass
        self._present = np.arange(len(images))
        self.eval()

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch logit"]:
        """Return the logits of `images`, which descend from all or some of the stage's examples, in order."""
        examples = self._locate(images)
        self.forwards[examples] += 1
        self._report(len(examples), 0)
        logits = self._logits(images)
        if logits.requires_grad:
            logits.register_hook(partial(self._count_backward, examples))
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        if len(images) <= self._micro_batch:
            return self.inner(images)
        cuts = images.split(self._micro_batch)
        if torch.is_grad_enabled() and images.requires_grad:
            return torch.cat(
                [checkpoint(self.inner, cut, use_reentrant=False, preserve_rng_state=False) for cut in cuts]
            )
        return torch.cat([self.inner(cut) for cut in cuts])

    def _count_backward(self, examples: Int64[np.ndarray, " present"], gradient: Tensor) -> Tensor:
        self.backwards[examples] += 1
        self._report(0, len(examples))
        return gradient

    def charge(self, forwards: Int64[np.ndarray, " example"], backwards: Int64[np.ndarray, " example"]) -> None:
        """Enter passes that were not made through this wrapper."""
        self.forwards += forwards
        self.backwards += backwards

    def report(self, forwards: int, backwards: int) -> None:
        """Tell of passes as they are made, summed over the examples."""
        self._report(forwards, backwards)

    def _report(self, forwards: int, backwards: int) -> None:
        if self._on_pass is not None:
            self._on_pass(forwards, backwards)

    def _locate(self, images: Tensor) -> Int64[np.ndarray, " present"]:
        n = len(images)
        if n == len(self._clean):
            self._present = np.arange(n)
        elif n < len(self._present):
            self._present = self._present[self._align(images, self._present)]
        elif n > len(self._present):
            self._present = self._align(images, np.arange(len(self._clean)))
        return self._present

    def _align(self, images: Tensor, candidates: Int64[np.ndarray, " candidate"]) -> Int64[np.ndarray, " present"]:
        clean = self._clean[torch.from_numpy(candidates).to(self._clean.device)]
        with torch.no_grad():
            distances = torch.cdist(images.detach().flatten(1), clean.flatten(1))
        return align_in_order(distances.double().cpu().numpy())


def align_in_order(distances: Float[np.ndarray, "present candidate"]) -> Int64[np.ndarray, " present"]:
    """Return, for each row, the column it is matched with: strictly increasing, of least total distance."""
    rows, columns = distances.shape
    if rows > columns:
        raise ValueError(f"{rows} images cannot be matched one to one with {columns} examples")
    nearest = distances.argmin(axis=1)
    if np.all(np.diff(nearest) > 0):
        return nearest
    # Two images are near each other, so the nearest ones clash: take the best order-preserving assignment.
    best = np.zeros(columns + 1)
    taken = np.zeros((rows, columns), dtype=bool)
    for row in range(rows):
        with_this = best[:-1] + distances[row]
        reached = np.minimum.accumulate(with_this)
        taken[row] = with_this <= reached
        best = np.concatenate(([np.inf], reached))
    return _trace_back(taken)


def _trace_back(taken: np.ndarray) -> Int64[np.ndarray, " present"]:
    rows, column = taken.shape[0], taken.shape[1] - 1
    columns = np.empty(rows, dtype=np.int64)
    for row in range(rows - 1, -1, -1):
        while not taken[row, column]:
            column -= 1
        columns[row] = column
        column -= 1
    return columns


def fitting_micro_batch(model: nn.Module, images: Float[Tensor, "batch channel height width"], *, budget: int) -> int:
    """Return how many of `images` may be passed forward and backward at once within `budget` bytes.

    Counts the tensors that autograd keeps for one example, which is the same on every device, and allows as much again
    for what lives only briefly.
    """
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    probe = images[:1].clone().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(probe)
    del logits
    return max(1, int(budget // max(1, 2 * sum(kept.values()))))


def memory_budget(device: torch.device) -> int:
    """Return the bytes that activations may take on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return 512 * 2**20


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether `error` says that the device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halved(micro_batch: int, *, error: RuntimeError) -> int:
    """Return half of `micro_batch`, for the next try after `error`; raises InvalidInputError at 1."""
    if micro_batch == 1:
        raise InvalidInputError(
            "the device has too little memory for a single image beside the attack's own state: use --device cpu, a"
            " smaller --block-size or a smaller model"
        ) from error
    return micro_batch // 2
