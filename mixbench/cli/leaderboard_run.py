"""`mixbench leaderboard run`: evaluate every checkpoint that has no record under the current protocols."""

import fnmatch
import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.evaluation import Plan, ProgressCallback
    from mixbench.evaluation import Progress as Moment
    from mixbench.leaderboard.protocols import BoardProtocol, Evaluations, NamedProtocol
    from mixbench.threat_model import ThreatModel

_INTERRUPTED = 130
_OUR_FAULT = 3
RECORDS = "records"
_WORKSPACES = ".unfinished"


@dataclass(frozen=True)
class _Job:
    """One checkpoint under one line of a protocol.

    Attributes:
        work: What it costs at most, in forward passes.
    """

    model: str
    location: str
    protocol: "BoardProtocol"
    evaluations: "Evaluations"
    work: int

    def __str__(self) -> str:
        of = self.evaluations
        return f"{self.model}, {of.attack}, {of.threat_models[-1]}, {of.subset}"


@dataclass(frozen=True)
class _Asked:
    """What of a protocol was asked for; None is all of it.

    Attributes:
        limit: The largest radius, of the only norm.
    """

    models: str
    attack: str | None
    limit: "ThreatModel | None"
    subset: str | None

    def part_of(self, evaluations: "Evaluations") -> "Evaluations | None":
        """Return what of `evaluations` was asked for, or None."""
        if self.attack not in {None, evaluations.attack} or self.subset not in {None, evaluations.subset}:
            return None
        if self.limit is None:
            return evaluations
        if self.limit not in evaluations.threat_models:
            return None
        upto = evaluations.threat_models.index(self.limit) + 1
        return evaluations.model_copy(update={"eps": evaluations.eps[:upto]})


Failures = list[tuple[_Job, Exception]]


def run_leaderboard(
    dataset: Annotated[str | None, typer.Option(help="The board. [default: every board]")] = None,
    models: Annotated[str, typer.Option(help="Checkpoints whose names match, such as 'convmixer_*'.")] = "*",
    attack: Annotated[str | None, typer.Option(help="One attack of the protocol. [default: all]")] = None,
    threat_model: Annotated[
        str | None, typer.Option(help="Such as 'Linf 8/255': up to this radius. [default: all]")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="One set of examples of the protocol, such as test_1k. [default: all of them]")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder with records, protocols and submissions.")] = Path(
        "leaderboards"
    ),
    device: Device = "auto",
    micro_batch: Annotated[int | None, typer.Option(help="Images passed at once. [default: what fits]")] = None,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Evaluate every checkpoint that has no record under the current protocol; the same command resumes."""
    from mixbench.leaderboard.protocols import PROTOCOLS_NAME, read_protocols
    from mixbench.threat_model import ThreatModel

    chosen = _chosen_protocols(read_protocols(folder), dataset)
    limit = None if threat_model is None else ThreatModel.parse(threat_model)
    asked = _Asked(models, attack, limit, subset)
    jobs = [job for named in chosen for job in _jobs(named.protocol, folder, asked)]
    if not jobs:
        raise InvalidInputError(
            f"no checkpoint matches --models {models!r} with --attack, --threat-model and --subset as given: see"
            f" mixbench models and {folder / PROTOCOLS_NAME}"
        )
    runner = _Runner(folder, resolve_device(device), micro_batch, data_dir, cache_folder(cache_dir))
    failures: Failures = []
    try:
        missing = _attempt(jobs, runner.is_missing, failures)
        typer.echo(f"{len(jobs)} evaluations, {len(missing)} of them to do", err=True)
        with _progress_bar(missing) as progress:
            _attempt(missing, lambda job: runner.run(job, progress(job)), failures)
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; what was finished is kept: run the same command again to go on", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    _report(len(jobs), failures, folder)


def _report(n: int, failures: Failures, folder: Path) -> None:
    for job, error in failures:
        typer.echo(f"failed: {job}: {error}", err=True)
    typer.echo(f"{n - len(failures)} of {n} evaluations have their records in {folder / RECORDS}")
    if failures:
        raise typer.Exit(max(getattr(error, "exit_code", _OUR_FAULT) for _, error in failures))


def _chosen_protocols(protocols: "Sequence[NamedProtocol]", dataset: str | None) -> "list[NamedProtocol]":
    chosen = [named for named in protocols if dataset in {None, named.name, named.protocol.dataset}]
    if not chosen:
        raise UnknownNameError("board", str(dataset), [named.name for named in protocols])
    return chosen


def _jobs(protocol: "BoardProtocol", folder: Path, asked: _Asked) -> list[_Job]:
    """Return what the protocol asks for, in its order."""
    parts = [part for evaluations in protocol.evaluations if (part := asked.part_of(evaluations)) is not None]
    checkpoints = [
        item for item in _checkpoints(protocol.dataset, folder) if fnmatch.fnmatchcase(item[0], asked.models)
    ]
    return [
        _Job(name, location, protocol, evaluations, _work(protocol, evaluations))
        for evaluations in parts
        for name, location in checkpoints
    ]


def _work(protocol: "BoardProtocol", evaluations: "Evaluations") -> int:
    from mixbench.attacks import attack_named
    from mixbench.datasets import CATALOGUE

    classes = len(CATALOGUE[protocol.dataset].class_names)
    passes = [
        stage.passes(threat_model, num_classes=classes).work
        for stage in attack_named(evaluations.attack, engine=evaluations.engine).stages
        for threat_model in evaluations.threat_models
    ]
    return protocol.subsets[evaluations.subset].n * sum(passes)


def _checkpoints(dataset: str, folder: Path) -> list[tuple[str, str]]:
    """Return name and location of the checkpoints trained on `dataset`: the zoo's and the accepted submissions'."""
    from mixbench.models import read_config, zoo_folder, zoo_names

    zoo = [(name, name, zoo_folder() / name) for name in zoo_names()]
    submitted = [
        (path.parent.name, f"local-dir:{path.parent}", path.parent)
        for path in sorted(folder.glob("submissions/[!.]*/config.json"))
        if path.parent.name not in zoo_names()
    ]
    return [(name, location) for name, location, at in zoo + submitted if read_config(at)[1].dataset == dataset]


def _attempt(jobs: Sequence[_Job], action: Callable[[_Job], object], failures: Failures) -> list[_Job]:
    """Return the jobs for which `action` was true; those where it raised go to `failures`, and the rest goes on."""
    found: list[_Job] = []
    for job in jobs:
        try:
            if action(job):
                found.append(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is listed at the end
            failures.append((job, error))
    return found


class _Runner:
    """Evaluates jobs into the store of a folder of leaderboards."""

    def __init__(
        self, folder: Path, device: str, micro_batch: int | None, data_dir: Path | None, cache_dir: Path
    ) -> None:
        from mixbench.store import Store

        self._store = Store(folder / RECORDS)
        self._workspaces = folder / _WORKSPACES
        self._device = device
        self._micro_batch = micro_batch
        self._data_dir = data_dir
        self._cache_dir = cache_dir
        self._examples: dict[tuple[str, str, str], Examples] = {}

    def is_missing(self, job: _Job) -> bool:
        """Return whether a record of `job` is not in the store."""
        return any(self._store.find(record_id) is None for record_id in self._plan(job).record_ids)

    def run(self, job: _Job, progress: "ProgressCallback | None") -> None:
        """Evaluate `job` and store its records."""
        from mixbench.evaluation import evaluate, remove_workspace

        run_plan = self._plan(job)
        workspace = self._workspaces / run_plan.record_ids[-1]
        evaluations = evaluate(
            run_plan, workspace=workspace, device=self._device, micro_batch=self._micro_batch, progress=progress
        )
        for evaluation in evaluations:
            if job.protocol.evaluations_of(evaluation.record) is None:
                raise InvalidInputError(
                    f"this mixbench runs {job.evaluations.attack} with {dict(evaluation.record.attack.parameters)}, and"
                    " the protocol asks for other parameters: mend its file"
                )
            self._store.add(evaluation.record, examples=evaluation.examples)
        remove_workspace(workspace)
        with suppress(OSError):  # other runs may be unfinished
            self._workspaces.rmdir()

    def _plan(self, job: _Job) -> "Plan":
        from mixbench.attacks import attack_named
        from mixbench.evaluation import plan
        from mixbench.models import load_model

        return plan(
            load_model(job.location),
            self._examples_of(job.protocol, job.evaluations.subset),
            attack_named(job.evaluations.attack, engine=job.evaluations.engine),
            job.evaluations.threat_models,
            seed=job.protocol.seed,
            block_size=job.protocol.block_size,
        )

    def _examples_of(self, protocol: "BoardProtocol", subset: str) -> "Examples":
        from mixbench.datasets import load_examples

        key = (protocol.dataset, protocol.split, subset)
        if key not in self._examples:
            self._examples[key] = load_examples(
                protocol.dataset,
                split=protocol.split,
                data_dir=self._data_dir,
                cache_dir=self._cache_dir,
                subset=subset,
                seed=protocol.seed,
            )
        return self._examples[key]


@contextmanager
def _progress_bar(jobs: Sequence[_Job]) -> "Generator[Callable[[_Job], ProgressCallback | None]]":
    """Yield what makes the callback of a job; all jobs together are drawn as one bar with the time that is left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _announce
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=sum(job.work for job in jobs))
        before = itertools.accumulate((job.work for job in jobs), initial=0)

        def callback(job: _Job) -> "ProgressCallback":
            start = next(before)

            def draw(moment: "Moment") -> None:
                completed = start + job.work * moment.done / max(moment.total, 1)
                bar.update(task, description=f"{job}: {moment.stage}", completed=completed)

            return draw

        yield callback


def _announce(job: _Job) -> None:
    typer.echo(str(job), err=True)
