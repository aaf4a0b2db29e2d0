"""`mixbench models`: the zoo, and what one of its networks is made of."""

import json
from typing import Annotated

import typer

from mixbench.cli.options import AsJson


def list_models(
    name: Annotated[str | None, typer.Argument(help="A zoo name or anything else that --model takes.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the zoo, or show which parameters of one model mix space and channels and which are frozen."""
    if name is None:
        _list_zoo(as_json=as_json)
    else:
        _show_model(name, as_json=as_json)


def _list_zoo(*, as_json: bool) -> None:
    from rich.table import Table

    from mixbench.cli.tables import console, percent
    from mixbench.models import ARCHITECTURES, read_config, zoo_folder, zoo_names

    cards = {name: read_config(zoo_folder() / name)[1] for name in zoo_names()}
    if as_json:
        dumped = {name: card.model_dump(mode="json", exclude_none=True) for name, card in cards.items()}
        typer.echo(json.dumps(dumped, indent=2))
        return
    table = Table("name", "mixing", "recipe", "dataset", "clean accuracy", "trained", "frozen")
    for name, card in cards.items():
        parameters = card.parameters
        table.add_row(
            name,
            card.mixing,
            card.recipe,
            card.dataset,
            percent(card.clean),
            str(parameters.trained),
            str(parameters.frozen),
        )
    console().print(table)
    typer.echo(f"architectures: {', '.join(ARCHITECTURES)}")
    typer.echo("also: timm:NAME, local-dir:FOLDER, hf-hub:ID and package.module:factory")


def _show_model(name: str, *, as_json: bool) -> None:
    from rich.table import Table

    from mixbench.cli.tables import console
    from mixbench.mixers import describe
    from mixbench.models import load_model

    loaded = load_model(name)
    rows = [row for row in describe(loaded.module) if row.parameters]
    if as_json:
        groups = [
            {"group": row.group.value, "parameters": row.parameters, "trained": row.trained, "frozen": row.frozen}
            for row in rows
        ]
        typer.echo(json.dumps({"model": loaded.identity.model_dump(mode="json"), "groups": groups}, indent=2))
        return
    table = Table("group", "parameters", "trained", "frozen", title=loaded.identity.name, title_justify="left")
    for row in rows:
        table.add_row(row.group.value, str(row.parameters), str(row.trained), str(row.frozen))
    parameters = loaded.identity.parameters
    total = parameters.trained + parameters.frozen
    table.add_section()
    table.add_row("all", str(total), str(parameters.trained), str(parameters.frozen))
    console().print(table)
