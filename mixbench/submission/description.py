"""What network a submission describes: judged by its files alone, before anything of its size is built."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from torch import nn

from mixbench.errors import RecordError
from mixbench.models import (
    ARCHITECTURES,
    FAMILIES,
    Checkpoint,
    CheckpointCard,
    ModelSpec,
)
from mixbench.models.checkpoints import config_json, read_config
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
