"""The evaluation engine: blocks, schedule, verification and resume, from a model to evaluation records."""

import gc
import hashlib
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mixbench.attacks import FAST, AttackWarning, Engine, FastAutoAttack, Stage
from mixbench.errors import InvalidInputError
from mixbench.evaluation.blocks import Block, block_seed, blocks
from mixbench.evaluation.engine import engine_for
from mixbench.evaluation.ledger import Evaluation, Ledger
from mixbench.evaluation.metering import (
    MeteredModel,
    PassCallback,
    fitting_micro_batch,
    halved,
    is_out_of_memory,
    memory_budget,
)
from mixbench.evaluation.model_checks import check_images, check_outputs, ready_for_attack
from mixbench.evaluation.pacing import Pace
from mixbench.evaluation.plan import Plan
from mixbench.evaluation.progress import ProgressCallback
from mixbench.evaluation.verification import Verdicts, check_within, judge
from mixbench.evaluation.workspace import StageResult, Workspace
from mixbench.models import Executor
from mixbench.records import Provenance

_INSPECTED = 64
_CALIBRATED = 512
_BLOCKS_TOGETHER = 5

T = TypeVar("T")


def evaluate(
    plan: Plan,
    *,
    workspace: Path,
    device: str = "cpu",
    micro_batch: int | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Evaluation, ...]:
    """Return one evaluation for each threat model of `plan`, each adversarial example verified.

    Finished stages are kept in the folder `workspace` and taken up by the next call with the same plan; the caller
    deletes it once the evaluations are stored. `micro_batch` bounds how many images are passed at once: by default
    what fits the device, halved whenever memory runs out; it changes nothing but float32 rounding. `device` is a torch
    device.

    Raises InvalidInputError if the model or the images break the contract (images in [0, 1], logits, eval mode),
    AttackViolationError if an attack leaves its threat model, RecordError if the workspace is another run's.
    """
    target = torch.device(device)
    device_name = torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu"
    if target.type == "cuda":
        torch.cuda.reset_peak_memory_stats(target)
    provenance = Provenance.collect(device=device_name)
    keeper = Workspace(workspace, _workspace_key(plan, provenance))
    with ready_for_attack(plan.model.module, target):
        run = _Run(plan, keeper, target, micro_batch=micro_batch, progress=progress, provenance=provenance)
        # A model that is refused leaves nothing on the disk.
        keeper.open()
        return run.all_blocks()


@dataclass(frozen=True, eq=False)
class _Search:
    """One stage on what is still robust in a block at one radius."""

    block: Block
    stage: Stage
    radius: int
    positions: Int64[np.ndarray, " attacked"]

    def name(self, plan: Plan) -> str:
        eps = str(plan.threat_models[self.radius].eps).replace("/", "_")
        return f"block-{self.block.index:05d}.eps-{eps}.{self.stage.name}"


class _Run:
    """One walk through blocks, radii and stages."""

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        device: torch.device,
        *,
        micro_batch: int | None,
        progress: ProgressCallback | None,
        provenance: Provenance,
    ) -> None:
        self.plan = plan
        self.workspace = workspace
        self.device = device
        self.model = plan.model.module
        self.provenance = provenance
        self.ledger = Ledger(plan)
        self.engine: Engine | None = None
        self.executor: Executor | None = None
        n = len(plan.examples)
        # Which examples go together is nothing to the fast engine, and many at once leave fewer slots empty.
        together = _BLOCKS_TOGETHER if isinstance(plan.attack, FastAutoAttack) else 1
        self.blocks = tuple(blocks(n, block_size=together * plan.protocols[0].block_size))
        self.pace = Pace(plan, n_blocks=len(self.blocks), callback=progress)
        self.micro_batch = self._fitting_micro_batch() if micro_batch is None else micro_batch
        if self.micro_batch < 1:
            raise InvalidInputError(f"micro-batch {micro_batch} is not at least 1: leave it out to fit the device")
        self._inspect_model()
        self._begin_search()

    def all_blocks(self) -> tuple[Evaluation, ...]:
        for block in self.blocks:
            self._block(block)
            self.pace.block_done()
        return self.ledger.evaluations(self.provenance)

    def _block(self, block: Block) -> None:
        images, labels = self._images(block.start, block.stop), self._labels(block.start, block.stop)
        started = time.perf_counter()
        verdicts = self._judge(images, labels)
        self.ledger.enter_clean(
            block,
            predictions=verdicts.predictions.cpu().numpy(),
            margins=verdicts.margins.cpu().numpy(),
            seconds=time.perf_counter() - started,
            peak_memory_bytes=_peak_memory(self.device),
        )
        for radius in range(len(self.plan.threat_models)):
            for stage in self.plan.attack.stages:
                search = _Search(block, stage, radius, self.ledger.robust_positions(block, radius))
                self.pace.enter(stage, block, self.ledger, radius)
                if len(search.positions):
                    self._stage(search, images, labels)
                self.pace.leave()

    def _stage(self, search: "_Search", images: Tensor, labels: Tensor) -> None:
        """Enter the result of `search` on the images of its block, from the workspace if it is there."""
        name = search.name(self.plan)
        result = self.workspace.load(name)
        if result is None or not np.array_equal(result.positions, search.positions):
            chosen = torch.from_numpy(search.positions - search.block.start).to(self.device)
            result = self._run_search(search, images[chosen], labels[chosen])
            self.workspace.save(name, result)
        self.ledger.enter_stage(search.stage.name, search.radius, result)

    def _run_search(self, search: "_Search", images: Tensor, labels: Tensor) -> StageResult:
        """Run a stage, again with half the micro-batch whenever memory runs out: the seed makes it the same search."""
        seed = self.plan.protocols[search.radius].seed
        if not isinstance(self.plan.attack, FastAutoAttack):
            seed = block_seed(seed, self.plan.attack.name, search.block.index)
        threat_model, stage = self.plan.threat_models[search.radius], search.stage

        def attempt() -> StageResult:
            self.pace.restart()
            started = time.perf_counter()
            metered = self._metered(images, on_pass=self.pace.passes, engine=self.engine)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", AttackWarning)
                # Copies, so that an attack that writes into its input is still compared with the clean images.
                returned = stage.perturb(metered, images.clone(), labels.clone(), threat_model, seed=seed).detach()
            norms = check_within(returned, images, threat_model, attack=stage.name)
            verdicts = self._judge(returned, labels)
            return StageResult(
                positions=search.positions,
                broken=verdicts.broken.cpu().numpy(),
                adversarials=returned[verdicts.broken].cpu().numpy(),
                predictions=verdicts.predictions[verdicts.broken].cpu().numpy(),
                margins=verdicts.margins[verdicts.broken].cpu().numpy(),
                norms=norms[verdicts.broken].cpu().numpy(),
                forwards=metered.forwards + 1,
                backwards=metered.backwards,
                warnings=tuple(str(warning.message) for warning in heard if warning.category is AttackWarning),
                seconds=time.perf_counter() - started,
                peak_memory_bytes=_peak_memory(self.device),
            )

        return self._while_memory_lasts(attempt, n=len(images))

    def _inspect_model(self) -> None:
        n = min(_INSPECTED, len(self.plan.examples))
        images, labels = self._images(0, n), self._labels(0, n)
        check_images(images)

        def attempt() -> tuple[str, ...]:
            metered = self._metered(images)
            check_outputs(metered, images, num_classes=self.plan.examples.num_classes)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", AttackWarning)
                self.plan.attack.inspect(metered, images.clone(), labels.clone())
            return tuple(str(warning.message) for warning in heard)

        self.ledger.warn(self._while_memory_lasts(attempt, n=n))

    def _judge(self, images: Tensor, labels: Tensor) -> Verdicts:
        return self._while_memory_lasts(
            lambda: judge(self.model, images, labels, micro_batch=self.micro_batch), n=len(images)
        )

    def _while_memory_lasts(self, attempt: Callable[[], T], *, n: int) -> T:
        """Return what `attempt` returns on `n` images, again with half the micro-batch whenever memory runs out."""
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.micro_batch = halved(min(self.micro_batch, n), error=error)
                self.engine = self.executor = None
            # Only here, since the error holds on to the tensors of the failed attempt.
            _release_memory(self.device)
            self._begin_search()

    def _metered(
        self, images: Tensor, *, on_pass: PassCallback | None = None, engine: Engine | None = None
    ) -> MeteredModel:
        return MeteredModel(
            self.model if engine is None or self.executor is None else self.executor.network,
            images=images,
            num_classes=self.plan.examples.num_classes,
            micro_batch=self.micro_batch,
            on_pass=on_pass,
            engine=engine,
        )

    def _begin_search(self) -> None:
        """Make the fast engine, where the attack searches with it."""
        if self.plan.attack.engine != FAST:
            return
        n = min(_CALIBRATED, len(self.plan.examples))
        images, labels = self._images(0, n), self._labels(0, n)
        self.engine, self.executor = engine_for(self.model, images, labels, micro_batch=self.micro_batch)
        searched = f"float32; searched in {self.executor.precision} ({self.executor.kernels})"
        self.provenance = self.provenance.model_copy(update={"precision": searched})

    def _fitting_micro_batch(self) -> int:
        probe = self._images(0, 1)
        check_outputs(self.model, probe, num_classes=self.plan.examples.num_classes)
        return fitting_micro_batch(self.model, probe, budget=memory_budget(self.device))

    def _images(self, start: int, stop: int) -> Float[Tensor, "batch channel height width"]:
        pixels = torch.from_numpy(np.array(self.plan.examples.images[start:stop]))
        return pixels.to(self.device).float() / 255

    def _labels(self, start: int, stop: int) -> Int64[Tensor, " batch"]:
        return torch.from_numpy(np.array(self.plan.examples.labels[start:stop])).to(self.device)


def _workspace_key(plan: Plan, provenance: Provenance) -> dict[str, str]:
    protocols = hashlib.sha256("".join(protocol.hash for protocol in plan.protocols).encode()).hexdigest()
    return {
        "model": plan.model.identity.name,
        "sha256": plan.model.identity.sha256,
        "dataset": plan.dataset.name,
        "attack": plan.attack_identity.implementation,
        "threat models": ", ".join(str(threat_model) for threat_model in plan.threat_models),
        "protocols": protocols,
        # Blocks from two devices would make a record that no single device repeats.
        "device": provenance.device,
        "torch": torch.__version__,
        "timm": provenance.packages["timm"],
        "mixbench": f"{provenance.mixbench} {provenance.commit} {provenance.dirty}",
    }


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The kernel counts in kibibytes, but for macOS, which counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _release_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
