"""The most information on a graph of labels: MIG (Chen et al. 2025, arXiv 2504.13835)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection.clusters import cluster, feature_space, squared_to
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray, IntArray

# The published settings: the exponent and the offset of φ, and the cosine from which two labels have an edge.
DEFAULT_EXPONENT, OFFSET, DEFAULT_EDGE = 0.8, 1e-6, 0.9
# Without labels: how many clusters stand for them, and of how many nearest ones a candidate is.
DEFAULT_CLUSTERS, CLUSTERS_EACH = 64, 3
# Labels whose similarities, (L, L) of float64, are held: 3 GB.
MAX_LABELS = 20_000
# Candidates that are converted at a time.
CENTRE_BLOCK = 16384


@method(
    "mig",
    "most information on a graph of labels: many labels, good records (MIG)",
    targeted=False,
    labels=("labels",),
)
def mig(
    problem: Problem,
    *,
    labels: Sequence[object] | None = None,
    edge: float = DEFAULT_EDGE,
    propagation: float = 1.0,
    exponent: float = DEFAULT_EXPONENT,
    clusters: int | None = None,
) -> Steps:
    """Σ_l (Pᵀv_x)_l φ'(E_l);  φ(E) = (E + 1e-6)^exponent;  after a pick E ← E + prior · Pᵀv_x

    Chen et al. 2025, arXiv 2504.13835: v_x has a 1 for each label of x, and P hands information on along the edges of
    the graph. Its columns are w_ll' (times ``propagation`` where l ≠ l') over their sum, with w the cosine of two
    labels where it is at least ``edge``. The prior is the quality. The gain is the slope at E, as in the published
    code, so the first record of a label counts much and each further one less. Known items play no part.

    ``labels`` has a label, or a list of labels, for each candidate. The published graph compares embeddings of the
    labels' words; here a label's vector is the mean of its candidates', so edges are another matter of degree.
    Without labels, k-means clusters stand for them, 64 or ``clusters``: a candidate's v is then spread over the three
    nearest, in proportion to exp(−d² / the mean of the least d²), which is not in the paper. O(L² + all candidates'
    labels) a pick for L labels, at most 20,000; without a graph (``propagation=0``) for any number, in O(L).
    """
    exponent = validation.number("exponent", exponent, above=0, most=1)
    edge = validation.number("edge", edge, least=-1, most=1)
    propagation = validation.number("propagation", propagation, least=0)
    if labels is not None and clusters is not None:
        raise Conflict(f"{setting('clusters')} stand for labels, and {setting('labels')} are given")
    most = MAX_LABELS if propagation else None
    tags = _cluster_tags(problem, clusters, most) if labels is None else _given_tags(problem, labels, most)
    spread = _propagation(tags.similarity, edge, propagation) if propagation else None
    for _ in range(problem.known):
        yield np.zeros(problem.space.size)
    weight = np.ones(problem.candidates) if problem.rules.prior is None else problem.rules.prior
    information = np.zeros(len(tags.centres))
    while True:
        slope = exponent * (information + OFFSET) ** (exponent - 1)
        index = yield problem.padded(tags.sums(slope if spread is None else spread @ slope, problem.candidates))
        which, amounts = tags.of(index)
        if spread is None:
            information[which] += weight[index] * amounts
        else:
            information += weight[index] * (amounts @ spread[which])


def _propagation(similarity: FloatArray, edge: float, propagation: float) -> FloatArray:
    """(L, L) P, whose columns sum to 1; written over the similarity."""
    similarity[similarity < edge] = 0
    np.maximum(similarity, 0, out=similarity)
    similarity *= propagation
    np.fill_diagonal(similarity, 1.0)
    similarity /= similarity.sum(axis=0)
    return similarity


def _check_count(name: str, count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise InvalidInput(
            f"{setting(name)}: the graph of {count:,} different ones does not fit in memory, at most {most:,} do; "
            f"{setting('propagation', 0)} needs no graph"
        )


@dataclass(frozen=True, eq=False)
class _Tags:
    """v of every candidate, without its zeros, and a vector of each label."""

    owners: IntArray
    """(entries,) candidates, ascending"""
    which: IntArray
    """(entries,) labels"""
    amounts: FloatArray
    """(entries,)"""
    centres: FloatArray
    """(L, d)"""

    @property
    def similarity(self) -> FloatArray:
        """(L, L) cosines"""
        length = np.linalg.norm(self.centres, axis=1, keepdims=True)
        unit = np.divide(self.centres, length, out=np.zeros_like(self.centres), where=length > 0)
        cosine: FloatArray = unit @ unit.T
        return cosine

    def sums(self, values: FloatArray, size: int) -> FloatArray:
        """(K,) Σ_l v_xl values_l"""
        summed = np.bincount(self.owners, self.amounts * values[self.which], size)
        return summed.astype(np.float64)

    def of(self, index: int) -> tuple[IntArray, FloatArray]:
        """The labels of a candidate, and its amount of each."""
        own = slice(*np.searchsorted(self.owners, [index, index + 1]).tolist())
        return self.which[own], self.amounts[own]


def _given_tags(problem: Problem, labels: Sequence[object], most: int | None) -> _Tags:
    """Each label once per candidate; its vector is the mean of its candidates'."""
    size = problem.candidates
    if isinstance(labels, str) or not hasattr(labels, "__len__") or len(labels) != size:
        raise InvalidInput(f"{setting('labels')} must have a label, or a list of labels, for each candidate ({size})")
    numbers: dict[object, int] = {}
    owners, which = [], []
    try:
        for at, given in enumerate(labels):
            own = list(given) if isinstance(given, (list, tuple, set, frozenset)) else [given]
            for number in sorted({numbers.setdefault(label, len(numbers)) for label in own}):
                owners.append(at)
                which.append(number)
    except TypeError as error:
        raise InvalidInput(f"{setting('labels')} must hold labels that can be compared: {error}") from error
    if not numbers:
        raise InvalidInput(f"{setting('labels')} has no label at all; leave it out for clusters in their place")
    _check_count("labels", len(numbers), most)
    space, rows, columns = feature_space(problem, "mig"), np.array(owners, np.int64), np.array(which, np.int64)
    centres = np.zeros((len(numbers), space.width))
    for start in range(0, len(rows), CENTRE_BLOCK):
        block = slice(start, start + CENTRE_BLOCK)
        np.add.at(centres, columns[block], space.gather(rows[block]))
    return _Tags(rows, columns, np.ones(len(rows)), centres)


def _cluster_tags(problem: Problem, count: int | None, most: int | None) -> _Tags:
    """The nearest clusters of each candidate, with amounts that sum to 1."""
    size = problem.candidates
    count = min(DEFAULT_CLUSTERS, size) if count is None else validation.whole_number("clusters", count, most=size)
    _check_count("clusters", count, most)
    space, centres = feature_space(problem, "mig"), cluster(problem, count, "mig").centres
    each = min(CLUSTERS_EACH, len(centres))
    which, squared = np.empty((size, each), np.int64), np.empty((size, each))
    for start in range(0, size, CENTRE_BLOCK):
        rows = np.arange(start, min(start + CENTRE_BLOCK, size))
        distances = squared_to(space.gather(rows), centres)
        which[rows] = np.argsort(distances, axis=1, kind="stable")[:, :each]
        squared[rows] = np.take_along_axis(distances, which[rows], axis=1)
    amounts = np.exp(-squared / (float(squared[:, 0].mean()) or 1.0))
    amounts /= amounts.sum(axis=1, keepdims=True)
    return _Tags(np.repeat(np.arange(size), each), which.ravel(), amounts.ravel(), centres)
