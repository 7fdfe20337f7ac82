"""Indexes of vectors for residual-query selection: numpy's, FAISS's, and any other, held to its promise."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from siftlm import extras, validation
from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.checks import RealArray
from siftlm.selection.numerics import LENGTH_TOLERANCE, UNIT_TOLERANCE, index_rounding
from siftlm.types import BoolArray, FloatArray, IntArray


class Index(Protocol):
    """An inner-product index. Two optional extras are used when they are there.

    ``exact`` is ``True`` only when ``search`` looks at every vector, so that nothing it leaves out scores
    higher than what it returns, and it returns fewer than k only when there are no more. Without it no
    pick is ever certified. ``len(index)``, the number of vectors, saves asking for more of them than there
    are.
    """

    def search(self, queries: RealArray, k: int) -> tuple[IntArray, RealArray]:
        """(b, d) -> the ids and the inner products of the best k for each query, (b, k), highest first."""

    def vectors(self, ids: IntArray) -> RealArray:
        """(len(ids), d) the vectors themselves, as ``search`` scores them."""


class NumpyIndex:
    """An array of vectors, scanned from end to end; the ids are its rows. The array is not copied.

    >>> index = NumpyIndex([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> ids, scores = index.search(np.array([[0.0, 1.0]]), k=2)
    >>> ids.tolist(), scores.tolist()
    ([[2, 1]], [[1.0, 0.8]])
    """

    exact = True

    def __init__(self, vectors: npt.ArrayLike) -> None:
        self._vectors = checks.matrix("vectors", vectors, empty_ok=True)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: RealArray, k: int) -> tuple[IntArray, RealArray]:
        """The best k rows for each query; one matrix product."""
        queries = checks.matrix("queries", queries, width=self._vectors.shape[1])
        count = min(validation.whole_number("k", k, least=1), len(self))
        scores = self._products(queries)
        if not np.isfinite(scores).all():
            query, row = np.argwhere(~np.isfinite(scores))[0]
            raise InvalidInput(f"the product of query {query} and vector {row} is {scores[query, row]}")
        if count < len(self):
            best = np.argpartition(scores, len(self) - count, axis=1)[:, len(self) - count :]
            best.sort(axis=1)
        else:
            best = np.broadcast_to(np.arange(len(self)), scores.shape)
        best_scores = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        ids = np.take_along_axis(best, order, axis=1)
        best_scores = np.take_along_axis(best_scores, order, axis=1)
        padding = ((0, 0), (0, k - count))
        return np.pad(ids, padding, constant_values=-1), np.pad(best_scores, padding, constant_values=-np.inf)

    def _products(self, queries: RealArray) -> RealArray:
        if self._vectors.dtype == np.float16:
            # numpy multiplies float16 slowly and rounds to it.
            columns = queries.astype(np.float32).T
            blocks = checks.blocks(self._vectors)
            wide: RealArray = np.concatenate([block.astype(np.float32) @ columns for block in blocks]).T
            return wide
        products: RealArray = queries.astype(self._vectors.dtype) @ self._vectors.T
        return products

    def vectors(self, ids: IntArray) -> RealArray:
        """The rows."""
        return self._vectors[checks.item_indices("ids", ids, len(self))]


class FaissIndex:
    """A faiss index of metric inner product: flat, IVF, HNSW, with or without an id map around it.

    It must be able to give vectors back. An IVF index gets the direct map that faiss needs for that, if it
    has none yet; otherwise the index is left alone, as are faiss's settings.

    >>> import faiss                                                            # doctest: +SKIP
    >>> flat = faiss.IndexFlatIP(2); flat.add(np.eye(2, dtype=np.float32))      # doctest: +SKIP
    >>> siftlm.select_from(prompt, FaissIndex(flat), n=2)                       # doctest: +SKIP
    """

    def __init__(self, index: Any) -> None:
        self._faiss = extras.load("faiss", "faiss")
        if not isinstance(index, self._faiss.Index):
            raise InvalidInput(f"FaissIndex adapts a faiss index of float vectors, got {type(index).__name__}")
        if index.metric_type != self._faiss.METRIC_INNER_PRODUCT:
            raise InvalidInput(
                f"{type(index).__name__} has metric type {index.metric_type}; "
                f"selection needs inner products, METRIC_INNER_PRODUCT = {self._faiss.METRIC_INNER_PRODUCT}"
            )
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def exact(self) -> bool:
        """Does a search look at every vector? Flat indexes do, and IVF-Flat when it probes all its lists."""
        core = _core_of(self._index)
        if isinstance(core, self._faiss.IndexIVFFlat):
            return bool(core.nprobe >= core.nlist and core.max_codes == 0)
        return isinstance(core, self._faiss.IndexFlat)

    def search(self, queries: RealArray, k: int) -> tuple[IntArray, RealArray]:
        """What faiss finds."""
        self._check_ready()
        queries = checks.matrix("queries", queries, width=int(self._index.d))
        count = min(validation.whole_number("k", k, least=1), len(self))
        scores, ids = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), count)
        return ids.astype(np.int64, copy=False), scores

    def vectors(self, ids: IntArray) -> RealArray:
        """What faiss reconstructs."""
        self._check_ready()
        return reconstruct(self._index, ids)

    def _check_ready(self) -> None:
        if not self._index.is_trained:
            raise InvalidInput(f"{type(self._index).__name__} is not trained yet: call index.train(vectors) first")
        if not len(self):
            raise InvalidInput(f"{type(self._index).__name__} is empty")


def reconstruct(index: Any, ids: IntArray) -> RealArray:
    """(len(ids), d) the vectors that a faiss index of any metric gives back."""
    faiss = extras.load("faiss", "faiss")
    core, keys = _core_of(index), np.asarray(ids, dtype=np.int64)
    if core is not index:
        keys = _positions(faiss.vector_to_array(index.id_map), keys)
    try:
        if isinstance(core, faiss.IndexIVF) and core.direct_map.no():
            _make_direct_map(core)
        vectors: RealArray = core.reconstruct_batch(np.ascontiguousarray(keys))
    except RuntimeError as error:
        raise InvalidInput(
            f"{type(core).__name__} cannot give vectors back, which selection needs: {_first_error_line(error)}"
        ) from error
    return vectors


def _core_of(index: Any) -> Any:
    """The index that holds the vectors, without the map of ids around it."""
    faiss = extras.load("faiss", "faiss")
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def _positions(names: IntArray, ids: IntArray) -> IntArray:
    """The positions of ids in a mapped index; ``IndexIDMap`` itself cannot look them up."""
    order = np.argsort(names, kind="stable")
    at = np.minimum(np.searchsorted(names, ids, sorter=order), len(names) - 1)
    positions: IntArray = order[at].astype(np.int64)
    unknown = names[positions] != ids
    if unknown.any():
        raise InvalidInput(f"id {ids[int(np.argmax(unknown))]} is not in the index")
    return positions


def _make_direct_map(core: Any) -> None:
    try:
        core.make_direct_map()
    except RuntimeError:  # the array form holds only ids 0, 1, …
        core.set_direct_map_type(extras.load("faiss", "faiss").DirectMap.Hashtable)


def _first_error_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class IndexResult(NamedTuple):
    """What a search for ±q_i returned."""

    ids: IntArray
    """(a,) all ids, each once"""
    table: IntArray
    """(2, m, k) the ids, −1 where there were fewer"""
    scores: FloatArray
    """(2, m, k) their products with ±q_i / |q_i|"""
    length: FloatArray
    """(m,) |q_i|"""
    short: bool
    """Did any search return fewer than k?"""


class CheckedIndex:
    """The index, with everything that is checked about what comes back from it."""

    def __init__(self, index: Index, width: int, *, max_norm: float | None, excluded: IntArray) -> None:
        self._index, self._width, self._excluded = _checked_index(index), width, excluded
        self._unit = max_norm is None
        self.longest = 1 + UNIT_TOLERANCE if max_norm is None else max_norm
        self.shortest = 1 - UNIT_TOLERANCE if max_norm is None else 0.0
        self.rounding = index_rounding(width, self.longest)
        length = getattr(index, "__len__", None)
        self.size: int | None = int(length()) if callable(length) else None
        if self.size == 0:
            raise InvalidInput("the index is empty")

    @property
    def exact(self) -> bool:
        return getattr(self._index, "exact", False) is True

    @property
    def excluded_count(self) -> int:
        return len(self._excluded)

    def excludes(self, ids: IntArray) -> BoolArray:
        """(len(ids),) which are excluded?"""
        return np.isin(ids, self._excluded)

    def search(self, residual: FloatArray, k: int) -> IndexResult:
        """The best k for +q and −q of every target, in one call."""
        if self.size is not None and k >= self.size:
            k = self.size + 1  # one more than there are: the answer is short, and so known to be complete
        length = np.sqrt(np.einsum("ij,ij->i", residual, residual))
        unit = residual / np.maximum(length, np.finfo(np.float64).tiny)[:, None]
        ids, scores = self._index.search(np.concatenate([unit, -unit]).astype(np.float32), k)
        ids, scores = np.asarray(ids), np.asarray(scores, dtype=np.float64)
        whole = ids.ndim == 2 and len(ids) == 2 * len(unit) and ids.dtype.kind in "iu"
        if not whole or ids.shape != scores.shape:
            raise InvalidInput(
                f"index.search must return whole ids and scores, both ({2 * len(unit)}, {k}); "
                f"got {ids.dtype} {ids.shape} and {scores.shape}"
            )
        there = ids >= 0
        if not np.isfinite(scores[there]).all():
            at = tuple(np.argwhere(there & ~np.isfinite(scores))[0])
            raise InvalidInput(f"index.search returned the score {scores[at]} for id {ids[at]}")
        shape = (2, len(unit), ids.shape[1])
        return IndexResult(
            ids=np.unique(ids[there]).astype(np.int64),
            table=np.where(there, ids, -1).astype(np.int64).reshape(shape),
            scores=np.where(there, scores, np.inf).reshape(shape),
            length=length,
            short=bool((there.sum(axis=1) < k).any()),
        )

    def vectors(self, ids: IntArray) -> FloatArray:
        """(len(ids), d) float64, checked."""
        vectors = checks.matrix("vectors of the index", self._index.vectors(ids), width=self._width).astype(np.float64)
        if len(vectors) != len(ids):
            raise InvalidInput(f"index.vectors returned {len(vectors)} vectors for {len(ids)} ids")
        length = np.sqrt(checks.squared_norms("vectors of the index", vectors, zero_ok=True))
        off = np.abs(length - 1) > UNIT_TOLERANCE if self._unit else length > self.longest * (1 + LENGTH_TOLERANCE)
        if off.any():
            at = int(np.argmax(off))
            hint = "normalise the vectors, or pass max_norm" if self._unit else f"max_norm is {self.longest:g}"
            raise InvalidInput(f"the vector with id {ids[at]} has length {length[at]:.6g}; {hint}")
        return vectors


def _checked_index(index: Any) -> Index:
    """``index``, if it has the methods of one; or how to make one of it."""
    if callable(getattr(index, "search", None)):
        if callable(getattr(index, "vectors", None)):
            checked: Index = index
            return checked
        if hasattr(index, "ntotal"):
            raise InvalidInput(f"index is a bare {type(index).__name__}; wrap it: FaissIndex(index)")
    if isinstance(index, (list, tuple)) or hasattr(index, "__array__"):
        raise InvalidInput("index is a plain array; wrap it: NumpyIndex(array)")
    raise InvalidInput(f"index must have search(queries, k) and vectors(ids), got {type(index).__name__}; see Index")
