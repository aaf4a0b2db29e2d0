"""`mixbench train`: make a checkpoint, or a grid of them."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import CheckpointError, InvalidInputError

if TYPE_CHECKING:
    from mixbench.training import EpochCallback, Places, TrainingRun

_INTERRUPTED = 130
_OF_A_SINGLE_RUN = ("dataset", "recipe", "seed", "filter_seed", "epochs", "tag", "overwrite", "plot")


def train_model(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="An architecture, such as convmixer_frozen.")] = None,
    dataset: Annotated[str, typer.Option(help="What to train on.")] = "digits",
    recipe: Annotated[str, typer.Option(help="standard, linf or l2.")] = "standard",
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values, order and augmentation.")] = 0,
    filter_seed: Annotated[int, typer.Option(help="Seed of the spatial filters.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="A TOML file of runs, in place of the options above.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint folder into.")] = Path("checkpoints"),
    tag: Annotated[str | None, typer.Option(help="After the dot. [default: DATASET or DATASET_RECIPE]")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a checkpoint that exists.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG, SVG or PDF.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Train a model from fixed seeds; the same command goes on where an interrupted run stopped.

    The checkpoint folder holds weights, card, proofs and training.csv. A sweep trains and evaluates a grid on every
    GPU of the host.
    """
    if (model is None) == (sweep is None):
        raise InvalidInputError("nothing to train is named: give one of --model and --sweep, and not both")
    from mixbench.training import Places, TrainingRun

    if sweep is not None:
        _refuse_single_run_options(context)
    _check_output(output, tag)
    if sweep is not None:
        from mixbench.cli.sweep import run_sweep_file

        run_sweep_file(sweep, Places(output, device, data_dir, cache_folder(cache_dir)))
        return
    run = TrainingRun(model or "", dataset, recipe, seed, filter_seed, epochs, tag)
    places = Places(output, resolve_device(device), data_dir, cache_folder(cache_dir))
    _train_one(run, places, overwrite=overwrite, plot=plot)


def _refuse_single_run_options(context: typer.Context) -> None:
    for name in _OF_A_SINGLE_RUN:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise InvalidInputError(f"--{option} is for a single run: leave it out with --sweep, whose file says it")


def _train_one(run: "TrainingRun", places: "Places", *, overwrite: bool, plot: Path | None) -> None:
    from mixbench.training import UNFINISHED, train_to_folder

    run.spec()
    run.resolved_recipe()
    folder = places.output / run.name
    if plot is not None:
        from mixbench.files import check_picture

        check_picture(plot)
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists already: pass --overwrite to replace it, or choose another --output")
    try:
        with _progress_bar() as progress:
            checkpoint, epochs = train_to_folder(run, places, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; the last whole epochs are kept in {places.output / UNFINISHED}: run the same command again"
            " to go on",
            err=True,
        )
        raise typer.Exit(_INTERRUPTED) from None
    if plot is not None:
        from mixbench.training.curves import draw_curves

        draw_curves(plot, epochs, title=run.name)
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
    """Draw loss, accuracies and times of each epoch on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mixbench.training import Epoch

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=None)

        def draw(epoch: Epoch) -> None:
            measured = {"accuracy": epoch.accuracy, "held out": epoch.validation, "PGD-5": epoch.robust}
            rates = "  ".join(f"{name} {value.rate:.1%}" for name, value in measured.items() if value is not None)
            text = f"loss {epoch.loss:.4f}  {rates}  {epoch.seconds:.1f} s an epoch"
            bar.update(task, description=text, completed=epoch.number, total=epoch.epochs)

        yield draw
