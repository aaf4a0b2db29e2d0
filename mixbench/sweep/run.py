"""All runs of a sweep that have no result yet."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mixbench.errors import RecordError
from mixbench.sweep.grid import Sweep
from mixbench.sweep.job import Job
from mixbench.sweep.processes import outcomes_on
from mixbench.sweep.results import RESULTS, SweepResult, other_run, results
from mixbench.training import Places


@dataclass(frozen=True)
class SweepProgress:
    """One run has ended: `failure` is the sentence that says why, or None; `done` of `total` runs have."""

    name: str
    result: SweepResult | None
    failure: str | None
    done: int
    total: int


SweepCallback = Callable[[SweepProgress], None]


def run_sweep(sweep: Sweep, places: Places, *, devices: Sequence[str], progress: SweepCallback | None = None) -> int:
    """Make every run that has no result yet, on all `devices` at once, and return how many failed.

    One failure does not stop the others; a run whose evaluations were changed counts as without a result.
    `places.device` is not looked at. Raises RecordError, before anything is trained, for a result of another run.
    """
    known = {result.name: result for result in results(places.output)}
    every = [Job(run, grid) for grid in sweep.grid for run in grid.runs()]
    jobs = [job for job in every if not _is_done(job, known.get(job.run.name), places.output)]
    # The longest first, so that no device is left with a long run at the end.
    jobs.sort(key=lambda job: job.run.resolved_recipe().adversarial is None)
    failures = 0
    with closing(outcomes_on(jobs, places, devices)) as outcomes:
        for number, (name, outcome) in enumerate(outcomes, start=1):
            result = outcome if isinstance(outcome, SweepResult) else None
            failure = None if isinstance(outcome, SweepResult) else str(outcome)
            failures += failure is not None
            if progress is not None:
                progress(SweepProgress(name, result, failure, number, len(jobs)))
    return failures


def _is_done(job: Job, result: SweepResult | None, output: Path) -> bool:
    if result is None:
        return False
    if fault := other_run(result.model, result.card, job.run):
        raise RecordError(
            f"{output / RESULTS / result.name}.json is the result of another run than the sweep's ({fault}): delete it"
            " to run again, or choose another --output"
        )
    return result.evaluation is None or result.evaluation == job.grid.evaluation
