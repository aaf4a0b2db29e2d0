"""`mixbench train --sweep`: a grid of training runs, and the table of what they came to."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixbench.cli.options import resolve_device
from mixbench.errors import InvalidInputError, MixbenchError

if TYPE_CHECKING:
    from rich.table import Table

    from mixbench.sweep import Column, SweepProgress
    from mixbench.training import Places

_INTERRUPTED = 130


def run_sweep_file(path: Path, places: "Places", *, plot: Path | None, overwrite: bool, tag: str | None) -> None:
    """Make the runs of the sweep in `path` that have no result yet, then print what all came to."""
    from mixbench.cli.tables import console
    from mixbench.store import Store
    from mixbench.sweep import RECORDS, columns, read_sweep, results, run_sweep

    for option, given in (("--plot", plot), ("--tag", tag), ("--overwrite", overwrite or None)):
        if given is not None:
            raise InvalidInputError(f"{option} is for a single run: leave it out with --sweep")
    sweep = read_sweep(path)
    try:
        failures = run_sweep(sweep, places, devices=devices(places.device), progress=_tell)
    except KeyboardInterrupt:
        typer.echo(f"\ninterrupted; what was finished is kept in {places.output}: run the same command again", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    named = {run.name for grid in sweep.grid for run in grid.runs()}
    found = [result for result in results(places.output) if result.name in named]
    if found:
        console().print(seed_table(columns(found, Store(places.output / RECORDS).records())))
    if failures:
        raise MixbenchError(f"{failures} runs of {path} failed: see above, and run the same command again")


def devices(name: str) -> list[str]:
    """Return what to run on: every GPU of the host for "auto" and "cuda" where there are several."""
    import torch

    resolved = resolve_device(name)
    if name in ("auto", "cuda") and resolved == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [resolved]


def _tell(moment: "SweepProgress") -> None:
    count = f"[{moment.done}/{moment.total}]"
    if moment.result is None:
        typer.echo(f"{count} {moment.name} failed: {moment.failure}", err=True)
        return
    card = moment.result.card
    typer.echo(f"{count} {moment.name}: clean accuracy {card.clean.rate:.2%}, {card.seconds:.0f} s", err=True)


def seed_table(found: Sequence["Column"]) -> "Table":
    """Return a table with a row a model and recipe: mean and standard deviation over the seeds, in percent."""
    from rich.table import Table

    table = Table("model", "recipe", "runs", *(column.title for column in found), title="Over seeds")
    groups = sorted({(result.model, result.card.dataset, result.card.recipe) for result, _ in found[0].accuracies})
    for model, dataset, recipe in groups:
        cells: list[str] = []
        runs = 0
        for column in found:
            rates = [
                100 * accuracy.rate
                for result, accuracy in column.accuracies
                if (result.model, result.card.dataset, result.card.recipe) == (model, dataset, recipe)
            ]
            runs = max(runs, len(rates))
            spread = f" +- {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
            cells.append(f"{statistics.mean(rates):.2f}{spread}" if rates else "")
        table.add_row(f"{model}.{dataset}", recipe, str(runs), *cells)
    return table
