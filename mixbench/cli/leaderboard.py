"""`mixbench leaderboard`: evaluate what a board lacks, and build its pages."""

from pathlib import Path
from typing import Annotated

import typer

from mixbench.cli.leaderboard_run import run_leaderboard
from mixbench.errors import MixbenchError

leaderboard = typer.Typer(
    help="Evaluate what the leaderboards lack, and build their pages.", no_args_is_help=True, rich_markup_mode=None
)
leaderboard.command("run")(run_leaderboard)


@leaderboard.command("build")
def build_leaderboard(
    folder: Annotated[Path, typer.Option(help="Folder with records, protocols and submissions.")] = Path(
        "leaderboards"
    ),
    strict: Annotated[bool, typer.Option(help="End with exit code 2 if anything had to be left out.")] = False,
) -> None:
    """Build the pages from the records alone, the same bytes for the same records."""
    from mixbench.leaderboard import build

    built = build(folder)
    for fault in built.faults:
        typer.echo(f"left out: {fault}", err=True)
    typer.echo(f"{folder}: {built.records} records, {len(built.files)} files, {built.changed} of them changed")
    if strict and built.faults:
        raise typer.Exit(MixbenchError.exit_code)
