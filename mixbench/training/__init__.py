"""Training: recipes that are the same for every mixing mode, and the loop that runs them."""

from mixbench.training.log import Epoch, training_csv
from mixbench.training.loop import EpochCallback, clean_accuracy, run_key, train
from mixbench.training.model_card import model_card
from mixbench.training.recipes import (
    RECIPES,
    AdversarialTraining,
    RandAugment,
    Recipe,
    Schedule,
    recipe_for,
    with_epochs,
)
from mixbench.training.state import TrainingFolder

__all__ = [
    "RECIPES",
    "AdversarialTraining",
    "Epoch",
    "EpochCallback",
    "RandAugment",
    "Recipe",
    "Schedule",
    "TrainingFolder",
    "clean_accuracy",
    "model_card",
    "recipe_for",
    "run_key",
    "train",
    "training_csv",
    "with_epochs",
]
