"""Records as columns: texts, ids, vectors and metadata of a whole batch are looked up and checked at once.

A column whose values are all of one plain kind is checked as a whole. Only in one that is not are values looked at one
by one, which finds those that cannot be used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from json.encoder import encode_basestring
from typing import Any

import numpy as np

from siftlm.memory.reading.fields import (
    FieldMapping,
    UnusableRecord,
    usable_id,
    usable_meta,
    usable_text,
    usable_vector,
)
from siftlm.types import BoolArray, Document, Vectors

Table = Mapping[str, Any]
"""Columns of equal length by their names: lists, and arrays (n, d) of vectors."""
Encode = Callable[[Mapping[Any, Any]], str]
"""Metadata -> JSON with ``", "`` and ``": "`` between its parts; `UnusableRecord` where JSON cannot hold it."""


# Vectors that are shorter, or of no finite length in float32, are looked at one by one.
SMALLEST_SQUARED_NORM = 1e-30


@dataclass(frozen=True, eq=False)
class DocumentBatch:
    """Documents on their way into a memory, as columns of equal length."""

    texts: Sequence[str]
    metas: Sequence[str | None]
    """JSON as it is stored; None where there is none."""
    keys: Sequence[str | None]
    vectors: Vectors | None = None
    """(n, d) float32; None where no text comes with a vector."""
    given: BoolArray | None = None
    """(n,) whose vectors are known; None where all are, or none."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: Sequence[int]) -> DocumentBatch:
        """The documents at these positions."""
        return DocumentBatch(
            [self.texts[at] for at in positions],
            [self.metas[at] for at in positions],
            [self.keys[at] for at in positions],
            None if self.vectors is None else self.vectors[positions],
            None if self.given is None else self.given[positions],
        )

    def slice(self, start: int, end: int) -> DocumentBatch:
        """The documents from ``start`` to ``end``."""
        return DocumentBatch(
            self.texts[start:end],
            self.metas[start:end],
            self.keys[start:end],
            None if self.vectors is None else self.vectors[start:end],
            None if self.given is None else self.given[start:end],
        )

    @classmethod
    def joined(cls, batches: Sequence[DocumentBatch]) -> DocumentBatch:
        """Batches one after the other."""
        if len(batches) == 1:
            return batches[0]
        filled = [batch for batch in batches if len(batch)]
        width = next((batch.vectors.shape[1] for batch in filled if batch.vectors is not None), None)
        alike = width is None or all(batch.vectors is not None and batch.given is None for batch in filled)
        return cls(
            [text for batch in filled for text in batch.texts],
            [meta for batch in filled for meta in batch.metas],
            [key for batch in filled for key in batch.keys],
            None if width is None else np.concatenate([batch.padded_vectors(width) for batch in filled]),
            None if alike else np.concatenate([batch.known for batch in filled]),
        )

    def padded_vectors(self, width: int) -> Vectors:
        """(n, d) the vectors, zero where none is known."""
        return np.zeros((len(self), width), dtype=np.float32) if self.vectors is None else self.vectors

    @property
    def known(self) -> BoolArray:
        """(n,) whose vectors are known."""
        if self.given is not None:
            return self.given
        return np.full(len(self), self.vectors is not None)

    def document(self, at: int) -> Document:
        """One of the documents."""
        meta = self.metas[at]
        has_vector = self.vectors is not None and (self.given is None or self.given[at])
        vector = self.vectors[at] if self.vectors is not None and has_vector else None
        return Document(self.texts[at], {} if meta is None else json.loads(meta), self.keys[at], vector)


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """The rows of a batch after the checks."""

    documents: DocumentBatch
    positions: Sequence[int]
    """The row of each document."""
    problems: Mapping[int, str]
    """Row -> why it gives no document, in ascending order."""

    def with_vectors(self, vectors: Vectors) -> CheckedRows:
        """The same with a vector (n, d) for each document, where its numbers are finite."""
        problems: dict[int, str] = {}
        array, _ = _usable_vectors(vectors, None, problems)
        documents = replace(self.documents, vectors=array, given=None)
        if not problems:
            return replace(self, documents=documents)
        kept = [at for at in range(len(documents)) if at not in problems]
        told = {**self.problems, **{self.positions[at]: why for at, why in problems.items()}}
        return CheckedRows(documents.take(kept), [self.positions[at] for at in kept], dict(sorted(told.items())))


def check_rows(rows: Sequence[Any] | Table, fields: FieldMapping, width: int | None) -> CheckedRows:
    """The documents of rows, which are texts, mappings, documents or `UnreadableRow`, or columns by their names.

    ``width`` is what their vectors must have, where that is known.
    """
    problems: dict[int, str] = {}
    raw = _raw_columns(rows, fields, problems)
    texts = usable_texts(raw.texts, fields.text, problems)
    metas = json_metas(raw.metas, len(texts), encode_readable, problems)
    keys = _usable_ids(raw.ids, len(texts), problems)
    vectors, given = _usable_vectors(raw.vectors, width, problems)
    documents = DocumentBatch(texts, metas, keys, vectors, given)
    if not problems:
        return CheckedRows(documents, range(len(texts)), problems)
    positions = [at for at in range(len(texts)) if at not in problems]
    return CheckedRows(documents.take(positions), positions, dict(sorted(problems.items())))


@dataclass
class _RawColumns:
    """Columns before the checks; a row with a problem has anything in them."""

    texts: Sequence[Any]
    metas: Table | Sequence[Mapping[Any, Any]]
    ids: Sequence[Any] | None
    vectors: Sequence[Any] | Vectors | None


def _raw_columns(rows: Sequence[Any] | Table, fields: FieldMapping, problems: dict[int, str]) -> _RawColumns:
    if not isinstance(rows, Mapping) and set(map(type, rows)) == {str}:
        return _RawColumns(rows, {}, None, None)
    table = rows if isinstance(rows, Mapping) else _as_table(rows)
    found = None if table is None else _from_table(table, fields)
    if found is not None:
        return found
    if isinstance(rows, Mapping):
        rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    texts, metas, ids, vectors = [], [], [], []
    for at, row in enumerate(rows):
        try:
            text, meta, name, vector = fields.raw(row)
        except UnusableRecord as unusable:
            problems[at] = str(unusable)
            text, meta, name, vector = "", {}, None, None
        texts.append(text)
        metas.append(meta)
        ids.append(name)
        vectors.append(vector)
    return _RawColumns(texts, metas, ids, vectors)


def _as_table(rows: Sequence[Any]) -> Table | None:
    """The columns of rows that are dicts with the same plain names in the same order."""
    if set(map(type, rows)) != {dict} or len(set(map(tuple, rows))) != 1:
        return None
    names = list(rows[0])
    if set(map(type, names)) != {str} or not _is_storable("".join(names)):
        return None
    return dict(zip(names, zip(*map(dict.values, rows), strict=True), strict=True))


def _from_table(table: Table, fields: FieldMapping) -> _RawColumns | None:
    """The columns that the fields name; None where a field is within a column, or some rows have what others lack."""
    named = [name for name in (fields.text, fields.id, fields.vector) if name is not None]
    if any(name not in table for name in named) or any(_has_gaps(table[name]) for name in named[1:]):
        return None
    metas: Table | None = {name: column for name, column in table.items() if name not in named}
    inner = metas.get("meta", ()) if metas else ()
    if metas and any(isinstance(value, Mapping) for value in inner):
        below = _as_table(inner)
        metas = None if below is None else _around(metas, below, fields.meta is None)
    if metas is not None and fields.meta is not None:
        metas = {**metas, **table}
        metas = {name: metas[name] for name in fields.meta} if metas.keys() >= set(fields.meta) else None
    if metas is None:
        return None
    return _RawColumns(
        table[fields.text],
        metas,
        None if fields.id is None else table[fields.id],
        None if fields.vector is None else table[fields.vector],
    )


def _has_gaps(column: Sequence[Any] | Vectors) -> bool:
    return not isinstance(column, np.ndarray) and any(value is None for value in column)


def _around(metas: Table, below: Table, plain_alone: bool) -> Table | None:
    """The object ``meta`` and the fields around it, as `FieldMapping` takes them; None where rows differ in kind."""
    around = {name: column for name, column in metas.items() if name != "meta"}
    if plain_alone:
        kinds = {name: set(map(_is_nested, column)) for name, column in around.items()}
        if any(len(kind) > 1 for kind in kinds.values()):
            return None
        around = {name: column for name, column in around.items() if kinds[name] == {False}}
    return {**around, **below}


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple, np.ndarray))


# --- the columns


def usable_texts(values: Sequence[Any], field: str, problems: dict[int, str]) -> Sequence[Any]:
    """The texts; those that cannot be used are named in ``problems``."""
    if set(map(type, values)) <= {str} and all(values) and not any(map(str.isspace, values)) and are_storable(values):
        return values
    _each(values, lambda value: usable_text(value, field), problems)
    return values


def are_storable(texts: Iterable[str]) -> bool:
    """Whether UTF-8 can hold all of these texts."""
    return _is_storable("".join(texts))


def _is_storable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _usable_ids(values: Sequence[Any] | None, count: int, problems: dict[int, str]) -> Sequence[str | None]:
    if values is None:
        return [None] * count
    kinds = set(map(type, values))
    if kinds <= {type(None)} or (kinds == {str} and are_storable(values)):
        return values
    if kinds == {int}:
        return list(map(str, values))
    return _each(values, usable_id, problems)


def _usable_vectors(
    values: Sequence[Any] | Vectors | None, width: int | None, problems: dict[int, str]
) -> tuple[Vectors | None, BoolArray | None]:
    """(n, d) float32, and (n,) which of them are given where some are not."""
    if values is None:
        return None, None
    if not isinstance(values, np.ndarray) and all(value is None for value in values):
        return None, None
    array = _as_vectors(values)
    if array is not None and width in (None, array.shape[1]):
        with np.errstate(over="ignore", invalid="ignore"):
            squared = np.einsum("ij,ij->i", array, array)
        for at in np.flatnonzero(~((squared > SMALLEST_SQUARED_NORM) & np.isfinite(squared))).tolist():
            _note(at, partial(usable_vector, values[at], width), problems)
        return array, None
    found: dict[int, Vectors] = {}
    for at, value in enumerate(values):
        if value is not None and at not in problems:
            vector = _note(at, partial(usable_vector, value, width), problems)
            if vector is not None:
                found[at], width = vector, len(vector)
    if not found or width is None:
        return None, None
    together, given = np.zeros((len(values), width), dtype=np.float32), np.zeros(len(values), dtype=np.bool_)
    together[list(found)], given[list(found)] = np.stack(list(found.values())), True
    return together, None if given.sum() == len(values) - len(problems) else given


def _as_vectors(values: Sequence[Any] | Vectors) -> Vectors | None:
    """(n, d) float32 where all rows are lists of as many numbers."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        return None
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def json_metas(
    metas: Table | Sequence[Mapping[Any, Any]], count: int, encode: Encode, problems: dict[int, str]
) -> list[str | None]:
    """Metadata as they are stored; None where there are none."""
    if not isinstance(metas, Mapping):
        table = _as_table(metas)
        if table is None:
            return _each(metas, lambda meta: encode(meta) if meta else None, problems)
        metas = table
    if not metas:
        return [None] * count
    columns = [_json_column(name, column, encode, problems) for name, column in metas.items()]
    template = ", ".join(f"{encode_basestring(name)}: ".replace("%", "%%") + "%s" for name in metas)
    return list(map(f"{{{template}}}".__mod__, zip(*columns, strict=True)))


def _json_column(name: str, values: Sequence[Any], encode: Encode, problems: dict[int, str]) -> Iterable[str]:
    kinds = set(map(type, values))
    if kinds == {str} and are_storable(values):
        return map(encode_basestring, values)
    if kinds == {bool}:
        return ["true" if value else "false" for value in values]
    if kinds == {int} and max(map(int.bit_length, values)) < 64:
        return map(str, values)
    if kinds == {float} and all(map(math.isfinite, values)):
        return map(float.__repr__, values)
    before = len(f"{{{encode_basestring(name)}: ")
    return _each(values, lambda value: encode({name: value})[before:-1], problems)


def encode_readable(meta: Mapping[Any, Any]) -> str:
    """JSON of metadata that were read: what JSON lacks is written as what is nearest to it."""
    plain = usable_meta(meta)
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UnusableRecord(f"the metadata cannot be written as JSON: {error}") from None


def _each(values: Sequence[Any], usable: Callable[[Any], Any], problems: dict[int, str]) -> list[Any]:
    """Each value as it can be used; the first problem of a row is kept."""
    return [None if at in problems else _note(at, partial(usable, value), problems) for at, value in enumerate(values)]


def _note(at: int, usable: Callable[[], Any], problems: dict[int, str]) -> Any:
    try:
        return usable()
    except UnusableRecord as unusable:
        problems.setdefault(at, str(unusable))
        return None
