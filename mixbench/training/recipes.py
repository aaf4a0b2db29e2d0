"""Recipes: how a network is trained, the same for every mixing mode."""

from dataclasses import dataclass

from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.threat_model import Norm, ThreatModel


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD adversarial training (arXiv 1706.06083): every batch is replaced by its adversarial examples.

    Attributes:
        threat_model: Linf, in which they are searched.
        steps: Gradient steps of the search, from a random start.
        relative_step_size: Size of one step as a fraction of eps.
    """

    threat_model: ThreatModel
    steps: int
    relative_step_size: float

    def __post_init__(self) -> None:
        if self.threat_model.norm is not Norm.LINF:
            raise InvalidInputError(f"adversarial training knows Linf only, not {self.threat_model}")


@dataclass(frozen=True)
class Recipe:
    """All choices of a training run but model and data.

    Attributes:
        name: Such as "standard".
        epochs: Passes over the training split.
        batch_size: Examples an update.
        learning_rate: The peak of a one-cycle schedule.
        weight_decay: Of AdamW, decoupled.
        max_shift: Images are shifted by up to this many pixels in each direction, filled with 0.
        flip: Whether images are mirrored left to right half of the time.
        adversarial: How batches are made adversarial; None trains on clean ones.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_shift: int
    flip: bool = False
    adversarial: AdversarialTraining | None = None


def _linf(eps: str, *, steps: int, relative_step_size: float) -> AdversarialTraining:
    return AdversarialTraining(ThreatModel.parse(f"Linf {eps}"), steps=steps, relative_step_size=relative_step_size)


def _recipe(
    name: str,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    max_shift: int,
    flip: bool = False,
    adversarial: AdversarialTraining | None = None,
) -> Recipe:
    return Recipe(
        name=name,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.01,
        max_shift=max_shift,
        flip=flip,
        adversarial=adversarial,
    )


RECIPES: dict[str, dict[str, Recipe]] = {
    "digits": {
        "standard": _recipe("standard", epochs=40, batch_size=64, learning_rate=0.01, max_shift=1),
        "linf": _recipe(
            "linf",
            epochs=40,
            batch_size=64,
            learning_rate=0.01,
            max_shift=1,
            adversarial=_linf("1/10", steps=5, relative_step_size=0.5),
        ),
    },
    "mnist": {
        "standard": _recipe("standard", epochs=10, batch_size=512, learning_rate=0.02, max_shift=2),
        "linf": _recipe(
            "linf",
            epochs=20,
            batch_size=512,
            learning_rate=0.01,
            max_shift=2,
            adversarial=_linf("3/10", steps=10, relative_step_size=0.25),
        ),
    },
    "fashion_mnist": {
        "standard": _recipe("standard", epochs=20, batch_size=512, learning_rate=0.02, max_shift=2, flip=True),
        "linf": _recipe(
            "linf",
            epochs=20,
            batch_size=512,
            learning_rate=0.01,
            max_shift=2,
            flip=True,
            adversarial=_linf("1/10", steps=5, relative_step_size=0.4),
        ),
    },
    "cifar10_jpeg75": {
        "standard": _recipe("standard", epochs=40, batch_size=512, learning_rate=0.02, max_shift=4, flip=True),
        "linf": _recipe(
            "linf",
            epochs=40,
            batch_size=512,
            learning_rate=0.01,
            max_shift=4,
            flip=True,
            adversarial=_linf("8/255", steps=3, relative_step_size=0.5),
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
