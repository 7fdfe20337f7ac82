"""DEALRec against its plain definition: a Hessian entry by entry, and the ranges one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftlm.errors import Conflict, InvalidInput
from siftlm.selection import kernels, select

DAMPING = 0.05


def unit(values) -> np.ndarray:
    return (np.asarray(values) - np.min(values)) / (np.max(values) - np.min(values))


def scores_of(rows, **options) -> np.ndarray:
    """(K,) s(x), out of a choice of everything."""
    found = select(None, rows, len(rows), method="dealrec", normalize=False, **options)
    scores = np.empty(len(rows))
    scores[found.indices] = found.gains - 1
    return scores


def plain_influence(rows, labels):
    """ḡᵀ H⁻¹ gᵢ by full Newton steps, with the losses' gradients (n, C·d) and the dense Hessian."""
    n, d = rows.shape
    classes = int(labels.max()) + 1
    weights = np.zeros(classes * d)
    for _ in range(50):
        gradients, hessian = np.zeros((n, classes * d)), DAMPING * np.eye(classes * d)
        for at, (row, label) in enumerate(zip(rows, labels, strict=True)):
            logits = weights.reshape(classes, d) @ row
            shares = np.exp(logits) / np.exp(logits).sum()
            gradients[at] = np.kron(shares - np.eye(classes)[label], row)
            hessian += np.kron(np.diag(shares) - np.outer(shares, shares), np.outer(row, row)) / n
        weights = weights - np.linalg.solve(hessian, gradients.mean(axis=0) + DAMPING * weights)
    return gradients @ np.linalg.solve(hessian, gradients.mean(axis=0))


@given(st.integers(0, 1000), st.integers(2, 4))
@settings(max_examples=10, deadline=None)
def test_influence_is_that_of_the_dense_hessian(seed, classes):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(12, 3))
    labels = np.concatenate([np.arange(classes), draw.integers(classes, size=12 - classes)])
    found = scores_of(rows, labels=[f"item {label}" for label in labels], damping=DAMPING)
    np.testing.assert_allclose(found, unit(plain_influence(rows, labels)), atol=1e-6)


def test_influence_is_the_derivative_of_the_mean_loss_by_what_is_left_of_a_record():
    draw = np.random.default_rng(1)
    rows, labels = draw.normal(size=(20, 2)), draw.integers(2, size=20)
    rows[:, 0] += 2 * labels

    def loss(record, weight):
        mass = np.where(np.arange(20) == record, weight, 1.0)[:, None] / 20
        weights = np.zeros((2, 2))
        for _ in range(3000):  # plain gradient descent
            shares = np.exp(rows @ weights)
            shares /= shares.sum(axis=1, keepdims=True)
            weights -= 0.5 * (rows.T @ (mass * (shares - np.eye(2)[labels])) + DAMPING * weights)
        logits = rows @ weights
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(20), labels]))

    slopes = [loss(at, 0.99) - loss(at, 1.01) for at in range(20)]
    np.testing.assert_allclose(scores_of(rows, labels=labels, damping=DAMPING), unit(slopes), atol=1e-3)


def test_scores_are_scaled_and_added():
    rows = np.eye(3)
    found = scores_of(rows, influence=[-1.0, 3.0, 1.0], effort=[10.0, 10.0, 30.0], weight=0.5)
    np.testing.assert_allclose(found, [0.0, 1.0, 0.5 + 0.5])
    np.testing.assert_allclose(scores_of(rows, influence=[2.0, 2.0, 2.0], effort=[1.0, 2.0, 1.5]), [0, 1, 0.5])
    np.testing.assert_allclose(scores_of(rows), 0)


def plain_counts(scores, n, ranges, prune):
    """How many each range gives, as the published algorithm reads; and the scores that are kept."""
    kept = sorted(scores, reverse=True)[int(prune * len(scores)) :]
    low, high = min(kept), max(kept)
    cut = [[] for _ in range(ranges)]
    for score in kept:
        for at in range(ranges):
            if at == ranges - 1 or score <= low + (high - low) / ranges * (at + 1):
                cut[at].append(score)
                break
    left, counts = [(len(own), at) for at, own in enumerate(cut) if own], {}
    while left:
        left.sort()
        size, at = left[0]
        counts[at] = min(size, n // len(left))
        n -= counts[at]
        left = left[1:]
    assert n == 0
    return sorted(count for count in counts.values() if count), kept


@given(
    st.lists(st.integers(0, 40), min_size=4, max_size=60), st.integers(1, 7), st.sampled_from([0.0, 0.25]), st.data()
)
@settings(max_examples=60, deadline=None)
def test_each_range_gives_what_the_published_algorithm_takes(numbers, ranges, prune, data):
    n = data.draw(st.integers(1, len(numbers) - int(prune * len(numbers))))
    scores = unit(numbers) if len(set(numbers)) > 1 else np.zeros(len(numbers))
    counts, kept = plain_counts(scores.tolist(), n, ranges, prune)
    rows = np.random.default_rng(0).normal(size=(len(numbers), 2))
    options = {"method": "dealrec", "influence": numbers, "ranges": ranges, "prune": prune, "seed": 3}
    chosen = select(None, rows, n, **options).indices
    assert len(chosen) == len(set(chosen.tolist())) == n
    assert scores[chosen].max() <= max(kept)
    low, width = min(kept), (max(kept) - min(kept)) / ranges
    edges = [low + width * at for at in range(1, ranges)]
    own = np.bincount([sum(score > edge for edge in edges) for score in scores[chosen]])
    assert sorted(own[own > 0]) == counts
    assert chosen.tolist() == select(None, rows, n, **options).indices.tolist()


def test_pruned_and_excluded_records_are_never_chosen():
    influence = np.arange(20.0)
    rows = np.random.default_rng(0).normal(size=(20, 2))
    found = select(None, rows, 16, method="dealrec", influence=influence, prune=0.25, exclude=[0, 1, 2, 3])
    assert sorted(found.indices.tolist()) == list(range(4, 16))
    assert found.stopped == "exhausted"
    known = select(None, rows, 5, method="dealrec", influence=influence, ranges=5, known=rows[:3])
    assert len(set(known.indices.tolist())) == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ["a", "a", "a"]}, InvalidInput, "labels are all the same"),
        ({"labels": ["a"]}, InvalidInput, "labels must have one label per candidate"),
        ({"labels": ["a", "b", "a"], "damping": 0}, InvalidInput, "damping"),
        ({"labels": ["a", "b", "a"], "influence": [1, 2, 3]}, Conflict, "exclude each other"),
        ({"labels": ["a", "b", "a"], "kernel": kernels.rbf()}, Conflict, "predicted from vectors"),
        ({"influence": [1.0, np.inf, 0.0]}, InvalidInput, "influence"),
        ({"influence": [1.0, 2.0]}, InvalidInput, "influence"),
        ({"effort": [1.0, 2.0, -1.0]}, InvalidInput, "effort"),
        ({"weight": -1}, InvalidInput, "weight"),
        ({"ranges": 0}, InvalidInput, "ranges"),
        ({"prune": 1}, InvalidInput, "prune"),
    ],
)
def test_wrong_values_are_named(options, error, message):
    with pytest.raises(error, match=message):
        select(None, np.eye(3), 2, method="dealrec", **options)
