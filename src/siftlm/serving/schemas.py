"""Request bodies: their limits, and their JSON Schema, which checks the fields and describes the API."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from siftlm.serving.errors import BadRequest


@dataclass(frozen=True)
class RequestLimits:
    """The largest requests that are accepted."""

    body: int = 8 * 2**20
    """Bytes."""
    seconds: float = 300.0
    """Until the answer is complete."""
    prompts: int = 64
    """Prompts in one request."""
    choices: ClassVar[int] = 8
    """Choices for each prompt; part of the API's description."""
    inputs: int = 2048
    """Texts to embed."""
    messages: int = 4096
    """Messages in a conversation."""
    text: int = 2**20
    """Characters of one text to embed, to select for or to tokenize."""
    texts: int = 2**22
    """Characters of all texts to embed."""
    ids: int = 2**18
    """Tokens to detokenize."""
    stops: int = 16
    """Stop strings. OpenAI accepts 4; tasks of lm-evaluation-harness send more."""
    entries: int = 2_000_000
    """Entries of an answer: tokens (generated, and with echo the prompts') × choices × (logprobs + 1)."""


DEFAULT_LIMITS = RequestLimits()


def check_items(body: Any, name: str, most: int, noun: str) -> None:
    """Refuse a list that is too long, before its items are checked: a million of them take seconds.

    >>> check_items({"stop": ["a", "b"]}, "stop", 1, "texts")
    Traceback (most recent call last):
    siftlm.serving.errors.BadRequest: stop must have at most 1 texts, got 2
    """
    items = body.get(name) if isinstance(body, dict) else None
    if isinstance(items, list) and len(items) > most:
        raise BadRequest(f"{name} must have at most {most} {noun}, got {len(items)}", param=name, code="too_many_items")


def check_texts(name: str, texts: Iterable[str], limits: RequestLimits) -> None:
    """Refuse texts that would take minutes to process."""
    lengths = [len(one) for one in texts]
    if max(lengths, default=0) > limits.text:
        message = f"{name} must have at most {limits.text} characters, got {max(lengths)}"
    elif sum(lengths) > limits.texts:
        message = f"{name} must have at most {limits.texts} characters in total, got {sum(lengths)}"
    else:
        return
    raise BadRequest(message, param=name, code="text_too_long")


# --- schemas

Schema = Mapping[str, Any]
"""JSON Schema, limited to: type, enum, minimum, exclusiveMinimum, maximum, minLength, maxLength, items, minItems,
maxItems, properties, required, anyOf, default, and title, the description for error messages; additionalProperties
where a route refuses unknown fields itself."""

TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean", "default": False}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TOKEN_IDS: Schema = {"type": "array", "items": COUNT, "title": "a list of token ids"}
# A signed 64-bit integer, as in OpenAI's API.
SEED: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}

MODEL: Schema = {
    **TEXT,
    "title": "the name of a model: NAME for the base model, or for example NAME:sift-50 to tune it on 50 texts",
}
PROMPT: Schema = {
    "anyOf": [
        TEXT,
        {"type": "array", "items": TEXT, "minItems": 1},
        {**TOKEN_IDS, "minItems": 1},
        {"type": "array", "items": TOKEN_IDS, "minItems": 1},
    ],
    "title": "a string, a list of strings, a list of token ids, or a list of such lists",
}
STOP: Schema = {
    "anyOf": [{**TEXT, "minLength": 1}, {"type": "array", "items": {**TEXT, "minLength": 1}}],
    "title": "a string or a list of strings, none of them empty",
}
SIFTLM: Schema = {
    "type": "object",
    "title": "an object: settings such as method and n, and what to report",
    "properties": {
        "method": TEXT,
        "memory": TEXT,
        "use": TEXT,
        "kernel": TEXT,
        "prompt": {**TEXT, "title": "the text to select for, if it is not the prompt"},
        "return": {"type": "array", "items": {"type": "string", "enum": ["selection", "steps", "timings"]}},
        "events": {**BOOLEAN, "title": "true to stream an event for every step"},
    },
}

# Fields of both completions and chat completions.
_SAMPLING_FIELDS: dict[str, Schema] = {
    "model": MODEL,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1.0},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 1.0},
    "n": {"type": "integer", "minimum": 1, "maximum": RequestLimits.choices, "default": 1},
    "stop": STOP,
    "seed": SEED,
    "stream": BOOLEAN,
    "stream_options": {"type": "object", "properties": {"include_usage": BOOLEAN}},
    "siftlm": SIFTLM,
    # Accepted only with values that change nothing: see NEUTRAL_VALUES.
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "logit_bias": {"type": "object"},
    "top_k": {"type": "integer", "minimum": -1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
}
# Which tool the model should call: a word, or an object that names one.
TOOL_CHOICE: Schema = {"anyOf": [TEXT, {"type": "object"}], "title": "a string or an object"}
COMPLETION_SCHEMA: Schema = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {
        **_SAMPLING_FIELDS,
        "prompt": PROMPT,
        "max_tokens": {**COUNT, "default": 16},
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "echo": BOOLEAN,
        "best_of": {"type": "integer", "minimum": 0},
        "suffix": TEXT,
    },
}
MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {**TEXT, "enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {
            "anyOf": [TEXT, {"type": "array", "items": {"type": "object", "properties": {"type": TEXT, "text": TEXT}}}],
            "title": 'a string, or a list of parts such as {"type": "text", "text": "…"}',
        },
    },
}
MESSAGES: Schema = {"type": "array", "items": MESSAGE, "minItems": 1, "title": "a list of messages"}
CHAT_SCHEMA: Schema = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        **_SAMPLING_FIELDS,
        "messages": MESSAGES,
        "max_tokens": COUNT,
        "max_completion_tokens": COUNT,
        "logprobs": BOOLEAN,
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "tools": {"type": "array"},
        "tool_choice": TOOL_CHOICE,
        "functions": {"type": "array"},
        "function_call": TOOL_CHOICE,
        "modalities": {"type": "array", "items": TEXT},
        "audio": {"type": "object"},
        "response_format": {"type": "object", "properties": {"type": TEXT}},
    },
}
# Values that change nothing. Any other value is refused: the answer would not be the one requested.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
}
EMBEDDINGS_SCHEMA: Schema = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": {**TEXT, "title": "the name of a model, or of a memory's embedder"},
        "input": {
            "anyOf": [{**TEXT, "minLength": 1}, {"type": "array", "items": {**TEXT, "minLength": 1}, "minItems": 1}],
            "title": "a string or a list of strings, none of them empty",
        },
        "encoding_format": {**TEXT, "enum": ["float", "base64"], "default": "float"},
        "dimensions": {"type": "integer", "minimum": 1},
        "siftlm": {"type": "object", "properties": {"memory": TEXT}},
    },
}
TOKENIZE_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "prompt": TEXT,
        "messages": {**MESSAGES, "title": "a list of messages, instead of prompt"},
        "add_special_tokens": {"type": "boolean", "default": True},
        "return_token_strs": BOOLEAN,
    },
}
DETOKENIZE_SCHEMA: Schema = {"type": "object", "required": ["tokens"], "properties": {"tokens": TOKEN_IDS}}
ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openapi_body(schema: Schema) -> dict[str, Any]:
    """A request body for the API's description; optional fields may be null."""
    needed = schema.get("required", ())
    properties = {
        name: field if name in needed else {"anyOf": [field, {"type": "null"}]}
        for name, field in schema["properties"].items()
    }
    return {"required": True, "content": {"application/json": {"schema": {**schema, "properties": properties}}}}


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
    """The fields that the schema names, with the defaults for those that are missing or null.

    Other fields are ignored: clients send many that are for other servers.

    >>> parse_fields({"n": 2, "user": "me"}, {"properties": {"n": {"type": "integer"}, "echo": {"type": "boolean"}}})
    {'n': 2, 'echo': None}
    """
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, got {_preview(body)}")
    fields = {}
    for name, field in schema["properties"].items():
        value = body.get(name)
        if value is None and name in schema.get("required", ()):
            raise _missing_field(field, name)
        fields[name] = field.get("default") if value is None else check_value(value, field, name)
    return fields


def check_value(value: Any, schema: Schema, name: str) -> Any:
    """The value, or an error that says what the field must be. Whole numbers become ``int``, also if written as 3.0.

    >>> check_value(3.0, {"type": "integer", "maximum": 5}, "n")
    3
    >>> check_value("hot", {"type": "number", "minimum": 0, "maximum": 2}, "temperature")
    Traceback (most recent call last):
    siftlm.serving.errors.BadRequest: temperature must be a number from 0 to 2, got "hot"
    """
    if "anyOf" in schema:
        matches = [match for one in schema["anyOf"] for match in _try_schema(value, one, name)]
        if not matches:
            raise _invalid_value(value, schema, name)
        return matches[0]
    if not _matches(value, schema):
        raise _invalid_value(value, schema, name)
    kind = schema.get("type")
    if kind == "integer":
        return int(value)
    if kind == "array" and "items" in schema:
        return [check_value(one, schema["items"], f"{name}[{at}]") for at, one in enumerate(value)]
    if kind == "object":
        for inner, field in schema.get("properties", {}).items():
            if value.get(inner) is not None:
                check_value(value[inner], field, f"{name}.{inner}")
            elif inner in schema.get("required", ()):
                raise _missing_field(field, f"{name}.{inner}")
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
    """A description of the allowed values.

    >>> describe_schema({"type": "integer", "minimum": 0, "maximum": 20})
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
        words += " that is not empty"
    if "minimum" in schema and "maximum" in schema:
        return f"{words} from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f"{words} of at least {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        return f"{words} above {schema['exclusiveMinimum']}"
    return words


def _preview(value: Any) -> str:
    """A value in short, as JSON; a list or an object only by its kind and size."""
    if isinstance(value, (list, dict)):
        return f"{TYPE_NAMES['array' if isinstance(value, list) else 'object']} of {len(value)}"
    if isinstance(value, str):
        return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'
    if isinstance(value, (bool, type(None))):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:40]
