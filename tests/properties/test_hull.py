"""HullFT's counts: how well their mean rebuilds the prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings

from effort import examples
from properties.follow import check_uncertainty, rounding, run_case, world_of
from properties.worlds import Array, Case, cases
from siftlm import select


def error_of(query: Array, candidates: Array, counts: Array) -> float:
    """‖q − Σ c_i x_i / n‖² on the unit vectors."""
    x = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    q = np.atleast_2d(query)
    q = (q / np.linalg.norm(q, axis=1, keepdims=True)).mean(axis=0)
    return float(((q - counts @ x / counts.sum()) ** 2).sum())


def rounded(weights: Array, n: int) -> Array:
    """Largest remainders: the plain way to whole numbers."""
    share = weights / weights.sum() * n
    counts = np.floor(share).astype(int)
    order = np.argsort(-(share - counts), kind="stable")
    counts[order[: n - counts.sum()]] += 1
    return counts


@settings(max_examples=examples(80))
@given(cases(most=40, picks=20, noises=(0.01,), kinds=("gaussian", "cone", "clusters", "lattice")))
def test_counts_add_up_and_beat_one_neighbour(case: Case) -> None:
    case = case.but(normalize=True)
    picked, world = run_case(case, method="hull"), world_of(case)
    check_uncertainty(picked, world, error=rounding(case, world))
    assert len(picked) == case.n
    assert picked.weights.sum() == case.n
    assert (np.diff(picked.weights) <= 0).all(), "the largest counts come first"
    size = len(case.candidates)
    counts = np.bincount(picked.indices, minlength=size)
    nearest = int(run_case(case.but(n=1), method="nearest").indices[0])
    alone = np.zeros(size, dtype=int)
    alone[nearest] = case.n
    assert error_of(case.query, case.candidates, counts) <= error_of(case.query, case.candidates, alone) + 1e-9


@pytest.mark.parametrize("n", [3, 10, 40])
@pytest.mark.parametrize("seed", range(30))
def test_no_worse_than_largest_remainders(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    candidates = rng.normal(size=(40, 8)) + 0.4
    query = rng.normal(size=8) + 1
    picked = select(query, candidates, n, method="hull", tolerance=1e-9)
    counts = np.bincount(picked.indices, minlength=40)
    weights = np.zeros(40)
    weights[picked.indices] = picked.gains  # of each text, in the convex combination that the counts follow
    plain = error_of(query, candidates, rounded(weights, n))
    # Moves of one count at a time end in a local optimum: never far, and rarely behind at all.
    assert error_of(query, candidates, counts) <= plain * 1.005


@settings(max_examples=examples(40))
@given(cases(most=30, picks=20, noises=(0.01,), kinds=("gaussian", "cone")))
def test_excluded_texts_take_no_part(case: Case) -> None:
    size = len(case.candidates)
    assume(size >= 4)
    out = np.arange(0, size, 2)
    n = min(case.n, size - len(out))
    picked = run_case(case.but(n=n), method="hull", exclude=out)
    assert not set(picked.indices.tolist()) & set(out.tolist())
    assert len(picked) == n
    alone = run_case(case.but(n=n, candidates=np.delete(case.candidates, out, axis=0)), method="hull")
    if case.normalize:
        kept = np.setdiff1d(np.arange(size), out)
        left, right = (
            error_of(case.query, case.candidates, np.bincount(indices, minlength=size))
            for indices in (picked.indices, kept[alone.indices])
        )
        assert abs(left - right) < 1e-6


def test_a_prompt_inside_the_hull_is_rebuilt() -> None:
    candidates = np.eye(4)
    query = np.array([3.0, 2.0, 1.0, 0.0]) / 6
    picked = select(query, candidates, 4, method="hull", normalize=False)
    np.testing.assert_array_equal(np.bincount(picked.indices, minlength=4), [2, 1, 1, 0])


def test_more_picks_than_candidates() -> None:
    """Counts are what it is about: six of three texts is a fair question."""
    query = np.array([3.0, 2.0, 1.0]) / 6
    picked = select(query, np.eye(3), 6, method="hull", normalize=False)
    np.testing.assert_array_equal(np.bincount(picked.indices, minlength=3), [3, 2, 1])
