"""`mixbench datasets`: what can be evaluated on."""

import json

import typer

from mixbench.cli.options import AsJson


def list_datasets(as_json: AsJson = False) -> None:
    """List the datasets, their subsets and default threat models."""
    from rich.table import Table

    from mixbench.cli.tables import console
    from mixbench.datasets import CATALOGUE

    rows = [
        {
            "name": spec.name,
            "image size": "x".join(str(n) for n in spec.image_size),
            "classes": str(len(spec.class_names)),
            "examples": ", ".join(f"{name} {split.n}" for name, split in spec.splits.items()),
            "subsets": ", ".join(spec.subsets) or "-",
            "default threat model": str(spec.default_threat_model),
            "source": spec.source,
        }
        for spec in CATALOGUE.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console().print(table)
    typer.echo("also: parquet:FOLDER (Hugging Face layout) and images:FOLDER (a folder a class)")
