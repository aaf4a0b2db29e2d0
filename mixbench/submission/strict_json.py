"""JSON that a stranger wrote: bounded in size and depth, no name twice, nothing coerced, nothing unknown."""

import json
import re
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from mixbench.errors import RecordError

_DEEPEST = 12
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

M = TypeVar("M", bound=BaseModel)


def parse_strictly(model: type[M], content: bytes, *, source: str, limit: int) -> M:
    """Return the `model` written in `content`; raises RecordError that names `source` and the first fault."""
    check_json(content, source=source, limit=limit)
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RecordError(f"{source} is not valid: {place}: {first['msg']}; pack the submission again") from None


def check_json(content: bytes, *, source: str, limit: int) -> None:
    """Raise RecordError unless `content` is an object in UTF-8, at most `limit` bytes long and 12 levels deep.

    Names that stand twice in one object, NaN and infinities are refused: readers disagree on what they mean.
    """
    if len(content) > limit:
        raise RecordError(f"{source} has {len(content)} bytes, expected at most {limit}: pack the submission again")
    if _depth(content) > _DEEPEST:
        raise RecordError(f"{source} is nested deeper than {_DEEPEST} levels: pack the submission again")
    try:
        value = json.loads(content.decode(), object_pairs_hook=_each_name_once, parse_constant=_refuse_constant)
        # A lone surrogate passes as text until somebody prints it.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source} is not JSON ({error}): pack the submission again") from None
    if not isinstance(value, dict):
        raise RecordError(f"{source} is not a JSON object: pack the submission again")


def _depth(content: bytes) -> int:
    depth = deepest = 0
    for found in _STRING_OR_BRACKET.finditer(content):
        if found[0] in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in b"]}":
            depth -= 1
    return deepest


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("an object has one name twice")
    return names


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
