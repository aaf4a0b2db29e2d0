"""AutoAttack (arXiv 2003.01690), standard version, run by the fast engine."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.attacks.autoattack import AutoAttack
from mixbench.attacks.fast.apgd import Apgd
from mixbench.attacks.fast.engine import Engine, Outcome
from mixbench.attacks.fast.fab import Fab
from mixbench.attacks.fast.search import Search, margins
from mixbench.attacks.fast.square import Square
from mixbench.attacks.protocol import FAST, AttackWarning, Passes, Stage, require_norm
from mixbench.errors import InvalidInputError
from mixbench.records import FAST_ENGINE
from mixbench.threat_model import Norm, ThreatModel

_VERSION = 1
"""Rises whenever a search or its draws change, since then verdicts do too."""
_NORMS = (Norm.LINF, Norm.L2)
_JUDGED_AT_ONCE = 256


@runtime_checkable
class EngineHost(Protocol):
    """A model that brings an engine, whose network computes what the model does, and keeps its books."""

    engine: Engine

    def charge(self, forwards: Int64[np.ndarray, " example"], backwards: Int64[np.ndarray, " example"]) -> None:
        """Enter passes of each example."""
        ...

    def report(self, forwards: int, backwards: int) -> None:
        """Hear of passes as they are made, summed over the examples."""
        ...


@dataclass(frozen=True)
class FastStage:
    """One of the four searches of standard AutoAttack, run by the fast engine.

    Attributes:
        name: Which one.
    """

    name: str

    def search(self, norm: Norm) -> Search[Any]:
        """Return the search for `norm`, Linf or L2."""
        if self.name == "fab-t":
            return Fab(norm)
        if self.name == "square":
            return Square(norm)
        return Apgd(norm, "ce" if self.name == "apgd-ce" else "dlr-targeted")

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the images, replaced by adversarial ones where the search succeeded and `model` confirmed it.

        What becomes of an image depends on it and on the seed, not on the others.
        """
        if isinstance(model, EngineHost):
            outcome = self._outcome(model.engine, images, labels, threat_model, seed, on_steps=model.report)
            model.charge(outcome.forwards, outcome.backwards)
            return outcome.adversarial
        engine = Engine(model, lambda found, own: _margins(model, found, own))
        return self._outcome(engine, images, labels, threat_model, seed, on_steps=None).adversarial

    def _outcome(
        self, engine: Engine, images: Tensor, labels: Tensor, threat_model: ThreatModel, seed: int, *, on_steps: Any
    ) -> Outcome:
        logits = engine.clean_logits(images)
        outcome = engine.run(
            self.search(threat_model.norm), images, labels, logits, threat_model, seed=seed, on_steps=on_steps
        )
        if outcome.flat.any():
            flat = f"{int(outcome.flat.sum())} of {len(images)} examples have a zero gradient at the start"
            doubt = f"{self.name}: {flat}, a sign of masked gradients: robust accuracy may be overestimated"
            warnings.warn(AttackWarning(doubt), stacklevel=4)
        return outcome

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return the passes of a search that finds nothing."""
        search = self.search(threat_model.norm)
        steps, each = search.budget(num_classes), search.passes
        return Passes(steps * each.forwards, steps * each.backwards)


@dataclass(frozen=True)
class FastAutoAttack:
    """Standard AutoAttack, the budget and order of `AutoAttack`, run by the fast engine; norms Linf and L2.

    Its searches draw other random numbers than pyautoattack's, so that an example's verdict depends on nothing but the
    example and the seed.
    """

    name: str = "autoattack"
    version: str = "standard"

    @property
    def engine(self) -> str:
        """The model's fastest executor."""
        return FAST

    @property
    def implementation(self) -> str:
        """Name and version of the engine."""
        return f"{FAST_ENGINE} {_VERSION}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The four searches, cheap first."""
        return tuple(FastStage(stage.name) for stage in self._reference.stages)

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the images, replaced by adversarial ones where any of the searches succeeded."""
        result = images.clone()
        remaining = torch.arange(len(images), device=images.device)
        for stage in self.stages:
            found = stage.perturb(model, images[remaining], labels[remaining], threat_model, seed=seed)
            broken = _margins(model, found, labels[remaining]) < 0
            result[remaining[broken]] = found[broken]
            remaining = remaining[~broken]
        return result

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return the passes of all four searches and of judging each."""
        each = [stage.passes(threat_model, num_classes=num_classes) for stage in self.stages]
        return Passes(sum(p.forwards for p in each) + len(each), sum(p.backwards for p in each))

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        """Return the standard version's settings."""
        return self._reference.parameters(threat_model, num_classes=num_classes)

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        """Raise InvalidInputError for L1, for fewer than 4 classes, or for images too small for Square."""
        if threat_model.norm is Norm.L1:
            raise InvalidInputError("the fast engine has no L1 version of AutoAttack: use --engine reference")
        require_norm(self.name, threat_model, _NORMS)
        self._reference.check_fits(threat_model, num_classes=num_classes, image_size=image_size)

    def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Warn of randomised and of optimising models."""
        self._reference.inspect(model, images, labels)

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        """Return a doubt when Square, which sees no gradients, breaks what the gradient searches did not."""
        return self._reference.doubts(broken_by, total=total)

    @property
    def _reference(self) -> AutoAttack:
        return AutoAttack(self.name, self.version)


def _margins(model: nn.Module, images: Tensor, labels: Tensor) -> Float[Tensor, " batch"]:
    with torch.no_grad():
        logits = [model(cut) for cut in images.split(_JUDGED_AT_ONCE)]
    return margins(torch.cat(logits), labels) if logits else images.new_zeros(0)
