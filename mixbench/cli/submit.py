"""`mixbench submit`: a folder that is ready for a pull request."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError, RecordError, UnknownNameError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.models import LoadedModel
    from mixbench.submission import NetworkFiles, Result, SubmissionCard

_FAILED = 1
_UNFINISHED = ".unfinished"
_QUESTIONS = {
    "author": "Authors, separated by semicolons",
    "licence": "Licence of the weights, such as MIT",
    "training_data": "What were the weights trained on?",
    "recipe": "How were they trained?",
    "extra_data": "Data beside the training split, or none",
    "reference": "An https:// address that describes the model, or unpublished",
}


def submit_model(
    model: Annotated[str, typer.Option(help="An architecture, such as convmixer_frozen, or module:factory.")],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, or a file of weights.")],
    name: Annotated[str, typer.Option(help="The tag after the dot: letters a-z, digits, '_' and '-'.")],
    dataset: Annotated[str, typer.Option(help="What to evaluate on; see mixbench datasets.")],
    record: Annotated[
        list[Path] | None, typer.Option(help="A run folder to take instead of evaluating; may be repeated.")
    ] = None,
    protocol: Annotated[
        Path | None, typer.Option(help="What a board evaluates: leaderboards/protocols/DATASET.toml.")
    ] = None,
    attack: Annotated[str, typer.Option(help="One or several: fgsm,pgd,autoattack.")] = "autoattack",
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1. [default: the dataset's]")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius, or several: 1/255,8/255. [default: the dataset's]")] = None,
    subset: Annotated[str | None, typer.Option(help="A named subset; see mixbench datasets.")] = None,
    n_examples: Annotated[int | None, typer.Option(help="A class-balanced choice of that many examples.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The run seed.")] = 0,
    filter_seed: Annotated[int, typer.Option(min=0, help="Of a file of weights: seed of what is frozen.")] = 0,
    author: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of weights and card, such as MIT.")] = None,
    training_data: Annotated[str | None, typer.Option(help="What the weights were trained on.")] = None,
    recipe: Annotated[str | None, typer.Option(help="How they were trained.")] = None,
    extra_data: Annotated[str | None, typer.Option(help="Data beside the training split, or none.")] = None,
    reference: Annotated[str | None, typer.Option(help="An https:// address, or unpublished.")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Fail instead of asking for what is missing.")] = False,
    output: Annotated[Path, typer.Option(help="Folder to write the submission folder into.")] = Path("submissions"),
    device: Device = "auto",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Evaluate a checkpoint, pack it with card, records and adversarial examples, and verify the result."""
    texts = (";".join(author or ()), licence, training_data, recipe, extra_data, reference)
    card = _card(dict(zip(_QUESTIONS, texts, strict=True)), asks=not no_input and sys.stdin.isatty())
    from mixbench.cli.eval import default_threat_models
    from mixbench.cli.submit_run import Evaluator, board_plans, chosen_plans, read_board
    from mixbench.datasets import load_examples
    from mixbench.submission import pack

    full_name = _free_name(model, name, dataset, output)
    board = None if protocol is None else read_board(protocol, dataset=dataset)
    if board is not None:
        subset, n_examples = board.evaluations[0].subset, None
    cache = cache_folder(cache_dir)
    examples = load_examples(
        dataset, data_dir=data_dir, cache_dir=cache, subset=subset, n_examples=n_examples, seed=seed
    )
    network = _network(model, full_name, checkpoint, examples, filter_seed)
    channels, height, width = examples.images.shape[1:]
    loaded = network.load((channels, height, width))
    evaluator = Evaluator(output / _UNFINISHED, resolve_device(device))
    if record:
        results = _existing(record, loaded)
    elif board is not None:
        results = evaluator.results(board_plans(loaded, examples, board))
    else:
        threat_models = default_threat_models(dataset, norm, eps)
        results = evaluator.results(chosen_plans(loaded, examples, attack, threat_models, seed=seed))
    folder = pack(output, network, results, card).folder
    evaluator.clean_up()
    _verify_own(folder, data_dir, cache_dir, trust_code=network.factory is not None)


def _free_name(model: str, tag: str, dataset: str, output: Path) -> str:
    """Return the submission's name, after refusing before any work what could not be packed after it."""
    from mixbench.datasets import CATALOGUE
    from mixbench.submission import submission_name

    name = submission_name(model, tag)
    if dataset not in CATALOGUE:
        raise UnknownNameError("dataset", dataset, CATALOGUE)
    if (output / name).exists():
        raise RecordError(f"{output / name} exists already: choose another --name or --output, or delete it")
    return name


def _verify_own(folder: Path, data_dir: Path | None, cache_dir: Path | None, *, trust_code: bool) -> None:
    """Verify what was packed as a maintainer will, print the table, and end with 1 if it fails."""
    from mixbench.cli.verify import print_report, run_verification

    report = run_verification(folder, data_dir=data_dir, cache_dir=cache_dir, trust_code=trust_code)
    print_report(report)
    typer.echo(f"submission: {folder}")
    if not report.passed:
        raise typer.Exit(_FAILED)


def _card(fields: dict[str, str | None], *, asks: bool) -> "SubmissionCard":
    """Return the card, after asking on the terminal for what is missing; raises InvalidInputError naming it all."""
    from pydantic import ValidationError

    from mixbench.submission.card import SubmissionCard

    missing = [field for field, value in fields.items() if not value]
    if missing and not asks:
        options = ", ".join(f"--{field.replace('_', '-')}" for field in missing)
        raise InvalidInputError(
            f"the card lacks {options}: give them, or leave out --no-input on a terminal to be asked"
        )
    answers = {field: value or typer.prompt(_QUESTIONS[field], err=True) for field, value in fields.items()}
    authors = tuple(author.strip() for author in answers.pop("author").split(";"))
    try:
        return SubmissionCard.model_validate({"authors": authors, **answers})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("authors", "author").replace("_", "-")
        raise InvalidInputError(f"--{option} {first['input']!r} is no text for a card: {first['msg']}") from None


def _network(model: str, full_name: str, checkpoint: Path, examples: "Examples", filter_seed: int) -> "NetworkFiles":
    from mixbench.submission import foreign_network, registered_network

    if ":" in model:
        return foreign_network(full_name, model, checkpoint)
    return registered_network(full_name, checkpoint, examples, filter_seed=filter_seed)


def _existing(folders: list[Path], loaded: "LoadedModel") -> "list[Result]":
    from mixbench.submission import Result

    return [Result.load(folder).renamed(loaded.identity) for folder in folders]
