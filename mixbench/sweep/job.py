"""One run of a sweep: train, evaluate, keep the result."""

import shutil
from contextlib import suppress
from dataclasses import dataclass

import torch

from mixbench.attacks import attack_named
from mixbench.datasets import load_examples
from mixbench.errors import CheckpointError, MixbenchError
from mixbench.evaluation import evaluate, plan, remove_workspace
from mixbench.files import write_atomically
from mixbench.models import LoadedModel, load_model, read_config
from mixbench.store import Store
from mixbench.sweep.grid import Grid
from mixbench.sweep.results import RECORDS, RESULTS, SweepResult, other_run
from mixbench.training import UNFINISHED, Places, TrainingRun, train_to_folder


@dataclass(frozen=True)
class Job:
    """A run, and the grid that asks for it."""

    run: TrainingRun
    grid: Grid


def outcome_of(job: Job, places: Places) -> SweepResult | MixbenchError:
    """Return the result of a run, which is then on disk, or the error that ended it."""
    if places.device.startswith("cuda"):
        torch.cuda.set_device(places.device)
    try:
        return _perform(job, places)
    except MixbenchError as error:
        return error


def _perform(job: Job, places: Places) -> SweepResult:
    run, folder = job.run, places.output / job.run.name
    if not folder.exists():
        train_to_folder(run, places, overwrite=False)
    spec, card = read_config(folder)
    if fault := other_run(spec.architecture.name, card, run):
        raise CheckpointError(
            f"{folder} holds another run than the sweep's ({fault}): move it away, or choose another --output"
        )
    records = _evaluated(job, places, load_model(f"local-dir:{folder}"))
    result = SweepResult(name=run.name, model=run.model, card=card, records=records, evaluation=job.grid.evaluation)
    write_atomically(places.output / RESULTS / f"{run.name}.json", (result.model_dump_json(indent=2) + "\n").encode())
    if not job.grid.keep_weights:
        shutil.rmtree(folder)
    return result


def _evaluated(job: Job, places: Places, loaded: LoadedModel) -> tuple[str, ...]:
    """Return the ids of all records that the grid asks for, which are then in the store."""
    store, records = Store(places.output / RECORDS), list[str]()
    for evaluation in job.grid.evaluation:
        examples = load_examples(
            job.run.dataset,
            data_dir=places.data_dir,
            cache_dir=places.cache_dir,
            n_examples=evaluation.n_examples,
            seed=evaluation.seed,
        )
        attack = attack_named(evaluation.attack)
        run_plan = plan(loaded, examples, attack, evaluation.threat_models(), seed=evaluation.seed)
        records.extend(run_plan.record_ids)
        if all(store.find(record_id) is not None for record_id in run_plan.record_ids):
            continue
        workspace = places.output / UNFINISHED / run_plan.key
        for done in evaluate(run_plan, workspace=workspace, device=places.device):
            store.add(done.record, examples=done.examples)
        remove_workspace(workspace)
        with suppress(OSError):  # other runs may be unfinished
            workspace.parent.rmdir()
    return tuple(dict.fromkeys(records))
