"""`mixbench accept`: take a verified submission into this checkout."""

from pathlib import Path
from typing import Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir
from mixbench.cli.verify import Full, TrustCode

_FAILED = 1


def accept_submission(
    submission: Annotated[Path, typer.Argument(help="The folder that mixbench submit wrote.")],
    root: Annotated[Path, typer.Option(help="The checkout with leaderboards/ and model_zoo/.")] = Path(),
    full: Full = False,
    trust_code: TrustCode = False,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Verify a submission and move it into leaderboards and model zoo; the pages are built anew. For maintainers."""
    from mixbench.cli.verify import print_report, run_verification
    from mixbench.leaderboard import build
    from mixbench.submission import accept

    report = run_verification(submission, full=full, trust_code=trust_code, data_dir=data_dir, cache_dir=cache_dir)
    print_report(report)
    if not report.passed:
        raise typer.Exit(_FAILED)

    def rebuild(folder: Path) -> None:
        for fault in build(folder).faults:
            typer.echo(f"left out of the pages: {fault}", err=True)

    accepted = accept(submission, report, root, rebuild=rebuild)
    for place in accepted.places:
        typer.echo(f"added: {place}")
