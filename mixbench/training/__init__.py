"""Training: recipes that are the same for every mixing mode, and the loop that runs them."""

from mixbench.training.loop import Epoch, EpochCallback, clean_accuracy, train, with_epochs
from mixbench.training.model_card import model_card
from mixbench.training.recipes import RECIPES, AdversarialTraining, Recipe, recipe_for

__all__ = [
    "RECIPES",
    "AdversarialTraining",
    "Epoch",
    "EpochCallback",
    "Recipe",
    "clean_accuracy",
    "model_card",
    "recipe_for",
    "train",
    "with_epochs",
]
