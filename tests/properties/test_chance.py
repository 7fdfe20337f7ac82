"""Methods that involve chance: the right odds, and the same answer for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siftlm import select

RUNS = 600


def chi_squared(counts: Counter[int], odds: np.ndarray) -> float:
    odds = odds / odds.sum()
    total = sum(counts.values())
    assert all(odds[index] > 0 for index in counts), "something impossible was drawn"
    return float(sum((counts[i] - total * p) ** 2 / (total * p) for i, p in enumerate(odds) if p > 0))


# 99.99 % quantiles of χ² with 1, 2, … degrees of freedom
BOUND = [15.1, 18.4, 21.1, 23.5, 25.7, 27.9, 29.9]


def test_random_is_even() -> None:
    first, second = Counter[int](), Counter[int]()
    for seed in range(RUNS):
        a, b = select(None, np.eye(5), 2, method="random", seed=seed).indices.tolist()
        assert a != b
        first[a] += 1
        second[(b - a) % 5 - 1] += 1
    assert chi_squared(first, np.ones(5)) < BOUND[3]
    assert chi_squared(second, np.ones(4)) < BOUND[2]


def test_random_follows_the_prior() -> None:
    prior = np.array([1.0, 0.0, 2.0, 5.0])
    first = Counter[int](
        int(select(None, np.eye(4), 1, method="random", seed=seed, prior=prior).indices[0]) for seed in range(RUNS)
    )
    assert chi_squared(first, prior) < BOUND[1]


def test_random_with_replacement_is_even_each_time() -> None:
    drawn = Counter[int]()
    for seed in range(RUNS // 4):
        drawn.update(select(None, np.eye(3), 8, method="random", seed=seed, replacement=True).indices.tolist())
    assert chi_squared(drawn, np.ones(3)) < BOUND[1]


def test_random_leaves_out_what_is_excluded() -> None:
    first = Counter[int](
        int(select(None, np.eye(4), 1, method="random", seed=seed, exclude=[2]).indices[0]) for seed in range(RUNS)
    )
    assert chi_squared(first, np.array([1.0, 1, 0, 1])) < BOUND[1]


@pytest.mark.slow
def test_k_means_draws_by_squared_distance() -> None:
    points = np.array([[0.0, 0.1], [1.0, 0.0], [0.0, 3.0], [2.0, 2.0], [0.0, 0.1]])
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    first, after = Counter[int](), {i: Counter[int]() for i in range(5)}
    third_wrong = 0
    for seed in range(4 * RUNS):
        a, b, c = select(None, points, 3, method="k-means++", seed=seed, normalize=False).indices.tolist()
        first[a] += 1
        after[a][b] += 1
        third_wrong += min(squared[a, c], squared[b, c]) == 0
    assert chi_squared(first, np.ones(5)) < BOUND[3]
    for a in range(5):
        assert chi_squared(after[a], squared[a]) < BOUND[3], f"after {a}"
    assert third_wrong == 0


def test_k_means_known_items_are_picks() -> None:
    points = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    odds = ((points - points[0]) ** 2).sum(axis=1)
    first = Counter[int](
        int(select(None, points, 1, method="k-means++", seed=seed, known=points[:1], normalize=False).indices[0])
        for seed in range(RUNS)
    )
    assert chi_squared(first, odds) < BOUND[1]


def test_k_means_of_equal_points() -> None:
    picked = select(None, np.ones((4, 3)), method="k-means++", seed=3)
    assert sorted(picked.indices.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["random", "k-means++"])
def test_the_seed_decides(method: str) -> None:
    candidates = np.random.default_rng(0).normal(size=(60, 5))
    one, same, other = (select(None, candidates, 30, method=method, seed=seed) for seed in (7, 7, 8))
    assert one.indices.tolist() == same.indices.tolist()
    assert one.gains.tobytes() == same.gains.tobytes()
    assert one.indices.tolist() != other.indices.tolist()
    assert len(one.distinct) == 30
