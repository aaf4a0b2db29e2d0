"""The keywords of JSON Schema that the schema of a record uses; any other one is an error."""

import re
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
Check = Callable[[Any, Any, Schema, Schema], bool]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(value: Any, schema: Schema, definitions: Schema) -> bool:
    """Return whether `value` is what `schema` describes; `definitions` are what its references point at."""
    # The other keywords speak of values of the right type alone.
    keywords = sorted(schema, key=lambda keyword: keyword != "type")
    return all(_CHECKS[keyword](value, schema[keyword], schema, definitions) for keyword in keywords)


def _others_fit(value: Any, rule: Any, schema: Schema, definitions: Schema) -> bool:
    others = [value[name] for name in value if name not in schema.get("properties", {})]
    return not others if rule is False else all(fits(other, rule, definitions) for other in others)


def _properties_fit(value: Any, rule: Schema, _: Schema, definitions: Schema) -> bool:
    return all(fits(value[name], rule[name], definitions) for name in rule if name in value)


_NOTES = ("title", "description", "examples", "default", "format", "$schema", "$defs")
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_NOTES, lambda *_: True),
    "$ref": lambda value, rule, _, definitions: fits(value, definitions[rule.rpartition("/")[2]], definitions),
    "anyOf": lambda value, rule, _, definitions: any(fits(value, option, definitions) for option in rule),
    "type": lambda value, rule, *_: type(value) in _TYPES[rule],
    "const": lambda value, rule, *_: value == rule,
    "enum": lambda value, rule, *_: value in rule,
    "pattern": lambda value, rule, *_: re.search(rule, value) is not None,
    "minLength": lambda value, rule, *_: len(value) >= rule,
    "maxLength": lambda value, rule, *_: len(value) <= rule,
    "minimum": lambda value, rule, *_: value >= rule,
    "exclusiveMinimum": lambda value, rule, *_: value > rule,
    "minItems": lambda value, rule, *_: len(value) >= rule,
    "required": lambda value, rule, *_: set(rule) <= set(value),
    "properties": _properties_fit,
    "additionalProperties": _others_fit,
    "items": lambda value, rule, _, definitions: all(fits(item, rule, definitions) for item in value),
}
