"""The evaluation record: one verified result with everything needed to trust and to repeat it.

A record is JSON beside a parquet file with a row per example; both are values that other people may have written,
so decoding is strict: unknown keys, unknown versions and impossible counts are refused by name.
"""

import hashlib
import importlib.metadata
import itertools
import json
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

import mixbench
from mixbench.errors import InvalidInputError, RecordError
from mixbench.threat_model import Norm, ThreatModel, parse_eps

FAST_ENGINE = "mixbench fast engine"
"""How `AttackIdentity.implementation` begins where mixbench's own engine ran the attack."""

EVALUATION_FORMAT = "mixbench.evaluation/1"
EXAMPLES_COLUMNS = {
    "index": "int64",
    "label": "int64",
    "clean_prediction": "int64",
    "margin": "float32",
    "broken": "bool",
    "broken_by": "string",
    "eps": "string",
    "adversarial_prediction": "int64",
    "adversarial_margin": "float32",
    "norm": "float64",
    "forwards": "int64",
    "backwards": "int64",
}
"""The columns of the per-example file and their types; `broken_by`, `eps`, `adversarial_*` and `norm` are null
unless the example is broken. Margins are the true class's logit minus the largest other one."""

_PART_LENGTH = 60
_PACKAGES = ("torch", "torchvision", "timm", "foolbox", "pyautoattack", "numpy", "safetensors")


def _fraction(value: object) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if not isinstance(value, str):
        raise ValueError("eps must be a string such as '8/255'")  # noqa: TRY004 - pydantic reports ValueErrors
    try:
        eps = parse_eps(value)
    except InvalidInputError as error:
        raise ValueError(str(error)) from None
    if str(eps) != value:
        raise ValueError(f"eps {value!r} is not a fraction in lowest terms, expected {str(eps)!r}")
    return eps


Eps = Annotated[
    Fraction,
    PlainValidator(_fraction),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(/[0-9]+)?$", "examples": ["8/255"]}),
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Precision = Annotated[str, StringConstraints(pattern=r"^float32(; searched in .+)?$")]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accuracy(_Value):
    """A fraction of examples, kept as counts."""

    correct: Count
    total: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.correct > self.total:
            raise ValueError(f"correct {self.correct} is more than total {self.total}")
        return self

    @property
    def rate(self) -> float:
        """The fraction, in [0, 1]."""
        return self.correct / self.total


class ParameterCounts(_Value):
    """How many parameters were trained and how many kept their seeded initial values."""

    trained: Count
    frozen: Count


class ModelIdentity(_Value):
    """Which network was evaluated.

    Attributes:
        name: `architecture.tag` of the zoo, or the name it was asked for by.
        sha256: Hash of the checkpoint file, or of the state dict where there is no file.
        mixing: How space is mixed; "foreign" for networks that are not of this registry.
        filter_seed: The seed of the frozen filters; None when nothing is frozen.
        parameters: Counts of trained and frozen parameters.
    """

    name: Name
    sha256: Sha256
    mixing: Literal["trained", "frozen", "frozen_smooth", "spatial", "foreign"]
    filter_seed: int | None
    parameters: ParameterCounts


class DatasetIdentity(_Value):
    """Which examples were evaluated: `fingerprint` hashes the pixels and labels of exactly these `n` examples."""

    name: Name
    split: Name
    subset: Name
    fingerprint: Sha256
    n: Annotated[int, Field(gt=0)]


class AttackIdentity(_Value):
    """Which attack was run; `parameters` are all resolved hyper-parameters as text."""

    name: Name
    version: Name
    implementation: Name
    parameters: dict[str, str]

    @property
    def engine(self) -> str:
        """Return "fast" or "reference": what it searched with."""
        own = self.implementation.startswith(FAST_ENGINE)
        return "fast" if own else self.parameters.get("engine", "reference")


class ThreatModelField(_Value):
    """The threat model, as JSON."""

    norm: Norm
    eps: Eps

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            ThreatModel(self.norm, self.eps)
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
        return self

    @classmethod
    def of(cls, threat_model: ThreatModel) -> Self:
        """Return the JSON form of `threat_model`."""
        return cls(norm=threat_model.norm, eps=threat_model.eps)

    @property
    def value(self) -> ThreatModel:
        """The threat model itself."""
        return ThreatModel(self.norm, self.eps)


class Protocol(_Value):
    """What decides whether two numbers may be compared.

    Attributes:
        block_size: Examples that the attack library sees at once; its noise depends on this, so it is fixed.
        seed: The run seed, from which each block's seed is derived.
        eps_grid: The radii that were attacked, ascending, up to this record's own: an example broken at a smaller
            radius counts as broken here.
        hash: SHA-256 of dataset, attack, threat model and the fields above; records share a ranking only when equal.
    """

    block_size: Annotated[int, Field(gt=0)]
    seed: int
    eps_grid: tuple[Eps, ...]
    hash: Sha256

    @model_validator(mode="after")
    def _check(self) -> Self:
        grid = self.eps_grid
        if not grid or any(low >= high for low, high in itertools.pairwise(grid)):
            raise ValueError(f"eps_grid [{', '.join(map(str, grid))}] is not a strictly ascending list of radii")
        return self


class Cost(_Value):
    """What the evaluation took: passes are counted per example, seconds are wall time.

    `seconds_by_stage` has a key for each stage of the attack, and "clean".
    """

    forwards: Count
    backwards: Count
    seconds: Annotated[float, Field(ge=0)]
    seconds_by_stage: dict[str, Annotated[float, Field(ge=0)]]
    peak_memory_bytes: Count


class Provenance(_Value):
    """How the record was made; `commit` is None for an installed package.

    `precision` is that of the verdicts, then what the fast engine searched in.
    """

    mixbench: Name
    commit: str | None
    dirty: bool | None
    python: Name
    packages: dict[str, str]
    device: Name
    precision: Precision
    started: datetime

    @classmethod
    def collect(cls, *, device: str) -> Self:
        """Return the provenance of a run that starts now on `device`."""
        commit, dirty = _git_state()
        return cls(
            mixbench=mixbench.__version__,
            commit=commit,
            dirty=dirty,
            python=platform.python_version(),
            packages=dict(_package_versions()),
            device=device,
            precision="float32",
            started=datetime.now(UTC).replace(microsecond=0),
        )


class EvaluationRecord(_Value):
    """The result of one attack on one model under one threat model.

    Attributes:
        clean: Examples classified correctly without attack.
        robust: Examples classified correctly without attack and for which no verified adversarial was found.
        broken_by: For each stage of the attack, how many examples it was the first to break.
        borderline: Examples whose clean or adversarial margin is so small (|margin| < 1e-4) that other hardware may
            decide differently.
        warnings: What the attack library and the harness had to say about the reliability of the number.
        examples_sha256: Hash of the per-example parquet file that belongs to this record.
        adversarials_sha256: Hash of the file of adversarial images that belongs to it; None when they were not kept.
    """

    format: Literal["mixbench.evaluation/1"] = EVALUATION_FORMAT
    model: ModelIdentity
    dataset: DatasetIdentity
    attack: AttackIdentity
    threat_model: ThreatModelField
    protocol: Protocol
    clean: Accuracy
    robust: Accuracy
    broken_by: dict[str, Count]
    borderline: Count
    warnings: tuple[str, ...]
    cost: Cost
    examples_sha256: Sha256
    adversarials_sha256: Sha256 | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        n = self.dataset.n
        if self.clean.total != n or self.robust.total != n:
            raise ValueError(f"clean and robust accuracy must count all {n} examples of the dataset")
        if self.borderline > n:
            raise ValueError(f"borderline {self.borderline} is more than the {n} examples of the dataset")
        broken = sum(self.broken_by.values())
        if self.clean.correct - broken != self.robust.correct:
            raise ValueError(
                f"{self.clean.correct} correct less {broken} broken examples are not {self.robust.correct} robust ones"
            )
        if self.protocol.hash != protocol_hash(
            dataset=self.dataset,
            attack=self.attack,
            threat_model=self.threat_model,
            block_size=self.protocol.block_size,
            seed=self.protocol.seed,
            eps_grid=self.protocol.eps_grid,
        ):
            raise ValueError("protocol.hash is not the hash of the protocol that the record describes")
        last, eps = self.protocol.eps_grid[-1], self.threat_model.eps
        if last != eps:
            raise ValueError(f"protocol.eps_grid ends at {last}, not at the record's eps {eps}")
        return self

    @property
    def id(self) -> str:
        """A readable, unique folder name."""
        return record_id(self.model, self.dataset, self.attack, self.threat_model, self.protocol)

    def to_json(self) -> str:
        """Return the record as indented JSON with a final newline."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "record") -> Self:
        """Return the record written in `text`; raises RecordError that names `source` and the first fault."""
        try:
            # Strict, so that "350", true or 350.0 do not pass for the count 350.
            record = cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            _check_outline(text, cls.model_fields, source=source)
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "record"
            raise RecordError(
                f"{source} is not a valid record: {place}: {first['msg']}; it was edited or is damaged,"
                " evaluate again with --overwrite"
            ) from None
        if len(record.model_fields_set) < len(cls.model_fields):
            _check_outline(text, cls.model_fields, source=source)
        return record

    def without_measurements(self) -> Self:
        """Return the record with time, memory and start cleared: equal for a run and its resumed twin."""
        return self.model_copy(
            update={
                "cost": self.cost.model_copy(update={"seconds": 0.0, "seconds_by_stage": {}, "peak_memory_bytes": 0}),
                "provenance": self.provenance.model_copy(update={"started": datetime(2000, 1, 1, tzinfo=UTC)}),
            }
        )


def _check_outline(text: str, fields: Iterable[str], *, source: str) -> None:
    """Raise RecordError unless `text` is a JSON object of the known format that has all `fields`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{source} is not JSON ({error}): it may be truncated; evaluate again with --overwrite"
        ) from None
    if not isinstance(content, dict):
        raise RecordError(f"{source} is not a record: expected a JSON object with format {EVALUATION_FORMAT!r}")
    found = content.get("format")
    if found != EVALUATION_FORMAT:
        raise RecordError(
            f"{source} has format {found!r}, expected {EVALUATION_FORMAT!r}: read it with the mixbench that wrote it"
        )
    # What has a default in code must stand in the file too.
    if missing := [key for key in fields if key not in content]:
        raise RecordError(
            f"{source} is not a valid record: {missing[0]}: Field required; evaluate again with --overwrite"
        )


def protocol_hash(
    *,
    dataset: DatasetIdentity,
    attack: AttackIdentity,
    threat_model: ThreatModelField,
    block_size: int,
    seed: int,
    eps_grid: tuple[Fraction, ...],
) -> str:
    """Return the SHA-256 of all that must be equal before two records may share a ranking."""
    content = {
        "format": EVALUATION_FORMAT,
        "dataset": dataset.model_dump(mode="json"),
        "attack": attack.model_dump(mode="json"),
        "threat_model": threat_model.model_dump(mode="json"),
        "block_size": block_size,
        "seed": seed,
        "eps_grid": [str(eps) for eps in eps_grid],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_id(
    model: ModelIdentity,
    dataset: DatasetIdentity,
    attack: AttackIdentity,
    threat_model: ThreatModelField,
    protocol: Protocol,
) -> str:
    """Return the folder name of a record: dataset, model, attack, threat model and a hash of model and protocol."""
    digest = hashlib.sha256(f"{model.sha256}{protocol.hash}".encode()).hexdigest()[:10]
    radius = str(threat_model.eps).replace("/", "_")
    parts = (dataset.name, model.name, attack.name, f"{threat_model.norm.value}_{radius}")
    # File systems end at 255 bytes a name; the hash keeps two records apart that are cut to the same text.
    return "-".join(re.sub(r"[^A-Za-z0-9._]", "_", part)[:_PART_LENGTH] for part in parts) + f"-{digest}"


@cache
def _package_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


# What runs is what was imported: later commits and changes are not in it.
@cache
def _git_state() -> tuple[str | None, bool | None]:
    """Return commit and dirty flag of the checkout that this package runs from, or two Nones."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 - git is where the user has it
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        changes = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],  # noqa: S607 - as above
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)
