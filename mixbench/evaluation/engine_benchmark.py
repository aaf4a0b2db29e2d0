"""The fast engine beside the reference: the same images, radius and seed, in one process."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbench.evaluation.evaluate import evaluate
from mixbench.evaluation.ledger import Evaluation
from mixbench.evaluation.plan import Plan
from mixbench.records import EvaluationRecord
from mixbench.store import decode_examples

_SIDE = 8192
_PRODUCTS = 10


@dataclass(frozen=True)
class EngineRun:
    """One evaluation, with what it took.

    Attributes:
        block_size: Examples that the attack saw at once.
        seconds: Wall time of `evaluate`, resume files included.
        record: What it found.
    """

    block_size: int
    seconds: float
    record: EvaluationRecord


RunCallback = Callable[[EngineRun], None]


@dataclass(frozen=True, eq=False)
class EngineComparison:
    """Both engines on the same examples.

    Attributes:
        fast: The fast engine's run.
        reference: The reference's runs, one for each block size.
        only_fast: Index of the examples that the fast engine alone broke.
        only_reference: Index of those that the fastest reference run alone broke.
        operations: Floating-point operations of one forward of one image, as the plain network computes it.
        peak: Operations per second that the device reaches in large matrix products, in the precision of the search.
    """

    fast: EngineRun
    reference: tuple[EngineRun, ...]
    only_fast: Int64[np.ndarray, " example"]
    only_reference: Int64[np.ndarray, " example"]
    operations: int
    peak: float

    @property
    def best(self) -> EngineRun:
        """The fastest run of the reference."""
        return min(self.reference, key=lambda run: run.seconds)

    @property
    def ratio(self) -> float:
        """How many times faster the fast engine is than the fastest run of the reference."""
        return self.best.seconds / self.fast.seconds

    @property
    def agreement(self) -> float:
        """Share of examples with the same verdict."""
        return 1 - (len(self.only_fast) + len(self.only_reference)) / self.fast.record.dataset.n

    @property
    def roofline(self) -> float:
        """Share of the device's peak at which the network's own operations were made; a backward counts as a forward.

        The gradient of the weights is not asked for, so a backward is as many operations as a forward.
        """
        cost = self.fast.record.cost
        return (cost.forwards + cost.backwards) * self.operations / self.fast.seconds / self.peak


def compare_engines(
    fast: Plan,
    references: Sequence[Plan],
    *,
    warm_up: Sequence[Plan],
    device: str,
    progress: RunCallback | None = None,
) -> EngineComparison:
    """Return what `fast` and `references`, plans of the same examples and one radius, find and take.

    The plans of `warm_up` are run before, unmeasured, so that libraries are loaded and kernels compiled: a radius at
    which nothing resists makes them short. `progress` hears of every run as it ends.
    """
    target = torch.device(device)
    for plan in warm_up:
        _timed(plan, target, None)
    own, found = _timed(fast, target, progress)
    others = [_timed(plan, target, progress) for plan in references]
    _, reference = min(others, key=lambda other: other[0].seconds)
    broken, expected = _broken(found), _broken(reference)
    indices = np.asarray(fast.examples.indices)
    half = target.type == "cuda" and "float16" in own.record.provenance.precision
    return EngineComparison(
        fast=own,
        reference=tuple(run for run, _ in others),
        only_fast=indices[broken & ~expected],
        only_reference=indices[expected & ~broken],
        operations=operations_of(fast.model.module, fast.examples.images.shape[1:]),
        peak=_peak(target, torch.float16 if half else torch.float32),
    )


def _timed(plan: Plan, device: torch.device, progress: RunCallback | None) -> tuple[EngineRun, Evaluation]:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        started = _now(device)
        (evaluation,) = evaluate(plan, workspace=Path(folder), device=str(device))
        seconds = _now(device) - started
    run = EngineRun(plan.protocols[0].block_size, seconds, evaluation.record)
    if progress is not None:
        progress(run)
    return run, evaluation


def _broken(evaluation: Evaluation) -> np.ndarray:
    return decode_examples(evaluation.examples, source="the evaluation")["broken"].to_numpy(dtype=bool)


def operations_of(model: nn.Module, size: tuple[int, ...]) -> int:
    """Return the floating-point operations of one forward of one image of `size`."""
    # A copy, since the counter hooks modules.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model)(torch.zeros(1, *size))
    return counter.get_total_flops()


def _peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return measured operations per second of a large matrix product."""
    side = _SIDE if device.type == "cuda" else _SIDE // 8
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(side, side, generator=generator, device=device).to(dtype)
    torch.mm(matrix, matrix)
    started = _now(device)
    for _ in range(_PRODUCTS):
        torch.mm(matrix, matrix)
    return _PRODUCTS * 2 * side**3 / (_now(device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
