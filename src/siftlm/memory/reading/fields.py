"""The fields of a record: where its text, id, vector and metadata are, and which of their values can be stored."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.memory.vectors import unit_rows
from siftlm.types import Document, Vectors, json_number

_ABSENT = object()
# Levels of metadata: far more than anybody needs, and far fewer than JSON libraries can follow.
MAX_METADATA_DEPTH = 50


class UnusableRecord(Exception):
    """This record cannot become a document; the message says why."""


class UnreadableRow(str):
    """The reason why a row cannot be read, in its place."""

    __slots__ = ()


@dataclass(frozen=True)
class FieldMapping:
    """The names of the fields. A dot goes one level down: ``"a.b"`` is ``record["a"]["b"]``."""

    text: str = "text"
    id: str | None = None
    vector: str | None = None
    meta: Sequence[str] | None = None
    """The fields to keep; ``None`` keeps all that are left (see `_everything_else`)."""

    def raw(self, value: Any) -> tuple[Any, Mapping[Any, Any], Any, Any]:
        """Text, metadata, id and vector of a record as they are in it, or `UnusableRecord` where a field is missing.

        >>> FieldMapping(id="name").raw({"text": "Hello", "name": 7, "meta": {"source": "web"}, "year": 2020})
        ('Hello', {'year': 2020, 'source': 'web'}, 7, None)
        """
        if isinstance(value, Document):
            return self._of_document(value)
        if isinstance(value, UnreadableRow):
            raise UnusableRecord(str(value))
        if isinstance(value, str):
            return value, {}, None, None
        if not isinstance(value, Mapping):
            raise UnusableRecord(f"a record is a text or an object with fields; this is {value_kind(value)}")
        text = look_up(value, self.text)
        if text is _ABSENT:
            raise UnusableRecord(f"has no field {self.text!r}")
        name = None if self.id is None else look_up(value, self.id)
        if name is _ABSENT or (name is None and self.id is not None):
            raise UnusableRecord(f"has no id: field {self.id!r} is missing or null")
        numbers = None if self.vector is None else look_up(value, self.vector)
        if numbers is _ABSENT or (numbers is None and self.vector is not None):
            raise UnusableRecord(f"has no vector: field {self.vector!r} is missing or null")
        return text, self._metadata(value), name, numbers

    def _of_document(self, document: Document) -> tuple[Any, Mapping[Any, Any], Any, Any]:
        if not isinstance(document.meta, Mapping):
            raise UnusableRecord(f"the metadata is {value_kind(document.meta)}, not a mapping")
        name = document.meta.get(self.id) if document.id is None and self.id is not None else document.id
        meta = (
            document.meta
            if self.meta is None
            else {key: document.meta[key] for key in self.meta if key in document.meta}
        )
        return document.text, meta, name, document.vector

    def check_columns(self, names: Sequence[str], where: str) -> None:
        """Raise where a table lacks one of the named columns: it has all of its columns in every row."""
        named = [("text", self.text), ("id", self.id), ("vector", self.vector)]
        named += [("meta", field) for field in self.meta or () if "meta" not in names]
        for name, field in named:
            if field is not None and field not in names and field.split(".")[0] not in names:
                known = ", ".join(repr(column) for column in names)
                raise InvalidInput(f"{where}: there is no column {field!r} ({setting(name)}); its columns are {known}")

    def check_present(self, record: Mapping[Any, Any], where: str) -> None:
        """Raise where the first record of an input lacks a named field: then the name is wrong, not the record."""
        for name, field in (("text", self.text), ("id", self.id), ("vector", self.vector)):
            if field is not None and look_up(record, field) is _ABSENT:
                known = ", ".join(repr(name) for name in _names(record)) or "none"
                raise InvalidInput(f"{where}: there is no field {field!r} ({setting(name)}); its fields are {known}")

    @property
    def columns(self) -> list[str] | None:
        """The columns of a table that are needed; ``None`` for all."""
        if self.meta is None:
            return None
        names = [self.text, self.id, self.vector, *self.meta]
        return list(dict.fromkeys(name for name in names if name is not None))

    def _metadata(self, record: Mapping[Any, Any]) -> dict[Any, Any]:
        if self.meta is None:
            return self._everything_else(record)
        kept = {}
        for field in self.meta:
            value = look_up(record, field)
            if value is _ABSENT and isinstance(record.get("meta"), Mapping):
                value = look_up(record["meta"], field)
            if value is not _ABSENT:
                kept[field] = value
        return kept

    def _everything_else(self, record: Mapping[Any, Any]) -> dict[Any, Any]:
        """With an object called ``meta``, as in the Pile, that and the plain fields around it; else all fields."""
        rest = dict(record)
        for field in (self.text, self.id, self.vector):
            if field is not None:
                _remove(rest, field)
        inner = rest.get("meta")
        if not isinstance(inner, Mapping):
            return rest
        plain = {key: value for key, value in rest.items() if not isinstance(value, (Mapping, list, tuple, np.ndarray))}
        return {**plain, **inner}


def usable_text(text: Any, field: str = "text") -> str:
    """The text itself, or `UnusableRecord`."""
    if not isinstance(text, str):
        raise UnusableRecord(f"{field!r} is {value_kind(text)}, not a string")
    if not text or text.isspace():
        raise UnusableRecord(f"{field!r} is {'only white space' if text else 'empty'}")
    return _storable(text, field)


def usable_vector(numbers: Any, width: int | None = None) -> Vectors:
    """(d,) float32, or `UnusableRecord`."""
    if isinstance(numbers, str):
        try:
            numbers = json.loads(numbers)
        except ValueError:
            raise UnusableRecord("the vector is a string that holds no JSON list of numbers") from None
    try:
        array = np.asarray(numbers)
    except (ValueError, TypeError):
        array = np.asarray("ragged")
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        raise UnusableRecord("the vector is not a list of numbers")
    with np.errstate(over="ignore"):
        vector: Vectors = array.astype(np.float32)
    if width is not None and len(vector) != width:
        raise UnusableRecord(f"the vector has {len(vector)} numbers, the first one of this input had {width}")
    if not np.isfinite(vector).all():
        raise UnusableRecord("the vector holds NaN, infinity or a number too large for float32")
    if np.isnan(unit_rows(vector[None])).any():
        raise UnusableRecord("the vector is zero: it has no direction")
    return vector


def usable_id(name: Any) -> str | None:
    """The id as a string, or `UnusableRecord`."""
    if name is None or type(name) is str:
        return None if name is None else _storable(name, "id")
    if isinstance(name, (bool, np.bool_)) or not isinstance(name, (str, int, np.integer, uuid.UUID)):
        raise UnusableRecord(f"the id is {value_kind(name)}, not a string or a whole number")
    return _storable(str(name), "id")


def usable_meta(meta: Mapping[Any, Any]) -> dict[str, Any]:
    """Metadata as JSON can hold them, or `UnusableRecord`."""
    try:
        found = {
            key if type(key) is str and key.isascii() else _json_key(key): _json_value(meta[key], key) for key in meta
        }
    except RecursionError:
        found = None
    if found is None or too_deep(found):
        raise UnusableRecord(f"the metadata is nested too deeply, in more than {MAX_METADATA_DEPTH} levels")
    return found


def too_deep(meta: Mapping[str, Any]) -> bool:
    """Whether a value is in more than `MAX_METADATA_DEPTH` levels of objects and lists. It must not contain itself."""
    level: list[Any] = [meta]
    for _ in range(MAX_METADATA_DEPTH + 1):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list, tuple))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _json_value(value: Any, field: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite become null, dates become ISO strings."""
    if value is None or isinstance(value, (bool, int)):
        return value if value is None or type(value) in (bool, int) else int(value)
    if isinstance(value, str):
        return _storable(str(value), f"meta {field}")
    if isinstance(value, float):
        return json_number(float(value))
    if isinstance(value, Mapping):
        return {_json_key(key): _json_value(inner, field) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = value if isinstance(value, (list, tuple)) else sorted(value, key=repr)
        return [_json_value(inner, field) for inner in items]
    try:
        return _json_value(plain_value(value), field)
    except TypeError:
        raise _unknown(value, field) from None


def plain_value(value: Any) -> Any:
    """A date, a time, a number of numpy or the like as a plain value; `TypeError` for any other.

    >>> plain_value(datetime.date(2020, 1, 2)), plain_value(np.float32(0.5)), plain_value(uuid.UUID(int=5)).count("0")
    ('2020-01-02', 0.5, 31)
    """
    if isinstance(value, np.generic):
        plain = value.item()
        if not isinstance(plain, np.generic):
            return plain
    elif isinstance(value, np.ndarray):
        return value.tolist()
    elif isinstance(value, decimal.Decimal):
        return float(value)
    elif isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    elif isinstance(value, datetime.timedelta):
        return value.total_seconds()
    elif isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _unknown(value: Any, field: Any) -> UnusableRecord:
    return UnusableRecord(
        f"meta {field!r} is {value_kind(value)}, which JSON cannot hold; say with meta= which fields to keep"
    )


def _json_key(key: Any) -> str:
    return _storable(str(key), "a name in meta")


def _storable(text: str, field: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = f"U+{ord(text[error.start]):04X}"
            message = f"{field!r} holds half of a surrogate pair ({code} at character {error.start}), which is no text"
            raise UnusableRecord(message) from None
    return text


def look_up(record: Mapping[Any, Any], field: str, default: Any = _ABSENT) -> Any:
    """The value of a field, with a dot for each level; ``default`` where there is none."""
    if field in record:
        return record[field]
    value: Any = record
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return default
        value = value[name]
    return value


def _remove(record: dict[Any, Any], field: str) -> None:
    """Remove a field from ``record``; nested objects are copied first, since they are the caller's."""
    if field in record:
        del record[field]
        return
    first, _, rest = field.partition(".")
    if rest and isinstance(record.get(first), Mapping):
        record[first] = dict(record[first])
        _remove(record[first], rest)
        if not record[first]:
            del record[first]


def _names(record: Mapping[Any, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in list(record.items())[:30]:
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping) and not prefix:
            names.extend(_names(value, f"{key}."))
    return names[:40]


def value_kind(value: Any) -> str:
    """The kind of a value in the words of JSON.

    >>> value_kind(None), value_kind([1])
    ('null', 'a list')
    """
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return f"{value!r:.40}"
    known: dict[type, str] = {list: "a list", tuple: "a list", dict: "an object", str: "a string", bytes: "bytes"}
    return known.get(value.__class__, f"of type {type(value).__name__}")
