"""`mixbench train`: make a checkpoint."""

import os
import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import CheckpointError, InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from mixbench.training import EpochCallback

_INTERRUPTED = 130


def train_model(
    model: Annotated[str, typer.Option(help="An architecture, such as convmixer_frozen.")],
    dataset: Annotated[str, typer.Option(help="What to train on.")] = "digits",
    recipe: Annotated[str, typer.Option(help="standard or linf.")] = "standard",
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values, order and augmentation.")] = 0,
    filter_seed: Annotated[int, typer.Option(help="Seed of the spatial filters.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint folder into.")] = Path("checkpoints"),
    tag: Annotated[str | None, typer.Option(help="After the dot. [default: DATASET or DATASET_RECIPE]")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a checkpoint that exists.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Train a model from fixed seeds and write its checkpoint folder, card and proofs."""
    from mixbench.datasets import CATALOGUE, load_examples
    from mixbench.models import ARCHITECTURES, ModelSpec, save_checkpoint
    from mixbench.training import model_card, recipe_for, train, with_epochs

    if model not in ARCHITECTURES:
        raise UnknownNameError("architecture", model, ARCHITECTURES)
    chosen = with_epochs(recipe_for(dataset, recipe), epochs)
    torch_device = resolve_device(device)
    name = f"{model}.{tag or (dataset if recipe == 'standard' else f'{dataset}_{recipe}')}"
    folder = output / name
    _check_output(output, tag)
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists already: pass --overwrite to replace it, or choose another --output")
    cache = cache_folder(cache_dir)
    splits = {
        split: load_examples(dataset, split=split, data_dir=data_dir, cache_dir=cache, seed=seed)
        for split in ("train", "test")
    }
    command = ["mixbench", "train", "--model", model, "--dataset", dataset, "--recipe", recipe]
    command += ["--seed", str(seed), "--filter-seed", str(filter_seed)]
    command += [] if epochs is None else ["--epochs", str(epochs)]
    command += ["--device", torch_device]
    try:
        with _progress_bar() as progress:
            checkpoint = train(
                ModelSpec.for_dataset(ARCHITECTURES[model], dataset, filter_seed=filter_seed),
                splits["train"],
                splits["test"],
                chosen,
                seed=seed,
                device=torch_device,
                command=shlex.join(command),
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; no checkpoint was written: run the same command again", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    title = CATALOGUE[dataset].title if dataset in CATALOGUE else dataset
    save_checkpoint(
        folder, checkpoint, card_text=model_card(name, checkpoint, chosen, title=title), overwrite=overwrite
    )
    clean = checkpoint.card.clean
    typer.echo(f"{folder}: clean accuracy {clean.rate:.2%} ({clean.correct} of {clean.total} test examples)")


def _check_output(output: Path, tag: str | None) -> None:
    """Refuse what could not be written before the training, not after it."""
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", tag):
        raise InvalidInputError(f"tag {tag!r} is no part of a folder name: use letters, digits, '.', '_' and '-'")
    # Path.exists() raises where a folder on the way may not be entered.
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if os.access(path, os.F_OK))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidInputError(
            f"cannot write into {output}: {existing} is no writable folder; choose another --output"
        )


@contextmanager
def _progress_bar() -> "Generator[EpochCallback | None]":
    """Draw loss, accuracy and time of each epoch on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from mixbench.training import Epoch

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console) as bar:
        task = bar.add_task("training", total=None)

        def draw(epoch: Epoch) -> None:
            text = f"loss {epoch.loss:.4f}  accuracy {epoch.accuracy.rate:.1%}  {epoch.seconds:.1f} s an epoch"
            bar.update(task, description=text, completed=epoch.number, total=epoch.epochs)

        yield draw
