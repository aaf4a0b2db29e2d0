"""`mixbench schema`: the published formats."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """What has a schema."""

    RECORD = "record"


def print_schema(name: Annotated[Format, typer.Argument(help="record")] = Format.RECORD) -> None:
    """Print the JSON Schema of a format."""
    from mixbench.store import record_schema

    del name
    typer.echo(record_schema(), nl=False)
