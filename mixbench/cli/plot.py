"""`mixbench plot`: curves of robust accuracy against eps."""

from pathlib import Path
from typing import Annotated

import typer


def plot_records(
    records: Annotated[list[Path], typer.Argument(help="Run folders, or their record.json.")],
    output: Annotated[Path, typer.Option(help="The file to write, .png or .svg.")] = Path("curves.png"),
) -> None:
    """Draw robust accuracy against eps, a curve for each model and attack among the records."""
    from mixbench.files import write_atomically
    from mixbench.leaderboard.plotting import plot_curves
    from mixbench.store import load_record

    found = [load_record(path) for path in records]
    write_atomically(output, plot_curves(found, file_format=output.suffix.removeprefix(".").lower()))
    typer.echo(str(output))
