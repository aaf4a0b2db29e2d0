"""Recipes: how a network is trained, the same for every mixing mode."""

from dataclasses import dataclass, replace
from enum import StrEnum

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.threat_model import Norm, ThreatModel

_NORMS = (Norm.LINF, Norm.L2)
_MAGNITUDES = 31


class Schedule(StrEnum):
    """How the learning rate changes from update to update.

    ONE_CYCLE is torch's OneCycleLR, which also turns AdamW's first beta. PIECEWISE rises linearly to the peak at 40% of
    the updates, falls to a twentieth of it at 80% and to 0 at the end (github.com/locuslab/convmixer-cifar10).
    """

    ONE_CYCLE = "one_cycle"
    PIECEWISE = "piecewise"


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD adversarial training (arXiv 1706.06083): every batch is replaced by its adversarial examples.

    Attributes:
        threat_model: Linf or L2, in which they are searched.
        steps: Gradient steps of the search, from a random start.
        relative_step_size: Size of one step as a fraction of eps.
        warmup_epochs: Over so many epochs eps rises linearly from 0: at a large eps, training may not begin otherwise.
    """

    threat_model: ThreatModel
    steps: int
    relative_step_size: float
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.threat_model.norm not in _NORMS:
            raise InvalidInputError(
                f"adversarial training knows Linf and L2, not {self.threat_model}: choose one of them"
            )


@dataclass(frozen=True)
class RandAugment:
    """Random operations on each image (arXiv 1909.13719), with torchvision's operations and magnitudes.

    Attributes:
        operations: How many are applied one after the other.
        magnitude: Their strength, 0 to 30.
    """

    operations: int
    magnitude: int

    def __post_init__(self) -> None:
        if self.operations < 1 or not 0 <= self.magnitude < _MAGNITUDES:
            raise InvalidInputError(
                f"RandAugment of {self.operations} operations at magnitude {self.magnitude} is not possible: choose at"
                f" least one operation and a magnitude from 0 to {_MAGNITUDES - 1}"
            )


@dataclass(frozen=True)
class Recipe:
    """All choices of a training run but model and data.

    Attributes:
        name: Such as "standard".
        epochs: Passes over the training examples.
        batch_size: Examples an update.
        learning_rate: The peak of the schedule.
        weight_decay: Of AdamW, decoupled.
        max_shift: Images are shifted by up to this many pixels in each direction, filled with 0.
        flip: Whether images are mirrored left to right half of the time.
        schedule: The course of the learning rate.
        rand_augment: Further augmentation; None for none.
        erasing: The share of images in which a random rectangle is blackened, 0 to 1 (arXiv 1708.04896).
        validation: Examples of the training split that are held out, balanced and chosen by a fixed seed: all that a
            recipe may be tuned on.
        drop_last: Whether an incomplete last batch is left out, so that every update has the same shape.
        adversarial: How batches are made adversarial; None trains on clean ones.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_shift: int
    flip: bool = False
    schedule: Schedule = Schedule.ONE_CYCLE
    rand_augment: RandAugment | None = None
    erasing: float = 0
    validation: int = 0
    drop_last: bool = False
    adversarial: AdversarialTraining | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.erasing <= 1:
            raise InvalidInputError(f"erasing {self.erasing} is not a share of images: choose one from 0 to 1")


def _adversarially(standard: Recipe, threat_model: str, **changes: object) -> Recipe:
    """Return `standard` as the recipe of adversarial training at `threat_model`; `changes` are of both values."""
    parsed = ThreatModel.parse(threat_model)
    search = {name: changes.pop(name) for name in ("steps", "relative_step_size", "warmup_epochs") if name in changes}
    return replace(
        standard,
        name=parsed.norm.value.lower(),
        rand_augment=None,
        erasing=0,
        adversarial=AdversarialTraining(parsed, **search),  # pyright: ignore[reportArgumentType]
        **changes,  # pyright: ignore[reportArgumentType]
    )


_DIGITS = Recipe("standard", epochs=40, batch_size=64, learning_rate=0.01, weight_decay=0.01, max_shift=1)
_MNIST = Recipe(
    "standard",
    epochs=10,
    batch_size=512,
    learning_rate=0.02,
    weight_decay=0.01,
    max_shift=2,
    schedule=Schedule.PIECEWISE,
    validation=2000,
    drop_last=True,
)
_FASHION = replace(_MNIST, epochs=20, flip=True)
_CIFAR = replace(
    _FASHION,
    epochs=80,
    learning_rate=0.02,
    max_shift=4,
    rand_augment=RandAugment(operations=2, magnitude=12),
    erasing=0.25,
)

RECIPES: dict[str, dict[str, Recipe]] = {
    "digits": {
        "standard": _DIGITS,
        "linf": _adversarially(_DIGITS, "Linf 1/10", steps=5, relative_step_size=0.5),
        "l2": _adversarially(_DIGITS, "L2 1/2", steps=5, relative_step_size=0.5),
    },
    "mnist": {
        "standard": _MNIST,
        "linf": _adversarially(
            _MNIST, "Linf 3/10", steps=10, relative_step_size=0.25, warmup_epochs=5, epochs=20, learning_rate=0.01
        ),
        "l2": _adversarially(
            _MNIST, "L2 3/2", steps=5, relative_step_size=0.4, warmup_epochs=2, epochs=20, learning_rate=0.01
        ),
    },
    "fashion_mnist": {
        "standard": _FASHION,
        "linf": _adversarially(
            _FASHION, "Linf 1/10", steps=5, relative_step_size=0.4, warmup_epochs=2, epochs=15, learning_rate=0.01
        ),
        "l2": _adversarially(_FASHION, "L2 1", steps=5, relative_step_size=0.4, epochs=15, learning_rate=0.01),
    },
    "cifar10_jpeg75": {
        "standard": _CIFAR,
        "linf": _adversarially(
            _CIFAR, "Linf 8/255", steps=3, relative_step_size=0.5, epochs=25, learning_rate=0.01, weight_decay=0.05
        ),
        "l2": _adversarially(
            _CIFAR, "L2 128/255", steps=3, relative_step_size=0.5, epochs=25, learning_rate=0.01, weight_decay=0.05
        ),
    },
}
"""Recipes by dataset and name."""


def recipe_for(dataset: str, name: str) -> Recipe:
    """Return the recipe called `name` for `dataset`; raises UnknownNameError."""
    if dataset not in RECIPES:
        raise UnknownNameError("dataset with recipes", dataset, RECIPES)
    if name not in RECIPES[dataset]:
        raise UnknownNameError(f"recipe for {dataset}", name, RECIPES[dataset])
    return RECIPES[dataset][name]


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return `recipe` with another number of epochs, or as it is for None."""
    if epochs is None:
        return recipe
    if epochs < 1:
        raise InvalidInputError(f"epochs {epochs} is not at least 1: leave it out for the recipe's {recipe.epochs}")
    return replace(recipe, epochs=epochs)
