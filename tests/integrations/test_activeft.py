"""The replacement for activeft's Retriever: the same where activeft is right, and none of its traps."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations import activeft as ours
from siftlm.integrations.activeft import ACQUISITION_CLASSES, Retriever


def library(name):
    # Importing faiss or activeft warns about their own dependencies.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def texts(count, width, seed=0, *, spread=0.3):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width))
    rows *= (1 + spread * rng.random((count, 1))) / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def flat(vectors, kind="IndexFlatIP"):
    index = getattr(library("faiss"), kind)(vectors.shape[1])
    index.add(vectors)
    return index


def left_after(targets, vectors, picks, noise):
    """Σ of the targets' variances after the picks, from the definition."""
    t, x = np.atleast_2d(targets).astype(float), vectors[list(picks)].astype(float)
    return np.trace(t @ t.T - t @ x.T @ np.linalg.solve(x @ x.T + noise * np.eye(len(x)), x @ t.T))


def exact(targets, vectors, n, noise, among=None):
    """SIFT from the definition: try every candidate, keep what leaves least."""
    among = range(len(vectors)) if among is None else among
    picks = []
    for _ in range(n):
        picks.append(min(among, key=lambda x: left_after(targets, vectors, [*picks, x], noise)))
    return picks


def nearest_by_size(query, vectors, k):
    return set(np.argsort(-np.abs(vectors @ query), kind="stable")[:k].tolist())


class Bare:
    """The least that an index may be: it finds, it gives back one vector at a time, it pads with −1."""

    def __init__(self, vectors, few=None):
        self.vectors, (self.ntotal, self.d), self.few = vectors, vectors.shape, few

    def search(self, x, k):
        scores = x @ self.vectors.T
        ids = np.argsort(-scores, axis=1)[:, : self.few]
        found = np.take_along_axis(scores, ids, axis=1)
        gap = ((0, 0), (0, max(0, k - ids.shape[1])))
        return np.pad(found, gap, constant_values=-3e38)[:, :k], np.pad(ids, gap, constant_values=-1)[:, :k]

    def reconstruct(self, at):
        if not 0 <= at < self.ntotal:
            raise RuntimeError(f"no vector {at}")
        return self.vectors[at]


# --- what it computes


@given(st.integers(0, 10**6), st.integers(2, 14), st.integers(2, 5), st.floats(0.01, 3), st.booleans(), st.data())
def test_it_is_exact_sift_over_the_nearest(seed, count, width, noise, bare, data):
    vectors, query = texts(count, width, seed), texts(1, width, seed + 1)[0]
    k = data.draw(st.integers(1, count + 3))
    n = data.draw(st.integers(1, min(k, count, 4)))
    found = Retriever(Bare(vectors) if bare else vectors, llambda=noise).search(query, n, k)
    among = nearest_by_size(query, vectors, min(k, count))
    assert set(found.indices.tolist()) <= among
    # Near ties may be decided either way, so follow its own picks: each must be as good as the best.
    picks = found.indices.tolist()
    for step, value in enumerate(found.values):
        left = {x: left_after(query, vectors, [*picks[:step], x], noise) for x in among}
        assert left[picks[step]] <= min(left.values()) + 1e-5
        assert value == pytest.approx(-left[picks[step]], abs=1e-5)


def test_picks_values_and_vectors_are_those_of_the_definition():
    vectors, query = texts(40, 8), texts(3, 8, 1)
    found = Retriever(vectors, llambda=0.1).search(query, 6)
    picks = exact(query, vectors, 6, 0.1)
    assert found.indices.tolist() == picks
    np.testing.assert_allclose(
        found.values, [-left_after(query, vectors, picks[: n + 1], 0.1) for n in range(6)], atol=1e-5
    )
    np.testing.assert_array_equal(found.embeddings, vectors[picks])
    assert (found.values.dtype, found.indices.dtype, found.embeddings.dtype) == (
        np.float32,
        np.int64,
        np.float32,
    )
    assert len(tuple(found)) == 4
    assert found[3].faiss >= 0
    assert found[3].sift > 0


def test_fast_reports_what_each_pick_told():
    vectors, query = texts(40, 8), texts(3, 8, 1)
    found = Retriever(vectors, llambda=0.1, fast=True).search(query, 6)
    left = [left_after(query, vectors, found.indices[:n], 0.1) for n in range(1, 7)]
    np.testing.assert_allclose(found.values, -np.diff([(query**2).sum(), *left]), atol=1e-5)


def test_only_faiss_is_the_index_alone():
    vectors, query = texts(40, 8), texts(1, 8, 1)
    found = Retriever(vectors, only_faiss=True).search(query, 5, 20)
    size = np.abs(vectors @ query[0])
    assert found.indices.tolist() == np.argsort(-size)[:5].tolist()
    np.testing.assert_allclose(found.values, np.sort(size)[::-1][:5], rtol=1e-6)
    assert found.time.sift == 0
    signed = Retriever(vectors, only_faiss=True, also_query_opposite=False).search(query, 5, 20)
    assert signed.indices.tolist() == np.argsort(-(vectors @ query[0]))[:5].tolist()


def test_mean_pooling_makes_one_target_of_several():
    vectors, query = texts(40, 8), texts(3, 8, 1)
    pooled = Retriever(vectors).search(query, 5, 20, mean_pooling=True)
    mean = Retriever(vectors).search(query.mean(axis=0), 5, 20)
    np.testing.assert_array_equal(pooled.indices, mean.indices)
    np.testing.assert_array_equal(pooled.values, mean.values)


# --- side by side with activeft


def theirs(index, noise=0.01, cls="VTL", **settings):
    """activeft's retriever, without the worker process that it starts for every search."""
    sift, torch = library("activeft.sift"), library("torch")
    acquisition = getattr(sift, cls)(target=torch.Tensor(), num_workers=0, subsample=False, noise_std=np.sqrt(noise))
    return sift.Retriever(index, acquisition, **settings)


def assert_same(mine, other, atol=1e-5):
    np.testing.assert_array_equal(mine[1], other[1])
    np.testing.assert_allclose(mine[0], other[0], atol=atol)
    np.testing.assert_array_equal(mine[2], other[2])
    assert [part.dtype for part in mine[:3]] == [part.dtype for part in other[:3]]
    assert mine[3]._fields == other[3]._fields


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("opposite", [True, False])
def test_the_same_as_activeft_where_it_is_exact(noise, opposite):
    index, queries = flat(texts(1500, 32)), texts(4, 32, 1)[:, None]
    settings = {"also_query_opposite": opposite}
    mine = Retriever(index, llambda=noise, **settings).batch_search(queries, 10, 200)
    other = theirs(index, noise, **settings)
    for at, query in enumerate(queries):
        assert_same([part[at] for part in mine[:3]] + [mine[3]], other.search(query, 10, 200))
    assert_same(
        Retriever(index, llambda=noise, **settings).search(queries[0], 10, 200),
        other.search(queries[0], 10, 200),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", [True, False])
def test_the_same_as_activeft_for_several_targets_over_everything(pooling):
    index, queries = flat(texts(150, 32)), texts(6, 32, 1).reshape(2, 3, 32)
    mine = Retriever(index, llambda=0.1).batch_search(queries, 8, mean_pooling=pooling)
    assert_same(mine, theirs(index, 0.1).batch_search(queries, 8, mean_pooling=pooling))


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_activeft_with_only_faiss():
    index, queries = flat(texts(150, 32)), texts(4, 32, 1)[:, None]
    for settings in ({}, {"also_query_opposite": False}):
        mine = Retriever(index, only_faiss=True, **settings).batch_search(queries, 8, 50)
        assert_same(mine, theirs(index, only_faiss=True, **settings).batch_search(queries, 8, 50))


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_a_fresh_lazy_one():
    # Texts that are parallel or orthogonal: no gain ever grows, so lazy and exact are the same.
    scales = np.random.default_rng(0).random((3, 16, 1)) + 0.5
    index, queries = flat((scales * np.eye(16)).reshape(48, 16).astype(np.float32)), texts(4, 16, 1)[:, None]
    for query in queries:
        mine = Retriever(index, llambda=0.1, fast=True).search(query, 8, 40)
        assert_same(mine, theirs(index, 0.1, "LazyVTL").search(query, 8, 40))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_as_a_fresh_lazy_one_where_gains_grow():
    index, queries = flat(texts(150, 32)), texts(4, 32, 1)[:, None]
    for query in queries:
        mine = Retriever(index, llambda=0.1, fast=True).search(query, 6, 100)
        assert_same(mine, theirs(index, 0.1, "LazyVTL").search(query, 6, 100))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [0.01, 0.3])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("vtl", "VTL"),
        ("ctl", "CTL"),
        ("cosine_similarity", "CosineSimilarity"),
        ("undirected_vtl", "UndirectedVTL"),
        ("undirected_itl", "UndirectedITL"),
        ("uncertainty_sampling", "UncertaintySampling"),
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_the_same_as_activeft_for_other_acquisition_functions(module, name, noise, once):
    torch, retriever = library("torch"), library("activeft.sift").Retriever
    index, queries = flat(texts(150, 16)), texts(6, 16, 1).reshape(2, 3, 16)
    settings = {"num_workers": 0}
    if "Undirected" not in name and name != "UncertaintySampling":
        settings["target"] = torch.Tensor()
    if name != "CosineSimilarity":
        settings["noise_std"] = noise**0.5
    if name not in {"CosineSimilarity", "UncertaintySampling"}:
        settings["force_nonsequential"] = once
    acquisition = getattr(library(f"activeft.acquisition_functions.{module}"), name)(**settings)
    mine = Retriever(index, acquisition).batch_search(queries, 7)
    assert_same(mine, retriever(index, acquisition).batch_search(queries, 7), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_noise_that_activeft_leaves_open():
    torch, index, query = library("torch"), flat(texts(150, 32)), texts(1, 32, 1)
    acquisition = library("activeft.sift").VTL(target=torch.Tensor(), noise_std=None)
    other = library("activeft.sift").Retriever(index, acquisition)
    assert_same(Retriever(index, acquisition).search(query, 8, 100), other.search(query, 8, 100))


# --- one trap each


@pytest.mark.parametrize("k", [None, 30])
def test_answers_come_in_input_order_however_many_threads(k):
    vectors = texts(200, 16)
    # Unequal work, so that later ones finish first.
    queries = [texts(1 + (23 - at) // 4, 16, 100 + at) for at in range(24)]
    retriever = Retriever(vectors)
    alone = [retriever.search(query, 5, k) for query in queries]
    for threads in (1, 2, 5, 64):
        together = retriever.batch_search(queries, 5, k, threads=threads)
        for at, one in enumerate(alone):
            np.testing.assert_array_equal(together.indices[at], one.indices)
            np.testing.assert_array_equal(together.embeddings[at], one.embeddings)
            np.testing.assert_allclose(together.values[at], one.values, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_is_carried_from_one_query_to_the_next(fast):
    vectors, queries = texts(200, 16), texts(10, 16, 1)
    used = Retriever(vectors, fast=fast)
    for at, query in enumerate(queries):
        used.search(queries[-1 - at], 3, 20 + at)  # another query, another number of candidates
        mine, fresh = used.search(query, 5, 50), Retriever(vectors, fast=fast).search(query, 5, 50)
        for part in range(3):
            np.testing.assert_array_equal(mine[part], fresh[part])


def clusters():
    rng = np.random.default_rng(0)
    rows = texts(30, 16, spread=0).repeat(100, 0) + 0.05 * rng.normal(size=(3000, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_many_candidates_are_never_split():
    vectors, query = clusters(), texts(1, 16, 1)[0]
    found = Retriever(vectors).search(query, 3, 3000)
    assert found.indices.tolist() == exact(query, vectors, 3, 0.01)


@pytest.mark.filterwarnings("ignore")
def test_activeft_splits_them():
    # If this ever fails, activeft has learnt, and docs/guide/from-activeft.md must say so.
    index, query, torch = flat(clusters()), texts(1, 16, 1), library("torch")
    mine = Retriever(index).search(query, 3, 3000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert theirs(index).search(query, 3, 3000)[1].tolist() != mine.indices.tolist()


def between():
    """Texts about the first axis (0–4), about the second (5–9), and many that are a little of both."""
    rng = np.random.default_rng(0)
    axes = np.eye(16)
    middle = np.tile(axes[0] + axes[1], (30, 1))
    rows = np.concatenate([np.tile(axes[0], (5, 1)), np.tile(axes[1], (5, 1)), middle]) + 0.05 * rng.normal(
        size=(40, 16)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), axes[:2].astype(np.float32)


@pytest.mark.parametrize("sign", [1, -1])
def test_candidates_are_fetched_for_every_target(sign):
    vectors, query = between()
    vectors[5:10] *= sign
    found = Retriever(vectors).search(query, 2, 5)
    assert sorted(at // 5 for at in found.indices) == [0, 1]
    mean = Retriever(vectors * np.where(np.arange(40) // 5 == 1, sign, 1)[:, None], only_faiss=True)
    assert min(mean.search(query, 5, 5, mean_pooling=True).indices) >= 10  # what the mean would have found


def test_candidates_are_fetched_for_every_opposite():
    vectors, query = between()
    vectors[5:10] *= -1
    signed = Retriever(vectors, also_query_opposite=False).search(query, 4, 5)
    assert not {5, 6, 7, 8, 9} & set(signed.indices.tolist())
    assert {5, 6, 7, 8, 9} & set(Retriever(vectors).search(query, 4, 5).indices.tolist())


@pytest.mark.parametrize("opposite", [True, False])
@pytest.mark.parametrize("only", [True, False])
def test_an_id_of_minus_one_is_never_a_row(only, opposite):
    vectors, query = texts(20, 8), texts(2, 8, 1)
    retriever = Retriever(Bare(vectors, few=6), only_faiss=only, also_query_opposite=opposite)
    for k in (6, 7, 20, 100):
        found = retriever.search(query, 6, k)
        assert (found.indices >= 0).all()
        assert np.isfinite(found.values).all()
        np.testing.assert_array_equal(found.embeddings, vectors[found.indices])
    nothing = Retriever(Bare(vectors, few=0), only_faiss=only)
    with pytest.raises(InvalidInput, match="N=1 is more than the 0 candidates of query 0"):
        nothing.search(query, 1, 5)


@pytest.mark.parametrize("opposite", [True, False])
def test_an_inverted_list_with_few_texts_leaves_no_gaps(opposite):
    faiss, vectors = library("faiss"), texts(400, 16)
    index = faiss.index_factory(16, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    found = Retriever(index, also_query_opposite=opposite).batch_search(texts(5, 16, 1), 5, 300)
    np.testing.assert_array_equal(found.embeddings, vectors[found.indices])
    assert np.isfinite(found.values).all()
    assert index.direct_map.no()  # the index is as it was


def test_variance_is_never_negative():
    rng = np.random.default_rng(0)
    centre = texts(1, 16, spread=0)
    near = centre + 1e-4 * rng.normal(size=(200, 16))
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    for index in (near, Bare(near)):
        found = Retriever(index, llambda=1e-7).search(centre, 30, 200)
        assert np.isfinite(found.values).all()
        assert (found.values <= 0).all()
        assert (np.diff(found.values) >= 0).all()
        reference = -left_after(centre, near, found.indices[:5], 1e-7)
        assert found.values[4] == pytest.approx(reference, abs=1e-8)


def test_global_settings_stay_as_they_are():
    faiss, torch = library("faiss"), library("torch")
    index, queries = flat(texts(300, 16)), texts(8, 16, 1)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        state = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads()
        old_style = np.random.get_state()[1].tolist()  # noqa: NPY002
        Retriever(index).batch_search(queries, 5, 50, threads=3)
        assert faiss.omp_get_max_threads() == 2
        assert state == (random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads())
        assert old_style == np.random.get_state()[1].tolist()  # noqa: NPY002
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("k", [11, 19, 20, 25, 40, 100])
@pytest.mark.parametrize("make", [np.asarray, Bare, flat])
def test_no_text_is_a_candidate_twice(k, make):
    vectors, query = texts(20, 8), texts(1, 8, 1)
    vectors[:15] = np.eye(8, dtype=np.float32)[np.arange(15) % 7]  # many are orthogonal to a query along the last
    query[:, :7] = 0
    found = Retriever(make(vectors), only_faiss=True).search(query, min(k, 20), k)
    assert len(set(found.indices.tolist())) == min(k, 20)


def test_asking_for_more_than_there_is():
    vectors = texts(20, 8)
    with pytest.raises(InvalidInput, match=r"N=12 is more than the 10 candidates of query 0 \(K=10, 20 in the index"):
        Retriever(vectors).search(texts(1, 8, 1), 12, 10)
    with pytest.raises(InvalidInput, match="N=21 is more than the 20 candidates"):
        Retriever(vectors).search(texts(1, 8, 1), 21)
    # Two targets may bring more candidates than K.
    assert len(Retriever(vectors).search(np.eye(8)[:2], 8, 7).indices) == 8


# --- what it takes


def test_queries_of_any_layout():
    vectors, queries = texts(100, 16), texts(12, 16, 1)
    retriever = Retriever(vectors)
    expected = retriever.batch_search(queries, 5, 40)
    backwards = queries[::-1].astype(np.float64)[::-1]
    layouts = [
        queries[:, None],
        np.asfortranarray(queries),
        backwards,
        list(queries),
        queries.tolist(),
        [query[None] for query in queries],
        np.repeat(queries, 2, axis=0)[::2],
    ]
    for layout in layouts:
        np.testing.assert_array_equal(retriever.batch_search(layout, 5, 40).indices, expected.indices)
    for query in (queries[0], queries[:1], queries[0].tolist()):
        np.testing.assert_array_equal(retriever.search(query, 5, 40).indices, expected.indices[0])
    # Three dimensions, or a list of two: several embeddings of one query each.
    grouped = retriever.batch_search(queries.reshape(4, 3, 16), 5, 40)
    np.testing.assert_array_equal(grouped.indices[1], retriever.search(queries[3:6], 5, 40).indices)
    ragged = retriever.batch_search([queries[0], queries[3:6]], 5, 40)
    np.testing.assert_array_equal(ragged.indices, [expected.indices[0], grouped.indices[1]])


def test_an_empty_batch():
    for index in (texts(10, 4), Bare(texts(10, 4))):
        empty = Retriever(index).batch_search(np.zeros((0, 4)), 3, 5)
        assert [part.shape for part in empty[:3]] == [(0, 3), (0, 3), (0, 3, 4)]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros(4), "list, got shape"),
        (np.ones((2, 5)), "query 0 has vectors of width 5, expected 4"),
        ([np.ones(4), np.full(4, np.nan)], "query 1 row 0 is not finite"),
        ([np.ones((0, 4))], "query 0 is empty"),
        ([["a"] * 4], "query 0 must hold real numbers"),
    ],
)
def test_queries_that_cannot_be_used(queries, message):
    with pytest.raises(InvalidInput, match=message):
        Retriever(texts(10, 4)).batch_search(queries, 2, 5)


@pytest.mark.parametrize("name", ["N", "K", "threads"])
def test_numbers_that_cannot_be_used(name):
    settings = {"N": 2, "K": 5} | {name: 0}
    with pytest.raises(InvalidInput, match=f"{name} must be a whole number ≥ 1"):
        Retriever(texts(10, 4)).search(np.ones(4), **settings)


def test_a_large_batch_is_fetched_in_parts(monkeypatch):
    queries = [texts(1 + at % 3, 8, at) for at in range(9)]
    whole = Retriever(Bare(texts(50, 8))).batch_search(queries, 4, 10)
    monkeypatch.setattr(ours, "FETCH_NUMBERS", 4 * 2 * 10 * 8)
    in_parts = Retriever(Bare(texts(50, 8))).batch_search(queries, 4, 10)
    np.testing.assert_array_equal(whole.indices, in_parts.indices)
    monkeypatch.setattr(ours, "FETCH_NUMBERS", 1)  # less than one query needs: one at a time
    np.testing.assert_array_equal(whole.indices, Retriever(Bare(texts(50, 8))).batch_search(queries, 4, 10).indices)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_is_an_index(dtype):
    vectors = texts(60, 8).astype(dtype)
    found = Retriever(vectors).batch_search(texts(3, 8, 1), 4, 20)
    assert found.embeddings.dtype == np.float32
    np.testing.assert_array_equal(found.embeddings, vectors.astype(np.float32)[found.indices])


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF1,Flat", "IDMap,Flat", "IDMap2,Flat", "IDMap,IVF1,Flat"])
@pytest.mark.parametrize("k", [None, 30])
def test_any_faiss_index(factory, k):
    faiss, vectors, queries = library("faiss"), texts(120, 8), texts(3, 8, 1)
    index = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors)
    if factory == "HNSW16":
        index.hnsw.efSearch = 200  # thorough enough to find what a scan finds
    offset = 1000 if "IDMap" in factory else 0
    if offset:
        index.add_with_ids(vectors, np.arange(offset, offset + 120))
    else:
        index.add(vectors)
    expected = Retriever(vectors).batch_search(queries, 5, k)
    found = Retriever(index).batch_search(queries, 5, k)
    np.testing.assert_array_equal(found.indices, expected.indices + offset)
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_an_index_of_distances():
    vectors, query = texts(60, 8), texts(1, 8, 1)
    index = flat(vectors, "IndexFlatL2")
    with pytest.raises(Conflict, match="also_query_opposite=False"):
        Retriever(index).search(query, 3, 10)
    nearest = np.argsort(((vectors - query) ** 2).sum(axis=1))[:10]
    found = Retriever(index, also_query_opposite=False).search(query, 3, 10)
    assert found.indices.tolist() == exact(query, vectors, 3, 0.01, sorted(nearest.tolist()))
    only = Retriever(index, also_query_opposite=False, only_faiss=True).search(query, 10, 10)
    assert only.indices.tolist() == nearest.tolist()


def test_an_index_may_grow_and_may_not_be_empty():
    faiss = library("faiss")
    index = faiss.IndexFlatIP(8)
    retriever = Retriever(index)
    with pytest.raises(InvalidInput, match="the index is empty"):
        retriever.search(np.ones(8), 1)
    index.add(texts(5, 8))
    assert len(retriever.search(np.ones(8), 5).indices) == 5


# --- settings


def test_lambda_has_two_names():
    vectors, query = texts(50, 8), texts(1, 8, 1)
    for settings in ({"llambda": 0.5}, {"lambda_": 0.5}, {"llambda": 0.5, "lambda_": 0.5}):
        found = Retriever(vectors, **settings).search(query, 4)
        assert found.values[-1] == pytest.approx(-left_after(query, vectors, found.indices, 0.5), abs=1e-5)
    with pytest.raises(Conflict, match=r"llambda=0\.01 and lambda_=0\.1 are the same setting"):
        Retriever(vectors, llambda=0.01, lambda_=0.1)
    for wrong in (0, -1, float("nan"), "0.1"):
        with pytest.raises(InvalidInput, match="llambda must be"):
            Retriever(vectors, llambda=wrong)


def like_activeft(name, **settings):
    return type(name, (), settings)()


@pytest.mark.parametrize(("std", "noise"), [(0.5, 0.25), (None, 0.01), (np.float64(0.1), 0.01)])
def test_noise_is_read_from_an_acquisition_function(std, noise):
    vectors, query = texts(50, 8), texts(1, 8, 1)
    found = Retriever(vectors, like_activeft("VTL", noise_std=std), llambda=7).search(query, 4)
    assert found.values[-1] == pytest.approx(-left_after(query, vectors, found.indices, noise), abs=1e-5)


@pytest.mark.parametrize("name", sorted(ACQUISITION_CLASSES))
def test_every_acquisition_function_has_a_method(name):
    found = Retriever(texts(50, 8), like_activeft(name, noise_std=0.1)).batch_search(texts(3, 8, 1), 4, 30)
    assert found.indices.shape == (3, 4)
    assert not np.isnan(found.values).any()


@pytest.mark.parametrize("name", ["Random", "KMeansPP"])
def test_chance_depends_on_the_query_and_on_nothing_else(name):
    queries = texts(5, 8, 1)
    retriever = Retriever(texts(50, 8), like_activeft(name))
    found = retriever.batch_search(queries, 6, threads=2).indices.tolist()
    assert found == [retriever.search(query, 6).indices.tolist() for query in queries]
    assert len({tuple(picks) for picks in found}) == 5


def test_a_method_by_its_name():
    vectors, query = texts(50, 8), texts(1, 8, 1)
    sift = Retriever(vectors, "sift", llambda=0.1).search(query, 4)
    np.testing.assert_array_equal(sift.values, Retriever(vectors, llambda=0.1).search(query, 4).values)
    nearest = Retriever(vectors, "nearest").search(query, 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert nearest.indices.tolist() == np.argsort(-(unit @ query[0]))[:4].tolist()


def test_acquisition_functions_that_cannot_be_mapped():
    vectors = texts(50, 8)
    with pytest.raises(UnknownName, match=r"unknown acquisition function 'EIG'.*Known: CTL, CosineSimilarity"):
        Retriever(vectors, like_activeft("EIG"))
    with pytest.raises(UnknownName, match="unknown method 'shift'; did you mean 'sift'"):
        Retriever(vectors, "shift")
    with pytest.warns(UserWarning, match="fast is ignored"):
        Retriever(vectors, like_activeft("VTL", noise_std=0.1), fast=True)


@pytest.mark.parametrize("name", ["fast", "only_faiss", "also_query_opposite", "mean_pooling"])
@pytest.mark.parametrize("value", [None, 1, "no"])
def test_yes_or_no(name, value):
    at_search, at_start = ({name: value}, {}) if name == "mean_pooling" else ({}, {name: value})
    with pytest.raises(InvalidInput, match=f"{name} must be True or False"):
        Retriever(texts(50, 8), **at_start).search(texts(1, 8, 1), 2, **at_search)


@pytest.mark.parametrize("queries", [None, 3, np.array(None)])
def test_queries_that_are_none(queries):
    with pytest.raises(InvalidInput, match="queries must be an array or a list"):
        Retriever(texts(50, 8)).batch_search(queries, 2)


def test_neither_faiss_nor_torch_is_needed():
    script = (
        "import sys; from siftlm.integrations.activeft import Retriever; import numpy as np;"
        "Retriever(np.eye(3)).search(np.eye(3)[0], 2, 3);"
        "sys.exit(bool({'faiss', 'torch', 'activeft'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
