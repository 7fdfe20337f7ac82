"""Adapt-∞ against a slow reading of its published code: the score with most entropy, its ranges, and the pruning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftlm.errors import Conflict, InvalidInput
from siftlm.selection import kernels, select

DRAW = np.random.default_rng(2)


def choose(rows, n, **options):
    return select(None, rows, n, method="adapt-inf", **options).indices


def plain_entropy(values) -> float:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    if spread == 0:
        return 0.0
    counts = [0] * 49
    for value in values:
        at = int(((value - mean) / spread + 4) / (8 / 49))
        if 0 <= at < 49:
            counts[at] += 1
    return -sum(count / sum(counts) * math.log2(count / sum(counts)) for count in counts if count)


def range_of(value, low, high):
    """0 for the lowest of the 50 ranges; None for an outlier."""
    if not low < value <= high:
        return None
    return next(at for at in range(50) if value <= low + (high - low) * (at + 1) / 50 or at == 49)


@given(st.integers(0, 10**6), st.integers(10, 200), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_ranges_of_the_score_with_most_entropy_give_alike(seed, size, kinds):
    draw = np.random.default_rng(seed)
    scores = np.stack([draw.normal(size=size) ** power for power in (1, 2, 4)[:kinds]], axis=1)
    n = int(draw.integers(1, size + 1))
    best = max(range(kinds), key=lambda at: plain_entropy(scores[:, at].tolist()))
    chosen = choose(draw.normal(size=(size, 2)), n, scores=scores, clusters=1, seed=seed)
    assert len(set(chosen.tolist())) == n
    ordered = np.sort(scores[:, best])
    low, high = ordered[int(size * 0.05)], ordered[int(size * 0.95)]
    ranges = [range_of(value, low, high) for value in scores[:, best]]
    sizes = [ranges.count(at) for at in range(50)]
    counts = [[ranges[one] for one in chosen].count(at) for at in range(50)]
    assert sum(counts) == min(n, sum(sizes))
    # As even as can be: who could give one more gives as many as anyone, but for one.
    for count, of in zip(counts, sizes, strict=True):
        assert count == of or count >= max(counts) - 1


def three_crowds() -> tuple[np.ndarray, list[int]]:
    sizes = [4, 40, 100]
    centres = np.array([[10.0, 0, 0], [0, 10, 0], [0, 0, 10]])
    labels = [at for at, size in enumerate(sizes) for _ in range(size)]
    return centres[labels] + 0.1 * DRAW.normal(size=(144, 3)), labels


def test_clusters_give_alike_and_each_by_its_own_score():
    rows, labels = three_crowds()
    # In the second crowd the first score tells only one record from the others, in the third the second does.
    flat = np.zeros(144)
    flat[[50, 120]] = 1.0
    even = np.linspace(0, 1, 144)
    own = np.array(labels)
    scores = np.stack([np.where(own == 1, flat, even), np.where(own == 2, flat, even)], axis=1)
    chosen = choose(rows, 60, scores=scores, clusters=3)
    assert np.bincount(own[chosen]).tolist() == [4, 28, 28]
    for crowd in (1, 2):
        picked = even[[one for one in chosen if own[one] == crowd]]
        whole = even[own == crowd]
        third = (whole.max() - whole.min()) / 3
        thirds = np.bincount(np.minimum((picked - whole.min()) // third, 2).astype(int), minlength=3)
        assert thirds.min() >= 6  # of 28
    assert sorted(choose(rows, 144, scores=scores, clusters=3)) == list(range(144))


def test_pruning_leaves_out_what_is_most_like_an_earlier_one():
    rows = np.random.default_rng(4).normal(size=(30, 4))
    rows[20:] = rows[:10] * 2  # ten copies
    chosen = choose(rows, 20, clusters=1, prune=1 / 3)
    assert sorted(chosen) == list(range(20))
    few = choose(rows, 5, clusters=1, prune=0.5, exclude=[0, 1])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    largest = {at: max((unit[at] @ unit[one] for one in range(2, at)), default=-9.0) for at in range(2, 30)}
    assert set(few) <= set(sorted(largest, key=largest.get)[:14])
    left = select(None, rows, 30, method="adapt-inf", clusters=1, prune=1 / 3)
    assert (len(left.indices), left.stopped) == (20, "exhausted")


def test_the_seed_decides_the_draws_and_known_items_take_no_part():
    rows = DRAW.normal(size=(50, 3))
    assert choose(rows, 9, clusters=2, seed=1).tolist() == choose(rows, 9, clusters=2, seed=1).tolist()
    assert choose(rows, 9, clusters=2, seed=1).tolist() != choose(rows, 9, clusters=2, seed=2).tolist()
    assert len(set(choose(rows, 9, clusters=2, known=rows[:4]).tolist())) == 9


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scores": [1.0, 2.0]}, InvalidInput, "scores"),
        ({"scores": [1.0, np.nan, 2.0]}, InvalidInput, "scores"),
        ({"scores": [["a"], ["b"], ["c"]]}, InvalidInput, "scores"),
        ({"clusters": 4}, InvalidInput, "clusters"),
        ({"prune": 1.0}, InvalidInput, "prune"),
        ({"kernel": kernels.rbf()}, Conflict, "takes means of vectors"),
    ],
)
def test_wrong_values_are_named(options, error, message):
    with pytest.raises(error, match=message):
        choose(np.eye(3), 2, **options)
