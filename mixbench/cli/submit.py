"""`mixbench submit`: a folder that is ready for a pull request."""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixbench.cli.options import CacheDir, DataDir, Device, cache_folder, resolve_device
from mixbench.errors import InvalidInputError

if TYPE_CHECKING:
    from mixbench.datasets import Examples
    from mixbench.evaluation import Plan
    from mixbench.models import LoadedModel
    from mixbench.submission import NetworkFiles, Result, SubmissionCard
    from mixbench.threat_model import ThreatModel

_FAILED = 1
_INTERRUPTED = 130
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
    fields = {
        "author": ";".join(author) if author else None,
        "licence": licence,
        "training_data": training_data,
        "recipe": recipe,
        "extra_data": extra_data,
        "reference": reference,
    }
    card = _card(fields, asks=not no_input and sys.stdin.isatty())
    from mixbench.cli.verify import print_report, run_verification
    from mixbench.datasets import CATALOGUE, load_examples
    from mixbench.errors import RecordError, UnknownNameError
    from mixbench.submission import pack, submission_name

    full_name = submission_name(model, name)
    if dataset not in CATALOGUE:
        raise UnknownNameError("dataset", dataset, CATALOGUE)
    if (output / full_name).exists():
        raise RecordError(f"{output / full_name} exists already: choose another --name or --output, or delete it")
    cache = cache_folder(cache_dir)
    examples = load_examples(
        dataset, data_dir=data_dir, cache_dir=cache, subset=subset, n_examples=n_examples, seed=seed
    )
    network = _network(model, full_name, checkpoint, examples, filter_seed)
    channels, height, width = examples.images.shape[1:]
    loaded = network.load((channels, height, width))
    if record:
        submission = pack(output, network, _existing(record, loaded), card)
    else:
        threat_models = _threat_models(dataset, norm, eps)
        evaluator = _Evaluator(output / _UNFINISHED, resolve_device(device))
        plans = _plans(loaded, examples, attack, threat_models, seed)
        submission = pack(output, network, evaluator.results(plans), card)
        evaluator.clean_up()
    report = run_verification(
        submission.folder, data_dir=data_dir, cache_dir=cache_dir, trust_code=network.factory is not None
    )
    print_report(report)
    typer.echo(f"submission: {submission.folder}")
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


def _threat_models(dataset: str, norm: str | None, eps: str | None) -> "list[ThreatModel]":
    from mixbench.cli.eval import default_threat_models

    return default_threat_models(dataset, norm, eps)


def _existing(folders: list[Path], loaded: "LoadedModel") -> "list[Result]":
    from mixbench.submission import Result

    return [Result.load(folder).renamed(loaded.identity) for folder in folders]


def _plans(
    loaded: "LoadedModel", examples: "Examples", attacks: str, threat_models: "list[ThreatModel]", seed: int
) -> "list[Plan]":
    from mixbench.attacks import attack_named
    from mixbench.evaluation import plan

    names = [name.strip() for name in attacks.split(",")]
    return [plan(loaded, examples, attack_named(name), threat_models, seed=seed) for name in names]


class _Evaluator:
    """Evaluates plans; what is finished is kept in `folder` until the submission is packed."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._workspaces: list[Path] = []

    def results(self, plans: "list[Plan]") -> "list[Result]":
        """Return the results of all plans; ends the program with 130 where it is interrupted."""
        from mixbench.cli.eval import progress_bar
        from mixbench.evaluation import evaluate
        from mixbench.submission import Result

        results: list[Result] = []
        try:
            for run_plan in plans:
                workspace = self._folder / hashlib.sha256("".join(run_plan.record_ids).encode()).hexdigest()[:16]
                self._workspaces.append(workspace)
                with progress_bar() as progress:
                    evaluations = evaluate(run_plan, workspace=workspace, device=self._device, progress=progress)
                results.extend(Result.of(evaluation) for evaluation in evaluations)
        except KeyboardInterrupt:
            typer.echo(
                f"\ninterrupted; what was finished is kept in {self._folder}: run the same command again to go on",
                err=True,
            )
            raise typer.Exit(_INTERRUPTED) from None
        return results

    def clean_up(self) -> None:
        """Delete what was kept."""
        from mixbench.evaluation import remove_workspace

        for workspace in self._workspaces:
            remove_workspace(workspace)
        with suppress(OSError):  # other runs may be unfinished
            self._folder.rmdir()
