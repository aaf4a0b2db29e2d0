"""One training run by name: what `mixbench train` does, and what a sweep does many times."""

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixbench.datasets import CATALOGUE, load_examples
from mixbench.errors import CheckpointError, UnknownNameError
from mixbench.models import ARCHITECTURES, Checkpoint, ModelSpec, save_checkpoint
from mixbench.training.log import Epoch, training_csv
from mixbench.training.loop import EpochCallback, run_key, train
from mixbench.training.model_card import model_card
from mixbench.training.recipes import Recipe, recipe_for, with_epochs
from mixbench.training.state import TrainingFolder

UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class TrainingRun:
    """What is trained on what, and how.

    Attributes:
        model: An architecture, such as "convmixer_frozen".
        dataset: Name of the data.
        recipe: Name of the recipe.
        seed: Of initial values, order and augmentation.
        filter_seed: Of the filters.
        epochs: In place of the recipe's; None for the recipe's own.
        tag: Of the checkpoint; None for the usual one.
    """

    model: str
    dataset: str
    recipe: str
    seed: int
    filter_seed: int
    epochs: int | None = None
    tag: str | None = None

    @property
    def name(self) -> str:
        """Of the checkpoint: `architecture.tag`."""
        return f"{self.model}.{self.tag or usual_tag(self.dataset, self.recipe)}"

    def spec(self) -> ModelSpec:
        """Return what is trained; raises UnknownNameError."""
        if self.model not in ARCHITECTURES:
            raise UnknownNameError("architecture", self.model, ARCHITECTURES)
        return ModelSpec.for_dataset(ARCHITECTURES[self.model], self.dataset, filter_seed=self.filter_seed)

    def resolved_recipe(self) -> Recipe:
        """Return how it is trained; raises UnknownNameError or InvalidInputError."""
        return with_epochs(recipe_for(self.dataset, self.recipe), self.epochs)

    def command(self, device: str) -> str:
        """Return the command that does the same."""
        words = ["mixbench", "train", "--model", self.model, "--dataset", self.dataset, "--recipe", self.recipe]
        words += ["--seed", str(self.seed), "--filter-seed", str(self.filter_seed)]
        words += [] if self.epochs is None else ["--epochs", str(self.epochs)]
        return shlex.join([*words, "--device", device.partition(":")[0]])


@dataclass(frozen=True)
class Places:
    """Where a run reads, computes and writes.

    Attributes:
        output: Folder of checkpoint folders; unfinished runs are kept in its folder `.unfinished`.
        device: Such as "cpu" or "cuda:1".
        data_dir: Data that is there already; None to use the cache or to download.
        cache_dir: Folder for decoded images.
    """

    output: Path
    device: str
    data_dir: Path | None
    cache_dir: Path


def usual_tag(dataset: str, recipe: str) -> str:
    """Return the tag of a checkpoint: the dataset, and the recipe unless it is the standard one."""
    return dataset if recipe == "standard" else f"{dataset}_{recipe}"


def train_to_folder(
    run: TrainingRun, places: Places, *, overwrite: bool, progress: EpochCallback | None = None
) -> tuple[Checkpoint, tuple[Epoch, ...]]:
    """Train, write the checkpoint folder `places.output / run.name`, and return the checkpoint and how each epoch went.

    The same call goes on where one that was killed stopped. Raises CheckpointError if the folder exists and
    `overwrite` is not set, and what `train` raises.
    """
    spec, recipe, folder = run.spec(), run.resolved_recipe(), places.output / run.name
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists already: pass --overwrite to replace it, or choose another --output")
    splits = {
        split: load_examples(
            run.dataset, split=split, data_dir=places.data_dir, cache_dir=places.cache_dir, seed=run.seed
        )
        for split in ("train", "test")
    }
    key = run_key(spec, splits["train"], recipe, run.seed, places.device)
    workspace = places.output / UNFINISHED / f"{run.name}-{key[:12]}"
    epochs: list[Epoch] = []

    def note(epoch: Epoch) -> None:
        epochs.append(epoch)
        if progress is not None:
            progress(epoch)

    checkpoint = train(
        spec,
        splits["train"],
        splits["test"],
        recipe,
        seed=run.seed,
        device=places.device,
        command=run.command(places.device),
        workspace=workspace,
        progress=note,
    )
    title = CATALOGUE[run.dataset].title if run.dataset in CATALOGUE else run.dataset
    card = model_card(run.name, checkpoint, recipe, title=title)
    save_checkpoint(folder, checkpoint, card_text=card, log=training_csv(epochs), overwrite=overwrite)
    TrainingFolder(workspace, key).remove()
    with suppress(OSError):  # other runs may be unfinished
        workspace.parent.rmdir()
    return checkpoint, tuple(epochs)
