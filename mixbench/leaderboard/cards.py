"""What checkpoints say of themselves, read from their config.json without building any network."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mixbench.errors import RecordError
from mixbench.records import Accuracy, ModelIdentity, ParameterCounts, Sha256

_CONFIG_NAME = "config.json"
_MIXING_SUFFIX = re.compile(r"_(trained|frozen|frozen_smooth|spatial)$")


class _Stated(BaseModel):
    """The part of a card that a page shows; cards have more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    sha256: Sha256
    mixing: str
    filter_scheme: str
    filter_seed: int
    seed: int
    recipe: str
    dataset: str
    clean: Accuracy
    parameters: ParameterCounts
    epochs: int
    seconds: float
    device: str
    command: str


class Submitted(BaseModel):
    """What the authors of an accepted submission say of it; any text may stand here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    authors: tuple[str, ...]
    licence: str
    training_data: str
    recipe: str
    extra_data: str
    reference: str


@dataclass(frozen=True)
class Card:
    """A checkpoint as it describes itself.

    Attributes:
        folder: Where it lies, relative to the folder of the leaderboards, with slashes.
        architecture: timm's name of it, such as "convmixer_frozen".
        model_args: What the architecture was built with, as text.
    """

    name: str
    folder: str
    architecture: str
    model_args: Mapping[str, str]
    stated: _Stated


def family(model: str) -> str:
    """Return what is left of "convmixer_frozen.digits" without mixing and tag: "convmixer"."""
    return _MIXING_SUFFIX.sub("", model.partition(".")[0])


def counterpart_key(identity: ModelIdentity) -> str:
    """Return what a model shares with those that differ in nothing but mixing: family and tag."""
    return f"{family(identity.name)}.{identity.name.partition('.')[2]}"


def read_card(folder: Path, *, shown_as: str) -> Card:
    """Return the card in `folder`, whose path on the page is `shown_as`; raises RecordError."""
    path = folder / _CONFIG_NAME
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        arguments = config.get("model_args", {})
        return Card(
            name=folder.name,
            folder=shown_as,
            architecture=str(config["architecture"]),
            model_args={str(name): str(value) for name, value in arguments.items()},
            stated=_Stated.model_validate(config["mixbench"]),
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path} has no valid card: {place}: {first['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path} is not a checkpoint's config.json ({error!r})") from None


def read_submitted(path: Path) -> Submitted:
    """Return what the authors say in the card.json at `path`; raises RecordError."""
    try:
        return Submitted.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordError(f"{path} is not the card of a submission ({str(error).splitlines()[0]})") from None


def card_folders(zoo: Path) -> tuple[Path, ...]:
    """Return the checkpoint folders below `zoo`, in order of name; those that begin with a dot are being written."""
    return tuple(sorted(path.parent for path in zoo.glob(f"[!.]*/{_CONFIG_NAME}")))
