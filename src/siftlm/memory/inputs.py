"""Arguments of a memory, checked: texts with their metadata, prompts, rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.memory import vectors
from siftlm.memory.reading.columns import DocumentBatch, are_storable, json_metas
from siftlm.memory.reading.fields import MAX_METADATA_DEPTH, UnusableRecord, plain_value, too_deep
from siftlm.memory.snapshot import Snapshot
from siftlm.types import Document, IntArray, Vectors

# Texts that are put together to be checked.
CHECKED_TEXTS = 4096


def unit_targets(name: str, query: Any, width: int) -> Vectors:
    """The vectors of a prompt, (m, d), at unit length."""
    must = f"{name} must be a text, texts, or vectors of width {width}"
    if isinstance(query, (list, tuple)) and any(isinstance(one, str) for one in query):
        at, other = next((at, one) for at, one in enumerate(query) if not isinstance(one, str))
        raise InvalidInput(f"{must}, got texts among which number {at} is {other!r:.60}")
    try:
        array = np.asarray(query, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{must}, got {query!r:.60}") from error
    if not array.ndim:
        raise InvalidInput(f"{must}, got {query!r:.60}")
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise InvalidInput(f"{must}, got shape {array.shape}")
    unit = vectors.unit_rows(array)
    if np.isnan(unit).any():
        raise InvalidInput(f"{name} has a vector that is zero or not finite")
    return unit


def existing_rows(rows: npt.ArrayLike, snapshot: Snapshot) -> IntArray:
    """The rows as an array; an error where the memory has not got one of them."""
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


class InputDocuments:
    """The documents of `Memory.add`, checked as a whole before the first of them is written."""

    def __init__(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None,
        ids: Sequence[str] | None,
        vectors: npt.ArrayLike | None,
    ) -> None:
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise InvalidInput(f"texts must be a list of strings, got {type(texts).__name__}")
        self._texts = texts
        self._metadata = _parallel_list("metadata", metadata, texts)
        self._ids = _parallel_list("ids", ids, texts)
        self.vectors = None if vectors is None else _array("vectors", vectors)
        own = self.vectors
        if own is not None and (own.ndim != 2 or len(own) != len(texts) or own.dtype.kind not in "fiu"):
            raise InvalidInput(f"vectors must be ({len(texts)}, d) numbers, got {own.dtype} of shape {own.shape}")
        _check_each("texts", self._texts, {str}, _text_problem, _are_texts)
        if self._metadata is not None:
            _check_each("metadata", self._metadata, {dict, type(None)}, _meta_problem)
        if self._ids is not None:
            _check_each("ids", self._ids, {str, type(None)}, _id_problem, _are_ids)

    def __len__(self) -> int:
        return len(self._texts)

    def documents(self) -> list[Document]:
        """The documents one by one, with their metadata as they were given."""
        nothing = [None] * len(self)
        columns = (self._metadata or nothing, self._ids or nothing)
        return [
            Document(text, {} if meta is None else meta, key)
            for text, meta, key in zip(self._texts, *columns, strict=True)
        ]

    def slice(self, start: int, end: int) -> DocumentBatch:
        """The documents from ``start`` to ``end``; their metadata become JSON here, so that few exist at a time."""
        texts = self._texts[start:end]
        nothing: list[None] = [None] * len(texts)
        own = None if self.vectors is None else self.vectors[start:end]
        return DocumentBatch(
            texts if isinstance(texts, list) else list(texts),
            nothing if self._metadata is None else _json_metas(self._metadata[start:end], texts),
            nothing if self._ids is None else self._ids[start:end],
            own,
        )


def _json_metas(metas: Sequence[Mapping[str, Any] | None], texts: Sequence[str]) -> list[str | None]:
    problems: dict[int, str] = {}
    plain = [{} if meta is None else meta for meta in metas]
    found = json_metas(plain, len(texts), _encode_given, problems)
    for at, problem in problems.items():
        raise InvalidInput(f"of the text {texts[at][:60]!r}: {problem}")
    return found


def _encode_given(meta: Mapping[Any, Any]) -> str:
    """JSON of metadata that a caller gave: dates and numpy's numbers as reading takes them; what is lost is refused."""
    try:
        text = json.dumps(meta, ensure_ascii=False, allow_nan=False, default=plain_value)
        text.encode("utf-8")
        deep = too_deep(meta)
    except RecursionError:
        deep = True
    except (TypeError, ValueError) as error:
        raise UnusableRecord(f"metadata must be what JSON can hold: {error}") from error
    if deep:
        raise UnusableRecord(f"metadata is nested too deeply, in more than {MAX_METADATA_DEPTH} levels")
    return text


def _check_each(
    name: str,
    items: Sequence[Any],
    kinds: set[type],
    problem: Callable[[Any], str | None],
    usable: Callable[[Sequence[Any]], bool] = lambda _: True,
) -> None:
    """Raise where one of the items is wrong: they are looked at one by one only where they are not all plain."""
    if set(map(type, items)) <= kinds and usable(items):
        return
    for at, item in enumerate(items):
        if (complaint := problem(item)) is not None:
            raise InvalidInput(f"{name}[{at}] {complaint}")


def _are_texts(texts: Sequence[str]) -> bool:
    return all(texts) and not any(map(str.isspace, texts)) and _are_storable(texts)


def _are_ids(ids: Sequence[str | None]) -> bool:
    return _are_storable([key for key in ids if key is not None])


def _are_storable(texts: Sequence[str]) -> bool:
    return all(are_storable(texts[at : at + CHECKED_TEXTS]) for at in range(0, len(texts), CHECKED_TEXTS))


def _parallel_list(name: str, items: Any, texts: Sequence[str]) -> Sequence[Any] | None:
    if items is None:
        return None
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise InvalidInput(f"{name} must be a list, got {type(items).__name__}")
    if len(items) != len(texts):
        raise InvalidInput(f"{name} has {len(items)} entries for {len(texts)} texts")
    return items


def _array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be made into an array: {error}") from error


def _text_problem(text: object) -> str | None:
    """The reason why a text cannot be added, or None."""
    if not isinstance(text, str):
        return f"must be a string, got {type(text).__name__}"
    if not text or text.isspace():
        return "is empty"
    return _surrogate_problem(text)


def _meta_problem(meta: object) -> str | None:
    # Most are dicts, and asking whether something is a mapping of any kind takes longer.
    if meta is None or type(meta) is dict or isinstance(meta, Mapping):
        return None
    return f"must be a dict, got {type(meta).__name__}"


def _id_problem(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str):
        return f"must be a string, got {key!r}"
    return _surrogate_problem(key)


def _surrogate_problem(text: str) -> str | None:
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds half a character (a lone surrogate) at position {error.start}"
    return None
