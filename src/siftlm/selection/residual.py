"""SIFT over any inner-product index: each step searches for what the prompt still lacks.

k_n(x*, x) is itself an inner product, q_n·x with the residual query q_n = P_n x*. So a step asks the index
for the best k of ±q_n, takes them into a pool whose posterior is kept exactly, and picks the best of the
pool. What the index left out can be bounded (``certificate.py``): where the bound is below the pick's
gain, the pick is provably the one that a search through the whole corpus would have made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection import certificate, checks
from siftlm.selection.checks import RealArray
from siftlm.selection.index import CheckedIndex, Index, IndexResult
from siftlm.selection.numerics import ties_of
from siftlm.selection.posterior import FeaturePosterior
from siftlm.selection.problem import Problem, Steps
from siftlm.selection.rules import NO_LIMITS, NO_PICK, NO_STOPPING, Limits, PickRules, Stopping, rules_in
from siftlm.selection.select import greedy_select
from siftlm.selection.space import FeatureSpace, unit_rows
from siftlm.types import FloatArray, IntArray, Selection

# Beyond this many picks their spectrum costs more than it adds to the certificate.
MAX_CERTIFIED_PICKS = 256
# Doublings that no index survives: k as it is asked for is then beyond any int64 count of vectors.
UNLIMITED_DOUBLINGS = 48


def select_from(
    query: npt.ArrayLike,
    index: Index,
    n: int | None = None,
    *,
    noise: float = 0.01,
    k: int = 200,
    certify: bool | int = False,
    normalize: bool = True,
    max_norm: float | None = None,
    limits: Limits | None = None,
    stopping: Stopping | None = None,
    **rules: Any,
) -> Selection:
    """Select by SIFT from an index, without preselecting candidates.

    Args:
        query: (d,) the prompt's embedding, or (m, d) for several; each is searched for separately.
        index: see `Index`; `NumpyIndex` and `FaissIndex` adapt arrays and faiss.
        n: how many to pick. Left out: 50, or all if the index is known to have fewer.
        noise: λ > 0, as in ``siftlm.select``.
        k: how many vectors to ask for, per step, target and sign.
        certify: ``False``: say of each pick whether it is certified, and spend nothing on making it so. A
            number: double k up to so many times in a step that is not. ``True``: until it is, which for λ ≪ 1
            often means reading the whole index.
        normalize: bring the query to unit length first. The index's vectors are taken as they are.
        max_norm: left out, the vectors of the index are unit vectors, and one that is not is an error.
            Otherwise no vector is longer than this, and the certificate relies on no more.
        limits: whether a vector may be picked again (``replacement``), and ids that must not be picked
            (``exclude``; they need not be in the index). The other `Limits` need candidates.
        stopping: when to stop before n, as in ``siftlm.select``.
        **rules: the fields of `Limits` and `Stopping`, as keywords.

    Returns:
        A `Selection` whose ``indices`` are ids of the index, and whose ``certified`` (n,) says of each
        pick: given the picks before it, a search through the whole index would have made the same (or one of
        equal gain). It is never ``True`` for an index that does not say that it is ``exact``.

    >>> import numpy as np
    >>> from siftlm.selection import NumpyIndex
    >>> texts = np.array([[0.98, 0.199, 0.0], [0.98, 0.198, 0.02], [0.0, 0.995, 0.1], [0.0, 0.0, 1.0]])
    >>> texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    >>> found = select_from([1.0, 1.0, 0.0], NumpyIndex(texts), n=2, k=3)
    >>> found.indices.tolist(), found.certified.tolist()
    ([0, 2], [True, True])
    """
    noise, normalize = validation.number("noise", noise, above=0), validation.flag("normalize", normalize)
    limits, stopping = rules_in(rules, limits, NO_LIMITS), rules_in(rules, stopping, NO_STOPPING)
    if rules:
        raise TypeError(f"select_from() got an unexpected keyword argument {next(iter(rules))!r}")
    if foreign := sorted({*limits.specified()} - {"replacement", "exclude"}):
        raise Conflict(f"{setting(foreign[0])} needs candidates, and an index is searched as it is")
    targets = unit_rows("query", checks.matrix("query", query), normalize=normalize)
    source = CheckedIndex(
        index,
        targets.shape[1],
        max_norm=None if max_norm is None else validation.number("max_norm", max_norm, above=0),
        excluded=_excluded_ids(limits.exclude),
    )
    n = _pick_count(n, source, repeats_meant=limits.replacement is not None)
    doublings = _max_doublings(certify)
    k = validation.whole_number("k", k, least=1)
    first = source.search(targets, k)
    if not first.ids.size:
        raise InvalidInput("the index returned nothing for the query: it is empty")
    pool = _CandidatePool(first.ids, source.vectors(first.ids), targets, noise)
    problem = Problem(space=pool, expected=n, noise=noise)
    blocked = source.excludes(first.ids)
    problem.rules = PickRules(
        pool.size,
        cap=limits.cap(repeats=True),
        blocked=blocked if blocked.any() else None,
        ties=ties_of(pool, noise),
        names=pool.ids,
    )
    problem.posterior_in_use = posterior = FeaturePosterior(pool, noise)
    steps = _IndexSearch(problem, pool, posterior, source, k, doublings)
    picked = greedy_select(problem, steps.run(first), n, stopping)
    if not len(picked.indices) and picked.stopped == "exhausted":
        raise InvalidInput("exclude leaves nothing to pick from")
    return Selection(
        indices=pool.ids[picked.indices],
        gains=picked.gains,
        uncertainty=picked.uncertainty,
        stopped=picked.stopped,
        method="sift",
        noise=noise,
        certified=np.array(steps.certified[: len(picked.indices)], dtype=np.bool_),
        evidence=pool.evidence(picked.indices),
    )


class _CandidatePool(FeatureSpace):
    """The candidates seen so far, in the order of their arrival; float64."""

    def __init__(self, ids: IntArray, vectors: FloatArray, targets: FloatArray, noise: float) -> None:
        super().__init__(vectors, targets, normalize=False, noise=noise)
        self.ids = ids
        self._buffer: RealArray = self.vectors
        self._order = np.argsort(ids)

    def unknown(self, ids: IntArray) -> IntArray:
        """Those that are not in the pool."""
        return ids[~np.isin(ids, self.ids)]

    def positions(self, ids: IntArray) -> IntArray:
        """Where in the pool they are; all must be in it."""
        return self._order[np.searchsorted(self.ids, ids, sorter=self._order)]

    def append(self, ids: IntArray, vectors: FloatArray) -> None:
        """Take in new ones."""
        start, self.size = self.size, self.size + len(ids)
        if self.size > len(self._buffer):
            room = np.empty((max(self.size, 2 * start), self.width))
            room[:start] = self.vectors
            self._buffer = room
        self._buffer[start : self.size] = vectors
        self.vectors = self._buffer[: self.size]
        self._diagonal = np.concatenate([self._diagonal, np.einsum("ij,ij->i", vectors, vectors)])
        self.largest = float(self._diagonal.max())
        self.ids = np.concatenate([self.ids, ids])
        self._order = np.argsort(self.ids)


class _IndexSearch:
    """The method as the loop sees it: search, take in, certify; again with twice the k where wanted."""

    def __init__(
        self,
        problem: Problem,
        pool: _CandidatePool,
        posterior: FeaturePosterior,
        source: CheckedIndex,
        k: int,
        doublings: int,
    ) -> None:
        self._problem, self._pool, self._posterior, self._source = problem, pool, posterior, source
        self._k, self._doublings = k, doublings
        self._picked: list[int] = []
        self.certified: list[bool] = []

    def run(self, answer: IndexResult) -> Steps:
        """``answer`` is that of the first search, which the pool was made from."""
        while True:
            index = yield self._look_around(answer)
            self._posterior.observe(index)
            self._picked.append(index)
            answer = self._source.search(self._posterior.residual, self._k)

    def _look_around(self, answer: IndexResult) -> FloatArray:
        """Gains of the pool (K,), grown until the pick is certified or enough was asked."""
        k = self._k
        for doubling in range(UNLIMITED_DOUBLINGS + 1):
            self._take_in(answer)
            gains = self._posterior.trace_gain()
            best = self._problem.rules.choose(gains)
            certified = best != NO_PICK and self._proves(answer, float(gains[best]))
            # With nothing to pick in the pool, there is no choice but to ask for more.
            if certified or answer.short or (best != NO_PICK and doubling >= self._doublings):
                break
            k *= 2
            answer = self._source.search(self._posterior.residual, k)
        self.certified.append(certified)
        return gains

    def _take_in(self, answer: IndexResult) -> None:
        ids = self._pool.unknown(answer.ids)
        if len(ids):
            self._pool.append(ids, self._source.vectors(ids))
            self._posterior.extend()
            self._problem.rules.grow(self._pool.ids, self._source.excludes(ids))

    def _proves(self, answer: IndexResult, gain: float) -> bool:
        """Is no vector that was left out worth more than this gain?"""
        source = self._source
        if not source.exact or not self._scores_are_products(answer):
            return False
        if answer.short:
            return True  # nothing was left out
        picked = np.array(self._picked, dtype=np.int64)
        return gain >= certificate.hidden_gain(
            certificate.hidden_square(answer.scores, answer.length, source.rounding),
            self._posterior.residual,
            self._posterior.targets,
            self._pool.gather(picked) if len(picked) <= MAX_CERTIFIED_PICKS else None,
            self._problem.noise,
            source.shortest,
            gain=gain,
        )

    def _scores_are_products(self, answer: IndexResult) -> bool:
        """Are the scores what the vectors say? An index that scores otherwise bounds nothing."""
        signs = np.array([1.0, -1.0])[:, None]
        for target, length in enumerate(answer.length):
            there = answer.table[:, target] >= 0
            at = self._pool.positions(answer.table[:, target][there])
            products = self._posterior.cross[target, at] * np.broadcast_to(signs, there.shape)[there]
            off = np.abs(products - answer.scores[:, target][there] * length)
            if (off > self._source.rounding * length).any():
                return False
        return True


def _excluded_ids(exclude: npt.ArrayLike | None) -> IntArray:
    """Ids to exclude; −1 is none."""
    ids = np.asarray([] if exclude is None else exclude)
    if ids.size == 0:
        return np.zeros(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidInput(f"{setting('exclude')} must be a list of ids, got {ids.dtype} of shape {ids.shape}")
    if (ids < 0).any():
        raise InvalidInput(f"{setting('exclude')} holds {int(ids.min())}, but ids are ≥ 0")
    distinct: IntArray = np.unique(ids).astype(np.int64)
    return distinct


def _max_doublings(certify: bool | int) -> int:
    """How often k may be doubled in one step for the sake of the certificate."""
    if isinstance(certify, (bool, np.bool_)):
        return UNLIMITED_DOUBLINGS if certify else 0
    return min(UNLIMITED_DOUBLINGS, validation.whole_number("certify", certify, least=0))


def _pick_count(n: int | None, source: CheckedIndex, *, repeats_meant: bool) -> int:
    if n is None:
        return 50 if source.size is None else max(1, min(50, source.size - source.excluded_count))
    n = validation.whole_number("n", n, least=1)
    if not repeats_meant and source.size is not None and n > source.size:
        raise InvalidInput(
            f"{setting('n', n)} is more than the {source.size} vectors of the index; "
            f"ask for fewer, or pass {setting('replacement', True)} to allow repeats"
        )
    return n
