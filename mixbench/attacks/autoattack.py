"""AutoAttack (arXiv 2003.01690), standard version, run by pyautoattack."""

import importlib.metadata
import logging
import math
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyautoattack
import torch
from jaxtyping import Float, Int64
from pyautoattack import checks
from torch import Tensor, nn

from mixbench.attacks.protocol import REFERENCE, AttackWarning, Passes, Stage, isolated, require_norm
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel

_STEPS = 100
_QUERIES = 5000
_TARGETS = 9
_L1_TARGETS = 5
_L1_RESTARTS = 5
_FEWEST_CLASSES = 4
_SMALLEST_SIDE = 5
_SQUARE_DOUBT = 0.002


@contextmanager
def _warnings_heard(stage: str) -> Generator[None]:
    """Turn what pyautoattack logs as a warning into an AttackWarning that names the stage."""
    logger = logging.getLogger("auto-attack")
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    propagate, disabled, level = logger.propagate, logger.disabled, logger.level
    logger.addHandler(handler)
    logger.propagate, logger.disabled = False, False
    # A program that logs errors only must not lose what the record has to say.
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled = propagate, disabled
        logger.setLevel(level)
        for message in dict.fromkeys(heard):
            warnings.warn(AttackWarning(f"{stage}: {message}"), stacklevel=3)


def _library(model: nn.Module, threat_model: ThreatModel, *, seed: int, device: torch.device, num_classes: int) -> Any:
    """Return a fresh AutoAttack object: the library's objects keep state from one use to the next."""
    library: Any = pyautoattack.AutoAttack(
        model,
        norm=threat_model.norm.value,
        eps=float(threat_model.eps),
        seed=seed,
        version="standard",
        device=device,
    )
    library.apgd_targeted.n_target_classes = min(library.apgd_targeted.n_target_classes, num_classes - 1)
    library.fab.n_target_classes = min(library.fab.n_target_classes, num_classes - 1)
    return library


def _apgd_ce(library: Any) -> Any:
    library.apgd.loss = "ce"
    return library.apgd


def _apgd_t(library: Any) -> Any:
    return library.apgd_targeted


def _fab_t(library: Any) -> Any:
    library.fab.targeted = True
    return library.fab


def _square(library: Any) -> Any:
    return library.square


_SEARCHES: dict[str, Callable[[Any], Any]] = {
    "apgd-ce": _apgd_ce,
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
    "square": _square,
}


@dataclass(frozen=True)
class AutoAttackStage:
    """One of the four searches of standard AutoAttack.

    Attributes:
        name: Which one.
        queries: How often Square may ask the model about one image; fewer than the standard version's 5,000 make it a
            cheaper attack, and no longer a part of AutoAttack.
    """

    name: str
    queries: int = _QUERIES

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the images, replaced by adversarial ones where the search succeeded.

        Bit for bit what pyautoattack finds for the same seed when it is given `images` as one batch.
        """
        num_classes = _count_classes(model, images)
        with isolated(seed=seed), _warnings_heard(self.name):
            library = _library(model, threat_model, seed=seed, device=images.device, num_classes=num_classes)
            search = _SEARCHES[self.name](library)
            search.seed = seed
            if self.name == "square":
                search.n_queries = self.queries
            # Other memory formats crash the library's views of gradients.
            return search.perturb(images.contiguous(), labels).detach()

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return the passes of a search that finds nothing."""
        targets = min(_TARGETS, num_classes - 1)
        l1 = threat_model.norm is Norm.L1
        # Under L1 a run starts three times, at 3, 2 and 1 eps.
        run = Passes(_STEPS + (3 if l1 else 1), _STEPS + (3 if l1 else 1))
        apgd_restarts = _L1_RESTARTS if l1 else 1
        apgd_targets = min(_L1_TARGETS, num_classes - 1) if l1 else targets
        return {
            "apgd-ce": Passes(1 + apgd_restarts * run.forwards, apgd_restarts * run.backwards),
            "apgd-t": Passes(1 + apgd_targets * (1 + run.forwards), apgd_targets * run.backwards),
            "fab-t": Passes(1 + targets * (3 + 2 * _STEPS), targets * _STEPS),
            "square": Passes(1 + 1 + self.queries + 1, 0),
        }[self.name]


@dataclass(frozen=True)
class AutoAttack:
    """Standard AutoAttack: APGD-CE, targeted APGD on the DLR loss, targeted FAB and Square, in this order.

    Norms Linf, L2 and L1. Targets are min(9, classes - 1), for L1 min(5, classes - 1).
    """

    name: str = "autoattack"
    version: str = "standard"

    @property
    def engine(self) -> str:
        """The plain float32 model."""
        return REFERENCE

    @property
    def implementation(self) -> str:
        """Library and version that run it."""
        return f"pyautoattack {importlib.metadata.version('pyautoattack')}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The four searches, cheap first."""
        return tuple(AutoAttackStage(name) for name in _SEARCHES)

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
            if len(remaining) == 0:
                break
            found = stage.perturb(model, images[remaining], labels[remaining], threat_model, seed=seed)
            with torch.no_grad():
                broken = model(found).argmax(1) != labels[remaining]
            result[remaining[broken]] = found[broken]
            remaining = remaining[~broken]
        return result

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return the passes of all four searches and of judging each."""
        each = [stage.passes(threat_model, num_classes=num_classes) for stage in self.stages]
        return Passes(sum(p.forwards for p in each) + len(each), sum(p.backwards for p in each))

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        """Return the standard version's settings."""
        l1 = threat_model.norm is Norm.L1
        return {
            "apgd_restarts": str(_L1_RESTARTS if l1 else 1),
            "apgd_steps": str(_STEPS),
            "apgd_targets": str(min(_L1_TARGETS if l1 else _TARGETS, num_classes - 1)),
            "fab_restarts": "1",
            "fab_steps": str(_STEPS),
            "fab_targets": str(min(_TARGETS, num_classes - 1)),
            "square_queries": str(_QUERIES),
        }

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        """Raise InvalidInputError for fewer than 4 classes, or for Square's L2 and L1 on images under 5 pixels."""
        require_norm(self.name, threat_model, tuple(Norm))
        if num_classes < _FEWEST_CLASSES:
            raise InvalidInputError(
                f"the model has {num_classes} classes, and AutoAttack's targeted DLR loss needs at least"
                f" {_FEWEST_CLASSES}: use --attack pgd"
            )
        side = min(image_size[1:])
        if threat_model.norm is not Norm.LINF and side < _SMALLEST_SIDE:
            raise InvalidInputError(
                f"images of {side} pixels are too small for the {threat_model.norm.value} version of Square, which"
                f" needs {_SMALLEST_SIDE}: use --norm Linf or --attack pgd"
            )

    def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Warn of randomised and of optimising models, by the library's own checks."""
        with isolated(seed=0), _warnings_heard("autoattack"):
            logger = logging.getLogger("auto-attack")
            checks.check_randomized(model, images, labels, bs=len(images), logger=logger)
            # The library counts calls in a module-level table that is never cleared: one dynamic model would mark
            # every later one.
            calls: dict[str, int] = checks.funcs
            calls.update(dict.fromkeys(calls, 0))
            try:
                checks.check_dynamic(model, images, logger=logger)
            finally:
                calls.update(dict.fromkeys(calls, 0))

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        """Return a doubt when Square, which sees no gradients, breaks what the gradient searches did not."""
        share = broken_by.get("square", 0) / total
        if share <= _SQUARE_DOUBT:
            return ()
        doubt = (
            f"square: broke {share:.2%} of the examples after the gradient searches had failed, a sign of masked"
            " gradients: robust accuracy may be overestimated"
        )
        return (doubt,)


def _count_classes(model: nn.Module, images: Tensor) -> int:
    known = getattr(model, "num_classes", None)
    if isinstance(known, int) and known > 0:
        return known
    with torch.no_grad():
        return math.prod(model(images[:1]).shape[1:])


def bare_autoattack(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int,
) -> Float[Tensor, "batch channel height width"]:
    """Return what pyautoattack's own driver makes of `images`, run as its documentation says: the reference."""
    num_classes = _count_classes(model, images)
    with isolated(seed=seed), _warnings_heard("bare autoattack"):
        library = _library(model, threat_model, seed=seed, device=images.device, num_classes=num_classes)
        adversarial, _ = library.run_standard_evaluation(images, labels, batch_size=batch_size)
    return adversarial
