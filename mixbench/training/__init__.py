"""Training: recipes that are the same for every mixing mode, and the loop that runs them."""

from mixbench.training.benchmark import EpochTime, time_training
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
from mixbench.training.run import UNFINISHED, Places, TrainingRun, train_to_folder, usual_tag
from mixbench.training.state import TrainingFolder

__all__ = [
    "RECIPES",
    "UNFINISHED",
    "AdversarialTraining",
    "Epoch",
    "EpochCallback",
    "EpochTime",
    "Places",
    "RandAugment",
    "Recipe",
    "Schedule",
    "TrainingFolder",
    "TrainingRun",
    "clean_accuracy",
    "model_card",
    "recipe_for",
    "run_key",
    "time_training",
    "train",
    "train_to_folder",
    "training_csv",
    "usual_tag",
    "with_epochs",
]
