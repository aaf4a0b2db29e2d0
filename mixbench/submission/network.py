"""From the files of a submission to the network, proven to be what they say before it is built at full size."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from safetensors.torch import load
from torch import nn

from mixbench.errors import InvalidInputError, MixbenchError, RecordError
from mixbench.mixers import Mixing, frozen_proof
from mixbench.models import (
    ARCHITECTURES,
    FAMILIES,
    Checkpoint,
    CheckpointCard,
    LoadedModel,
    ModelSpec,
    count_parameters,
    load_model,
)
from mixbench.models.checkpoints import ImageSize, config_json, read_config
from mixbench.models.identity import function_hash
from mixbench.models.weights import load_into
from mixbench.records import ModelIdentity
from mixbench.submission.card import check_visible
from mixbench.submission.intake import Intake
from mixbench.submission.manifest import CODE_PATH, CONFIG_NAME, WEIGHTS_NAME, size_limit
from mixbench.submission.strict_json import parse_strictly
from mixbench.submission.tensor_files import TensorHeader, describe, read_headers

_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"}
_LONGEST_TEXT = 1000
_Width = Annotated[int, Field(gt=0, le=4096)]
_Few = Annotated[int, Field(gt=0, le=64)]


class _Drawn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    in_chans: Annotated[int, Field(gt=0, le=16)]
    num_classes: Annotated[int, Field(gt=1, le=10_000)]
    filter_scheme: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,20}(\(sigma=[0-9.]{1,6}\))?$")]
    filter_seed: Annotated[int, Field(ge=0, lt=2**63)]


class _ConvMixerArgs(_Drawn):
    dim: _Width
    depth: _Few
    kernel_size: _Few
    patch_size: _Few


class _ResNetArgs(_Drawn):
    layers: Annotated[tuple[_Few, ...], Field(min_length=4, max_length=4)]
    channels: Annotated[tuple[_Width, ...], Field(min_length=4, max_length=4)]


class _Config(BaseModel):
    """What a config.json may hold at all; what it must hold is decided by writing it anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Annotated[str, StringConstraints(max_length=60)]
    num_classes: int
    model_args: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    mixbench: dict[str, Any]


_ARGS: Mapping[str, type[_ConvMixerArgs] | type[_ResNetArgs]] = {"convmixer": _ConvMixerArgs, "resnet": _ResNetArgs}


@dataclass(frozen=True)
class Described:
    """A registered network as config.json describes it, not yet built."""

    spec: ModelSpec
    card: CheckpointCard


@dataclass(frozen=True)
class ForeignCode:
    """A function in a file of the submission that builds the network."""

    factory: str


@dataclass(frozen=True)
class Trust:
    """What the person who verifies allows."""

    code: bool


def read_description(intake: Intake, trust: Trust) -> Described | ForeignCode:
    """Return what network the submission says it is; raises RecordError.

    config.json must be, field by field, what mixbench would write: nothing that timm might act upon is left over.
    """
    manifest = intake.manifest
    if manifest.factory is not None:
        if not trust.code:
            raise RecordError(
                f"the network is built by code of the submission ({CODE_PATH}), which is not run: read it, and pass"
                " --trust-code if you trust it"
            )
        return ForeignCode(manifest.factory)
    content = intake.read(CONFIG_NAME)
    config = parse_strictly(_Config, content, source=CONFIG_NAME, limit=size_limit(CONFIG_NAME) or 0)
    architecture, _, tag = manifest.name.partition(".")
    if config.architecture != architecture or architecture not in ARCHITECTURES:
        raise RecordError(
            f"{CONFIG_NAME} is for the architecture {config.architecture!a} and the submission for {architecture},"
            f" expected the same of {', '.join(ARCHITECTURES)}"
        )
    args = json.dumps(config.model_args).encode()
    parse_strictly(
        _ARGS[ARCHITECTURES[architecture].family], args, source=f"model_args in {CONFIG_NAME}", limit=len(args)
    )
    spec, card = read_config(intake.folder)
    for field in ("recipe", "dataset", "device", "command"):
        _check_text(field, getattr(card, field))
    if json.loads(config_json(Checkpoint(spec, nn.Module(), card), tag=tag)) != json.loads(content):
        raise RecordError(f"{CONFIG_NAME} is not what mixbench writes for this model: pack the submission again")
    return Described(spec, card)


def _check_text(field: str, text: str) -> None:
    try:
        check_visible(text)
    except ValueError as error:
        raise RecordError(f"{field} in {CONFIG_NAME} {error}: write it in plain words") from None
    if len(text) > _LONGEST_TEXT:
        raise RecordError(f"{field} in {CONFIG_NAME} has {len(text)} characters, expected at most {_LONGEST_TEXT}")


def check_weights(intake: Intake, described: Described | ForeignCode) -> str:
    """Return what the weights are, in words; raises RecordError unless they are those of the described network.

    Judged by the header alone, against a network that takes no memory; a foreign one is known only once it is built.
    """
    found = read_headers(intake.folder / WEIGHTS_NAME)
    odd = next((name for name, header in found.items() if header.dtype not in _DTYPES.values()), None)
    if odd is not None:
        raise RecordError(f"{WEIGHTS_NAME} holds {describe({odd: found[odd]})}, expected float32: save it as float32")
    if isinstance(described, Described):
        expected = _expected_headers(described.spec)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                listed, wanted = (
                    describe({name: side[name]}) if name in side else "none" for side in (found, expected)
                )
                raise RecordError(f"{WEIGHTS_NAME} has {listed} where the network has {wanted}: it is for another one")
    return f"{len(found)} tensors, {(intake.folder / WEIGHTS_NAME).stat().st_size} bytes of safetensors"


def _expected_headers(spec: ModelSpec) -> Mapping[str, TensorHeader]:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = FAMILIES[spec.architecture.family].build(**spec.args)
    except Exception as error:  # noqa: BLE001 - timm raises whatever the arguments make it stumble over
        raise RecordError(
            f"timm cannot build {spec.architecture.name} from its model_args ({error}): correct them"
        ) from None
    return {name: TensorHeader(_DTYPES[value.dtype], tuple(value.shape)) for name, value in model.state_dict().items()}


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
