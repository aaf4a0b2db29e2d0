"""`mixbench gate`: hold candidates against their baselines, as a check in CI.

Exit codes: 0 passed, 1 a regression, 2 the user's error, such as a missing baseline, 4 inconclusive.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, Device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.gate import GateVerdict, Pair, Verdict

_REGRESSION = 1
_INCONCLUSIVE = 4


def gate_records(
    baseline: Annotated[
        list[Path] | None, typer.Option(help="A record, or a store of records; may be given again.")
    ] = None,
    candidate: Annotated[
        list[Path] | None, typer.Option(help="A record, or a store of records; may be given again.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of evaluations to run and gate.")] = None,
    margin: Annotated[float | None, typer.Option(help="Tolerated fall, in points. [default: 1.0]")] = None,
    alpha: Annotated[float | None, typer.Option(help="Chance of a false alarm. [default: 0.05]")] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option(help="End with 0 where the examples are too few to tell.")
    ] = False,
    allow_other_model: Annotated[bool, typer.Option(help="Let a candidate have another name.")] = False,
    update_baseline: Annotated[bool, typer.Option(help="With --config: write the baselines instead.")] = False,
    runs: Annotated[Path, typer.Option(help="With --config: folder for the candidates.")] = Path("runs/gate"),
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write markdown to this file. [default: GitHub's job summary, in Actions]")
    ] = None,
    annotations: Annotated[
        bool | None, typer.Option(help="Print GitHub annotations. [default: in GitHub Actions]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fail if clean or robust accuracy fell by more than a margin, paired on the same examples."""
    from mixbench.gate import gate_all

    if config is None:
        if update_baseline:
            raise InvalidInputError("--update-baseline runs the evaluations of a file: name it with --config")
        level = 0.05 if alpha is None else alpha
        pairs = _pairs(baseline, candidate, margin=1.0 if margin is None else margin, any_model=allow_other_model)
    else:
        if baseline or candidate or margin is not None or alpha is not None or allow_other_model:
            raise InvalidInputError(
                f"with --config, {config} says what is gated and how: leave out --baseline, --candidate, --margin,"
                " --alpha and --allow-other-model"
            )
        from mixbench.cli.gate_run import candidates, write_baselines
        from mixbench.gate import read_config

        found = read_config(config)
        if update_baseline:
            write_baselines(found, runs=runs, device=device, data_dir=data_dir, cache_dir=cache_dir)
            return
        level = found.alpha
        pairs = candidates(found, runs=runs, device=device, data_dir=data_dir, cache_dir=cache_dir)
    verdicts = gate_all(pairs, alpha=level, allow_other_model=allow_other_model)
    _write_reports(verdicts, junit, summary, allow_inconclusive=allow_inconclusive, annotated=annotations)
    overall = _print_result(verdicts, as_json=as_json)
    raise typer.Exit(_exit_code(overall, allow_inconclusive=allow_inconclusive))


def _pairs(
    baselines: list[Path] | None, candidates: list[Path] | None, *, margin: float, any_model: bool
) -> "tuple[Pair, ...]":
    from mixbench.gate import pair_up, read_evaluations

    if not baselines or not candidates:
        raise InvalidInputError(
            "there is nothing to gate: give --baseline and --candidate with records, or --config with a TOML file"
        )
    return pair_up(read_evaluations(baselines), read_evaluations(candidates), margin=margin, any_model=any_model)


def _exit_code(overall: "Verdict", *, allow_inconclusive: bool) -> int:
    from mixbench.gate import Verdict

    inconclusive = 0 if allow_inconclusive else _INCONCLUSIVE
    return {Verdict.PASS: 0, Verdict.INCONCLUSIVE: inconclusive, Verdict.FAIL: _REGRESSION}[overall]


def _write_reports(
    verdicts: "tuple[GateVerdict, ...]",
    junit_file: Path | None,
    summary_file: Path | None,
    *,
    allow_inconclusive: bool,
    annotated: bool | None,
) -> None:
    from mixbench.files import write_atomically
    from mixbench.gate import annotations, junit, summary

    if junit_file is not None:
        write_atomically(junit_file, junit(verdicts, allow_inconclusive=allow_inconclusive))
    markdown = summary(verdicts)
    if summary_file is not None:
        write_atomically(summary_file, markdown.encode())
    elif os.environ.get("GITHUB_STEP_SUMMARY"):
        # The steps of a job share this file; each one appends.
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(markdown)
    if annotated if annotated is not None else os.environ.get("GITHUB_ACTIONS") == "true":
        # GitHub reads them from both streams, and standard output may be JSON.
        for line in annotations(verdicts, allow_inconclusive=allow_inconclusive):
            typer.echo(line, err=True)


def _print_result(verdicts: "tuple[GateVerdict, ...]", *, as_json: bool) -> "Verdict":
    """Print the verdicts and return the worst."""
    from mixbench.gate import Verdict, explanation, rows, to_json, worst

    overall = worst(verdict.verdict for verdict in verdicts)
    if as_json:
        sys.stdout.write(to_json(verdicts))
        return overall
    from rich.table import Table

    from mixbench.cli.tables import console

    confidence = 1 - 2 * verdicts[0].checks[0].alpha
    table = Table(
        caption=f"Accuracies in percent; falls in points, paired, with exact {confidence:.0%} intervals.",
        caption_justify="left",
    )
    for name in ("model", "data", "attack", "accuracy", "baseline", "candidate", "fall", "margin", "verdict"):
        table.add_column(name, justify="right" if name in {"baseline", "candidate", "fall", "margin"} else "left")
    for row in rows(verdicts):
        table.add_row(*row)
    console().print(table)
    checks = [(verdict, check) for verdict in verdicts for check in verdict.checks]
    for verdict, check in checks:
        if check.verdict is not Verdict.PASS:
            what = f"{check.comparison.outcome} accuracy of {verdict.candidate.model.name}"
            typer.echo(f"{check.verdict}: {what} {explanation(check)}")
    counts = {kind: sum(check.verdict is kind for _, check in checks) for kind in Verdict}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    typer.echo(f"gate: {overall} ({told})")
    return overall
