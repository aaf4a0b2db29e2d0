"""Hand-written attacks on the one-pixel model, whose outcome is known before they run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mixbench.attacks import Passes, Stage
from mixbench.datasets import Examples
from mixbench.evaluation import Plan, plan
from mixbench.threat_model import ThreatModel
from tests.models_for_tests import first_pixels, labelled_by, loaded, one_pixel_model


@dataclass(frozen=True)
class Push:
    """Moves the first pixel by `share` of eps towards the other class; `attacked` notes how many images it was given.

    On `one_pixel_model` it breaks an example exactly where the radius is below share * eps. Each image costs
    `queries` forward and backward passes.
    """

    name: str = "push"
    share: float = 1.0
    queries: int = 1
    attacked: list[int] = field(default_factory=list, compare=False)

    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel, *, seed: int
    ) -> Tensor:
        del seed
        self.attacked.append(len(images))
        for _ in range(self.queries):
            with torch.enable_grad():
                asked = images.clone().requires_grad_()
                torch.autograd.grad(model(asked).sum(), [asked])
        direction = torch.where(labels == 0, -1.0, 1.0)
        moved = images.clone()
        moved[:, 0, 0, 0] += direction * self.share * float(threat_model.eps)
        return moved.clamp(0, 1)

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        del threat_model, num_classes
        return Passes(self.queries, self.queries)


@dataclass(frozen=True)
class Does:
    """Returns what `action` makes of model, images, labels and threat model."""

    action: Callable[[nn.Module, Tensor, Tensor, ThreatModel], Tensor]
    name: str = "does"

    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel, *, seed: int
    ) -> Tensor:
        del seed
        return self.action(model, images, labels, threat_model)

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        del threat_model, num_classes
        return Passes(0, 0)


def returns(answer: Callable[[Tensor, Tensor], Tensor]) -> Does:
    """Return a stage that returns what `answer` makes of images and labels, whatever the threat model."""
    return Does(lambda _model, images, labels, _threat_model: answer(images, labels), name="returns")


class KilledError(Exception):
    """Stands in for the end of the process."""


@dataclass(frozen=True)
class Mortal:
    """Another stage, whose process is killed in call number `dies_at` of all the stages that share `calls`."""

    inner: Stage
    calls: list[str] = field(compare=False)
    dies_at: int | None = None

    @property
    def name(self) -> str:
        return self.inner.name

    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel, *, seed: int
    ) -> Tensor:
        if len(self.calls) == self.dies_at:
            raise KilledError
        self.calls.append(f"{self.name} {threat_model.eps}")
        return self.inner.perturb(model, images, labels, threat_model, seed=seed)

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        return self.inner.passes(threat_model, num_classes=num_classes)


@dataclass(frozen=True)
class Staged:
    """An attack made of any stages."""

    stages: tuple[Stage, ...]
    name: str = "staged"
    version: str = "test"
    implementation: str = "by hand"
    engine: str = "reference"

    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, threat_model: ThreatModel, *, seed: int
    ) -> Tensor:
        raise NotImplementedError  # the harness runs the stages

    def passes(self, threat_model: ThreatModel, *, num_classes: int) -> Passes:
        raise NotImplementedError  # the harness asks the stages

    def parameters(self, threat_model: ThreatModel, *, num_classes: int) -> Mapping[str, str]:
        del threat_model, num_classes
        return {"stages": ", ".join(stage.name for stage in self.stages)}

    def check_fits(self, threat_model: ThreatModel, *, num_classes: int, image_size: tuple[int, int, int]) -> None:
        pass

    def inspect(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        pass

    def doubts(self, broken_by: Mapping[str, int], *, total: int) -> tuple[str, ...]:
        del broken_by, total
        return ()


HALF_AND_FULL = (Push("half", share=0.5), Push("full"))
"""Two stages: what the second breaks, the first leaves."""

LEVELS = (128, 130, 134, 140, 150, 170, 200, 255, 127, 125, 121, 115, 105, 85, 55, 0)
"""First pixels at growing distance from one half, on both sides."""


def pushed_plan(
    *eps: str,
    stages: Sequence[Stage] = HALF_AND_FULL,
    model: nn.Module | None = None,
    levels: Sequence[int] = LEVELS,
    wrong: Sequence[int] = (),
    seed: int = 0,
    block_size: int = 1000,
) -> Plan:
    """Return the plan to attack first pixels of these grey levels; the labels at the positions `wrong` are false."""
    plain = one_pixel_model()
    return plan(
        loaded(plain if model is None else model),
        pixel_examples(levels, wrong=wrong),
        Staged(tuple(stages)),
        [ThreatModel.parse(f"Linf {radius}") for radius in eps],
        seed=seed,
        block_size=block_size,
    )


def pixel_examples(levels: Sequence[int] = LEVELS, *, wrong: Sequence[int] = ()) -> Examples:
    """Return examples for the one-pixel model."""
    return labelled_by(one_pixel_model(), first_pixels(levels), wrong=wrong)
