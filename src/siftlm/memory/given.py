"""What callers hand over, checked: texts with their metadata, prompts, rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.memory import vectors
from siftlm.memory.asked import Query
from siftlm.memory.snapshot import Snapshot
from siftlm.types import Document, IntArray, Vectors

NOTHING: Mapping[str, Any] = {}


def texts_of(query: Query) -> list[str] | None:
    """The prompt's texts, or None where it consists of vectors."""
    if isinstance(query, str):
        return [query]
    if isinstance(query, Sequence) and len(query) and all(isinstance(text, str) for text in query):
        return list(query)
    return None


def unit_targets(name: str, query: Any, width: int) -> Vectors:
    """(m, d) at unit length."""
    try:
        array = np.asarray(query, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a text, texts, or vectors: {error}") from error
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise InvalidInput(f"{name} must be a text, texts, or vectors of width {width}, got shape {array.shape}")
    found = vectors.unit(array)
    if np.isnan(found).any():
        raise InvalidInput(f"{name} has a vector that is zero or not finite")
    return found


def rows_of(rows: npt.ArrayLike, snapshot: Snapshot) -> IntArray:
    """Rows that are there."""
    array = np.atleast_1d(_array("rows", rows))
    if not array.size:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInput(f"rows must be whole numbers, got {array.dtype} of shape {array.shape}")
    alive = snapshot.view.alive
    wrong = (array < 0) | (array >= snapshot.view.rows)
    if alive is not None and not wrong.any():
        wrong = ~alive[array]
    if wrong.any():
        raise InvalidInput(f"row {array[int(np.argmax(wrong))]} is not in the memory, or was deleted")
    return array.astype(np.int64)


def documents(
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None,
    ids: Sequence[str] | None,
    given: npt.ArrayLike | None,
) -> list[Document]:
    """One a text, each with what belongs to it."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InvalidInput(f"texts must be a list of strings, got {type(texts).__name__}")
    beside: list[tuple[str, Any]] = [("metadata", metadata), ("ids", ids)]
    for name, items in beside:
        if items is not None and (not isinstance(items, Sequence) or isinstance(items, str)):
            raise InvalidInput(f"{name} must be a list, got {type(items).__name__}")
        if items is not None and len(items) != len(texts):
            raise InvalidInput(f"{name} has {len(items)} entries for {len(texts)} texts")
    own = None if given is None else _array("vectors", given)
    if own is not None and (own.ndim != 2 or len(own) != len(texts) or own.dtype.kind not in "fiu"):
        raise InvalidInput(f"vectors must be ({len(texts)}, d) numbers, got {own.dtype} of shape {own.shape}")
    documents = []
    for at, text in enumerate(texts):
        if (wrong := _wrong_text(text)) is not None:
            raise InvalidInput(f"texts[{at}] {wrong}")
        meta: Any = NOTHING if metadata is None else metadata[at]
        if meta is None:
            meta = NOTHING
        elif type(meta) is not dict and not isinstance(meta, Mapping):
            raise InvalidInput(f"metadata[{at}] must be a dict, got {type(meta).__name__}")
        key = None if ids is None else ids[at]
        if key is not None and not isinstance(key, str):
            raise InvalidInput(f"ids[{at}] must be a string, got {key!r}")
        if key and (wrong := _half_a_character(key)) is not None:
            raise InvalidInput(f"ids[{at}] {wrong}")
        documents.append(Document(text, meta, key, None if own is None else own[at]))
    return documents


def _array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be made into an array: {error}") from error


def _wrong_text(text: object) -> str | None:
    """What is wrong with a text, if anything is."""
    if not isinstance(text, str):
        return f"must be a string, got {type(text).__name__}"
    if not text or text.isspace():
        return "is empty"
    return _half_a_character(text)


def _half_a_character(text: str) -> str | None:
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds half a character (a lone surrogate) at position {error.start}"
    return None
