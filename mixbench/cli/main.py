"""`mixbench`: parses, hands over to a verb, and turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 a check found a regression, 2 the user's error, 3 ours, 4 a check was inconclusive, 130
interrupted.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import mixbench
from mixbench.cli.accept import accept_submission
from mixbench.cli.attacks import list_attacks
from mixbench.cli.bench import bench
from mixbench.cli.compare import compare_records
from mixbench.cli.datasets import list_datasets
from mixbench.cli.eval import evaluate_model
from mixbench.cli.gate import gate_records
from mixbench.cli.leaderboard import leaderboard
from mixbench.cli.models import list_models
from mixbench.cli.plot import plot_records
from mixbench.cli.probe import probe_model
from mixbench.cli.schema import print_schema
from mixbench.cli.show import show_record
from mixbench.cli.submit import submit_model
from mixbench.cli.train import train_model
from mixbench.cli.verify import verify_submission
from mixbench.errors import MixbenchError

_OUR_FAULT = 3
_PLEASE_REPORT = (
    f"mixbench {mixbench.__version__}: this is a fault in mixbench, not in what you typed; please report it with the"
    " lines above"
)

app = typer.Typer(
    name="mixbench",
    help="Robustness benchmark for vision models with trained and frozen spatial mixing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixbench {mixbench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command("eval")(evaluate_model)
app.command("train")(train_model)
app.command("probe")(probe_model)
app.command("models")(list_models)
app.command("attacks")(list_attacks)
app.command("datasets")(list_datasets)
app.command("show")(show_record)
app.command("compare")(compare_records)
app.command("gate")(gate_records)
app.command("plot")(plot_records)
app.command("schema")(print_schema)
app.add_typer(leaderboard, name="leaderboard")
app.command("submit")(submit_model)
app.command("verify")(verify_submission)
app.command("accept")(accept_submission)
app.add_typer(bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        app(None if arguments is None else list(arguments), prog_name="mixbench")
    except MixbenchError as error:
        typer.echo(f"mixbench: {error}", err=True)
        if error.exit_code == _OUR_FAULT:
            typer.echo(_PLEASE_REPORT, err=True)
        sys.exit(error.exit_code)
    except PermissionError as error:
        typer.echo(
            f"mixbench: there is no permission for {error.filename}: choose another folder, or change its permissions",
            err=True,
        )
        sys.exit(MixbenchError.exit_code)
    except Exception:  # noqa: BLE001 - whatever comes here is a fault of ours, and is shown whole
        traceback.print_exc()
        typer.echo(_PLEASE_REPORT, err=True)
        sys.exit(_OUR_FAULT)


if __name__ == "__main__":
    main()
