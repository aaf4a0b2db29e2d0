"""`mixbench show`: what a record says."""

from pathlib import Path
from typing import Annotated

import typer

from mixbench.cli.options import AsJson


def show_record(
    record: Annotated[Path, typer.Argument(help="A run folder or its record.json.")], as_json: AsJson = False
) -> None:
    """Show a record, after checking that it and its per-example file are whole."""
    from mixbench.store import load_record

    found = load_record(record)
    if as_json:
        typer.echo(found.to_json(), nl=False)
        return
    from mixbench.cli.tables import console, details, summary

    terminal = console()
    terminal.print(summary((found,)))
    terminal.print(details(found))
