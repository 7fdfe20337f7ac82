"""The fields of a body, checked against the very schema that the API's description shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from siftlm.serving.refusals import BadRequest

Schema = Mapping[str, Any]
"""JSON Schema, of which this is understood: type, enum, minimum, exclusiveMinimum, maximum, minLength, maxLength,
items, minItems, maxItems, properties, required, anyOf, default; title is how a person would say it."""
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
TYPE_NAMES = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "an object",
}


def parse_fields(body: Any, schema: Schema) -> dict[str, Any]:
    """All fields that the schema names, with the defaults for those that are missing or null.

    Others are left out: clients send many that mean something elsewhere.

    >>> fields({"n": 2, "user": "me"}, {"properties": {"n": {"type": "integer"}, "echo": {"type": "boolean"}}})
    {'n': 2, 'echo': None}
    """
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, got {_preview(body)}")
    found = {}
    for name, wanted in schema["properties"].items():
        value = body.get(name)
        if value is None and name in schema.get("required", ()):
            raise _missing_field(wanted, name)
        found[name] = wanted.get("default") if value is None else check_value(value, wanted, name)
    return found


def check_value(value: Any, schema: Schema, name: str) -> Any:
    """The value, or an error that says what the field must be. Whole numbers come as ``int``, however they are written.

    >>> checked(3.0, {"type": "integer", "maximum": 5}, "n")
    3
    >>> checked("hot", {"type": "number", "minimum": 0, "maximum": 2}, "temperature")
    Traceback (most recent call last):
    siftlm.serving.refusals.BadRequest: temperature must be a number from 0 to 2, got "hot"
    """
    if "anyOf" in schema:
        found = [right for one in schema["anyOf"] for right in _try_schema(value, one, name)]
        if not found:
            raise _invalid_value(value, schema, name)
        return found[0]
    if not _matches(value, schema):
        raise _invalid_value(value, schema, name)
    kind = schema.get("type")
    if kind == "integer":
        return int(value)
    if kind == "array" and "items" in schema:
        return [check_value(one, schema["items"], f"{name}[{at}]") for at, one in enumerate(value)]
    if kind == "object":
        for inner, wanted in schema.get("properties", {}).items():
            if value.get(inner) is not None:
                check_value(value[inner], wanted, f"{name}.{inner}")
            elif inner in schema.get("required", ()):
                raise _missing_field(wanted, f"{name}.{inner}")
    return value


def _try_schema(value: Any, schema: Schema, name: str) -> list[Any]:
    try:
        return [check_value(value, schema, name)]
    except BadRequest:
        return []


def _matches(value: Any, schema: Schema) -> bool:
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, PYTHON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return False
    if kind == "integer" and isinstance(value, float) and not value.is_integer():
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if kind in {"integer", "number"}:
        low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
        return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
    if kind == "string":
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf))
    if kind == "array":
        return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf))
    return True


def _invalid_value(value: Any, schema: Schema, name: str) -> BadRequest:
    return BadRequest(
        f"{name} must be {describe_schema(schema)}, got {_preview(value)}", param=name, code="invalid_value"
    )


def _missing_field(schema: Schema, name: str) -> BadRequest:
    return BadRequest(
        f"you must provide {name}: {describe_schema(schema)}", param=name, code="missing_required_parameter"
    )


def describe_schema(schema: Schema) -> str:
    """What a value must be, in words.

    >>> said({"type": "integer", "minimum": 0, "maximum": 20})
    'a whole number from 0 to 20'
    """
    if "title" in schema:
        return str(schema["title"])
    if "enum" in schema:
        return " or ".join(_preview(one) for one in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe_schema(one) for one in schema["anyOf"])
    words = TYPE_NAMES[schema["type"]] if "type" in schema else "a value"
    if schema.get("minLength"):
        words += " with something in it"
    if "minimum" in schema and "maximum" in schema:
        return f"{words} from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f"{words} of at least {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        return f"{words} above {schema['exclusiveMinimum']}"
    return words


def _preview(value: Any) -> str:
    """A value as JSON has it, in short: a list or an object only by its kind, for it may be long."""
    if isinstance(value, (list, dict)):
        return f"{TYPE_NAMES['array' if isinstance(value, list) else 'object']} of {len(value)}"
    if isinstance(value, str):
        return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'
    if isinstance(value, (bool, type(None))):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:40]
