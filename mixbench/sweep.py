"""Sweeps: grids of models, recipes and seeds, trained and evaluated in one go over all devices of a host.

A sweep is what a claim about training is tested with. Each run leaves one result file; what exists is skipped, so the
same command goes on after a crash and extends a sweep whose file has grown.
"""

import itertools
import multiprocessing
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixbench.attacks import attack_named
from mixbench.datasets import load_examples
from mixbench.errors import CheckpointError, InvalidInputError, MixbenchError, RecordError
from mixbench.evaluation import evaluate, plan, remove_workspace
from mixbench.files import write_atomically
from mixbench.models import CheckpointCard, load_model, read_config
from mixbench.records import Accuracy, EvaluationRecord
from mixbench.store import Store
from mixbench.threat_model import Norm, ThreatModel, parse_eps
from mixbench.training import Places, TrainingRun, train_to_folder, usual_tag

RESULTS = "results"
RECORDS = "records"
_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SweepEvaluation(_Value):
    """An attack on every trained model: `eps` as on the command line, on `n_examples` or all test examples."""

    attack: str
    norm: str = "Linf"
    eps: _Names
    n_examples: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def threat_models(self) -> list[ThreatModel]:
        """Return what is attacked under; raises InvalidInputError or UnknownNameError."""
        norm = Norm.parse(self.norm)
        return [ThreatModel(norm, parse_eps(eps)) for eps in self.eps]


class Grid(_Value):
    """Every combination of these is a run, evaluated as `evaluation` says.

    `keep_weights` keeps the checkpoint folder of each run beside its result.
    """

    models: _Names
    dataset: str
    recipes: _Names = ("standard",)
    seeds: _Seeds = (0,)
    filter_seeds: _Seeds = (0,)
    epochs: Annotated[int, Field(ge=1)] | None = None
    keep_weights: bool = True
    evaluation: tuple[SweepEvaluation, ...] = ()

    def runs(self) -> Iterator[TrainingRun]:
        """Yield the runs; seeds other than 0 and 0 stand in the tag."""
        for recipe, seed, filter_seed, model in itertools.product(
            self.recipes, self.seeds, self.filter_seeds, self.models
        ):
            tag = usual_tag(self.dataset, recipe) + (f"_s{seed}_f{filter_seed}" if seed or filter_seed else "")
            yield TrainingRun(model, self.dataset, recipe, seed, filter_seed, self.epochs, tag)


class Sweep(_Value):
    """The content of a sweep's TOML file."""

    grid: Annotated[tuple[Grid, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [run.name for grid in self.grid for run in grid.runs()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two runs are called {twice}: let each combination stand in one grid alone")
        return self


class SweepResult(_Value):
    """What one run of a sweep came to.

    Attributes:
        name: Of the checkpoint.
        card: The checkpoint's card, with its clean accuracy on the whole test split.
        records: The ids of its evaluation records in the sweep's store.
    """

    format: Literal["mixbench.sweep_result/1"] = "mixbench.sweep_result/1"
    name: str
    model: str
    card: CheckpointCard
    records: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    run: TrainingRun
    grid: Grid


@dataclass(frozen=True)
class SweepProgress:
    """One run has ended: `failure` is the sentence that says why, or None; `done` of `total` runs have."""

    name: str
    result: SweepResult | None
    failure: str | None
    done: int
    total: int


SweepCallback = Callable[[SweepProgress], None]


def read_sweep(path: Path) -> Sweep:
    """Return the sweep in the TOML file `path`; raises InvalidInputError that names the file and the first fault.

    Everything in it is checked before anything is trained: models, recipes, attacks and radii.
    """
    try:
        sweep = Sweep.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidInputError(f"cannot read the sweep {path} ({error.strerror}): check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not TOML ({error}): correct it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "sweep"
        raise InvalidInputError(f"{path} is not a sweep: {place}: {first['msg']}; correct it") from None
    for run in (run for grid in sweep.grid for run in grid.runs()):
        run.spec()
        run.resolved_recipe()
    for evaluation in (evaluation for grid in sweep.grid for evaluation in grid.evaluation):
        attack_named(evaluation.attack)
        evaluation.threat_models()
    return sweep


def results(output: Path) -> tuple[SweepResult, ...]:
    """Return the results below `output`, in order of name; raises RecordError for the first that cannot be read."""
    found: list[SweepResult] = []
    for path in sorted((output / RESULTS).glob("*.json")):
        try:
            found.append(SweepResult.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise RecordError(f"{path} is not a sweep's result ({type(error).__name__}): delete it") from None
    return tuple(found)


def run_sweep(sweep: Sweep, places: Places, *, devices: Sequence[str], progress: SweepCallback | None = None) -> int:
    """Make every run that has no result yet, on all `devices` at once, and return how many failed.

    One failure does not stop the others. `places.device` is not looked at.
    """
    done = {result.name for result in results(places.output)}
    jobs = [_Job(run, grid) for grid in sweep.grid for run in grid.runs() if run.name not in done]
    # The longest first, so that no device is left with a long run at the end.
    jobs.sort(key=lambda job: job.run.resolved_recipe().adversarial is None)
    failures = 0
    for number, (name, outcome) in enumerate(_outcomes(jobs, places, devices), start=1):
        result = outcome if isinstance(outcome, SweepResult) else None
        failure = None if isinstance(outcome, SweepResult) else str(outcome)
        failures += failure is not None
        if progress is not None:
            progress(SweepProgress(name, result, failure, number, len(jobs)))
    return failures


def _outcomes(
    jobs: Sequence[_Job], places: Places, devices: Sequence[str]
) -> Iterator[tuple[str, SweepResult | MixbenchError]]:
    if len(devices) == 1:
        for job in jobs:
            yield job.run.name, _outcome(job, replace(places, device=devices[0]))
        return
    context = multiprocessing.get_context("spawn")
    workers = {device: ProcessPoolExecutor(1, mp_context=context) for device in devices}
    waiting, running = list(jobs), dict[Future[SweepResult | MixbenchError], tuple[str, str]]()
    idle = list(devices)
    try:
        while waiting or running:
            while waiting and idle:
                job, device = waiting.pop(0), idle.pop()
                future = workers[device].submit(_outcome, job, replace(places, device=device))
                running[future] = (job.run.name, device)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, device = running.pop(future)
                idle.append(device)
                yield name, future.result()
    finally:
        for worker in workers.values():
            worker.shutdown(wait=False, cancel_futures=True)


def _outcome(job: _Job, places: Places) -> SweepResult | MixbenchError:
    """Return the result of a run, which is then on disk, or the error that ended it."""
    if places.device.startswith("cuda"):
        torch.cuda.set_device(places.device)
    try:
        return _perform(job, places)
    except MixbenchError as error:
        return error


def _perform(job: _Job, places: Places) -> SweepResult:
    run, folder = job.run, places.output / job.run.name
    if not folder.exists():
        train_to_folder(run, places, overwrite=False)
    _check_is_of(folder, run)
    loaded = load_model(f"local-dir:{folder}")
    records: list[str] = []
    for evaluation in job.grid.evaluation:
        examples = load_examples(
            run.dataset,
            data_dir=places.data_dir,
            cache_dir=places.cache_dir,
            n_examples=evaluation.n_examples,
            seed=evaluation.seed,
        )
        attack = attack_named(evaluation.attack)
        run_plan = plan(loaded, examples, attack, evaluation.threat_models(), seed=evaluation.seed)
        workspace = places.output / f".{run.name}.{evaluation.attack}"
        for done in evaluate(run_plan, workspace=workspace, device=places.device):
            Store(places.output / RECORDS).add(done.record, examples=done.examples)
            records.append(done.record.id)
        remove_workspace(workspace)
    card = read_config(folder)[1]
    result = SweepResult(name=run.name, model=run.model, card=card, records=tuple(records))
    write_atomically(places.output / RESULTS / f"{run.name}.json", (result.model_dump_json(indent=2) + "\n").encode())
    if not job.grid.keep_weights:
        shutil.rmtree(folder)
    return result


def _check_is_of(folder: Path, run: TrainingRun) -> None:
    """Raise CheckpointError if `folder`, which was there already, holds another run's checkpoint."""
    spec, card = read_config(folder)
    found = (spec.architecture.name, card.dataset, card.recipe, card.seed, card.filter_seed, card.epochs)
    wanted = (run.model, run.dataset, run.recipe, run.seed, run.filter_seed, run.resolved_recipe().epochs)
    if found != wanted:
        raise CheckpointError(
            f"{folder} holds another run than the sweep's ({', '.join(map(str, found))}, expected"
            f" {', '.join(map(str, wanted))}): move it away, or choose another --output"
        )


@dataclass(frozen=True)
class Column:
    """What is compared over seeds: clean accuracy, or robust accuracy under one attack and threat model."""

    title: str
    accuracies: tuple[tuple[SweepResult, Accuracy], ...]


def columns(found: Sequence[SweepResult], records: Sequence[EvaluationRecord]) -> tuple[Column, ...]:
    """Return the accuracies that `found` has, clean first, then by attack and radius."""
    by_id = {record.id: record for record in records}
    titled: dict[tuple[str, str, float], list[tuple[SweepResult, Accuracy]]] = {
        ("clean", "", 0.0): [(result, result.card.clean) for result in found]
    }
    for result in found:
        for record in (by_id[name] for name in result.records if name in by_id):
            model = record.threat_model
            key = (record.attack.name, model.norm.value, float(model.eps))
            titled.setdefault(key, []).append((result, record.robust))
    titles = {key: " ".join(str(part) for part in key if part) for key in titled}
    for record in records:
        key = (record.attack.name, record.threat_model.norm.value, float(record.threat_model.eps))
        titles[key] = f"{record.attack.name} {record.threat_model.value}"
    order = sorted(titled, key=lambda key: (key[0] != "clean", key))
    return tuple(Column(titles[key], tuple(titled[key])) for key in order)
