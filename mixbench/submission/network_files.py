"""From a checkpoint of the submitter's to the files of a submission that give its network."""

import importlib
import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mixbench.datasets import Examples
from mixbench.errors import CheckpointError, InvalidInputError, UnknownNameError
from mixbench.evaluation.verification import judge
from mixbench.files import write_atomically
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
from mixbench.records import Accuracy
from mixbench.submission.manifest import (
    CODE_PATH,
    CONFIG_NAME,
    FOREIGN,
    WEIGHTS_NAME,
    check_submission_name,
)
from mixbench.submission.network import foreign_model

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
