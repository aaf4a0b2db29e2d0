"""What `mixbench probe` does: checks everything before data are read, then probes one model after the other."""

import fnmatch
import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import typer

from mixbench.cli.tables import console, probe_summary
from mixbench.datasets import CATALOGUE, Examples, load_examples
from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.models import LoadedModel, load_model, zoo_names
from mixbench.probe_record import ProbeRecord
from mixbench.probes import (
    Decoded,
    DecoderChoice,
    Moment,
    ProbeResult,
    ProgressCallback,
    RecognizePlan,
    UnshufflePlan,
    check_recognize,
    check_unshuffle,
    plan_recognize,
    plan_unshuffle,
    probe_recognize,
    probe_unshuffle,
    write_contact_sheet,
)
from mixbench.store import SAMPLES_NAME, Store

_INTERRUPTED = 130
_UNFINISHED = ".unfinished"

Plan = UnshufflePlan | RecognizePlan


@dataclass(frozen=True)
class ExampleLoader:
    """Reads each split once; `chosen` has how many examples of "train" and "test", None for all."""

    data_dir: Path | None
    cache_dir: Path
    seed: int
    chosen: Mapping[str, int | None]
    _read: dict[tuple[str, str], Examples] = field(default_factory=dict[tuple[str, str], Examples])

    def __call__(self, name: str, split: str) -> Examples:
        """Return the examples of a split."""
        if (name, split) not in self._read:
            self._read[name, split] = load_examples(
                name,
                split=split,
                data_dir=self.data_dir,
                cache_dir=self.cache_dir,
                n_examples=self.chosen[split],
                seed=self.seed,
            )
        return self._read[name, split]


def unshuffle_plans(
    models: Sequence[str], datasets: Sequence[str], load: ExampleLoader, seeds: tuple[int, ...], choice: DecoderChoice
) -> list[Plan]:
    """Return a plan for each decoder on each dataset; what is known of a dataset is checked before it is read."""
    for name in datasets:
        for model in models if name in CATALOGUE else ():
            size = CATALOGUE[name].image_size
            check_unshuffle(model, choice, dataset=name, image_size=size, permutation_seeds=seeds)
    return [
        plan_unshuffle(
            model, load(name, "train"), load(name, "test"), permutation_seeds=seeds, seed=load.seed, choice=choice
        )
        for name in datasets
        for model in models
    ]


def recognize_plans(
    models: Sequence[str],
    datasets: Sequence[str] | None,
    load: ExampleLoader,
    seeds: tuple[int, ...],
    *,
    checkpoint: Path | None,
    retrain: bool,
) -> list[Plan]:
    """Return a plan for each checkpoint on each dataset, or on what it was trained on; as `unshuffle_plans`."""
    names = _checkpoints(models)
    if checkpoint is not None and len(names) > 1:
        raise InvalidInputError(f"--checkpoint {checkpoint} belongs to one model, not to {len(names)}: name one model")
    pairs = [
        (loaded, name)
        for loaded in (load_model(name, checkpoint=checkpoint) for name in names)
        for name in datasets or (_learned(loaded),)
    ]
    for loaded, name in pairs:
        if name in CATALOGUE:
            size = CATALOGUE[name].image_size
            check_recognize(loaded, dataset=name, image_size=size, permutation_seeds=seeds, retrain=retrain)
    return [
        plan_recognize(
            loaded,
            load(name, "test"),
            train=load(name, "train") if retrain else None,
            permutation_seeds=seeds,
            seed=load.seed,
        )
        for loaded, name in pairs
    ]


def _checkpoints(patterns: Sequence[str]) -> list[str]:
    """Return the names that are meant; a pattern stands for the checkpoints of the zoo that it matches."""
    names: dict[str, None] = {}
    for pattern in patterns:
        if not set(pattern) & set("*?["):
            names[pattern] = None
            continue
        found = fnmatch.filter(zoo_names(), pattern)
        if not found:
            raise UnknownNameError("model", pattern, zoo_names())
        names.update(dict.fromkeys(found))
    return list(names)


def _learned(loaded: LoadedModel) -> str:
    if loaded.dataset is None:
        name = loaded.identity.name
        raise InvalidInputError(f"it is not known what {name} was trained on: name the data with --dataset")
    return loaded.dataset


def run_plans(
    plans: Sequence[Plan], runs: Path, device: str, *, overwrite: bool, pictures: Path | None
) -> tuple[list[ProbeRecord], list[Path]]:
    """Return the records of all plans and the sheets drawn, one for each dataset, as soon as it is done."""
    records: list[ProbeRecord] = []
    sheets: list[Path] = []
    for number, plan in enumerate(plans):
        records.append(_probed(plan, runs, device, overwrite=overwrite))
        if len(plans) > 1:
            seconds = records[-1].cost.seconds
            typer.echo(f"[{number + 1}/{len(plans)}] {plan.record_id}: {seconds:.0f} s", err=True)
        name = plan.dataset.name
        if pictures is not None and name not in {other.dataset.name for other in plans[number + 1 :]}:
            own = [record for record in records if record.dataset.name == name]
            decoded = [Decoded.read(one, (runs / one.id / SAMPLES_NAME).read_bytes()) for one in own]
            sheets.append(write_contact_sheet(pictures, tuple(decoded)))
    return records, sheets


def _probed(plan: Plan, runs: Path, device: str, *, overwrite: bool) -> ProbeRecord:
    """Return the record of `plan`, from the store if it is there."""
    store = Store(runs)
    found = None if overwrite else store.find_probe(plan.record_id)
    if found is not None:
        made = found.provenance
        typer.echo(
            f"{runs / found.id} exists already (made {made.started:%Y-%m-%d} on {made.device}); --overwrite probes"
            " again",
            err=True,
        )
        return found
    workspace = runs / _UNFINISHED / plan.record_id
    try:
        with _progress_bar(plan.record_id) as progress:
            result = _run(plan, device, workspace, progress)
        store.add_probe(result.record, samples=result.samples, examples=result.examples)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; what was trained is kept in {workspace}: run the same command again to go on", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None
    _remove_states(workspace)
    return result.record


def _run(plan: Plan, device: str, workspace: Path, progress: ProgressCallback | None) -> ProbeResult:
    if isinstance(plan, UnshufflePlan):
        return probe_unshuffle(plan, device=device, workspace=workspace, progress=progress)
    return probe_recognize(plan, device=device, progress=progress)


def _remove_states(workspace: Path) -> None:
    shutil.rmtree(workspace, ignore_errors=True)
    with suppress(OSError):  # other runs may be unfinished
        workspace.parent.rmdir()


@contextmanager
def _progress_bar(title: str) -> Generator[ProgressCallback | None]:
    """Draw how far the probe has come on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    with Progress(*columns, TimeRemainingColumn(), console=terminal) as bar:
        task = bar.add_task(title, total=None)

        def draw(moment: Moment) -> None:
            text = f"{moment.subject}  loss {moment.loss:.4f}"
            bar.update(task, description=text, completed=moment.done, total=moment.total)

        yield draw


def print_result(records: Sequence[ProbeRecord], runs: Path, sheets: Sequence[Path], *, as_json: bool) -> None:
    """Print a table for each record, or all of them as JSON."""
    if as_json:
        content = [{"folder": str(runs / record.id), "record": record.model_dump(mode="json")} for record in records]
        typer.echo(json.dumps(content, indent=2))
        return
    for record in records:
        console().print(probe_summary(record))
        typer.echo(f"record: {runs / record.id}")
        for warning in record.warnings:
            typer.echo(f"warning: {warning}", err=True)
    for sheet in sheets:
        typer.echo(f"pictures: {sheet}")
