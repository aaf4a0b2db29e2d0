"""What a board evaluates: one TOML file a board, `protocols/<board>.toml`."""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from mixbench.errors import InvalidInputError, RecordError
from mixbench.records import Count, Eps, EvaluationRecord, Name, Sha256
from mixbench.threat_model import Norm, ThreatModel

PROTOCOLS_NAME = "protocols"


def _threat_model(value: object) -> ThreatModel:
    try:
        return value if isinstance(value, ThreatModel) else ThreatModel.parse(str(value))
    except InvalidInputError as error:
        raise ValueError(str(error)) from None


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subset(_Value):
    """The examples that are evaluated: how many, and the fingerprint of their pixels and labels."""

    n: Annotated[int, Field(gt=0)]
    fingerprint: Sha256


class Headline(_Value):
    """The attack, threat model and examples by which a board is first shown."""

    attack: Name
    threat_model: Annotated[ThreatModel, PlainValidator(_threat_model), PlainSerializer(str)]
    subset: Name


class Evaluations(_Value):
    """One attack along a grid of radii.

    Attributes:
        eps: The radii, ascending; they are attacked in this order, in one run.
        subset: A name in `BoardProtocol.subsets`.
        parameters: Hyper-parameters that the attack must have had; those not named may be any.
        engine: What it searches with: "reference", the plain model and pyautoattack, or "fast", mixbench's own engine.
    """

    attack: Name
    norm: Norm
    eps: Annotated[tuple[Eps, ...], Field(min_length=1)]
    subset: Name
    parameters: Mapping[str, str] = {}
    engine: Literal["fast", "reference"] = "reference"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise(self.eps)):
            raise ValueError(f"eps [{', '.join(map(str, self.eps))}] is not a strictly ascending list of radii")
        return self

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """The radii as threat models."""
        return tuple(ThreatModel(self.norm, eps) for eps in self.eps)


class BoardProtocol(_Value):
    """What one board evaluates.

    Attributes:
        evaluations: The weakest attack first: where several were run under one threat model, the last one decides.
    """

    title: Name
    dataset: Name
    split: Name
    seed: Count
    block_size: Annotated[int, Field(gt=0)]
    headline: Headline
    subsets: Mapping[str, Subset]
    evaluations: Annotated[tuple[Evaluations, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for evaluations in self.evaluations:
            if evaluations.subset not in self.subsets:
                raise ValueError(f"subset {evaluations.subset!r} of {evaluations.attack} is not among the subsets")
        shown = self.headline
        found = [e for e in self.evaluations if (e.attack, e.subset) == (shown.attack, shown.subset)]
        if not any(shown.threat_model in evaluations.threat_models for evaluations in found):
            raise ValueError(f"headline {shown.attack}, {shown.threat_model} on {shown.subset!r} is not evaluated")
        return self

    def evaluations_of(self, record: EvaluationRecord) -> int | None:
        """Return the index of the evaluations that `record` is one of, or None where it is of another protocol."""
        for index, evaluations in enumerate(self.evaluations):
            if self._covers(evaluations, record):
                return index
        return None

    def _covers(self, evaluations: Evaluations, record: EvaluationRecord) -> bool:
        subset, data, attack = self.subsets[evaluations.subset], record.dataset, record.attack
        grid = record.protocol.eps_grid
        return (
            (data.name, data.split, data.subset) == (self.dataset, self.split, evaluations.subset)
            and (data.fingerprint, data.n) == (subset.fingerprint, subset.n)
            and (attack.name, record.threat_model.norm) == (evaluations.attack, evaluations.norm)
            and (record.protocol.seed, record.protocol.block_size) == (self.seed, self.block_size)
            and evaluations.engine == attack.engine
            and grid == evaluations.eps[: len(grid)]
            and evaluations.parameters.items() <= attack.parameters.items()
        )


@dataclass(frozen=True)
class NamedProtocol:
    """A protocol and its name, that of its file."""

    name: str
    protocol: BoardProtocol


def read_protocol(path: Path) -> BoardProtocol:
    """Return the protocol in the TOML file `path`; raises RecordError that names the first fault."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is not a readable TOML file ({error}): mend it") from None
    try:
        return BoardProtocol.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "protocol"
        raise RecordError(f"{path} is not a board's protocol: {place}: {first['msg']}; mend it") from None


def read_protocols(folder: Path) -> tuple[NamedProtocol, ...]:
    """Return every protocol of the leaderboards in `folder`, in order of name; raises RecordError if there is none."""
    paths = sorted((folder / PROTOCOLS_NAME).glob("*.toml"))
    if not paths:
        raise RecordError(
            f"{folder} is no folder of leaderboards: it has no {PROTOCOLS_NAME}/*.toml; give it with --folder"
        )
    return tuple(NamedProtocol(path.stem, read_protocol(path)) for path in paths)
