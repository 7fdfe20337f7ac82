"""Outside stores: any vector database in a memory's place, with its answers checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder, EmbedderSource
from siftlm.errors import Conflict, InvalidInput, WrongEmbedder, setting
from siftlm.memory import inputs, scan, vectors
from siftlm.memory.filters import Expression
from siftlm.memory.searcher import Searcher
from siftlm.memory.store import Neighbours, Passage, Store, WholeStore
from siftlm.memory.vectors import VectorFormat
from siftlm.types import BoolArray, FloatArray, IntArray, Vectors
from siftlm.validation import whole_number


class Outside(Searcher):
    """Searches any `Store` as a `Memory` searches itself: the same methods, the same results.

    Whatever a store lacks (full-text search, all vectors as one array) is a `Conflict` when a search needs it.

    Args:
        store: see `Store`; `ArrayStore` is one over arrays.
        embedder: the one that the store's vectors came from, by name or as an `Embedder`; only its width can be
            checked. ``None``: prompts are vectors.

    >>> from siftlm.embedding import embedder
    >>> from siftlm.memory import ArrayStore
    >>> hashing, texts = embedder("hashing"), ["Michael Jordan has five children.", "Jordan is a country."]
    >>> outside = Outside(ArrayStore(hashing.embed(texts), texts), hashing)
    >>> outside.search("How many children has Michael Jordan?", n=1).texts
    ['Michael Jordan has five children.']
    """

    def __init__(self, store: Store, embedder: EmbedderSource | None) -> None:
        self._checked = CheckedStore(store)
        self._embedder = None if embedder is None else make_embedder(embedder)
        if self._embedder is not None and self._embedder.width != self.width:
            raise WrongEmbedder(
                f"embedder {self._embedder.name!r} gives vectors of width {self._embedder.width}, and "
                f"{type(store).__name__} holds vectors of width {self.width}"
            )

    @property
    def embedder(self) -> Embedder:
        """The embedder of the prompts."""
        if self._embedder is None:
            raise InvalidInput("without an embedder prompts must be vectors: Outside(store, embedder)")
        return self._embedder

    @property
    def width(self) -> int:
        """d, the width of the vectors."""
        return self._checked.width

    def _store(self) -> AbstractContextManager[WholeStore]:
        return nullcontext(self._checked)


REQUIRED_METHODS = ("nearest", "vectors", "passages")
# Vectors this close to unit length are taken as they are, so that their products stay what the store scored.
UNIT_NORM_TOLERANCE = 1e-5
# The mean difference of scores and cosines that is accepted: coarse quantisation stays below, distances lie far above.
SCORE_TOLERANCE = 0.1
# Entries of the first answer that are verified.
VERIFIED_ENTRIES = 16


class CheckedStore:
    """A `WholeStore` over any `Store`."""

    def __init__(self, store: Store) -> None:
        missing = [name for name in REQUIRED_METHODS if not callable(getattr(store, name, None))]
        if missing:
            raise InvalidInput(f"{type(store).__name__} is no Store: it has no method {', '.join(missing)}")
        self._store, self._name = store, type(store).__name__
        self._verified = False
        self.width = whole_number(f"{self._name}.width", getattr(store, "width", None))

    @property
    def exact(self) -> bool:
        """Whether the store says that it is exact."""
        return getattr(self._store, "exact", False) is True

    def scanning(self) -> CheckedStore:
        """The store itself, if it is exact; no other way to scan it is known."""
        if not self.exact:
            raise Conflict(f"{self._name} does not say that it is exact, which {setting('exact', True)} needs")
        return self

    # --- by vectors

    def nearest(self, queries: Vectors, k: int, where: Expression | None) -> list[Neighbours]:
        """Each best first, without repeats, at most k."""
        if not len(queries):
            return []
        answers: Any = self._store.nearest(queries, k, where)
        if not isinstance(answers, (list, tuple)) or len(answers) != len(queries):
            got = f"{len(answers)}" if isinstance(answers, (list, tuple)) else type(answers).__name__
            raise InvalidInput(
                f"{self._name}.nearest must return a list with one (ids, scores) for each of {len(queries)} "
                f"queries, got {got}"
            )
        neighbours = [self._neighbours("nearest", answer, k) for answer in answers]
        if not self._verified:
            self._verify(queries, neighbours)
        return neighbours

    def _neighbours(self, method: str, answer: Any, k: int) -> Neighbours:
        try:
            raw_ids, raw_scores = answer
            ids, scores = np.asarray(raw_ids), np.asarray(raw_scores, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{self._name}.{method} must return (ids, scores) for each query: {error}") from error
        ids = self._ids(method, ids)
        if ids.shape != scores.shape:
            raise InvalidInput(f"{self._name}.{method} returned {len(ids)} ids and scores of shape {scores.shape}")
        ids, scores = ids[ids >= 0], scores[ids >= 0]
        if not np.isfinite(scores).all():
            at = int(np.argmax(~np.isfinite(scores)))
            raise InvalidInput(f"{self._name}.{method} returned the score {scores[at]} for id {ids[at]}")
        order = np.lexsort((ids, -scores))  # equal scores go to the smaller id, as in a memory
        ids, scores = ids[order], scores[order]
        _, first = np.unique(ids, return_index=True)
        if self.exact and len(first) < len(ids):
            raise InvalidInput(f"{self._name} says that it is exact, and its {method} returned an id twice")
        first = np.sort(first)[:k]
        return Neighbours(ids[first], scores[first])

    def _verify(self, queries: Vectors, neighbours: Sequence[Neighbours]) -> None:
        """Check the first answer: scores must be cosines, and vectors and texts in the order of the ids."""
        at = next((at for at, one in enumerate(neighbours) if len(one.ids)), None)
        if at is None:
            return
        ids, scores = neighbours[at].ids[:VERIFIED_ENTRIES], neighbours[at].scores[:VERIFIED_ENTRIES]
        near, turned = self.vectors(ids), self.vectors(ids[::-1])[::-1]
        if not np.allclose(near, turned, atol=1e-3):
            raise InvalidInput(f"{self._name}.vectors must return one row for each id, in the order of the ids")
        texts = [[one.text for one in self.passages(some.tolist(), None)] for some in (ids, ids[::-1])]
        if texts[0] != texts[1][::-1]:
            raise InvalidInput(f"{self._name}.passages must return one for each id, in the order of the ids")
        cosines = near.astype(np.float64) @ queries[at].astype(np.float64)
        off: FloatArray = np.abs(scores - cosines)
        if off.mean() > SCORE_TOLERANCE:
            worst = int(np.argmax(off))
            raise InvalidInput(
                f"{self._name}.nearest scores id {ids[worst]} with {scores[worst]:.4g}, but the cosine of its vector "
                f"is {cosines[worst]:.4g}: scores must be cosines, the highest the nearest (where a database returns "
                "cosine distances: 1 − distance)"
            )
        self._verified = True

    def vectors(self, ids: IntArray) -> Vectors:
        """(len(ids), d) float32 at unit length."""
        if not len(ids):
            return np.zeros((0, self.width), dtype=np.float32)
        rows = self._matrix("vectors", self._store.vectors(ids), len(ids), f"for {len(ids)} ids, in their order")
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)) - 1)
        if (off < UNIT_NORM_TOLERANCE).all():
            return rows.astype(np.float32, copy=False)
        scaled = vectors.unit_rows(rows)
        if np.isnan(scaled).any():
            at = int(np.argmax(np.isnan(scaled).any(axis=1)))
            raise InvalidInput(f"{self._name}.vectors: the vector of id {ids[at]} is zero or not finite")
        return scaled

    def _matrix(self, method: str, returned: Any, rows: int | None, what: str) -> Vectors:
        try:
            matrix: Vectors = np.asarray(returned)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{self._name}.{method} must return an array of floats: {error}") from error
        shape = f"({'rows' if rows is None else rows}, {self.width})"
        whole = matrix.ndim == 2 and matrix.shape[1] == self.width and rows in (None, len(matrix))
        if not whole or matrix.dtype.kind not in "fiu":
            raise InvalidInput(
                f"{self._name}.{method} must return floats of shape {shape}, {what}, got {matrix.dtype} of shape "
                f"{matrix.shape}; an id whose text was deleted since belongs in no answer of nearest"
            )
        return matrix if matrix.dtype.kind == "f" else matrix.astype(np.float32)

    def everything(self) -> Vectors:
        """All vectors."""
        method = self._optional("everything", "cannot hand over all of its vectors: k=None needs that; pass k=")
        return self._matrix("everything", method(), None, "with the ids as rows")

    def allowed(self, where: Expression | None) -> BoolArray | None:
        """(rows,) which of everything meet ``where``."""
        if where is None and not callable(getattr(self._store, "allowed", None)):
            return None
        method = self._optional("allowed", "cannot filter all of its vectors: k=None takes no where; pass k=")
        allowed = method(where)
        if allowed is None:
            return None
        mask: BoolArray = np.asarray(allowed)
        if mask.ndim != 1 or mask.dtype != np.bool_:
            raise InvalidInput(f"{self._name}.allowed must return booleans (rows,), got {mask.dtype} {mask.shape}")
        return mask

    def count(self, where: Expression | None, without: IntArray) -> int | None:  # noqa: ARG002
        """Unknown: databases count slowly or roughly."""
        return None

    # --- by words, and texts

    def words(self, text: str, k: int, where: Expression | None) -> Neighbours:
        """The k best of a full-text search; where the store gives no scores, 1 / rank."""
        method = self._optional("words", "has no full-text search: candidates must be 'vectors'")
        answer: Any = method(text, k, where)
        if isinstance(answer, Neighbours):
            found = self._neighbours("words", answer, k)
            if not (found.scores > 0).all():
                raise InvalidInput(f"{self._name}.words returned a score that is not above 0; the highest is the best")
            return found
        ids = self._ids("words", np.asarray(answer))
        _, first = np.unique(ids, return_index=True)
        distinct: IntArray = ids[np.sort(first)]
        distinct = distinct[distinct >= 0][:k]
        return Neighbours(distinct, 1 / np.arange(1.0, len(distinct) + 1))

    def term_scores(self, text: str, ids: IntArray) -> FloatArray | None:
        """(len(ids), T) what each word adds to the score of each id, if the store knows."""
        method = getattr(self._store, "term_scores", None)
        if not callable(method):
            return None
        parts: FloatArray = np.asarray(method(text, ids), dtype=np.float64)
        if parts.ndim != 2 or len(parts) != len(ids) or not np.isfinite(parts).all() or (parts < 0).any():
            raise InvalidInput(
                f"{self._name}.term_scores must return numbers ≥ 0 (len(ids), T) for {len(ids)} ids, got shape "
                f"{parts.shape}"
            )
        return parts

    def passages(self, ids: Sequence[int], where: Expression | None) -> list[Passage]:
        """One passage for each id; those without a document are documents of their own."""
        if not ids:
            return []
        distinct = list(dict.fromkeys(int(row) for row in ids))  # many databases refuse repeated ids
        returned: Any = self._store.passages(distinct, where)
        if not isinstance(returned, (list, tuple)) or len(returned) != len(distinct):
            got = f"{len(returned)}" if isinstance(returned, (list, tuple)) else type(returned).__name__
            raise InvalidInput(
                f"{self._name}.passages must return a list of {len(distinct)}, one for each id in their order, "
                f"got {got}"
            )
        there = {row: self._passage(one, row, where) for one, row in zip(returned, distinct, strict=True)}
        return [there[int(row)] for row in ids]

    def _passage(self, passage: Any, row: int, where: Expression | None) -> Passage:
        if not isinstance(passage, Passage):
            raise InvalidInput(f"{self._name}.passages: id {row} must come as a Passage, got {type(passage).__name__}")
        text: object = passage.text
        meta: object = passage.meta
        if not isinstance(text, str) or not isinstance(meta, Mapping):
            raise InvalidInput(
                f"{self._name}.passages: id {row} must have a str as text and a dict as meta, got "
                f"{type(text).__name__} and {type(meta).__name__}"
            )
        if where is not None and not where.matches(passage.meta, passage.id):
            raise InvalidInput(f"{self._name} was asked for {where}, and id {row} does not meet that")
        return passage if passage.document >= 0 else replace(passage, document=row)

    # --- all

    def _ids(self, method: str, ids: Any) -> IntArray:
        if ids.ndim == 1 and not ids.size:
            return np.zeros(0, dtype=np.int64)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.max() > np.iinfo(np.int64).max:
            raise InvalidInput(
                f"{self._name}.{method} must return ids that are whole numbers, got {ids.dtype} of shape {ids.shape}; "
                "for a store with other keys keep a number with each"
            )
        whole: IntArray = ids.astype(np.int64)
        return whole

    def _optional(self, name: str, lack: str) -> Callable[..., Any]:
        method = getattr(self._store, name, None)
        if not callable(method):
            raise Conflict(f"{self._name} {lack}")
        found: Callable[..., Any] = method
        return found


class ArrayStore:
    """A `Store` over arrays in memory; ids are their rows.

    Args:
        vectors: (n, d), of any length but zero; a copy is brought to unit length.
        texts: one for each vector.
        metadata: one dict for each text, for filters.
        ids: the caller's own names.

    >>> store = ArrayStore([[3.0, 0.0], [1.0, 1.0]], ["east", "north-east"], [{"wind": True}, {"wind": False}])
    >>> [one.ids.tolist() for one in store.nearest(np.array([[0.0, 1.0]]), k=2)]
    [[1, 0]]
    """

    exact = True

    def __init__(
        self,
        vectors: npt.ArrayLike,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
    ) -> None:
        self._documents = inputs.InputDocuments(texts, metadata, ids, vectors).documents()
        self._vectors = _unit_vectors(vectors)
        self.width = self._vectors.shape[1]
        self._form = VectorFormat("float32", self.width)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: Vectors, k: int, where: Expression | None = None) -> list[Neighbours]:
        """The k best rows, by a scan."""
        allowed = None if where is None else self.allowed(where)
        return scan.nearest(self._vectors, self._form, queries, k, allowed)

    def vectors(self, ids: IntArray) -> Vectors:
        """The vectors of these rows."""
        return self._vectors[np.asarray(ids, dtype=np.int64)]

    def everything(self) -> Vectors:
        """The vectors of all rows."""
        return self._vectors

    def allowed(self, where: Expression | None) -> BoolArray:
        """(n,) which rows meet the filter."""
        if where is None:
            return np.ones(len(self), dtype=np.bool_)
        return np.fromiter((where.matches(one.meta, one.id) for one in self._documents), np.bool_, len(self))

    def passages(self, ids: Sequence[int], where: Expression | None = None) -> list[Passage]:  # noqa: ARG002
        """The passages of these rows; each text is a document of its own."""
        return [Passage(one.text, one.meta, one.id) for one in (self._documents[int(row)] for row in ids)]


def _unit_vectors(raw_vectors: npt.ArrayLike) -> Vectors:
    array = np.asarray(raw_vectors)
    rows = vectors.unit_rows(array)
    if np.isnan(rows).any():
        raise InvalidInput(f"vector {int(np.argmax(np.isnan(rows).any(axis=1)))} is zero or not finite")
    return rows
