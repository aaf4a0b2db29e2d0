"""`mixbench probe`: can a model decode shuffled pixels, and does it recognise shuffled images?"""

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.probe_record import ProbeRecord
    from mixbench.probes import ProbeResult, ProgressCallback, RecognizePlan, UnshufflePlan

_INTERRUPTED = 130
_UNFINISHED = ".unfinished"


class Probe(StrEnum):
    """What is asked of the model."""

    UNSHUFFLE = "unshuffle"
    RECOGNIZE = "recognize"


def probe_model(
    model: Annotated[
        str, typer.Option(help="unshuffle: convmixer_MODE, or several by commas; recognize: as for mixbench eval.")
    ],
    probe: Annotated[Probe, typer.Option(help="Train decoders, or measure a checkpoint.")] = Probe.UNSHUFFLE,
    dataset: Annotated[str | None, typer.Option(help="[default: digits, or what the checkpoint learned]")] = None,
    permutation_seeds: Annotated[str, typer.Option(help="Seeds of the permutations.")] = "0,1,2",
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values, order and noise.")] = 0,
    filter_seed: Annotated[int, typer.Option(help="unshuffle: seed of the filters.")] = 0,
    size: Annotated[str | None, typer.Option(help="unshuffle: tiny, small or large. [default: the images']")] = None,
    depth: Annotated[int | None, typer.Option(help="unshuffle: blocks. [default: the size's]")] = None,
    width: Annotated[int | None, typer.Option(help="unshuffle: channels. [default: the size's]")] = None,
    kernel: Annotated[
        int | None, typer.Option(help="unshuffle: taps of a filter's side. [default: the size's]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="unshuffle: of each decoder. [default: the size's]")] = None,
    n_examples: Annotated[int | None, typer.Option(help="A class-balanced choice of that many test examples.")] = None,
    retrain: Annotated[bool, typer.Option(help="recognize: also fit a linear readout on frozen features.")] = False,
    pictures: Annotated[Path | None, typer.Option(help="unshuffle: write a contact sheet into this folder.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="recognize: weights for the model.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of records.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option(help="Probe again although the record exists.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Shuffle pixels by a fixed permutation and measure what a model makes of it; the same command resumes."""
    from mixbench.datasets import load_examples

    seeds, target = _parse_seeds(permutation_seeds), resolve_device(device)

    def load(name: str, split: str) -> "Examples":
        chosen = n_examples if split == "test" else None
        folder = cache_folder(cache_dir)
        return load_examples(name, split=split, data_dir=data_dir, cache_dir=folder, n_examples=chosen, seed=seed)

    unshuffle_only = {"size": size, "depth": depth, "width": width, "kernel": kernel, "epochs": epochs}
    if probe is Probe.RECOGNIZE:
        _refuse_given(unshuffle_only | {"pictures": pictures}, probe)
        from mixbench.models import load_model
        from mixbench.probes import plan_recognize

        loaded = load_model(model, checkpoint=checkpoint)
        name = dataset or loaded.dataset
        if name is None:
            raise InvalidInputError(f"it is not known what {model} was trained on: name the data with --dataset")
        train = load(name, "train") if retrain else None
        recognize = plan_recognize(loaded, load(name, "test"), train=train, permutation_seeds=seeds, seed=seed)
        records = (_probed(recognize, runs, target, overwrite=overwrite),)
    else:
        _refuse_given({"retrain": retrain or None, "checkpoint": checkpoint}, probe)
        from mixbench.probes import plan_unshuffle

        name = dataset or "digits"
        train, test = load(name, "train"), load(name, "test")
        plans = [
            plan_unshuffle(
                one.strip(), train, test, permutation_seeds=seeds, seed=seed, filter_seed=filter_seed, size=size,
                depth=depth, width=width, kernel=kernel, epochs=epochs,
            )
            for one in model.split(",")
        ]  # fmt: skip
        records = tuple(_probed(plan, runs, target, overwrite=overwrite) for plan in plans)
    sheet = None if pictures is None else _draw(records, runs, pictures)
    _print_result(records, runs, sheet, as_json=as_json)


def _parse_seeds(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) < 2**32 for word in words):
        raise InvalidInputError(f"permutation seeds {text!r} are not whole numbers below 2**32: write them as 0,1,2")
    return tuple(sorted({int(word) for word in words}))


def _refuse_given(options: Mapping[str, object], probe: Probe) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidInputError(f"--{name} {value} does not belong to --probe {probe.value}: leave it out")


def _probed(plan: "UnshufflePlan | RecognizePlan", runs: Path, device: str, *, overwrite: bool) -> "ProbeRecord":
    """Return the record of `plan`, from the store if it is there."""
    from mixbench.store import Store

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


def _run(
    plan: "UnshufflePlan | RecognizePlan", device: str, workspace: Path, progress: "ProgressCallback | None"
) -> "ProbeResult":
    from mixbench.probes import UnshufflePlan, probe_recognize, probe_unshuffle

    if isinstance(plan, UnshufflePlan):
        return probe_unshuffle(plan, device=device, workspace=workspace, progress=progress)
    return probe_recognize(plan, device=device, progress=progress)


def _remove_states(workspace: Path) -> None:
    shutil.rmtree(workspace, ignore_errors=True)
    with suppress(OSError):  # other runs may be unfinished
        workspace.parent.rmdir()


def _draw(records: "tuple[ProbeRecord, ...]", runs: Path, folder: Path) -> Path:
    from mixbench.probes import Decoded, write_contact_sheet
    from mixbench.store import SAMPLES_NAME

    decoded = [Decoded.read(record, (runs / record.id / SAMPLES_NAME).read_bytes()) for record in records]
    return write_contact_sheet(folder, tuple(decoded))


@contextmanager
def _progress_bar(title: str) -> "Generator[ProgressCallback | None]":
    """Draw how far the probe has come on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mixbench.probes import Moment

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=None)

        def draw(moment: Moment) -> None:
            text = f"{moment.subject}  loss {moment.loss:.4f}"
            bar.update(task, description=text, completed=moment.done, total=moment.total)

        yield draw


def _print_result(records: "tuple[ProbeRecord, ...]", runs: Path, sheet: Path | None, *, as_json: bool) -> None:
    if as_json:
        content = [{"folder": str(runs / record.id), "record": record.model_dump(mode="json")} for record in records]
        typer.echo(json.dumps(content, indent=2))
        return
    from mixbench.cli.tables import console, probe_summary

    for record in records:
        console().print(probe_summary(record))
        typer.echo(f"record: {runs / record.id}")
        for warning in record.warnings:
            typer.echo(f"warning: {warning}", err=True)
    if sheet is not None:
        typer.echo(f"pictures: {sheet}")
