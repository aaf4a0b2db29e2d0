"""`mixbench train --sweep`: a grid of training runs, and the table of what they came to."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixbench.cli.options import resolve_device
from mixbench.errors import MixbenchError

if TYPE_CHECKING:
    from rich.table import Table

    from mixbench.sweep import Column, SweepProgress, SweepResult
    from mixbench.training import Places

_INTERRUPTED = 130
_CROSSED = ("clean, sd of filter-draw means", "sd of training-seed means")
_CAPTION = "Standard deviations of the means over the other seed, in percent; each still holds a part of the residual."


def run_sweep_file(path: Path, places: "Places") -> None:
    """Make the runs of the sweep in `path` that have no result yet, then print what all came to."""
    from mixbench.cli.tables import console
    from mixbench.store import Store
    from mixbench.sweep import RECORDS, columns, read_sweep, results, run_sweep

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
        raise MixbenchError(f"{failures} of the runs of {path} failed: see above, and run the same command again")


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
    """Return a table with a row a model and recipe: mean and standard deviation over the seeds, in percent.

    Where filter draws and training seeds are crossed in full, it tells the spread of clean accuracy over each.
    """
    from rich.table import Table

    from mixbench.sweep import seed_spread

    groups: dict[tuple[str, str, str], list[SweepResult]] = {}
    for result, _ in found[0].accuracies:
        groups.setdefault((result.model, result.card.dataset, result.card.recipe), []).append(result)
    spreads = {group: seed_spread(members) for group, members in groups.items()}
    crossed = any(spread is not None for spread in spreads.values())
    table = Table("model", "recipe", "runs", *(column.title for column in found), title="Over seeds")
    for title in _CROSSED if crossed else ():
        table.add_column(title)
    table.caption = _CAPTION if crossed else None
    for (model, dataset, recipe), members in sorted(groups.items(), key=lambda item: item[0]):
        cells = [_mean_and_deviation(column, members) for column in found]
        spread = spreads[model, dataset, recipe]
        parts = () if spread is None else (spread.row_means, spread.column_means)
        table.add_row(f"{model}.{dataset}", recipe, str(len(members)), *cells, *(f"{100 * part:.2f}" for part in parts))
    return table


def _mean_and_deviation(column: "Column", members: "Sequence[SweepResult]") -> str:
    names = {result.name for result in members}
    rates = [100 * accuracy.rate for result, accuracy in column.accuracies if result.name in names]
    spread = f" +- {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    return f"{statistics.mean(rates):.2f}{spread}" if rates else ""
