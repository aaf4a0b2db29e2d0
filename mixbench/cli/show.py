"""`mixbench show`: what a record says."""

from pathlib import Path
from typing import Annotated

import typer

from mixbench.cli.options import AsJson


def show_record(
    record: Annotated[Path, typer.Argument(help="A run folder, its record.json or its probe.json.")],
    as_json: AsJson = False,
) -> None:
    """Show a record, after checking that it and its per-example file are whole."""
    from mixbench.store import PROBE_NAME, RECORD_NAME, load_record

    if record.name == PROBE_NAME or ((record / PROBE_NAME).is_file() and not (record / RECORD_NAME).is_file()):
        _show_probe(record, as_json=as_json)
        return
    found = load_record(record)
    if as_json:
        typer.echo(found.to_json(), nl=False)
        return
    from mixbench.cli.tables import console, details, summary

    terminal = console()
    terminal.print(summary((found,)))
    terminal.print(details(found))


def _show_probe(record: Path, *, as_json: bool) -> None:
    from mixbench.store import load_probe

    found = load_probe(record)
    if as_json:
        typer.echo(found.to_json(), nl=False)
        return
    from mixbench.cli.tables import console, probe_summary

    console().print(probe_summary(found))
