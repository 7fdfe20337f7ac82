"""The text of a record: of which fields it consists, in whatever form the record is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput, did_you_mean, setting
from siftlm.memory.reading.fields import FieldMapping, UnreadableRow, UnusableRecord, look_up, usable_text, value_kind
from siftlm.types import Document
from siftlm.validation import text_with_content

# Where no fields are named, the first of these forms that a record has. The fields in brackets may be missing.
FORMS: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("messages",),
    ("conversations",),
    ("instruction", "[input]", "output"),
    ("prompt", "completion"),
    ("prompt", "chosen"),
    ("question", "answer"),
    ("content",),
    ("prompt",),
    ("question",),
)
# Of a message: what OpenAI's and TRL's form calls it, ShareGPT's, and a part of a message of several parts.
MESSAGE_FIELDS = ("content", "value", "text")
# What a message, or a part of one, has that need not have any text.
MESSAGE_MARKS = ("role", "from", "type")
# A number in a string, as in CSV.
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


class WholeRecords(FieldMapping):
    """A mapping for whoever reads records as they are: no table needs to have a column ``text``."""

    def check_columns(self, names: Sequence[str], where: str) -> None:
        """Nothing to check: the text may be in any columns."""


def text_fields(name: str, value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The fields that a setting names: one, several, or (``None``) whatever form each record has."""
    if value is None:
        return None
    if not isinstance(value, Iterable):
        raise InvalidInput(f"{setting(name)} must be a field or a list of fields, got {value!r:.60}")
    fields = (value,) if isinstance(value, str) else tuple(value)
    if not fields:
        raise InvalidInput(f"{setting(name)} names no field")
    return tuple(text_with_content(name, field) for field in fields)


def record_text(record: Any, fields: Sequence[str] | None = None) -> str:
    """The text of a record: its fields one below the other, and of a conversation its messages; or `UnusableRecord`.

    >>> record_text({"prompt": "How is tea brewed?", "completion": "With hot water.", "year": 1900})
    'How is tea brewed?\\nWith hot water.'
    >>> record_text({"messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]})
    'Tea?\\nYes.'
    >>> record_text({"title": "Tea", "page": {"body": "Hot water."}}, ["title", "page.body"])
    'Tea\\nHot water.'
    """
    if isinstance(record, UnreadableRow):
        raise UnusableRecord(str(record))
    if isinstance(record, Document):
        record = {"text": record.text, **record.meta}
    if isinstance(record, str):
        return usable_text(record)
    if not isinstance(record, Mapping):
        raise UnusableRecord(f"a record is a text or an object with fields; this is {value_kind(record)}")
    chosen = form_of(record) if fields is None else tuple(fields)
    texts = [field_text(look_up(record, field, None), field) for field in chosen]
    return usable_text("\n".join(text for text in texts if text), " + ".join(chosen))


def form_of(record: Mapping[Any, Any]) -> tuple[str, ...]:
    """The fields of the first known form that a record has."""
    for form in FORMS:
        if all(field in record for field in form if not field.startswith("[")):
            return tuple(field.strip("[]") for field in form)
    known = ", ".join(repr(str(name)) for name in list(record)[:20]) or "none"
    raise UnusableRecord(f"has no text in a known form; name its fields with text= (--text); its fields are {known}")


def number_in(value: Any) -> float:
    """The number in a field, also in a string, as all values in CSV are; NaN where there is none.

    >>> number_in(2), number_in(" 2.5e-1 "), number_in("many"), number_in(True)
    (2.0, 0.25, nan, nan)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    if isinstance(value, str) and NUMBER.fullmatch(value) is None:
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number that no float holds
        return math.inf


def instead(record: Any, field: str, must: str) -> str:
    """What is wrong with the value of a field: there is none, or it is not what it must be.

    >>> instead({"stars": -1}, "stars", "a number ≥ 0")
    'must be a number ≥ 0, and is -1'
    >>> instead({"text": "Tea", "stars": 3}, "star", "a number ≥ 0")
    "must be a number ≥ 0, and the record has no such field; did you mean 'stars'?"
    """
    absent = object()
    value: Any = look_up(record, field, absent) if isinstance(record, Mapping) else absent
    if value is not absent:
        return f"must be {must}, and is {kind_of(value)}"
    hint = did_you_mean(field, map(str, record)) if isinstance(record, Mapping) else ""
    return f"must be {must}, and the record has no such field{hint}"


def kind_of(value: Any) -> str:
    """What a field holds in place of a number: its kind, or the string itself.

    >>> kind_of("many"), kind_of([1])
    ("'many'", 'a list')
    """
    return f"{value!r:.40}" if isinstance(value, str) else value_kind(value)


def field_text(value: Any, field: str) -> str:
    """The text of a field: a string, or the messages of a conversation one below the other."""
    if isinstance(value, Mapping) and not any(name in value for name in (*MESSAGE_FIELDS, *MESSAGE_MARKS)):
        raise UnusableRecord(f"{field!r} is {value_kind(value)}, not text or messages")
    return _text_in(value, field)


def _text_in(value: Any, field: str) -> str:
    """The same of a part; one without text, such as an image or a call of a tool, adds nothing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        inner = next((value[name] for name in MESSAGE_FIELDS if name in value), None)
        return _text_in(inner, field)
    if isinstance(value, (list, tuple)):
        return "\n".join(text for one in value if (text := _text_in(one, field)))
    raise UnusableRecord(f"{field!r} is {value_kind(value)}, not text or messages")
