"""Arguments of a memory, checked: texts with their metadata, prompts, rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.memory import vectors
from siftlm.memory.snapshot import Snapshot
from siftlm.types import Document, IntArray, Vectors

NO_METADATA: Mapping[str, Any] = {}


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
        for name, items, wrong in (
            ("texts", self._texts, _text_problem),
            ("metadata", self._metadata, _meta_problem),
            ("ids", self._ids, _id_problem),
        ):
            for at, item in enumerate(items or ()):
                if (complaint := wrong(item)) is not None:
                    raise InvalidInput(f"{name}[{at}] {complaint}")

    def __len__(self) -> int:
        return len(self._texts)

    def slice(self, start: int, end: int) -> list[Document]:
        """The documents from ``start`` to ``end``, made here, so that few exist at a time."""
        texts = self._texts[start:end]
        nothing: list[Any] = [None] * len(texts)
        metas = nothing if self._metadata is None else self._metadata[start:end]
        ids = nothing if self._ids is None else self._ids[start:end]
        own = nothing if self.vectors is None else self.vectors[start:end]
        return [
            Document(text, NO_METADATA if meta is None else meta, key, vector)
            for text, meta, key, vector in zip(texts, metas, ids, own, strict=True)
        ]


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
