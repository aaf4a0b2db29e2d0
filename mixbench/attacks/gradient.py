"""FGSM and PGD, run by foolbox."""

import importlib.metadata
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbench.attacks.protocol import REFERENCE, Passes, Stage, isolated, require_norm, told
from mixbench.errors import InvalidInputError
from mixbench.threat_model import Norm, ThreatModel

_NORMS = (Norm.LINF, Norm.L2)


def _foolbox() -> Any:
    # foolbox imports GitPython, which raises where no git executable is installed unless it is told to be quiet.
    before = os.environ.get("GIT_PYTHON_REFRESH")
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    try:
        with warnings.catch_warnings():
            # foolbox imports SciPy names from where they no longer live; they work until SciPy 2.
            warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
            import foolbox  # noqa: PLC0415 - the environment must be set first
    finally:
        if before is None:
            del os.environ["GIT_PYTHON_REFRESH"]
        else:
            os.environ["GIT_PYTHON_REFRESH"] = before
    return foolbox


def _run(attack: Any, model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return what the foolbox `attack` makes of `images`: its last iterate, verified by nobody yet."""
    foolbox = _foolbox()
    # device=None would mean cuda:0 to foolbox.
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    criterion = foolbox.criteria.Misclassification(labels)
    # `run`, not the call operator: that one spends a forward on judging the result, which the harness does anyway.
    return attack.run(wrapped, images, criterion, epsilon=eps)


@dataclass(frozen=True)
class FGSM:
    """Fast gradient sign method (arXiv 1412.6572): one step of size eps along the gradient of the cross-entropy.

    For L2 the step goes along the normalised gradient. Reads high on standard models: a masking detector, not evidence.

    Attributes:
        engine: "fast" for gradients of the model's fastest executor.
    """

    name: str = "fgsm"
    version: str = "standard"
    engine: str = REFERENCE

    @property
    def implementation(self) -> str:
        """Library and version that run it."""
        return f"foolbox {importlib.metadata.version('foolbox')}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The attack itself."""
        return (self,)

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the images after one step, clipped to [0, 1]."""
        attacks = _foolbox().attacks
        step = {Norm.LINF: attacks.LinfFastGradientAttack, Norm.L2: attacks.L2FastGradientAttack}[threat_model.norm]
        with isolated(seed=seed), torch.enable_grad():
            return _run(step(random_start=False), model, images, labels, float(threat_model.eps)).detach()

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return one forward and one backward pass."""
        del threat_model, num_classes
        return Passes(1, 1)

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        """Return the step, which is all there is to choose."""
        del threat_model, num_classes
        return {"loss": "cross-entropy", "random_start": "false", "step_size": "eps"} | told(self.engine)

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        """Raise InvalidInputError unless the norm is Linf or L2."""
        del num_classes, image_size
        require_norm(self.name, threat_model, _NORMS)

    def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Have no doubts of its own."""

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        """Say that a single step is no evidence of robustness."""
        del broken_by, total
        return ("fgsm: a single gradient step only bounds robust accuracy from above; confirm with autoattack",)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (arXiv 1706.06083) on the cross-entropy, from a random point of the ball.

    Attributes:
        steps: Iterations of one run.
        relative_step_size: Size of one update as a fraction of eps.
        restarts: Independent runs; an example broken by one is left out of the next.
        engine: "fast" for gradients of the model's fastest executor.
    """

    steps: int = 20
    relative_step_size: float = 0.1
    restarts: int = 1
    name: str = "pgd"
    version: str = "standard"
    engine: str = REFERENCE

    def __post_init__(self) -> None:
        for what, value in (("steps", self.steps), ("restarts", self.restarts)):
            if value < 1:
                raise InvalidInputError(f"pgd {what} {value} is not at least 1: give a whole number such as 20")
        if not 0 < self.relative_step_size <= 2:  # noqa: PLR2004 - a step over the whole ball
            raise InvalidInputError(
                f"pgd relative step size {self.relative_step_size} is not in (0, 2]: it is a fraction of eps, such as"
                " 0.1"
            )

    @property
    def implementation(self) -> str:
        """Library and version that run it."""
        return f"foolbox {importlib.metadata.version('foolbox')}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The attack itself."""
        return (self,)

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        threat_model: ThreatModel,
        *,
        seed: int,
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the last iterate of the first run that breaks the example, or of the last run."""
        attacks = _foolbox().attacks
        kind = {
            Norm.LINF: attacks.LinfProjectedGradientDescentAttack,
            Norm.L2: attacks.L2ProjectedGradientDescentAttack,
        }
        attack = kind[threat_model.norm](rel_stepsize=self.relative_step_size, steps=self.steps, random_start=True)
        result = images.clone()
        remaining = torch.arange(len(images), device=images.device)
        with isolated(seed=seed):
            for restart in range(self.restarts):
                with torch.enable_grad():
                    found = _run(attack, model, images[remaining], labels[remaining], float(threat_model.eps)).detach()
                result[remaining] = found
                if restart + 1 < self.restarts:
                    remaining = remaining[model(found).argmax(1) == labels[remaining]]
                    if len(remaining) == 0:
                        break
        return result

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        """Return one forward and backward a step, and a forward to judge each run but the last."""
        del threat_model, num_classes
        return Passes(self.restarts * (self.steps + 1) - 1, self.restarts * self.steps)

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        """Return steps, step size and restarts."""
        del threat_model, num_classes
        return {
            "loss": "cross-entropy",
            "random_start": "true",
            "relative_step_size": repr(self.relative_step_size),
            "restarts": str(self.restarts),
            "steps": str(self.steps),
        } | told(self.engine)

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        """Raise InvalidInputError unless the norm is Linf or L2."""
        del num_classes, image_size
        require_norm(self.name, threat_model, _NORMS)

    def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Have no doubts of its own."""

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        """Have no doubts of its own."""
        del broken_by, total
        return ()
