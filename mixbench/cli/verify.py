"""`mixbench verify`: what is true of a submission."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, cache_folder

if TYPE_CHECKING:
    from mixbench.submission import CheckCallback, VerificationReport

_FAILED = 1
_SEED_BITS = 63
Full = Annotated[bool, typer.Option("--full", help="Evaluate and re-attack everything; as long as the evaluation.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run code that the submission brings. Read it before.")]


def verify_submission(
    submission: Annotated[Path, typer.Argument(help="The folder that mixbench submit wrote.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the re-attack. [default: drawn by the operating system]")
    ] = None,
    survivors: Annotated[
        int | None, typer.Option(min=1, help="Claimed survivors to re-attack in each record. [default: 256]")
    ] = None,
    full: Full = False,
    trust_code: TrustCode = False,
    output: Annotated[
        Path | None, typer.Option(help="The verification record. [default: NAME.verification.json beside NAME]")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(envvar="GITHUB_STEP_SUMMARY", help="A file to append the table to, as markdown."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Check a submission on the CPU: files, network, replayed claims, random re-attack; exit code 0 or 1."""
    from mixbench.files import write_atomically

    report = run_verification(
        submission,
        seed=seed,
        survivors=survivors,
        full=full,
        trust_code=trust_code,
        data_dir=data_dir,
        cache_dir=cache_dir,
    )
    place = output or submission.resolve().with_name(f"{submission.resolve().name}.verification.json")
    write_atomically(place, report.to_json().encode())
    if summary is not None:
        append_summary(summary, report)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        print_report(report)
        typer.echo(f"verification record: {place}")
    if not report.passed:
        raise typer.Exit(_FAILED)


def run_verification(
    submission: Path,
    *,
    seed: int | None = None,
    survivors: int | None = None,
    full: bool = False,
    trust_code: bool = False,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
) -> "VerificationReport":
    """Return the report on a submission, drawing the seed that is not given; the name of each check is drawn."""
    from mixbench.submission import SURVIVORS, DataFolders, Scope, verify

    with _check_names() as progress:
        return verify(
            submission,
            seed=secrets.randbits(_SEED_BITS) if seed is None else seed,
            data=DataFolders(data_dir, cache_folder(cache_dir)),
            scope=Scope(survivors=survivors or SURVIVORS, full=full, trust_code=trust_code),
            progress=progress,
        )


def append_summary(summary: Path, report: "VerificationReport") -> None:
    """Append the report as markdown to `summary`; raises RecordError if it cannot be written."""
    from mixbench.files import storage_error

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(report.to_markdown())
    except OSError as error:
        raise storage_error(summary, error) from error


def print_report(report: "VerificationReport") -> None:
    """Print the table of checks and the verdict."""
    from rich.table import Table

    from mixbench.cli.tables import console

    table = Table("check", "result", "reason", title=report.submission, title_justify="left")
    for row in report.checks:
        table.add_row(row.check, row.status.value, row.reason)
    console().print(table)
    verdict = "passed" if report.passed else "failed"
    typer.echo(f"{verdict}: bundle {report.bundle_sha256 or 'unknown'}, verification seed {report.seed}")


@contextmanager
def _check_names() -> "Generator[CheckCallback | None]":
    """Show on standard error which check runs, if that is a terminal outside of CI."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or os.environ.get("CI"):
        yield None
        return
    with console.status("verifying") as status:
        yield lambda check: status.update(f"verifying: {check}")
