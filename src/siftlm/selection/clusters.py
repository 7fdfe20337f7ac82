"""k-means over the candidates, and how many clusters suit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.errors import Conflict
from siftlm.selection.problem import Problem
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, IntArray

# Centres are found on so many candidates for each, as drawn; all candidates then get the nearest one.
SAMPLE_PER_CLUSTER = 256
MAX_ITERATIONS = 50
# The silhouette compares every pair of a sample of so many candidates.
SILHOUETTE_SAMPLE = 1024
ASSIGNMENT_BLOCK = 16384


@dataclass(frozen=True, eq=False)
class Clusters:
    """A division of the candidates."""

    centres: FloatArray
    """(k, d)"""
    labels: IntArray
    """(K,) the nearest centre of each candidate."""

    @property
    def count(self) -> int:
        """k"""
        return len(self.centres)


def cluster(problem: Problem, count: int | None, method: str) -> Clusters:
    """k-means of the candidates, known items not included; of ``count`` None, as many as the silhouette prefers.

    Lloyd's iterations from a start by k-means++, on a sample of 256 candidates for each cluster if there are more.
    """
    space, size = feature_space(problem, method), problem.candidates
    draw = problem.generator()
    if count is None:
        sample = space.gather(_drawn(draw, size, SILHOUETTE_SAMPLE))
        count = best_count(sample, [2**power for power in range(1, 10) if 2 ** (power + 1) <= len(sample)], draw)
    sample = space.gather(_drawn(draw, size, SAMPLE_PER_CLUSTER * count))
    centres = k_means(sample, count, draw)
    labels = np.empty(size, dtype=np.int64)
    for start in range(0, size, ASSIGNMENT_BLOCK):
        rows = np.arange(start, min(start + ASSIGNMENT_BLOCK, size))
        labels[rows] = nearest_centres(space.gather(rows), centres)
    return Clusters(centres, labels)


def even_shares(sizes: Sequence[int], n: int) -> list[int]:
    """n among groups of these sizes: as much for each, and what a small one has not goes to the others.

    >>> even_shares([1, 9, 4], 9)
    [1, 4, 4]
    """
    shares, left = [0] * len(sizes), n
    for at, group in enumerate(sorted(range(len(sizes)), key=lambda one: sizes[one])):
        shares[group] = min(sizes[group], left // (len(sizes) - at))
        left -= shares[group]
    return shares


def feature_space(problem: Problem, method: str) -> FeatureSpace:
    """The space of vectors, of which means can be taken."""
    if not isinstance(problem.space, FeatureSpace):
        raise Conflict(f"method {method!r} takes means of vectors: a kernel function or a Gram matrix has none")
    return problem.space


def _drawn(draw: np.random.Generator, size: int, most: int) -> IntArray:
    rows = np.arange(size) if size <= most else np.sort(draw.choice(size, most, replace=False))
    return rows.astype(np.int64)


def squared_to(vectors: FloatArray, centres: FloatArray) -> FloatArray:
    """(K, k) ‖x − centre‖²"""
    own = np.einsum("nd,nd->n", vectors, vectors)
    squared = own[:, None] + np.einsum("kd,kd->k", centres, centres) - 2 * (vectors @ centres.T)
    distances: FloatArray = np.maximum(squared, 0)
    return distances


def nearest_centres(vectors: FloatArray, centres: FloatArray) -> IntArray:
    """(K,)"""
    nearest: IntArray = squared_to(vectors, centres).argmin(axis=1).astype(np.int64)
    return nearest


def k_means(vectors: FloatArray, count: int, draw: np.random.Generator) -> FloatArray:
    """(k, d) centres where Lloyd's iterations come to rest; fewer than ``count`` if fewer vectors differ."""
    centres = _plus_plus(vectors, count, draw)
    labels = np.full(len(vectors), -1)
    for _ in range(MAX_ITERATIONS):
        now = nearest_centres(vectors, centres)
        if (now == labels).all():
            break
        labels = now
        held = np.bincount(labels, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        centres[held > 0] = sums[held > 0] / held[held > 0, None]
    return centres


def _plus_plus(vectors: FloatArray, count: int, draw: np.random.Generator) -> FloatArray:
    chosen = [int(draw.integers(len(vectors)))]
    left = squared_to(vectors, vectors[chosen])[:, 0]
    least = 1e-12 * max(float(left.max()), 1e-300)
    while len(chosen) < count and float(left.max()) > least:
        weights = np.where(left > least, left, 0.0)
        chosen.append(int(draw.choice(len(vectors), p=weights / weights.sum())))
        np.minimum(left, squared_to(vectors, vectors[chosen[-1:]])[:, 0], out=left)
    return vectors[chosen].copy()


def best_count(vectors: FloatArray, counts: Sequence[int], draw: np.random.Generator) -> int:
    """The number of clusters with the best mean silhouette; 1 where there is no choice."""
    best, found = -np.inf, 1
    distances = np.sqrt(squared_to(vectors, vectors))
    for count in counts:
        labels = nearest_centres(vectors, k_means(vectors, count, draw))
        value = float(silhouettes(distances, labels).mean())
        if value > best:
            best, found = value, count
    return found


def silhouettes(distances: FloatArray, labels: IntArray) -> FloatArray:
    """(n,) (b − a) / max(a, b): a the mean distance to one's own cluster, b to the nearest other; 0 for one alone."""
    present, own = np.unique(labels, return_inverse=True)
    members = np.zeros((len(labels), len(present)))
    members[np.arange(len(labels)), own] = 1
    held, sums = members.sum(axis=0), distances @ members
    at = np.arange(len(labels))
    inside = sums[at, own] / np.maximum(held[own] - 1, 1)
    outside = sums / held
    outside[at, own] = np.inf
    nearest = outside.min(axis=1)
    alone = (held[own] == 1) | ~np.isfinite(nearest)
    largest = np.where(alone, 1.0, np.maximum(inside, nearest))
    value = np.zeros(len(labels))
    np.divide(nearest - inside, largest, out=value, where=~alone & (largest > 0))
    return value
