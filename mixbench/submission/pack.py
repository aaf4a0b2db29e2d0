"""From a checkpoint and its evaluations to a folder that is ready for a pull request."""

import hashlib
import importlib
import inspect
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import mixbench
from mixbench.datasets import Examples
from mixbench.errors import CheckpointError, InvalidInputError, RecordError, UnknownNameError
from mixbench.evaluation import Evaluation
from mixbench.evaluation.verification import judge
from mixbench.files import storage_error, write_atomically
from mixbench.mixers import Mixing, frozen_proof
from mixbench.models import (
    ARCHITECTURES,
    Checkpoint,
    CheckpointCard,
    LoadedModel,
    ModelSpec,
    count_parameters,
    load_checkpoint,
    load_model,
    logits_fingerprint,
    weights_bytes,
)
from mixbench.models.checkpoints import ImageSize, config_json
from mixbench.models.weights import load_into, read_state_dict, read_weights
from mixbench.records import Accuracy, EvaluationRecord, ModelIdentity
from mixbench.store import ADVERSARIALS_NAME, EXAMPLES_NAME, RECORD_NAME, load_record
from mixbench.submission.card import Environment, SubmissionCard
from mixbench.submission.manifest import (
    CARD_NAME,
    CODE_PATH,
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    FOREIGN,
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    PACKED_ADVERSARIALS_NAME,
    RECORDS_FOLDER,
    WEIGHTS_NAME,
    ListedFile,
    Manifest,
    bundle_hash,
    check_submission_name,
)
from mixbench.submission.network import foreign_model
from mixbench.submission.tensor_files import packed

_UNKNOWN_TRAINING = "weights given to mixbench submit as a file: training seed, epochs and time are not known"


@dataclass(frozen=True)
class NetworkFiles:
    """The files of a submission that give its network, by path, and the factory in its code, if it brings code."""

    name: str
    files: dict[str, bytes]
    factory: str | None = None

    def load(self, image_size: ImageSize) -> LoadedModel:
        """Return the network as a verifier will load it, under the submission's name."""
        with tempfile.TemporaryDirectory(prefix="mixbench-") as temporary:
            folder = Path(temporary) / self.name
            for path, content in self.files.items():
                write_atomically(folder / path, content)
            if self.factory is None:
                return load_model(f"local-dir:{folder}")
            return foreign_model(folder, self.factory, name=self.name, image_size=image_size)


@dataclass(frozen=True, eq=False)
class Result:
    """A record with its per-example file and its adversarial images, both as they lie in a store."""

    record: EvaluationRecord
    examples: bytes
    adversarials: bytes

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Result":
        """Return what an evaluation found."""
        adversarials = evaluation.adversarials_bytes()
        digest = hashlib.sha256(adversarials).hexdigest()
        record = evaluation.record.model_copy(update={"adversarials_sha256": digest})
        return cls(record, evaluation.examples, adversarials)

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """Return the record in `folder`, its hashes checked; raises RecordError if it kept no adversarial images."""
        record = load_record(folder)
        base = folder if folder.is_dir() else folder.parent
        if record.adversarials_sha256 is None:
            raise RecordError(
                f"{folder} keeps no adversarial examples: evaluate again with --save-adversarials --overwrite"
            )
        return cls(record, (base / EXAMPLES_NAME).read_bytes(), (base / ADVERSARIALS_NAME).read_bytes())

    def renamed(self, identity: ModelIdentity) -> "Result":
        """Return the result under the submission's name; raises RecordError if it is of other weights."""
        if self.record.model.sha256 != identity.sha256:
            raise RecordError(
                f"record {self.record.id} is of weights {self.record.model.sha256}, the checkpoint has"
                f" {identity.sha256}: evaluate this checkpoint"
            )
        record = self.record.model_copy(update={"model": identity})
        return Result(record, self.examples, self.adversarials)


@dataclass(frozen=True)
class Submission:
    """A packed submission on disk."""

    folder: Path
    manifest: Manifest
    bundle_sha256: str


def submission_name(model: str, tag: str) -> str:
    """Return the name of a submission of `model` with `tag`; raises InvalidInputError or UnknownNameError."""
    architecture = FOREIGN if ":" in model else model.partition(".")[0]
    if ":" not in model and architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, [*ARCHITECTURES, "package.module:factory"])
    if model.startswith(("timm:", "local-dir:", "hf-hub:")):
        raise InvalidInputError(
            f"{model} is not submitted by its name: give package.module:factory, a function of your own that builds it"
        )
    name = f"{architecture}.{tag}"
    check_submission_name(name)
    return name


def registered_network(name: str, checkpoint: Path, examples: Examples, *, filter_seed: int) -> NetworkFiles:
    """Return the files of a network of this registry; `checkpoint` is its folder, or its weights alone.

    For weights alone the network has the size of its family for this dataset, and what is frozen is proven against
    `filter_seed`. Raises CheckpointError.
    """
    architecture, _, tag = name.partition(".")
    folder = checkpoint.parent if checkpoint.name == WEIGHTS_NAME else checkpoint
    if (folder / CONFIG_NAME).is_file():
        whole = load_checkpoint(folder)
        if whole.spec.architecture.name != architecture:
            raise CheckpointError(
                f"{folder} is a checkpoint of {whole.spec.architecture.name}, not of {architecture}: name that as"
                " --model"
            )
        content = read_weights(folder / WEIGHTS_NAME)
    elif checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} has no {CONFIG_NAME}: give a checkpoint folder, or its file of weights")
    else:
        whole, content = _from_weights(architecture, checkpoint, examples, filter_seed=filter_seed)
    return NetworkFiles(name, {CONFIG_NAME: config_json(whole, tag=tag).encode(), WEIGHTS_NAME: content})


def _from_weights(architecture: str, path: Path, examples: Examples, *, filter_seed: int) -> tuple[Checkpoint, bytes]:
    spec = ModelSpec.for_dataset(ARCHITECTURES[architecture], examples.name, filter_seed=filter_seed)
    with torch.random.fork_rng(devices=[]):
        model = spec.build().eval()
    load_into(model, read_state_dict(path, trust_pickle=False), source=str(path))
    frozen_proof(model, spec.architecture.mixing, scheme=spec.scheme, filter_seed=filter_seed)
    content, digest = weights_bytes(model)
    channels, height, width = examples.images.shape[1:]
    card = CheckpointCard(
        sha256=digest,
        logits=logits_fingerprint(model, (channels, height, width)),
        mixing=Mixing(spec.architecture.mixing).value,
        filter_scheme=str(spec.scheme),
        filter_seed=filter_seed,
        seed=0,
        recipe="see card.json",
        dataset=examples.name,
        dataset_fingerprint=examples.fingerprint,
        image_size=(channels, height, width),
        clean=_clean_accuracy(model, examples),
        parameters=count_parameters(model),
        epochs=0,
        seconds=0.0,
        device="unknown",
        command=_UNKNOWN_TRAINING,
    )
    return Checkpoint(spec, model, card), content


def _clean_accuracy(model: nn.Module, examples: Examples) -> Accuracy:
    images = torch.from_numpy(examples.images.copy()).float() / 255
    verdicts = judge(model, images, torch.from_numpy(examples.labels.copy()), micro_batch=256)
    return Accuracy(correct=int((~verdicts.broken).sum()), total=len(examples))


def foreign_network(name: str, model: str, checkpoint: Path) -> NetworkFiles:
    """Return the files of the network `package.module:factory`: its one source file, and its weights.

    The module must need nothing but what mixbench installs. Raises InvalidInputError or CheckpointError.
    """
    loaded = load_model(model, checkpoint=checkpoint)
    module, _, factory = model.partition(":")
    source = inspect.getsource(importlib.import_module(module))
    content, _ = weights_bytes(loaded.module)
    return NetworkFiles(name, {CODE_PATH: source.encode(), WEIGHTS_NAME: content}, factory)


def pack(output: Path, network: NetworkFiles, results: Sequence[Result], card: SubmissionCard) -> Submission:
    """Write the submission to the folder `output`/NAME in one step and return it.

    Raises RecordError if the folder exists, if a result is of other weights, or if it cannot be written.
    """
    folder = output / network.name
    if folder.exists():
        raise RecordError(f"{folder} exists already: choose another --name or --output, or delete it")
    files = {**network.files, CARD_NAME: card.to_bytes(), ENVIRONMENT_NAME: Environment.collect().to_bytes()}
    for result in results:
        files |= _result_files(result)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        name=network.name,
        factory=network.factory,
        mixbench=mixbench.__version__,
        files=tuple(
            ListedFile(path=path, size=len(files[path]), sha256=hashlib.sha256(files[path]).hexdigest())
            for path in sorted(files)
        ),
    )
    # Last, so that a folder with a manifest is complete.
    files[MANIFEST_NAME] = manifest.to_bytes()
    _write(folder, files)
    return Submission(folder, manifest, bundle_hash(files[MANIFEST_NAME]))


def _result_files(result: Result) -> dict[str, bytes]:
    folder = f"{RECORDS_FOLDER}/{result.record.id}"
    return {
        f"{folder}/{RECORD_NAME}": result.record.to_json().encode(),
        f"{folder}/{EXAMPLES_NAME}": result.examples,
        f"{folder}/{PACKED_ADVERSARIALS_NAME}": packed(result.adversarials),
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            complete = Path(temporary) / folder.name
            for path, content in files.items():
                write_atomically(complete / path, content)
            complete.rename(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise storage_error(folder, error) from error
