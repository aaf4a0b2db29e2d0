"""The network of a submission: built, filled and proven to be what the submission says."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from mixbench.errors import InvalidInputError, MixbenchError, RecordError
from mixbench.mixers import Mixing, frozen_proof
from mixbench.models import LoadedModel, count_parameters, load_model
from mixbench.models.checkpoints import ImageSize
from mixbench.models.identity import function_hash
from mixbench.models.weights import load_into
from mixbench.records import ModelIdentity
from mixbench.submission.description import Described, ForeignCode
from mixbench.submission.intake import Intake
from mixbench.submission.manifest import CODE_PATH, CONFIG_NAME, WEIGHTS_NAME


def fill(intake: Intake, described: Described | ForeignCode, image_size: ImageSize) -> LoadedModel:
    """Return the network with its weights, in eval mode on the CPU; what its card claims is proven by nobody yet.

    Raises CheckpointError for weights that do not fit or are not finite, InvalidInputError where code of the
    submission fails.
    """
    if isinstance(described, ForeignCode):
        return foreign_model(intake.folder, described.factory, name=intake.manifest.name, image_size=image_size)
    spec, card = described.spec, described.card
    if card.image_size != image_size:
        raise RecordError(
            f"{CONFIG_NAME} is for images of {'x'.join(map(str, card.image_size))}, the dataset has"
            f" {'x'.join(map(str, image_size))}: submit a checkpoint for this dataset"
        )
    with torch.random.fork_rng(devices=[]):
        model = spec.build()
    load_into(model, load(intake.read(WEIGHTS_NAME)), source=WEIGHTS_NAME)
    identity = ModelIdentity(
        name=intake.manifest.name,
        sha256=card.sha256,
        mixing=card.mixing,
        filter_seed=None if card.mixing == "trained" else card.filter_seed,
        parameters=count_parameters(model),
    )
    return LoadedModel(model.eval(), identity, image_size=image_size, dataset=card.dataset)


def prove_frozen(loaded: LoadedModel, described: Described | ForeignCode) -> str:
    """Return what is frozen, in words; raises CheckpointError naming the first filter its seed does not draw."""
    if isinstance(described, ForeignCode):
        return "nothing: a foreign network claims no frozen filters"
    spec, mixing = described.spec, described.spec.architecture.mixing
    frozen_proof(loaded.module, mixing, scheme=spec.scheme, filter_seed=spec.filter_seed)
    frozen = loaded.identity.parameters.frozen
    if mixing is Mixing.TRAINED:
        return "nothing is frozen, and nothing is said to be"
    return f"{frozen} parameters are, bit for bit, what filter seed {spec.filter_seed} and {spec.scheme} draw"


def prove_checkpoint(intake: Intake, loaded: LoadedModel, described: Described | ForeignCode) -> str:
    """Return that the checkpoint is what its card says; raises CheckpointError that names the proof that failed."""
    if isinstance(described, ForeignCode):
        return f"the network computes what hashes to {loaded.identity.sha256[:16]}"
    if load_model(f"local-dir:{intake.folder}").identity != loaded.identity:
        raise RecordError("loading it as timm does gives another identity: pack the submission again")
    if described.card.parameters != loaded.identity.parameters:
        raise RecordError(
            f"the card counts {described.card.parameters}, the network has {loaded.identity.parameters}: pack it again"
        )
    return "hash of the weights, logits on the fixed inputs and parameter counts are those of the card"


def foreign_model(folder: Path, factory: str, *, name: str, image_size: ImageSize) -> LoadedModel:
    """Run code/model.py of `folder` and return the network that its function `factory` builds, with its weights."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = getattr(_import(folder / CODE_PATH), factory)()
    except MixbenchError:
        raise
    except Exception as error:  # the submitter's own code may raise anything
        raise InvalidInputError(f"{CODE_PATH} raised {type(error).__name__} ({error}): mend it") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{factory} in {CODE_PATH} returned no torch.nn.Module: mend it")
    path = folder / WEIGHTS_NAME
    load_into(model, load(path.read_bytes()), source=WEIGHTS_NAME)
    identity = ModelIdentity(
        name=name,
        sha256=function_hash(model.eval(), image_size=image_size, code=()),
        mixing="foreign",
        filter_seed=None,
        parameters=count_parameters(model),
    )
    return LoadedModel(model, identity, image_size=image_size, dataset=None)


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("mixbench_submitted_code", path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{CODE_PATH} cannot be imported: mend it")
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
