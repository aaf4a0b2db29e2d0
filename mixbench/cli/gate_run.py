"""The evaluations that a gate's configuration names: planned, checked against the baselines, run."""

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixbench.cli.eval import default_threat_models, progress_bar, with_pgd_options
from mixbench.cli.options import cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.evaluation import Plan
    from mixbench.gate import EvaluationEntry, GateConfig, Pair
    from mixbench.records import (
        AttackIdentity,
        DatasetIdentity,
        ModelIdentity,
        Protocol,
        ThreatModelField,
    )
    from mixbench.store import Store

_INTERRUPTED = 130
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class _PlannedRecord:
    """A record that is going to be made."""

    id: str
    model: "ModelIdentity"
    dataset: "DatasetIdentity"
    attack: "AttackIdentity"
    threat_model: "ThreatModelField"
    protocol: "Protocol"
    margin: float


@dataclass(frozen=True)
class _Job:
    """One model of one entry; `records` are what it will make, one for each radius."""

    plan: "Plan"
    margin: float

    @property
    def records(self) -> "tuple[_PlannedRecord, ...]":
        from mixbench.records import ThreatModelField

        plan = self.plan
        return tuple(
            _PlannedRecord(
                record_id,
                plan.model.identity,
                plan.dataset,
                plan.attack_identity,
                ThreatModelField.of(threat_model),
                protocol,
                self.margin,
            )
            for record_id, threat_model, protocol in zip(
                plan.record_ids, plan.threat_models, plan.protocols, strict=True
            )
        )


def candidates(
    config: "GateConfig", *, runs: Path, device: str, data_dir: Path | None, cache_dir: Path | None
) -> "tuple[Pair, ...]":
    """Run the evaluations of `config` and return each candidate with its baseline.

    What has no baseline, or one of another protocol, is refused before anything is run.
    """
    from mixbench.gate import Pair, baseline_of
    from mixbench.store import Store, load_evaluation

    jobs = _jobs(config, data_dir=data_dir, cache_dir=cache_folder(cache_dir))
    stored = Store(config.baseline).evaluations()
    planned = [record for job in jobs for record in job.records]
    baselines = [baseline_of(record, stored) for record in planned]
    _run(jobs, store=runs, runs=runs, device=resolve_device(device))
    return tuple(
        Pair(baseline, load_evaluation(runs / record.id), record.margin)
        for record, baseline in zip(planned, baselines, strict=True)
    )


def write_baselines(
    config: "GateConfig", *, runs: Path, device: str, data_dir: Path | None, cache_dir: Path | None
) -> None:
    """Run the evaluations of `config` and make them the baselines; what they supersede is deleted."""
    from mixbench.gate import is_superseded
    from mixbench.store import Store

    jobs = _jobs(config, data_dir=data_dir, cache_dir=cache_folder(cache_dir))
    _run(jobs, store=config.baseline, runs=runs, device=resolve_device(device))
    planned = [record for job in jobs for record in job.records]
    for old in Store(config.baseline).evaluations():
        if any(is_superseded(old.record, by=record) for record in planned):
            shutil.rmtree(old.folder)
    typer.echo(f"{config.baseline}: {len(planned)} baselines written; look at what changed, and commit it")


def _jobs(config: "GateConfig", *, data_dir: Path | None, cache_dir: Path) -> "list[_Job]":
    loaded: dict[tuple[object, ...], Examples] = {}
    jobs = [
        _Job(
            _plan(entry, model, loaded, data_dir=data_dir, cache_dir=cache_dir),
            config.margin if entry.margin is None else entry.margin,
        )
        for entry in config.evaluations
        for model in entry.models
    ]
    ids = [record.id for job in jobs for record in job.records]
    if twice := next((record_id for record_id in ids if ids.count(record_id) > 1), None):
        raise InvalidInputError(f"the configuration names {twice} twice: leave one of the two out")
    return jobs


def _plan(
    entry: "EvaluationEntry",
    model: str,
    loaded_examples: "dict[tuple[object, ...], Examples]",
    *,
    data_dir: Path | None,
    cache_dir: Path,
) -> "Plan":
    from mixbench.attacks import attack_named
    from mixbench.datasets import load_examples
    from mixbench.evaluation import plan
    from mixbench.models import load_model

    attack = with_pgd_options(attack_named(entry.attack), entry.steps, entry.relative_step_size, entry.restarts)
    loaded = load_model(model, checkpoint=entry.checkpoint)
    name = entry.dataset or loaded.dataset
    if name is None:
        raise InvalidInputError(f"it is not known what {model} was trained on: name the data with its key dataset")
    threat_models = default_threat_models(name, entry.norm, None if entry.eps is None else ",".join(entry.eps))
    key = (name, entry.split, entry.subset, entry.n_examples, entry.seed)
    if key not in loaded_examples:
        loaded_examples[key] = load_examples(
            name,
            split=entry.split,
            data_dir=data_dir,
            cache_dir=cache_dir,
            subset=entry.subset,
            n_examples=entry.n_examples,
            seed=entry.seed,
        )
    return plan(loaded, loaded_examples[key], attack, threat_models, seed=entry.seed, block_size=entry.block_size)


def _run(jobs: "list[_Job]", *, store: Path, runs: Path, device: str) -> None:
    """Evaluate every job into `store`; what an interrupted call finished is taken up.

    A call that ended evaluates anew, whatever is in `store`: the code may have changed while the weights did not.
    """
    from mixbench.store import EXAMPLES_NAME, Store

    ids = [record.id for job in jobs for record in job.records]
    unfinished = runs / _UNFINISHED / f"gate-{hashlib.sha256(''.join(ids).encode()).hexdigest()[:16]}"
    finished = Store(unfinished / "records")
    try:
        for number, job in enumerate(jobs, start=1):
            typer.echo(f"{number} of {len(jobs)}: {job.plan.model.identity.name}, {job.plan.attack.name}", err=True)
            if not _is_finished(job, finished, device=device):
                _evaluate(job, finished, workspace=unfinished / "blocks" / str(number), device=device)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; what was finished is kept in {unfinished}: run the same command again to go on", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None
    for evaluation in finished.evaluations():
        Store(store).add(evaluation.record, examples=(evaluation.folder / EXAMPLES_NAME).read_bytes())
    shutil.rmtree(unfinished)
    with suppress(OSError):  # other runs may be unfinished
        (runs / _UNFINISHED).rmdir()


def _evaluate(job: "_Job", store: "Store", *, workspace: Path, device: str) -> None:
    from mixbench.evaluation import evaluate, remove_workspace

    with progress_bar() as progress:
        for evaluation in evaluate(job.plan, workspace=workspace, device=device, progress=progress):
            store.add(evaluation.record, examples=evaluation.examples)
    remove_workspace(workspace)


def _is_finished(job: "_Job", store: "Store", *, device: str) -> bool:
    """Return whether all records of `job` are there, made by the program and on the device of now."""
    import torch

    from mixbench.records import Provenance

    now = Provenance.collect(device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu")
    found = [store.find(record.id) for record in job.records]
    return all(
        record is not None and record.provenance.model_copy(update={"started": now.started}) == now for record in found
    )
