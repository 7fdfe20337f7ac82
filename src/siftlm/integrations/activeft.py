"""A replacement for ``activeft.sift.Retriever``: change the import, keep the rest.

    from siftlm.integrations.activeft import Retriever      # was: from activeft.sift import Retriever

Same constructor, same ``search`` and ``batch_search``, same four results. Needs neither torch nor faiss: the
index may be a faiss index, anything that searches like one, or a plain array. What differs, and why:
docs/guide/from-activeft.md.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.integrations._activeft_index import ActiveftIndex, FetchedCandidates, Ids, Vectors
from siftlm.selection import Method, Problem, Steps, checks, select, select_many
from siftlm.selection.problem import MethodFunction, find_method
from siftlm.types import Selection

# Numbers to fetch from the index at once, approximately.
FETCH_NUMBERS = 1 << 26


class RetrievalTime(NamedTuple):
    """The seconds that a search took."""

    faiss: float
    """Time in the index, whatever its kind."""
    sift: float
    """Time in the selection."""


class RetrievalResults(NamedTuple):
    """What a search returns: a plain tuple of four, with names. For a batch, each array has n in front."""

    values: npt.NDArray[np.float32]
    """(N,) see `Retriever`"""
    indices: Ids
    """(N,) ids of the index, in the order of selection"""
    embeddings: Vectors
    """(N, d)"""
    time: RetrievalTime


class Retriever:
    """Fetches candidates from an index, then selects from them, like ``activeft.sift.Retriever``.

    Args:
        index: a faiss index; an object with ``d``, ``ntotal``, ``search(queries, k)`` and
            ``reconstruct(id)``; or an array (ntotal, d), which is searched by inner product.
        acquisition_function: the name of a method (``siftlm.methods()``), or an acquisition function of
            activeft, whose class determines the method and whose ``noise_std`` the λ (``None`` means 0.01).
        llambda: λ > 0 of SIFT; 0.01 by default. Ignored for an acquisition function of activeft.
        fast: SIFT-Fast instead of SIFT.
        also_query_opposite: fetch by absolute inner product, since a vector is as informative as its opposite.
        only_faiss: return the results of the index.
        device: ignored. A selection is a few small matrix products, for which an accelerator costs more than it saves.
        lambda_: another name of ``llambda``.

    The values, with m the number of a query's embeddings:

    * SIFT (VTL): −Σ_m σ²_n(x*_m), the negative variance left about the query *after* the pick.
    * ``fast=True`` (LazyVTL): the decrease of that sum.
    * ``CosineSimilarity``: the mean cosine. ``UndirectedVTL``: the candidates' negative total variance.
    * Other methods: the gains that ``siftlm.select`` reports.
    * ``only_faiss=True``: the largest inner product with an embedding of the query or its opposite; or the
      smallest distance, if that is what the index measures.

    Vectors are used as they are, without normalization. Searches share no state, and global settings are not changed.

    >>> import numpy as np
    >>> texts = np.array([[1, 0.2, 0], [1, 0.21, 0], [0, 1, 0.1], [0, 0, 1]])
    >>> values, indices, embeddings, time = Retriever(texts).search(np.array([[1.0, 1, 0]]), N=2, K=4)
    >>> indices.tolist(), embeddings.shape
    ([1, 2], (2, 3))
    """

    def __init__(
        self,
        index: Any,
        acquisition_function: Any = None,
        llambda: float | None = None,
        fast: bool = False,
        also_query_opposite: bool = True,
        only_faiss: bool = False,
        device: object = None,
        *,
        lambda_: float | None = None,
    ) -> None:
        self.index = index
        self.acquisition_function = acquisition_function
        self.also_query_opposite = validation.flag("also_query_opposite", also_query_opposite)
        self.only_faiss = validation.flag("only_faiss", only_faiss)
        self.device = device
        self._index = ActiveftIndex(index)
        fast = validation.flag("fast", fast)
        self._recipe = acquisition_recipe(acquisition_function, resolve_lambda(llambda, lambda_), fast=fast)
        if fast and acquisition_function is not None:
            warnings.warn("fast is ignored, because acquisition_function is set", UserWarning, stacklevel=2)

    def search(
        self, query: npt.ArrayLike, N: int, K: int | None = None, mean_pooling: bool = False, threads: int = 1
    ) -> RetrievalResults:
        """Select N texts for one query; see `batch_search`.

        Args:
            query: (d,), or (m, d) if it has several embeddings.
            N, K, mean_pooling, threads: see `batch_search`.
        """
        values, indices, embeddings, seconds = self.batch_search([query], N, K, mean_pooling, threads)
        return RetrievalResults(values[0], indices[0], embeddings[0], seconds)

    def batch_search(
        self,
        queries: npt.ArrayLike | Sequence[npt.ArrayLike],
        N: int,
        K: int | None = None,
        mean_pooling: bool = False,
        threads: int = 1,
    ) -> RetrievalResults:
        """Select N texts for each query; results are in the order of the queries.

        Args:
            queries: (n, d), one embedding a query; (n, m, d), several each; or a list of (d,) and (m, d)
                arrays, which may differ in m. Read as float32.
            N: texts to select, at most the number of candidates.
            K: candidates to fetch for every embedding; the selection is made from their union. ``None`` fetches
                everything in the index.
            mean_pooling: replace a query's embeddings by their mean.
            threads: selections to run in parallel; the index has its own threads.
        """
        N, threads = validation.whole_number("N", N, least=1), validation.whole_number("threads", threads, least=1)
        size, width = self._index.size, self._index.width
        if size == 0:
            raise InvalidInput("the index is empty")
        K = size if K is None else min(validation.whole_number("K", K, least=1), size)
        if self.also_query_opposite and not self._index.similarity:
            raise Conflict(
                f"the index measures distances, which have no opposite: pass {setting('also_query_opposite', False)}"
            )
        prompts = _query_arrays(queries, width)
        if validation.flag("mean_pooling", mean_pooling):
            prompts = [prompt.mean(axis=0, keepdims=True) for prompt in prompts]
        results: list[_QueryResult] = []
        fetching = selecting = 0.0
        began = time.perf_counter()
        for part, found in self._candidates(prompts, N, K):
            fetched = time.perf_counter()
            fetching += fetched - began
            _check_enough(found, N, len(results), f"K={K}, {size} in the index")
            if self.only_faiss:
                results += [_QueryResult(one.scores[:N], one.ids[:N], one.vectors[:N]) for one in found]
            else:
                results += self._select(part, found, N, threads)
                selecting += time.perf_counter() - fetched
            began = time.perf_counter()
        values, indices = np.empty((len(prompts), N), np.float32), np.empty((len(prompts), N), np.int64)
        embeddings = np.empty((len(prompts), N, width), np.float32)
        for at, result in enumerate(results):
            values[at], indices[at], embeddings[at] = result
        return RetrievalResults(values, indices, embeddings, RetrievalTime(fetching, selecting))

    def _candidates(
        self, prompts: list[Vectors], N: int, K: int
    ) -> Iterator[tuple[list[Vectors], list[FetchedCandidates]]]:
        """Prompts and the candidates of each; one shared ``FetchedCandidates`` if they are the whole index."""
        if self.only_faiss:
            K = min(N, K)
        elif prompts and self._index.size == K and (everything := self._index.everything()) is not None:
            yield prompts, [everything] * len(prompts)
            return
        for part in _fetch_batches(prompts, 2 * K * self._index.width):
            found = self._index.fetch(part, K, opposite=self.also_query_opposite)
            # Ties go to the smaller index, which thus is the smaller id.
            yield part, found if self.only_faiss else [one.by_id() for one in found]

    def _select(
        self, prompts: list[Vectors], found: list[FetchedCandidates], N: int, threads: int
    ) -> list[_QueryResult]:
        recipe, shared = self._recipe, len({id(one) for one in found}) == 1

        def run(rows: slice) -> list[_QueryResult]:
            mine = found[rows]
            candidates: Any = mine[0].vectors if shared else [one.vectors for one in mine]
            queries = [prompt[0] if len(prompt) == 1 else prompt for prompt in prompts[rows]]
            return [
                _QueryResult(
                    recipe.values(picks, len(prompt), one.vectors),
                    one.ids[picks.indices],
                    one.vectors[picks.indices],
                )
                for picks, prompt, one in zip(recipe.select(queries, candidates, N), prompts[rows], mine, strict=True)
            ]

        step = -(-len(prompts) // threads)
        parts = [slice(start, start + step) for start in range(0, len(prompts), step)]
        if len(parts) == 1:
            return run(parts[0])
        with ThreadPoolExecutor(max_workers=threads) as pool:
            return [result for part in pool.map(run, parts) for result in part]


class _QueryResult(NamedTuple):
    """One query's part of `RetrievalResults`."""

    values: npt.NDArray[np.float32]
    indices: Ids
    embeddings: checks.RealArray


def _query_arrays(queries: Any, width: int) -> list[Vectors]:
    """(m, d) for each query, contiguous float32."""
    if isinstance(queries, np.ndarray) and queries.dtype != object and queries.ndim not in (2, 3):
        raise InvalidInput(f"queries must be (n, d), (n, m, d) or a list, got shape {queries.shape}")
    try:
        each = list(queries)
    except TypeError as error:
        raise InvalidInput(f"queries must be an array or a list, got {type(queries).__name__}") from error
    prompts = []
    for at, query in enumerate(each):
        name = f"query {at}"
        prompt = np.ascontiguousarray(checks.matrix(name, query, width=width), dtype=np.float32)
        checks.squared_norms(name, prompt, zero_ok=True)
        prompts.append(prompt)
    return prompts


def _fetch_batches(prompts: list[Vectors], numbers_per_row: int) -> Iterator[list[Vectors]]:
    """Prompts in batches whose candidates fit into memory together."""
    part: list[Vectors] = []
    left = most = FETCH_NUMBERS // numbers_per_row
    for prompt in prompts:
        if part and left < len(prompt):
            yield part
            part, left = [], most
        part.append(prompt)
        left -= len(prompt)
    if part:
        yield part


def _check_enough(found: list[FetchedCandidates], N: int, first: int, where: str) -> None:
    for at, one in enumerate(found, start=first):
        if len(one.ids) < N:
            raise InvalidInput(f"{setting('N', N)} is more than the {len(one.ids)} candidates of query {at} ({where})")


# The negative variance left about the query, or about all candidates; its decrease; a mean cosine; the method's gain.
ValueMeaning = Literal["left", "left of all", "fall", "cosine", "gain"]

DEFAULT_LAMBDA = 0.01
# activeft's λ for an acquisition function with noise_std=None.
DEFAULT_NOISE = 0.01

# By the name of the class, so that activeft need not be installed.
ACQUISITION_CLASSES: dict[str, tuple[str, ValueMeaning]] = {
    "VTL": ("sift", "left"),
    "LazyVTL": ("sift-fast", "fall"),
    "ITL": ("itl", "gain"),
    "MMITL": ("mm-itl", "gain"),
    "CTL": ("ctl", "gain"),
    "CosineSimilarity": ("nearest", "cosine"),
    "UndirectedVTL": ("undirected-vtl", "left of all"),
    # activeft computes k_n(x, x) under both names; the second never conditions on its picks.
    "UndirectedITL": ("uncertainty", "gain"),
    "UncertaintySampling": ("uncertainty", "gain"),
    "Random": ("random", "gain"),
    "MaxDist": ("max-dist", "gain"),
    "KMeansPP": ("k-means++", "gain"),
}
METHOD_MEANINGS: dict[str, ValueMeaning] = {
    "sift": "left",
    "vtl": "left",
    "sift-fast": "fall",
    "undirected-vtl": "left of all",
}
# Methods that pick at random.
RANDOM_METHODS = {"random", "k-means++"}


@dataclass(frozen=True)
class AcquisitionRecipe:
    """How to select, and which values to report."""

    method: str | MethodFunction
    noise: float
    meaning: ValueMeaning
    once: bool = False
    """True if ``method`` comes from `rank_once`."""
    replacement: bool | None = None

    def select(self, queries: list[checks.RealArray], candidates: Any, n: int) -> Sequence[Selection]:
        """One selection for each query, in order; ``candidates`` as for ``select_many``."""
        # Not normalized, unlike elsewhere in siftlm: activeft never does so, and its users expect that.
        settings: dict[str, Any] = {"method": self.method, "noise": self.noise, "normalize": False}
        if self.replacement is not None:
            settings["replacement"] = self.replacement
        if self.method not in RANDOM_METHODS:
            return select_many(queries, candidates, n, **settings)
        # The seed depends on the query alone, so its position in a batch does not matter.
        sets = candidates if isinstance(candidates, list) else [candidates] * len(queries)
        return [
            select(query, own, n, seed=zlib.crc32(query.tobytes()), **settings)
            for query, own in zip(queries, sets, strict=True)
        ]

    def values(self, picks: Selection, targets: int, candidates: checks.RealArray) -> npt.NDArray[np.float32]:
        """(N,) the values; activeft sums over targets, siftlm takes the mean."""
        gains = picks.gains
        if self.meaning == "left":
            numbers = targets * (gains - picks.uncertainty[0] if self.once else -picks.uncertainty[1:])
        elif self.meaning == "left of all":
            falls = len(candidates) * (gains if self.once else np.cumsum(gains))
            numbers = falls - float(checks.squared_norms("candidates", candidates, zero_ok=True).sum())
        elif self.meaning == "fall":
            numbers = targets * gains
        elif self.meaning == "cosine":
            numbers = 2 * gains - 1
        else:
            numbers = gains
        return numbers.astype(np.float32)


def resolve_lambda(llambda: float | None, lambda_: float | None) -> float:
    """λ, from either of its two names."""
    if llambda is not None and lambda_ is not None and llambda != lambda_:
        raise Conflict(
            f"{setting('llambda', llambda)} and {setting('lambda_', lambda_)} are the same setting: pass one of them"
        )
    value = lambda_ if llambda is None else llambda
    return validation.number("llambda", DEFAULT_LAMBDA if value is None else value, above=0)


def acquisition_recipe(acquisition: Any, noise: float, *, fast: bool) -> AcquisitionRecipe:
    """The recipe for the argument ``acquisition_function``."""
    if acquisition is None:
        return _recipe_by_name("LazyVTL" if fast else "VTL", noise, once=False)
    if isinstance(acquisition, str) or hasattr(acquisition, "method"):
        return AcquisitionRecipe(acquisition, noise, METHOD_MEANINGS.get(find_method(acquisition).name, "gain"))
    # Its other settings (subsample, mini_batch_size, max_target_size, …) trade exactness for speed, and are not needed.
    own = getattr(acquisition, "noise_std", None)
    noise = DEFAULT_NOISE if own is None else validation.number("noise_std", float(own), above=0) ** 2
    return _recipe_by_name(type(acquisition).__name__, noise, once=getattr(acquisition, "force_nonsequential", False))


def _recipe_by_name(name: str, noise: float, *, once: bool) -> AcquisitionRecipe:
    if name not in ACQUISITION_CLASSES:
        raise UnknownName("acquisition function", name, ACQUISITION_CLASSES)
    method, meaning = ACQUISITION_CLASSES[name]
    if once or name == "UncertaintySampling":
        return AcquisitionRecipe(rank_once(method), noise, meaning, once=True)
    # activeft's CTL may pick a text again; siftlm's does so only with replacement.
    return AcquisitionRecipe(method, noise, meaning, replacement=True if name == "CTL" else None)


def rank_once(name: str) -> MethodFunction:
    """The method without regard to its own picks: the n largest of its first gains (``force_nonsequential``)."""
    entry = find_method(name)

    def run(problem: Problem) -> Steps:
        gains = np.array(next(entry.run(problem)))
        while True:
            yield gains

    # Not registered: only this module uses it.
    run.method = Method(  # type: ignore[attr-defined]
        f"{name}, ranked once", entry.summary, run, entry.targeted, signed=entry.signed
    )
    return run
