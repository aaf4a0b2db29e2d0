"""`mixbench schema`: the published formats."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """What has a schema."""

    RECORD = "record"
    PROBE = "probe"


def print_schema(
    name: Annotated[Format, typer.Argument(help="record: of an evaluation; probe: of a probe.")] = Format.RECORD,
) -> None:
    """Print the JSON Schema of a format."""
    from mixbench.store import probe_schema, record_schema

    typer.echo(probe_schema() if name is Format.PROBE else record_schema(), nl=False)
