"""What bodies hold, as JSON Schema: `fields` checks them by it, and the description of the API shows it."""

from __future__ import annotations

from typing import Any

from siftlm.serving.fields import Schema
from siftlm.serving.limits import RequestLimits

TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean", "default": False}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TOKEN_IDS: Schema = {"type": "array", "items": COUNT, "title": "a list of token ids"}
# 64 bits with a sign, as OpenAI has it.
SEED: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}

MODEL: Schema = {
    **TEXT,
    "title": "the name of a model, such as NAME for the model as it is or NAME:sift-50 to learn from 50 texts",
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
    "title": "a string or a list of strings, each with something in it",
}
SIFTLM: Schema = {
    "type": "object",
    "title": "an object: settings such as method and n, and what to say about it",
    "properties": {
        "method": TEXT,
        "memory": TEXT,
        "use": TEXT,
        "kernel": TEXT,
        "prompt": {**TEXT, "title": "the text to learn for, where that is not the prompt"},
        "return": {"type": "array", "items": {"type": "string", "enum": ["selection", "steps", "timings"]}},
        "events": {**BOOLEAN, "title": "true to be told of every step while the answer is streamed"},
    },
}

# What completions and chats have in common.
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
    # Known, and only taken where they change nothing: see NEUTRAL.
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "logit_bias": {"type": "object"},
    "top_k": {"type": "integer", "minimum": -1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
}
# Which of its tools a model is to call: a word, or an object that names one.
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
# What each of these may be without meaning anything; else the answer would not be what was asked for.
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
        "model": {**TEXT, "title": "the name of a model, or of the memory's embedder"},
        "input": {
            "anyOf": [{**TEXT, "minLength": 1}, {"type": "array", "items": {**TEXT, "minLength": 1}, "minItems": 1}],
            "title": "a string or a list of strings, each with something in it",
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
        "messages": {**MESSAGES, "title": "a list of messages, in place of prompt"},
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
    """A body for the description of the API: null is as good as nothing where a field is not required."""
    needed = schema.get("required", ())
    properties = {
        name: field if name in needed else {"anyOf": [field, {"type": "null"}]}
        for name, field in schema["properties"].items()
    }
    return {"required": True, "content": {"application/json": {"schema": {**schema, "properties": properties}}}}
