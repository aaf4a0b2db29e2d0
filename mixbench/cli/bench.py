"""`mixbench bench`: what things cost, beside their reference in the same run."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.bench_autoattack import bench_autoattack, parse_sizes
from mixbench.cli.options import AsJson, CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.evaluation import Comparison
    from mixbench.training import EpochTime

bench = typer.Typer(help="Measure speed beside a reference, in one run.", no_args_is_help=True, rich_markup_mode=None)


@bench.callback()
def _bench() -> None:
    """Measure speed beside a reference, in one run."""


bench.command("autoattack")(bench_autoattack)


@bench.command("eval")
def bench_eval(
    model: Annotated[str, typer.Option(help="As for mixbench eval.")] = "convmixer_frozen",
    dataset: Annotated[str | None, typer.Option(help="[default: what the model learned]")] = None,
    norm: Annotated[str, typer.Option(help="Linf, L2 or L1.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="[default: the dataset's]")] = None,
    n_examples: Annotated[int | None, typer.Option(help="[default: all]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The run seed.")] = 0,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes of the bare library.")] = "250,500,1000",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for the model.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Time AutoAttack through the harness and through bare pyautoattack at its best batch size."""
    from mixbench.attacks import attack_named
    from mixbench.cli.eval import default_threat_models
    from mixbench.datasets import load_examples
    from mixbench.evaluation import compare_with_bare, plan
    from mixbench.models import load_model

    sizes = parse_sizes(batch_sizes)
    loaded = load_model(model, checkpoint=checkpoint)
    name = dataset or loaded.dataset or "digits"
    folder = cache_folder(cache_dir)
    examples = load_examples(name, data_dir=data_dir, cache_dir=folder, n_examples=n_examples, seed=seed)
    threat_models = default_threat_models(name, norm, eps)
    if len(threat_models) > 1:
        raise InvalidInputError(f"eps {eps} names several radii: bench measures one at a time")
    run_plan = plan(
        loaded, examples, attack_named("autoattack"), threat_models, seed=seed, block_size=max(len(examples), 1)
    )
    result = compare_with_bare(run_plan, device=resolve_device(device), batch_sizes=sizes)
    if as_json:
        content = {
            "record": result.record.model_dump(mode="json"),
            "harness_seconds": result.harness_seconds,
            "bare": [dataclasses.asdict(run) for run in result.bare],
            "ratio": result.ratio,
            "agreement": result.agreement,
        }
        typer.echo(json.dumps(content, indent=2))
        return
    _print_comparison(result, title=f"{loaded.identity.name}, {len(examples)} examples of {name}")


@bench.command("train")
def bench_train(
    model: Annotated[str, typer.Option(help="An architecture.")] = "convmixer_trained",
    dataset: Annotated[str, typer.Option(help="What to train on.")] = "digits",
    recipe: Annotated[str, typer.Option(help="standard, linf or l2.")] = "standard",
    kernel_size: Annotated[int | None, typer.Option(help="ConvMixer: side of a filter, in taps.")] = None,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of mixbench's own loop; the first warms up.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="The training seed.")] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Time an epoch of training beside the usual DataLoader loop, in float32 and in AMP."""
    from mixbench.datasets import load_examples
    from mixbench.training import TrainingRun, time_training

    run = TrainingRun(model, dataset, recipe, seed, filter_seed=0)
    spec = run.spec()
    if kernel_size is not None:
        if "kernel_size" not in spec.args:
            raise InvalidInputError(f"{model} has no kernel size to choose: leave out --kernel-size {kernel_size}")
        spec = dataclasses.replace(spec, args={**spec.args, "kernel_size": kernel_size})
    examples = load_examples(dataset, split="train", data_dir=data_dir, cache_dir=cache_folder(cache_dir), seed=seed)
    chosen = resolve_device(device)
    times = time_training(spec, examples, run.resolved_recipe(), seed=seed, device=chosen, epochs=epochs)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in times], indent=2))
        return
    _print_times(times, title=f"{model} on {dataset}, {recipe}, {_device_name(chosen)}")


@bench.command("probe")
def bench_probe(
    model: Annotated[str, typer.Option(help="convmixer_MODE.")] = "convmixer_frozen",
    dataset: Annotated[str, typer.Option(help="What decoders are trained on.")] = "digits",
    size: Annotated[str | None, typer.Option(help="tiny, small or large. [default: the images']")] = None,
    n_train: Annotated[int | None, typer.Option(help="A class-balanced choice of that many examples.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values, order and choice.")] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Time an epoch of decoder training beside the same network as timm computes it, in float32."""
    from mixbench.datasets import load_examples
    from mixbench.probes import DecoderChoice, plan_unshuffle, time_decoders

    folder = cache_folder(cache_dir)
    train, test = (
        load_examples(dataset, split=split, data_dir=data_dir, cache_dir=folder, n_examples=n, seed=seed)
        for split, n in (("train", n_train), ("test", None))
    )
    plan = plan_unshuffle(model, train, test, permutation_seeds=(0,), seed=seed, choice=DecoderChoice(size=size))
    chosen = resolve_device(device)
    times = time_decoders(plan, device=chosen)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in times], indent=2))
        return
    from rich.table import Table

    from mixbench.cli.tables import console

    spec, title = plan.spec, f"{model} decoder on {dataset}, {_device_name(chosen)}"
    table = Table("way", "s an epoch", "times mixbench", "loss", "peak memory", title=title)
    for one in times:
        memory = f"{one.peak_memory_bytes / 2**20:.0f} MiB"
        table.add_row(one.way, f"{one.seconds:.3f}", f"{one.seconds / times[0].seconds:.2f}", f"{one.loss:.4f}", memory)
    console().print(table)
    typer.echo(
        f"depth {spec.depth}, width {spec.width}, kernel {spec.kernel}, batch size {plan.budget.batch_size},"
        f" {len(train)} examples an epoch, {plan.budget.epochs} epochs a decoder"
    )


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def _print_times(times: "tuple[EpochTime, ...]", *, title: str) -> None:
    from rich.table import Table

    from mixbench.cli.tables import console

    own = times[0].seconds
    table = Table("way", "s an epoch", "first epoch", "times mixbench", "loss", "peak memory", title=title)
    for one in times:
        first = "" if one.first_seconds is None else f"{one.first_seconds:.2f}"
        memory = f"{one.peak_memory_bytes / 2**20:.0f} MiB"
        table.add_row(one.way, f"{one.seconds:.3f}", first, f"{one.seconds / own:.2f}", f"{one.loss:.3f}", memory)
    console().print(table)


def _print_comparison(result: "Comparison", *, title: str) -> None:
    from rich.table import Table

    from mixbench.cli.tables import console, percent

    record = result.record
    table = Table("what", "batch", "seconds", "robust", title=title)
    table.add_row("mixbench", str(record.dataset.n), f"{result.harness_seconds:.2f}", str(record.robust.correct))
    for run in result.bare:
        table.add_row("pyautoattack", str(run.batch_size), f"{run.seconds:.2f}", str(run.robust))
    console().print(table)
    for stage, seconds in record.cost.seconds_by_stage.items():
        typer.echo(f"  {stage}: {seconds:.2f} s, broke {record.broken_by.get(stage, 0)}")
    typer.echo(f"ratio to the fastest bare run: {result.ratio:.3f}; same verdicts: {result.agreement:.2%}")
    typer.echo(f"robust accuracy {percent(record.robust)}, {record.threat_model.norm} {record.threat_model.eps}")
    peak = record.cost.peak_memory_bytes / 2**20
    typer.echo(
        f"{record.cost.forwards} forwards, {record.cost.backwards} backwards, peak memory {peak:.0f} MiB,"
        f" {record.provenance.device}"
    )
