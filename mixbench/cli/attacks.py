"""`mixbench attacks`: what can be run."""

import json

import typer

from mixbench.cli.options import AsJson


def list_attacks(as_json: AsJson = False) -> None:
    """List the attacks."""
    from rich.table import Table

    from mixbench.attacks import CATALOGUE
    from mixbench.cli.tables import console

    rows = [
        {
            "name": name,
            "norms": [norm.value for norm in spec.norms],
            "stages": [stage.name for stage in spec.attack.stages],
            "implementation": spec.attack.implementation,
            "description": spec.description,
        }
        for name, spec in CATALOGUE.items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "norms", "stages", "implementation", "description")
    for row in rows:
        table.add_row(*(", ".join(value) if isinstance(value, list) else value for value in row.values()))
    console().print(table)
