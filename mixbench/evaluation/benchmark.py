"""The harness beside the bare library, on the same images in one process."""

import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixbench.attacks.autoattack import bare_autoattack
from mixbench.evaluation.blocks import block_seed
from mixbench.evaluation.evaluate import evaluate
from mixbench.evaluation.model_checks import exact_float32
from mixbench.evaluation.plan import Plan
from mixbench.evaluation.verification import judge
from mixbench.records import EvaluationRecord
from mixbench.store import decode_examples


@dataclass(frozen=True)
class BareRun:
    """One run of pyautoattack's own driver: seconds, and how many examples it left robust."""

    batch_size: int
    seconds: float
    robust: int


@dataclass(frozen=True)
class Comparison:
    """Harness and bare library on the same block with the same seed.

    Attributes:
        record: What the harness found.
        harness_seconds: Wall time of `evaluate`, resume files included.
        bare: The bare runs, one for each batch size.
        agreement: Share of examples with the same verdict as the bare run whose batch is the whole block.
    """

    record: EvaluationRecord
    harness_seconds: float
    bare: tuple[BareRun, ...]
    agreement: float

    @property
    def ratio(self) -> float:
        """Harness over the fastest bare run."""
        return self.harness_seconds / min(run.seconds for run in self.bare)


def compare_with_bare(plan: Plan, *, device: str, batch_sizes: Sequence[int]) -> Comparison:
    """Return harness and bare AutoAttack side by side for a `plan` of one block and one threat model.

    The whole block is always among the batch sizes of the bare library. Both compute in exact float32. The bare
    library is used as its documentation says: the model's parameters keep their gradients on, and all examples are
    given to it.
    """
    target = torch.device(device)
    _warm_up(plan, target)
    with tempfile.TemporaryDirectory() as folder:
        started = _now(target)
        (evaluation, *_) = evaluate(plan, workspace=Path(folder), device=device)
        harness_seconds = _now(target) - started
    broken = decode_examples(evaluation.examples, source="the evaluation")["broken"].to_numpy(dtype=bool)
    model = plan.model.module.to(target)
    images = torch.from_numpy(plan.examples.images.copy()).to(target).float() / 255
    labels = torch.from_numpy(plan.examples.labels.copy()).to(target)
    seed = block_seed(plan.protocols[0].seed, plan.attack.name, 0)
    misclassified = judge(model, images, labels, micro_batch=len(images)).broken.cpu().numpy()
    runs: list[BareRun] = []
    agreement = 0.0
    for batch_size in sorted({min(size, len(images)) for size in (*batch_sizes, len(images))}):
        with exact_float32(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            started = _now(target)
            adversarial = bare_autoattack(
                model, images, labels, plan.threat_models[0], seed=seed, batch_size=batch_size
            )
            seconds = _now(target) - started
            wrong = judge(model, adversarial, labels, micro_batch=len(images)).broken.cpu().numpy()
        runs.append(BareRun(batch_size, seconds, int((~wrong).sum())))
        # The last and largest batch is the whole block, where both draw the same random numbers.
        agreement = float(np.mean(wrong == (broken | misclassified)))
    model.to("cpu")
    return Comparison(evaluation.record, harness_seconds, tuple(runs), agreement)


def _warm_up(plan: Plan, device: torch.device) -> None:
    """Let both sides find libraries loaded, kernels chosen and memory reserved."""
    model = plan.model.module.to(device)
    images = torch.from_numpy(plan.examples.images.copy()).to(device).float() / 255
    for _ in range(3):
        images.requires_grad_()
        torch.autograd.grad(model(images).sum(), [images])
    model.to("cpu")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
