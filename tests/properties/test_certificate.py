"""The certificate never lies: a certified pick is the one that the whole corpus would have given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties.oracle import sift, world
from siftlm.selection import NumpyIndex, certificate, select_from

NOISES = [1e-6, 1e-3, 0.01, 0.1, 0.5, 1.0, 5.0]


@st.composite
def corpora(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """A few unit vectors with clusters, opposites, exact copies and near copies, and one or more targets."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, size = draw(st.integers(1, 6)), draw(st.integers(1, 24))
    centres = generator.standard_normal((draw(st.integers(1, 4)), width))
    vectors = centres[generator.integers(len(centres), size=size)]
    vectors = vectors + draw(st.sampled_from([0.0, 1e-4, 0.1, 0.5, 2.0])) * generator.standard_normal((size, width))
    vectors *= generator.choice([-1, 1], size=(size, 1), p=[0.4, 0.6])
    copies = generator.integers(size, size=draw(st.integers(0, 4)))
    vectors = np.concatenate([vectors, vectors[copies]])
    vectors = np.where(np.linalg.norm(vectors, axis=1, keepdims=True) < 1e-3, 1.0, vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = draw(st.sampled_from([0.0, 0.3, 3.0]))
    targets = vectors[generator.integers(len(vectors), size=draw(st.integers(1, 3)))]
    return vectors, targets + near * generator.standard_normal(targets.shape) + 1e-6


def assert_honest(found: Any, query: Any, vectors: Any, noise: float, allowed: Any, **options: Any) -> None:
    """Each certified pick gains as much as any allowed item of the corpus, after the same earlier picks."""
    whole = world(query, vectors, noise=noise, **options)
    picks = found.indices.tolist()
    for n, pick in enumerate(picks):
        gains = np.where(allowed(picks[:n]), sift(whole, picks[:n]), -np.inf)
        best = float(gains.max())
        rounding = 1e-9 + 1e-13 / noise
        assert float(gains[pick]) == pytest.approx(found.gains[n], rel=1e-6, abs=1e-12)
        if found.certified[n]:
            assert float(gains[pick]) >= best * (1 - rounding) - 1e-14, (n, pick, int(gains.argmax()))


@settings(max_examples=examples(150))
@given(
    corpora(),
    st.sampled_from(NOISES),
    st.integers(1, 12),
    st.sampled_from([False, True, 1, 2]),
    st.sampled_from([None, False, 2]),
    st.sampled_from([np.float32, np.float64]),
)
def test_a_certified_pick_is_that_of_the_whole_corpus(corpus, noise, k, certify, replacement, dtype):
    vectors, query = corpus
    vectors = vectors.astype(dtype)
    n = min(6, len(vectors))
    found = select_from(query, NumpyIndex(vectors), n=n, noise=noise, k=k, certify=certify, replacement=replacement)
    cap = {None: np.inf, False: 1, 2: 2}[replacement]
    # The index's vectors are taken as they are, so the whole corpus is too; the query is normalised.
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    assert_honest(
        found,
        query,
        vectors,
        noise,
        lambda picks: np.bincount(np.array(picks, int), minlength=len(vectors)) < cap,
        normalize=False,
    )
    if certify is True:
        assert found.certified.all()


@settings(max_examples=examples(60))
@given(corpora(), st.sampled_from(NOISES), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_vectors_of_any_length(corpus, noise, k, seed):
    vectors, query = corpus
    vectors = vectors * np.random.default_rng(seed).uniform(0, 3, (len(vectors), 1))
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    found = select_from(query, NumpyIndex(vectors), n=min(5, len(vectors)), noise=noise, k=k, max_norm=3.0)
    everything = np.ones(len(vectors), bool)
    assert_honest(found, query, vectors, noise, lambda picks: everything, normalize=False)


@settings(max_examples=examples(60))
@given(corpora(), st.sampled_from(NOISES), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_excluded_vectors_are_no_rivals(corpus, noise, k, seed):
    vectors, query = corpus
    excluded = np.random.default_rng(seed).permutation(len(vectors))[: len(vectors) // 2]
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    found = select_from(query, NumpyIndex(vectors), n=3, noise=noise, k=k, exclude=excluded, replacement=True)
    allowed = ~np.isin(np.arange(len(vectors)), excluded)
    assert allowed[found.indices].all()
    assert_honest(found, query, vectors, noise, lambda picks: allowed, normalize=False)


@pytest.mark.slow
@settings(max_examples=examples(200))
@given(corpora(), st.sampled_from(NOISES), st.integers(0, 5), st.floats(1e-3, 1), st.integers(0, 2**32 - 1))
def test_the_bound_holds_for_any_hidden_vector(corpus, noise, n, shortest, seed):
    """Not for corpora alone: for chance, aligned and adversarial x of length ≥ r, with s² = |Q x|²."""
    vectors, targets = corpus
    generator = np.random.default_rng(seed)
    picked = vectors[generator.integers(len(vectors), size=n)]
    width = vectors.shape[1]
    posterior = np.linalg.inv(np.eye(width) + picked.T @ picked / noise)
    residual = targets @ posterior
    covariance = targets @ posterior @ targets.T
    # Eigenvectors of the very problem that the bound solves are its worst cases; add the picks and chance.
    worst = np.linalg.eig(np.linalg.solve(posterior + noise * np.eye(width), residual.T @ residual))[1].real.T
    hidden = np.concatenate([worst, residual, vectors, generator.standard_normal((20, width))])
    blends = hidden[generator.integers(len(hidden), size=20)] + hidden[generator.integers(len(hidden), size=20)]
    hidden = np.concatenate([hidden, blends])
    length = np.linalg.norm(hidden, axis=1)
    hidden = hidden[length > 1e-9] / length[length > 1e-9, None]
    for x in np.concatenate([hidden * shortest, hidden * max(1.0, 2 * shortest)]):
        square = float(np.square(residual @ x).sum())
        gain = square / (x @ posterior @ x + noise) / len(targets)
        bound = certificate.hidden_gain(square, residual, covariance, picked, noise, shortest)
        assert gain <= bound * (1 + 1e-8 + 1e-13 / noise) + 1e-18
        assert bound <= certificate.hidden_gain(square, residual, covariance, None, noise, 0.0) * (1 + 1e-12)
        for asked in (gain, bound * 0.999, bound * 1.001):
            lazy = certificate.hidden_gain(square, residual, covariance, picked, noise, shortest, gain=asked)
            assert lazy >= bound * (1 - 1e-12)  # saving work never makes the bound smaller
        assert lazy <= asked  # nor larger than what was asked about, where that is above it
        larger = certificate.hidden_gain(square * 1.1, residual, covariance, picked, noise, shortest)
        assert larger >= bound * (1 - 1e-12)


def test_the_bound_is_sharp_where_one_vector_reaches_it():
    """One target, no picks: the bound is the gain of a unit vector with that very score."""
    residual, covariance = np.array([[1.0, 0.0]]), np.array([[1.0]])
    bound = certificate.hidden_gain(0.25, residual, covariance, np.zeros((0, 2)), 0.1, 1.0)
    assert 0.25 / 1.1 <= bound <= 0.25 / 1.1 * 1.01


def test_the_smallest_absolute_score_would_be_no_bound():
    """One sign's answer ends near zero while the other's ends high: what is hidden may score high."""
    scores = np.array([[[0.9, 0.6]], [[0.01, -0.1]]])
    assert certificate.hidden_square(scores, np.array([1.0]), 0.0) == pytest.approx(0.36)


class Lying(NumpyIndex):
    """Says that it is exact, but its scores are not the products of its vectors."""

    def search(self, queries, k):
        ids, scores = super().search(queries, k)
        return ids, scores * 0.5


class Approximate(NumpyIndex):
    """Looks at half of its vectors and admits it."""

    exact = False

    def search(self, queries, k):
        ids, scores = super().search(queries, k)
        return np.where(ids % 2, ids, -1), np.where(ids % 2, scores, -np.inf)


class Silent:
    """Two methods and nothing else."""

    def __init__(self, vectors):
        self._inner = NumpyIndex(vectors)

    def search(self, queries, k):
        return self._inner.search(queries, k)

    def vectors(self, ids):
        return self._inner.vectors(ids)


@pytest.mark.parametrize("kind", [Lying, Approximate, Silent])
@pytest.mark.parametrize("certify", [False, True])
def test_an_index_that_cannot_vouch_is_never_certified(kind, certify):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for k in (5, 60, 100):
        found = select_from(vectors[7], kind(vectors), n=5, noise=1.0, k=k, certify=certify)
        assert not found.certified.any()


def test_an_exact_index_without_a_length_is_certified_when_it_is_used_up():
    class Exact(Silent):
        exact = True

    vectors = np.eye(4)
    assert select_from(vectors[0], Exact(vectors), n=3, noise=1e-6, k=5).certified.all()
