"""How well a choice covers the targets, beside a random one and the nearest; and how much it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.picking.choose import Candidates
from siftlm.selection.checks import blocks
from siftlm.types import BoolArray, FloatArray, IntArray, Vectors

# Choices by chance that the others are compared with.
RANDOM_CHOICES = 5
# Records of a choice that are compared with each other, and the cosine from which two count as near-copies.
COMPARED_RECORDS, ALIKE = 2000, 0.9
# Below it, near-copies leave nothing to factorise.
MIN_NOISE = 1e-9
# Numbers of picks at which the uncertainty is computed.
CURVE_POINTS = 24
# Targets that are compared with the pool at a time.
TARGET_BLOCK = 16


def target_uncertainty(picks: Vectors, targets: Vectors, noise: float, counts: Sequence[int]) -> FloatArray:
    """(len(counts), m) each target's variance after the first so many of the picks (n, d); counts ascend.

    Up to d picks, with L Lᵀ = K_n + λI and L z = k(X_n, x*), pick i lowers it by z_i²; beyond that it is
    k_n(x*, x*) = λ x*ᵀ (λI + X_nᵀX_n)⁻¹ x*.
    """
    noise = max(noise, MIN_NOISE)
    width, goals = targets.shape[1], targets.astype(np.float64)
    few = picks[: min(len(picks), width)].astype(np.float64)
    factor = np.linalg.cholesky(few @ few.T + noise * np.eye(len(few)))
    drops = np.cumsum(np.linalg.solve(factor, few @ goals.T) ** 2, axis=0)
    own = np.einsum("md,md->m", goals, goals)
    left, done, scatter = np.empty((len(counts), len(goals))), 0, noise * np.eye(width)
    for at, count in enumerate(counts):
        if count <= len(few):
            left[at] = np.maximum(own - drops[count - 1], 0) if count else own
            continue
        for block in blocks(picks[done:count]):
            rows = block.astype(np.float64)
            scatter += rows.T @ rows
        done = count
        root = np.linalg.solve(np.linalg.cholesky(scatter), goals.T)
        left[at] = noise * np.einsum("dm,dm->m", root, root)
    return left


@dataclass(frozen=True, eq=False)
class Coverage:
    """A choice, as seen from the targets."""

    name: str
    indices: IntArray
    """(n,) the rows that were chosen."""
    curve: tuple[tuple[int, float], ...]
    """(number of records, mean uncertainty of the targets)."""
    left: FloatArray
    """(m,) what is left of each target's uncertainty in the end; 1 at the beginning."""
    repeated: float
    """The share of its records with another one above a cosine of 0.9, in a sample."""


def coverage_of(name: str, candidates: Candidates, indices: IntArray, seed: int = 0) -> Coverage:
    """The coverage by these rows, in this order."""
    counts = curve_counts(len(indices))
    left = target_uncertainty(candidates.vectors[indices], candidates.targets, candidates.noise, counts)
    curve = tuple((count, float(value)) for count, value in zip(counts, left.mean(axis=1), strict=True))
    return Coverage(name, indices, curve, left[-1], repeated_share(candidates.vectors, indices, seed))


def curve_counts(n: int) -> list[int]:
    """Numbers of picks from 0 to n, closer together at the beginning.

    >>> curve_counts(4)
    [0, 1, 2, 3, 4]
    """
    spaced = np.unique(np.round(np.geomspace(1, max(n, 1), CURVE_POINTS)).astype(int))
    return [0, *(int(count) for count in spaced if count <= n)]


def repeated_share(vectors: Vectors, indices: IntArray, seed: int = 0) -> float:
    """The share of these rows with another one of them above a cosine of 0.9; of many, of a sample."""
    if len(indices) > COMPARED_RECORDS:
        indices = np.random.default_rng(seed).choice(indices, COMPARED_RECORDS, replace=False)
    rows = vectors[np.sort(indices)].astype(np.float32)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    return float((cosines.max(axis=1) > ALIKE).mean()) if len(rows) > 1 else 0.0


def random_choices(candidates: Candidates, n: int, seed: int) -> list[IntArray]:
    """Several choices of n records by chance, within the same budget."""
    allowed = np.flatnonzero(candidates.allowed)
    draws = [np.random.default_rng([seed, at]).permutation(allowed) for at in range(RANDOM_CHOICES)]
    return [_within_budget(candidates, order, n) for order in draws]


def nearest_choice(candidates: Candidates, n: int) -> IntArray:
    """The n records that come first when every target in turn takes its nearest, within the same budget."""
    allowed = candidates.allowed
    size, targets = int(np.count_nonzero(allowed)), candidates.targets
    depth = min(size, 4 * -(-n // len(targets)) + 16)
    while True:
        order = _by_turns(candidates, allowed, depth)
        chosen = _within_budget(candidates, order, n)
        if len(chosen) >= n or depth == size or (candidates.budget is not None and len(chosen) < len(order)):
            return chosen
        depth = min(size, 4 * depth)


def _by_turns(candidates: Candidates, allowed: BoolArray, depth: int) -> IntArray:
    """The ``depth`` nearest of every target: all first ones, then all second ones; each row once."""
    forbidden = ~allowed
    ranked = np.empty((depth, len(candidates.targets)), dtype=np.int64)
    for start in range(0, len(candidates.targets), TARGET_BLOCK):
        targets = candidates.targets[start : start + TARGET_BLOCK].astype(np.float32)
        cosines = np.concatenate([targets @ block.astype(np.float32).T for block in blocks(candidates.vectors)], axis=1)
        cosines[:, forbidden] = -np.inf
        best = np.argpartition(-cosines, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        ranked[:, start : start + len(targets)] = np.take_along_axis(best, order, axis=1).T
    flat = ranked.ravel()
    return flat[np.sort(np.unique(flat, return_index=True)[1])]


def _within_budget(candidates: Candidates, order: IntArray, n: int) -> IntArray:
    """The first n of these rows; with a budget, the first that it buys, whatever their number."""
    if candidates.costs is None or candidates.budget is None:
        return order[:n]
    spent = np.cumsum(candidates.costs[order])
    return order[: int(np.searchsorted(spent, candidates.budget, side="right"))]
