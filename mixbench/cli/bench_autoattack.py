"""`mixbench bench autoattack`: the fast engine beside the reference."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from jaxtyping import Int64

    from mixbench.datasets import Examples
    from mixbench.evaluation import EngineComparison, EngineRun
    from mixbench.models import LoadedModel
    from mixbench.threat_model import ThreatModel

_WARM_UP = 32


def bench_autoattack(
    model: Annotated[str, typer.Option(help="As for mixbench eval.")] = "convmixer_frozen",
    dataset: Annotated[str | None, typer.Option(help="[default: what the model learned]")] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="[default: the dataset's]")] = None,
    n_examples: Annotated[str | None, typer.Option(help="How many, or several: 100,300. [default: all]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The run seed.")] = 0,
    batch_sizes: Annotated[str, typer.Option(help="How many images the reference sees at once.")] = "256,512,1000",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for the model.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time against the number of examples: .svg, .png.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Run AutoAttack by the fast engine and by the reference at its best batch size; compare time and verdicts."""
    from mixbench.cli.eval import default_threat_models
    from mixbench.datasets import load_examples
    from mixbench.evaluation import draw_engine_times
    from mixbench.files import check_picture
    from mixbench.models import load_model

    sizes = parse_sizes(batch_sizes)
    if plot is not None:
        check_picture(plot)
    counts = [None] if n_examples is None else _counts(n_examples)
    loaded = load_model(model, checkpoint=checkpoint)
    name = dataset or loaded.dataset or "digits"
    folder, radii = cache_folder(cache_dir), default_threat_models(name, norm, eps)
    if len(radii) > 1:
        raise InvalidInputError(f"eps {eps} names several radii: bench measures one at a time")

    def chosen(n: int | None) -> "Examples":
        return load_examples(name, data_dir=data_dir, cache_dir=folder, n_examples=n, seed=seed)

    examples = [chosen(n) for n in counts]
    few = chosen(min(_WARM_UP, *map(len, examples)))
    title = f"{loaded.identity.name}, {name}, {radii[0]}"
    results: list[EngineComparison] = []
    for result in _compared(loaded, examples, few, radii[0], sizes, seed=seed, device=resolve_device(device)):
        results.append(result)
        if plot is not None:
            draw_engine_times(plot, results, title=title)
        if not as_json:
            _print_engines(result, title=f"{title}, {result.fast.record.dataset.n} examples")
    if as_json:
        typer.echo(json.dumps([_engines_as_json(result) for result in results], indent=2))


def _compared(
    loaded: "LoadedModel",
    examples: "list[Examples]",
    few: "Examples",
    threat_model: "ThreatModel",
    sizes: list[int],
    *,
    seed: int,
    device: str,
) -> "Iterator[EngineComparison]":
    """Yield a comparison for each of `examples`."""
    from mixbench.attacks import attack_named
    from mixbench.evaluation import compare_engines, plan

    fast, reference = (attack_named("autoattack", engine=engine) for engine in ("fast", "reference"))
    easy = _beyond_resistance(threat_model)
    for part in examples:
        blocks = sorted({min(size, len(part)) for size in sizes})
        yield compare_engines(
            plan(loaded, part, fast, [threat_model], seed=seed),
            [plan(loaded, part, reference, [threat_model], seed=seed, block_size=size) for size in blocks],
            warm_up=[plan(loaded, few, attack, [easy], seed=seed) for attack in (fast, reference)],
            device=device,
            progress=_tell_run,
        )


def _counts(text: str) -> list[int]:
    counts = [int(count) if count.strip().isdecimal() else 0 for count in text.split(",")]
    if min(counts) < 1:
        raise InvalidInputError(f"n-examples {text!r} are not whole numbers above 0: write them as 100,300,1000")
    return counts


def _beyond_resistance(threat_model: "ThreatModel") -> "ThreatModel":
    """Return a radius at which the first search breaks everything, so that warming up is short."""
    from fractions import Fraction

    from mixbench.threat_model import Norm, ThreatModel

    return ThreatModel(threat_model.norm, Fraction(1, 2) if threat_model.norm is Norm.LINF else Fraction(8))


def _tell_run(run: "EngineRun") -> None:
    record = run.record
    typer.echo(
        f"{record.attack.implementation}, batch {run.block_size}: {run.seconds:.1f} s, {record.robust.correct} of"
        f" {record.robust.total} robust",
        err=True,
    )


def _engines_as_json(result: "EngineComparison") -> dict[str, object]:
    runs = {"fast": [result.fast], "reference": list(result.reference)}
    content: dict[str, object] = {
        engine: [
            {"batch_size": run.block_size, "seconds": run.seconds, "record": run.record.model_dump(mode="json")}
            for run in of_engine
        ]
        for engine, of_engine in runs.items()
    }
    return content | {
        "ratio": result.ratio,
        "agreement": result.agreement,
        "only_fast": result.only_fast.tolist(),
        "only_reference": result.only_reference.tolist(),
        "roofline": result.roofline,
    }


def _print_engines(result: "EngineComparison", *, title: str) -> None:
    from rich.table import Table

    from mixbench.cli.tables import console, percent

    stages = list(result.fast.record.cost.seconds_by_stage)
    columns = ("engine", "batch", "seconds", *stages, "robust", "forwards", "backwards", "peak memory")
    table = Table(*columns, title=title)
    for engine, run in (("fast", result.fast), *(("reference", run) for run in result.reference)):
        cost = run.record.cost
        by_stage = (f"{cost.seconds_by_stage[stage]:.2f}" for stage in stages)
        memory = f"{cost.peak_memory_bytes / 2**20:.0f} MiB"
        robust, passes = percent(run.record.robust), (f"{cost.forwards:,}", f"{cost.backwards:,}")
        table.add_row(engine, str(run.block_size), f"{run.seconds:.2f}", *by_stage, robust, *passes, memory)
    console().print(table)
    typer.echo(f"{result.ratio:.2f} times faster than the fastest run of the reference")
    typer.echo(
        f"same verdicts: {result.agreement:.2%}; broken by the fast engine alone: {_list(result.only_fast)}; by the"
        f" reference alone: {_list(result.only_reference)}"
    )
    provenance = result.fast.record.provenance
    typer.echo(
        f"{result.roofline:.1%} of {result.peak / 1e12:.3g} TFLOP/s, what {provenance.device} reaches in large matrix"
        f" products; verdicts in {provenance.precision}"
    )


def _list(indices: "Int64[np.ndarray, ' example']") -> str:
    return ", ".join(map(str, indices.tolist())) or "none"


def parse_sizes(text: str) -> list[int]:
    """Return the batch sizes in `text`; raises InvalidInputError."""
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in text.split(",")]
    if min(sizes) < 1:
        raise InvalidInputError(f"batch sizes {text!r} are not whole numbers above 0: write them as 250,500,1000")
    return sizes
