"""What the harness asks of an attack, and the isolation in which every attack library runs."""

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel

FAST, REFERENCE = "fast", "reference"
"""The engines: what an attack searches with is the model's fastest executor, or the plain float32 model."""


def told(engine: str) -> dict[str, str]:
    """Return `engine` as a hyper-parameter; the reference goes without saying, as it did before there was another."""
    return {} if engine == REFERENCE else {"engine": engine}


class AttackWarning(UserWarning):
    """Something an attack library says about how far its result can be trusted."""


@dataclass(frozen=True)
class Passes:
    """How many forward and backward passes one example costs."""

    forwards: int
    backwards: int

    @property
    def work(self) -> int:
        """Cost in forward passes; a backward pass costs about two."""
        return self.forwards + 2 * self.backwards


class Stage(Protocol):
    """One search for adversarial examples, run on the examples that are still robust."""

    @property
    def name(self) -> str:
        """What `broken_by` calls it."""
        ...

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return one image for each of `images`, adversarial where the search succeeded.

        `model` maps images in [0, 1] to logits and is in eval mode; `images` are classified correctly. Nothing is
        promised about the result: the harness verifies it.
        """
        ...

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return the passes spent on an example that survives."""
        ...


class Attack(Stage, Protocol):
    """A named attack: its stages in the order in which they run, cheap ones first."""

    @property
    def version(self) -> str:
        """Which variant of the attack this is."""
        ...

    @property
    def implementation(self) -> str:
        """Library and version that run it."""
        ...

    @property
    def engine(self) -> str:
        """FAST if it searches with the model's fastest executor, else REFERENCE."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The searches, in order."""
        ...

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        """Return every resolved hyper-parameter as text."""
        ...

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        """Raise InvalidInputError if the attack cannot run on such a model, before any compute is spent."""
        ...

    def inspect(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
    ) -> None:
        """Warn (AttackWarning) of traits of the model that make the attack unreliable."""
        ...

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        """Return what the outcome itself says against the attack's reliability."""
        ...


@contextmanager
def isolated(*, seed: int) -> Generator[None]:
    """Run a library from `seed` and leave no trace: global generators, tracer and grad mode are restored.

    Both attack libraries draw from torch's global generators, and pyautoattack ends tracing for the whole process.
    """
    tracer = sys.gettrace()
    # Seeding one device's generator seeds those of all devices.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            yield
    finally:
        sys.settrace(tracer)


def require_norm(attack: str, threat_model: ThreatModel, supported: tuple[Norm, ...]) -> None:
    """Raise InvalidInputError unless `attack` knows the norm of `threat_model`."""
    if threat_model.norm not in supported:
        raise InvalidInputError(
            f"{attack} has no {threat_model.norm.value} version: use --norm"
            f" {' or '.join(norm.value for norm in supported)}, or the attack autoattack"
        )
