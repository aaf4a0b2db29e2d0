"""`mixbench probe`: can a model decode shuffled pixels, and does it recognise shuffled images?"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixbench.cli.options import AsJson, CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError


class Probe(StrEnum):
    """What is asked of the model."""

    UNSHUFFLE = "unshuffle"
    RECOGNIZE = "recognize"


def probe_model(
    model: Annotated[
        str,
        typer.Option(
            help="One, or several by commas. unshuffle: convmixer_MODE; recognize: as for mixbench eval, or a pattern"
            " such as '*.digits' for checkpoints of the zoo."
        ),
    ],
    probe: Annotated[Probe, typer.Option(help="Train decoders, or measure a checkpoint.")] = Probe.UNSHUFFLE,
    dataset: Annotated[
        str | None,
        typer.Option(help="One, or several by commas. [default: digits, or what the checkpoint learned]"),
    ] = None,
    permutation_seeds: Annotated[str, typer.Option(help="Seeds of the permutations.")] = "0,1,2",
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values, order, noise and choices.")] = 0,
    filter_seed: Annotated[int, typer.Option(help="unshuffle: seed of the filters.")] = 0,
    size: Annotated[str | None, typer.Option(help="unshuffle: tiny, small or large. [default: the images']")] = None,
    depth: Annotated[int | None, typer.Option(help="unshuffle: blocks. [default: the size's]")] = None,
    width: Annotated[int | None, typer.Option(help="unshuffle: channels. [default: the size's]")] = None,
    kernel: Annotated[
        int | None, typer.Option(help="unshuffle: taps of a filter's side. [default: the size's]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="unshuffle: of each decoder. [default: the size's]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="unshuffle: of training. [default: the size's]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="unshuffle: its peak. [default: the size's]")] = None,
    n_examples: Annotated[int | None, typer.Option(help="A class-balanced choice of that many test examples.")] = None,
    n_train: Annotated[int | None, typer.Option(help="A class-balanced choice of that many training examples.")] = None,
    retrain: Annotated[bool, typer.Option(help="recognize: also fit a linear readout on frozen features.")] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="unshuffle: write a contact sheet of each dataset into this folder.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="recognize: weights for the model.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of records.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option(help="Probe again although the record exists.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Shuffle pixels by a fixed permutation and measure what a model makes of it; the same command resumes."""
    from mixbench.cli.probe_run import ExampleLoader, print_result, recognize_plans, run_plans, unshuffle_plans

    seeds, target, models = _parse_seeds(permutation_seeds), resolve_device(device), _words(model)
    loader = ExampleLoader(data_dir, cache_folder(cache_dir), seed, {"train": n_train, "test": n_examples})
    unshuffle_only = {
        "size": size, "depth": depth, "width": width, "kernel": kernel, "epochs": epochs, "batch-size": batch_size,
        "learning-rate": learning_rate,
    }  # fmt: skip
    if probe is Probe.RECOGNIZE:
        unread = {} if retrain else {"n-train": n_train}
        _refuse_given(unshuffle_only | {"pictures": pictures} | unread, "belong to --probe recognize")
        plans = recognize_plans(
            models, None if dataset is None else _words(dataset), loader, seeds, checkpoint=checkpoint, retrain=retrain
        )
    else:
        _refuse_given({"retrain": retrain or None, "checkpoint": checkpoint}, "belong to --probe unshuffle")
        from mixbench.probes import DecoderChoice

        choice = DecoderChoice(filter_seed, size, depth, width, kernel, epochs, batch_size, learning_rate)
        plans = unshuffle_plans(models, _words(dataset or "digits"), loader, seeds, choice)
    records, sheets = run_plans(plans, runs, target, overwrite=overwrite, pictures=pictures)
    print_result(records, runs, sheets, as_json=as_json)


def _words(text: str) -> list[str]:
    """Return what stands between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def _parse_seeds(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) < 2**32 for word in words):
        raise InvalidInputError(f"permutation seeds {text!r} are not whole numbers below 2**32: write them as 0,1,2")
    return tuple(sorted({int(word) for word in words}))


def _refuse_given(options: Mapping[str, object], where: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidInputError(f"--{name} {value} does not {where}: leave it out")
