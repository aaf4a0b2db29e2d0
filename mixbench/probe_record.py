"""The record of a pixel-shuffle probe: what was measured on what, with intervals, provenance and cost.

Others may have written it, so decoding is as strict as that of an evaluation record.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixbench.errors import RecordError
from mixbench.records import Cost, Count, DatasetIdentity, ModelIdentity, Name, Provenance, Sha256

PROBE_FORMAT = "mixbench.probe/1"
_PART_LENGTH = 60


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Value):
    """A mean over examples with its 95% confidence interval, in the units of the quantity."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the interval {self.low} to {self.high} does not hold the value {self.value}")
        return self


class Point(_Value):
    """A point of a curve: `x` is a displacement or tile in pixels, or a fraction; `n` counts what was averaged."""

    x: Annotated[float, Field(ge=0)]
    n: Annotated[int, Field(gt=0)]
    y: Estimate


class Measurement(_Value):
    """What was measured of one subject under one permutation.

    Attributes:
        subject: What was measured: the decoder, one of its controls, or the model.
        permutation_seed: The seed of the permutation; None where there is none.
        metrics: Such as mse, psnr (dB) and ssim, by name.
        curves: Such as mse_by_displacement or accuracy_by_tile, by name; x ascends.
    """

    subject: Name
    permutation_seed: Count | None
    metrics: dict[str, Estimate]
    curves: dict[str, tuple[Point, ...]]


class ProbeIdentity(_Value):
    """Which probe was run; `parameters` are all resolved settings as text."""

    name: Literal["unshuffle", "recognize"]
    parameters: dict[str, str]


class ProbeProtocol(_Value):
    """What decides whether two probe records may be compared.

    Attributes:
        seed: The run seed.
        permutation_seeds: The seeds of the permutations, ascending.
        hash: SHA-256 of dataset, probe and the fields above.
    """

    seed: Count
    permutation_seeds: Annotated[tuple[Count, ...], Field(min_length=1)]
    hash: Sha256

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.permutation_seeds) != sorted(set(self.permutation_seeds)):
            raise ValueError(f"permutation_seeds {self.permutation_seeds} do not ascend")
        return self


class ProbeRecord(_Value):
    """The result of one probe of one model.

    Attributes:
        model: The checkpoint, or the decoder's mixing scheme, hashed over the weights of all trained decoders.
        dataset: The test examples.
        measurements: The model's or decoder's first, then the controls.
        warnings: What limits the numbers.
        samples_sha256: Hash of the file of sample images that belongs to it; None where there are none.
        examples_sha256: Hash of the per-example file that belongs to it; None where there is none.
    """

    format: Literal["mixbench.probe/1"] = PROBE_FORMAT
    model: ModelIdentity
    dataset: DatasetIdentity
    probe: ProbeIdentity
    protocol: ProbeProtocol
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1)]
    warnings: tuple[str, ...]
    cost: Cost
    samples_sha256: Sha256 | None
    examples_sha256: Sha256 | None
    provenance: Provenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        protocol = self.protocol
        expected = probe_hash(
            dataset=self.dataset,
            probe=self.probe,
            seed=protocol.seed,
            permutation_seeds=protocol.permutation_seeds,
        )
        if protocol.hash != expected:
            raise ValueError("protocol.hash is not the hash of the protocol that the record describes")
        for measurement in self.measurements:
            used = measurement.permutation_seed
            if used is not None and used not in protocol.permutation_seeds:
                raise ValueError(f"{measurement.subject} has permutation seed {used}, which the protocol does not name")
            for name, points in measurement.curves.items():
                places = [point.x for point in points]
                if places != sorted(set(places)):
                    raise ValueError(f"the curve {name} of {measurement.subject} does not ascend")
        return self

    @property
    def id(self) -> str:
        """A readable, unique folder name."""
        # The decoders of an un-shuffle probe follow from its protocol; a checkpoint is known by its hash.
        known = self.model.sha256 if self.probe.name == "recognize" else ""
        return probe_id(self.model.name, self.model.filter_seed, self.dataset, self.probe, self.protocol, sha256=known)

    @property
    def picture_name(self) -> str:
        """The file name of the contact sheet of this record's protocol."""
        return f"{self.probe.name}-{self.dataset.name.replace(':', '_')}-{self.protocol.hash[:10]}.png"

    def of(self, subject: str) -> tuple[Measurement, ...]:
        """Return the measurements of `subject`, one for each permutation."""
        return tuple(measurement for measurement in self.measurements if measurement.subject == subject)

    def to_json(self) -> str:
        """Return the record as indented JSON with a final newline."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "record") -> Self:
        """Return the record written in `text`; raises RecordError that names `source` and the first fault."""
        remedy = "it was edited or is damaged, probe again with --overwrite"
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{source} is not JSON ({error}): {remedy}") from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != PROBE_FORMAT:
            raise RecordError(
                f"{source} has format {found!r}, expected {PROBE_FORMAT!r}: read it with the mixbench that wrote it"
            )
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "record"
            raise RecordError(f"{source} is not a valid record: {place}: {first['msg']}; {remedy}") from None

    def without_measured_costs(self) -> Self:
        """Return the record with time, memory and start cleared: equal for a run and its resumed twin."""
        return self.model_copy(
            update={
                "cost": self.cost.model_copy(update={"seconds": 0.0, "seconds_by_stage": {}, "peak_memory_bytes": 0}),
                "provenance": self.provenance.model_copy(update={"started": datetime(2000, 1, 1, tzinfo=UTC)}),
            }
        )


def probe_hash(*, dataset: DatasetIdentity, probe: ProbeIdentity, seed: int, permutation_seeds: tuple[int, ...]) -> str:
    """Return the SHA-256 of all that must be equal before two probe records may be compared."""
    content = {
        "format": PROBE_FORMAT,
        "dataset": dataset.model_dump(mode="json"),
        "probe": probe.model_dump(mode="json"),
        "seed": seed,
        "permutation_seeds": list(permutation_seeds),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def probe_id(
    model: str,
    filter_seed: int | None,
    dataset: DatasetIdentity,
    probe: ProbeIdentity,
    protocol: ProbeProtocol,
    *,
    sha256: str,
) -> str:
    """Return the folder name of a record: dataset, model, probe and a hash of weights, filter seed and protocol.

    `sha256` is empty for a model that follows from its protocol, since it is asked for before it is trained.
    """
    digest = hashlib.sha256(f"{model} {sha256} {filter_seed} {protocol.hash}".encode()).hexdigest()[:10]
    parts = (dataset.name, model, probe.name)
    return "-".join(re.sub(r"[^A-Za-z0-9._]", "_", part)[:_PART_LENGTH] for part in parts) + f"-{digest}"
