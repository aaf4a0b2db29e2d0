"""`mixbench eval`: attack a model and record what survives."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.attacks import Attack
    from mixbench.evaluation import Evaluation, Plan, ProgressCallback
    from mixbench.records import EvaluationRecord
    from mixbench.threat_model import ThreatModel

_INTERRUPTED = 130
_UNFINISHED = ".unfinished"


def evaluate_model(
    model: Annotated[str, typer.Option(help="A zoo name, timm:NAME, local-dir:FOLDER, hf-hub:ID or module:factory.")],
    attack: Annotated[str, typer.Option(help="fgsm, pgd or autoattack.")] = "autoattack",
    dataset: Annotated[
        str | None, typer.Option(help="A name, parquet:FOLDER or images:FOLDER. [default: its own]")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1. [default: the dataset's]")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius in [0, 1] pixel units, or several: 1/255,8/255. [default: the dataset's]")
    ] = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    subset: Annotated[str | None, typer.Option(help="A named subset; see mixbench datasets.")] = None,
    n_examples: Annotated[int | None, typer.Option(help="A class-balanced choice of that many examples.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The run seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="PGD: gradient steps. [default: 20]")] = None,
    engine: Annotated[
        str | None, typer.Option(help="fast or reference. [default: fast for autoattack in Linf and L2]")
    ] = None,
    relative_step_size: Annotated[float | None, typer.Option(help="PGD: step over eps. [default: 0.1]")] = None,
    restarts: Annotated[int | None, typer.Option(help="PGD: independent runs. [default: 1]")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for the model.")] = None,
    trust_pickle: Annotated[bool, typer.Option(help="Load tensors from a pickle.")] = False,
    device: Device = "auto",
    block_size: Annotated[int, typer.Option(help="Examples the attack sees at once; part of the protocol.")] = 1000,
    micro_batch: Annotated[int | None, typer.Option(help="Images passed at once. [default: what fits]")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of records.")] = Path("runs"),
    workspace: Annotated[Path | None, typer.Option(help="Folder for finished blocks. [default: inside --runs]")] = None,
    save_adversarials: Annotated[bool, typer.Option(help="Keep the adversarial images.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Evaluate again although the records exist.")] = False,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Attack a model and record what survives; the same command resumes an interrupted run."""
    from mixbench.datasets import load_examples
    from mixbench.evaluation import plan
    from mixbench.models import load_model

    chosen = with_pgd_options(attack_by(attack, engine, norm), steps, relative_step_size, restarts)
    torch_device = resolve_device(device)
    _check_eps(norm, eps)
    loaded = load_model(model, checkpoint=checkpoint, trust_pickle=trust_pickle)
    name = dataset or loaded.dataset
    if name is None:
        raise InvalidInputError(f"it is not known what {model} was trained on: name the data with --dataset")
    examples = load_examples(
        name,
        split=split,
        data_dir=data_dir,
        cache_dir=cache_folder(cache_dir),
        subset=subset,
        n_examples=n_examples,
        seed=seed,
    )
    threat_models = default_threat_models(name, norm, eps)
    run_plan = plan(loaded, examples, chosen, threat_models, seed=seed, block_size=block_size)
    records = () if overwrite else _existing(run_plan, runs, with_adversarials=save_adversarials)
    if not records:
        folder = workspace or runs / _UNFINISHED / run_plan.key
        records = _run(run_plan, runs, folder, torch_device, micro_batch, save_adversarials=save_adversarials)
    _print_result(records, runs, as_json=as_json)


def attack_by(name: str, engine: str | None, norm: str | None) -> "Attack":
    """Return the attack called `name` on `engine`: by default fast for AutoAttack where it knows `norm`."""
    from mixbench.attacks import attack_named, usual_engine
    from mixbench.threat_model import Norm

    parsed = None if norm is None else Norm.parse(norm)
    return attack_named(name, engine=engine or usual_engine(name, parsed))


def with_pgd_options(
    attack: "Attack", steps: int | None, relative_step_size: float | None, restarts: int | None
) -> "Attack":
    """Return `attack` with those of its parameters that are given; raises InvalidInputError if it has none."""
    from dataclasses import replace

    from mixbench.attacks import PGD

    given = {"steps": steps, "relative_step_size": relative_step_size, "restarts": restarts}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return attack
    if not isinstance(attack, PGD):
        option = next(iter(changes)).replace("_", "-")
        raise InvalidInputError(f"--{option} is for --attack pgd; {attack.name} has no such parameter: leave it out")
    return replace(attack, **changes)


def _check_eps(norm: str | None, eps: str | None) -> None:
    """Refuse a bad norm or radius before anything is loaded."""
    from mixbench.threat_model import Norm, ThreatModel, parse_eps

    parsed = None if norm is None else Norm.parse(norm)
    for text in [] if eps is None else eps.split(","):
        ThreatModel(parsed or Norm.LINF, parse_eps(text))


def default_threat_models(dataset: str, norm: str | None, eps: str | None) -> "list[ThreatModel]":
    """Return the threat models that the options ask for, or the dataset's default one."""
    from mixbench.datasets import CATALOGUE
    from mixbench.threat_model import Norm, ThreatModel, parse_eps

    default = CATALOGUE[dataset].default_threat_model if dataset in CATALOGUE else None
    chosen = Norm.parse(norm) if norm is not None else (default.norm if default is not None else Norm.LINF)
    if eps is not None:
        return [ThreatModel(chosen, parse_eps(text)) for text in eps.split(",")]
    if default is None or default.norm is not chosen:
        raise InvalidInputError(
            f"{dataset} has no default radius for {chosen.value}: give it with --eps, such as 8/255"
        )
    return [default]


def _existing(run_plan: "Plan", runs: Path, *, with_adversarials: bool) -> "tuple[EvaluationRecord, ...]":
    """Return all records of the plan, and say so, if every one is in the store; else none."""
    from mixbench.store import Store

    found = [Store(runs).find(record_id) for record_id in run_plan.record_ids]
    complete = [record for record in found if record is not None]
    if len(complete) < len(found):
        return ()
    kept = all(record.adversarials_sha256 is not None for record in complete)
    if with_adversarials and not kept:
        return ()
    made = complete[0].provenance
    typer.echo(
        f"these records exist already (made {made.started:%Y-%m-%d} on {made.device}); --overwrite evaluates again",
        err=True,
    )
    return tuple(complete)


def _run(
    run_plan: "Plan",
    runs: Path,
    workspace: Path,
    device: str,
    micro_batch: int | None,
    *,
    save_adversarials: bool,
) -> "tuple[EvaluationRecord, ...]":
    from mixbench.evaluation import evaluate, remove_workspace

    try:
        with progress_bar() as progress:
            evaluations = evaluate(
                run_plan, workspace=workspace, device=device, micro_batch=micro_batch, progress=progress
            )
        records = tuple(_stored(evaluation, runs, save_adversarials=save_adversarials) for evaluation in evaluations)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; what was finished is kept in {workspace}: run the same command again to go on", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None
    remove_workspace(workspace)
    with suppress(OSError):  # other runs may be unfinished
        (runs / _UNFINISHED).rmdir()
    return records


def _stored(evaluation: "Evaluation", runs: Path, *, save_adversarials: bool) -> "EvaluationRecord":
    """Store an evaluation and return its record as it now stands on disk."""
    from mixbench.store import Store, load_record

    adversarials = evaluation.adversarials_bytes() if save_adversarials else None
    return load_record(Store(runs).add(evaluation.record, examples=evaluation.examples, adversarials=adversarials))


@contextmanager
def progress_bar() -> "Generator[ProgressCallback | None]":
    """Draw how far the run has come on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from mixbench.evaluation import Progress as Moment

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("classifying", total=None)

        def draw(moment: Moment) -> None:
            clean = f"clean {moment.clean.rate:.1%}" if moment.clean else ""
            robust = f"robust <= {moment.robust.rate:.1%}" if moment.robust else ""
            where = f"block {moment.block + 1}/{moment.blocks} eps {moment.eps} {moment.stage}"
            bar.update(task, description=f"{where}  {clean}  {robust}", completed=moment.done, total=moment.total)

        yield draw


def _print_result(records: "tuple[EvaluationRecord, ...]", runs: Path, *, as_json: bool) -> None:
    if as_json:
        content = [{"folder": str(runs / record.id), "record": record.model_dump(mode="json")} for record in records]
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    from mixbench.cli.tables import console, summary

    console().print(summary(records))
    for record in records:
        typer.echo(f"record: {runs / record.id}")
        for warning in record.warnings:
            typer.echo(f"warning: {warning}", err=True)
