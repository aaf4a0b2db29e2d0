"""The gate's configuration file: which evaluations are run and what they are held against."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mixbench.errors import InvalidInputError

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Margin = Annotated[float, Field(ge=0, lt=100)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EvaluationEntry(_Value):
    """One entry of `[[evaluations]]`; each model and radius of it becomes a record.

    The words are those of `mixbench eval`.

    Attributes:
        models: Names as --model takes them.
        dataset: None for the data that the model learned.
        eps: Radii; None for the dataset's default threat model.
        margin: The tolerated fall in points; None for that of the file.
    """

    models: Annotated[tuple[_Name, ...], Field(min_length=1)]
    checkpoint: Path | None = None
    dataset: _Name | None = None
    split: _Name = "test"
    subset: _Name | None = None
    n_examples: Annotated[int, Field(gt=0)] | None = None
    attack: _Name
    steps: Annotated[int, Field(gt=0)] | None = None
    relative_step_size: Annotated[float, Field(gt=0)] | None = None
    restarts: Annotated[int, Field(gt=0)] | None = None
    norm: _Name | None = None
    eps: Annotated[tuple[_Name, ...], Field(min_length=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    block_size: Annotated[int, Field(gt=0)] = 1000
    margin: _Margin | None = None


class GateConfig(_Value):
    """What `mixbench gate --config` runs.

    Attributes:
        baseline: The store of the baselines; in the file, relative to the file's folder.
        margin: The tolerated fall in points, where an entry has none of its own.
        alpha: The chance of a false alarm, and of a false pass, of the whole gate.
    """

    baseline: Path
    margin: _Margin = 1.0
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    evaluations: Annotated[tuple[EvaluationEntry, ...], Field(min_length=1)]


def read_config(path: Path) -> GateConfig:
    """Return the configuration in `path`; raises InvalidInputError naming the file, the key and what was expected."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot read {path} ({error.strerror}): give the gate's TOML file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not TOML ({error}): mend it there") from None
    try:
        # As JSON, so that lists are tuples and strings paths, but "5" and 5.0 are no whole numbers.
        config = GateConfig.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise InvalidInputError(f"{path}: {_fault(error)}") from None
    folder = path.parent
    entries = tuple(
        entry if entry.checkpoint is None else entry.model_copy(update={"checkpoint": folder / entry.checkpoint})
        for entry in config.evaluations
    )
    return config.model_copy(update={"baseline": folder / config.baseline, "evaluations": entries})


def _fault(error: ValidationError) -> str:
    """Return the first fault: key, what was expected, what was found."""
    first = error.errors()[0]
    place = first["loc"]
    key = (
        "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".") or "the file"
    )
    if first["type"] == "extra_forbidden":
        known = EvaluationEntry.model_fields if place[0] == "evaluations" else GateConfig.model_fields
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        return f"key {key} is unknown: {guess}expected one of {', '.join(known)}"
    if first["type"] == "missing":
        return f"key {key} is missing: expected there is {_described(str(place[-1]))}"
    return f"key {key} is {first['input']!r:.100}: {first['msg']}"


def _described(key: str) -> str:
    """Return what belongs under a key that must be there."""
    return {
        "baseline": "the folder of the baseline records, such as 'baselines'",
        "evaluations": "at least one [[evaluations]] table",
        "models": "a list of model names, such as ['convmixer_frozen.digits']",
        "attack": "the name of an attack, such as 'pgd'",
    }[key]
