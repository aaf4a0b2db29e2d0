import inspect
from dataclasses import FrozenInstanceError, replace

import pytest

from mixbench.datasets import CATALOGUE
from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.threat_model import Norm, ThreatModel
from mixbench.training import RECIPES, AdversarialTraining, RandAugment, Recipe, recipe_for, with_epochs

ALL = [
    pytest.param(dataset, recipe, id=f"{dataset}-{name}")
    for dataset in RECIPES
    for name, recipe in RECIPES[dataset].items()
]


def test_a_recipe_depends_on_data_and_name_alone() -> None:
    """So it is the same for every architecture and mixing mode."""
    assert list(inspect.signature(recipe_for).parameters) == ["dataset", "name"]
    fields = set(inspect.signature(Recipe).parameters)
    assert not {field for field in fields if "mix" in field or "arch" in field or "model" in field}


@pytest.mark.parametrize(("dataset", "recipe"), ALL)
def test_recipes_are_found_under_their_own_name(dataset: str, recipe: Recipe) -> None:
    assert recipe_for(dataset, recipe.name) is recipe
    assert dataset in CATALOGUE


@pytest.mark.parametrize(("dataset", "recipe"), ALL)
def test_every_recipe_can_be_run(dataset: str, recipe: Recipe) -> None:
    del dataset
    assert recipe.epochs >= 1
    assert recipe.batch_size >= 1
    assert 0 < recipe.learning_rate < 1
    assert recipe.max_shift >= 0
    if recipe.adversarial is not None:
        # The search can cross the ball from its random start.
        assert recipe.adversarial.steps * recipe.adversarial.relative_step_size >= 1


def test_digits_are_trained_as_their_checkpoints_say() -> None:
    standard, linf = recipe_for("digits", "standard"), recipe_for("digits", "linf")
    assert (standard.epochs, standard.batch_size, standard.learning_rate, standard.weight_decay) == (40, 64, 0.01, 0.01)
    assert (standard.max_shift, standard.flip, standard.adversarial) == (1, False, None)
    assert linf == replace(standard, name="linf", adversarial=linf.adversarial)
    assert linf.adversarial == AdversarialTraining(ThreatModel.parse("Linf 1/10"), steps=5, relative_step_size=0.5)


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        ("digit", "standard", "unknown dataset with recipes 'digit': did you mean 'digits'"),
        ("digits", "standart", "unknown recipe for digits 'standart': did you mean 'standard'.*available: l2, linf"),
    ],
)
def test_an_unknown_recipe_is_answered_with_the_near_ones(dataset: str, name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        recipe_for(dataset, name)


def test_adversarial_training_in_another_norm_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="adversarial training knows Linf and L2, not L1 1/2: choose one"):
        AdversarialTraining(ThreatModel.parse("L1 1/2"), steps=1, relative_step_size=1.0)


@pytest.mark.parametrize(("operations", "magnitude"), [(0, 8), (1, 31), (1, -1)])
def test_an_impossible_rand_augment_is_refused(operations: int, magnitude: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{operations} operations at magnitude {magnitude} is not possible"):
        RandAugment(operations, magnitude)


@pytest.mark.parametrize("dataset", RECIPES)
def test_every_dataset_has_the_three_recipes_in_its_norm(dataset: str) -> None:
    norms = {"linf": Norm.LINF, "l2": Norm.L2}
    assert list(RECIPES[dataset]) == ["standard", "linf", "l2"]
    assert RECIPES[dataset]["standard"].adversarial is None
    for name, norm in norms.items():
        adversarial = RECIPES[dataset][name].adversarial
        assert adversarial is not None
        assert adversarial.threat_model.norm is norm


@pytest.mark.parametrize(
    ("dataset", "threat_model"),
    [("digits", "Linf 1/10"), ("mnist", "Linf 3/10"), ("fashion_mnist", "Linf 1/10"), ("cifar10_jpeg75", "Linf 8/255")],
)
def test_linf_recipes_train_at_the_usual_radius(dataset: str, threat_model: str) -> None:
    adversarial = RECIPES[dataset]["linf"].adversarial
    assert adversarial is not None
    assert adversarial.threat_model == ThreatModel.parse(threat_model)


def test_recipes_cannot_be_changed(tiny: Recipe) -> None:
    with pytest.raises(FrozenInstanceError):
        tiny.epochs = 3  # type: ignore[misc]


def test_only_the_epochs_are_replaced(tiny: Recipe) -> None:
    assert with_epochs(tiny, None) is tiny
    assert with_epochs(tiny, 7) == replace(tiny, epochs=7)


@pytest.mark.parametrize("epochs", [0, -1])
def test_less_than_one_epoch_is_refused(tiny: Recipe, epochs: int) -> None:
    with pytest.raises(InvalidInputError, match=f"epochs {epochs} is not at least 1: leave it out for the recipe's 2"):
        with_epochs(tiny, epochs)
