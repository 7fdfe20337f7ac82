"""Residual-query selection: the pool, the adapters, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from siftlm import errors, select, select_from
from siftlm.selection import FaissIndex, NumpyIndex


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def vectors():
    generator = np.random.default_rng(3)
    centres = generator.standard_normal((8, 24))
    rows = centres[generator.integers(8, size=400)] + generator.standard_normal((400, 24))
    return unit(rows).astype(np.float32)


@pytest.fixture
def query():
    return np.random.default_rng(4).standard_normal((1, 24))


class Counting(NumpyIndex):
    """Notes the k of each search."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.asked = []

    def search(self, queries, k):
        self.asked.append(k)
        return super().search(queries, k)


# --- the same as select


@pytest.mark.parametrize("noise", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_pool_of_everything_is_select(vectors, noise, targets, dtype):
    candidates = unit(vectors.astype(np.float64)).astype(dtype)
    query = np.random.default_rng(5).standard_normal((targets, 24))
    found = select_from(query, NumpyIndex(candidates), n=30, noise=noise, k=400)
    wide = candidates.astype(np.float64)  # select() would normalise what float16 rounded
    expected = select(unit(query), wide, n=30, noise=noise, normalize=False)
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.gains, expected.gains, rtol=1e-7)
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, rtol=1e-7, atol=1e-14)
    assert found.certified.all()
    assert (found.stopped, found.method, found.noise) == ("n", "sift", noise)


def test_a_growing_pool_is_select_when_certified(vectors, query):
    for noise in (1e-3, 0.1, 1.0):
        found = select_from(query, NumpyIndex(vectors), n=25, noise=noise, k=3, certify=True)
        expected = select(query, vectors.astype(np.float64), n=25, noise=noise)
        assert found.certified.all()
        assert found.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(found.uncertainty, expected.uncertainty, rtol=1e-5)


def test_more_picks_than_features(vectors, query):
    found = select_from(query, NumpyIndex(vectors), n=60, noise=0.01, k=400)
    expected = select(query, vectors.astype(np.float64), n=60, noise=0.01)
    assert found.indices.tolist() == expected.indices.tolist()
    grown = select_from(query, NumpyIndex(vectors), n=60, noise=0.01, k=40, certify=True)
    assert grown.indices.tolist() == expected.indices.tolist()


def test_more_targets_than_features():
    generator = np.random.default_rng(0)
    vectors, query = unit(generator.standard_normal((50, 3))), generator.standard_normal((7, 3))
    found = select_from(query, NumpyIndex(vectors), n=8, k=5, certify=True)
    assert found.indices.tolist() == select(query, vectors, n=8).indices.tolist()


def test_the_opposite_of_the_prompt_tells_as_much():
    """Only −q finds it: its cosine is the lowest of all."""
    generator = np.random.default_rng(0)
    vectors = unit(np.concatenate([generator.standard_normal((99, 8)) * 0.7, np.zeros((1, 8))]) + 1e-9)
    vectors[99] = -np.eye(8)[0]
    found = select_from(np.eye(8)[0], NumpyIndex(vectors), n=3, k=1)
    assert found.indices[0] == 99
    assert found.indices.tolist()[0] == select(np.eye(8)[0], vectors, n=3).indices[0]


def test_equal_vectors_give_the_smaller_id():
    vectors = np.repeat(np.eye(3), 4, axis=0)[::-1].copy()
    found = select_from([1.0, 0.5, 0.1], NumpyIndex(vectors), n=3, noise=0.01, k=12, replacement=False)
    assert found.indices.tolist() == [8, 4, 0]


def test_the_residual_query_finds_what_a_preselection_lacks():
    """Two facts; the prompt's nearest neighbours are all about the first."""
    first = unit(np.array([1.0, 0.0, 0.0, 0.0]) + 0.02 * np.random.default_rng(0).standard_normal((50, 4)))
    second = unit(np.array([[0.0, 1.0, 0.1, 0.0]]))
    vectors = np.concatenate([first, second])
    prompt = np.array([1.0, 0.4, 0.0, 0.0])
    found = select_from(prompt, NumpyIndex(vectors), n=2, noise=0.01, k=5)
    assert found.indices[1] == 50
    assert 50 not in np.argsort(-(vectors @ prompt))[:5]


# --- settings


def test_exclude_even_if_it_is_all_that_the_first_search_returns(vectors, query):
    best = np.argsort(-np.abs(vectors @ query[0]))[:30]
    found = select_from(query, NumpyIndex(vectors), n=10, k=2, exclude=[*best, 10**9])
    assert not set(found.indices.tolist()) & set(best.tolist())
    assert len(found) == 10


def test_without_replacement_the_index_is_used_up(vectors, query):
    found = select_from(query, NumpyIndex(vectors[:6]), n=20, k=2, replacement=False)
    assert sorted(found.indices.tolist()) == list(range(6))
    assert found.stopped == "exhausted"
    capped = select_from(query, NumpyIndex(vectors[:2]), n=4, k=1, replacement=2)
    assert sorted(capped.indices.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "rule",
    [{"until": 0.5}, {"min_gain": 0.05}, {"min_growth": 0.1}, {"adaptive": 2.0}, {"adaptive": 9.0, "at_least": 0}],
)
def test_stopping_is_that_of_select(vectors, query, rule):
    expected = select(query, vectors.astype(np.float64), n=40, noise=0.1, **rule)
    found = select_from(query, NumpyIndex(vectors), n=40, noise=0.1, k=400, **rule)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.stopped == expected.stopped
    assert len(found.certified) == len(found)
    assert len(found.uncertainty) == len(found) + 1


def test_tiny_indexes_and_k_beyond_them(vectors, query):
    for size in (1, 2, 3):
        for k in (1, size, 10**9):
            found = select_from(query, NumpyIndex(vectors[:size]), k=k)
            expected = select(query, vectors[:size].astype(np.float64))
            assert len(found) == size
            if k >= size:
                assert found.indices.tolist() == expected.indices.tolist()
                assert found.certified.all()


def test_how_much_is_asked(vectors, query):
    plain = Counting(vectors)
    select_from(query, plain, n=5, noise=1e-4, k=10)
    assert plain.asked == [10] * 5
    limited = Counting(vectors)
    select_from(query, limited, n=3, noise=1e-4, k=10, certify=2)
    assert limited.asked == [10, 10, 20, 40, 10, 20, 40]  # the first pick is certified at once
    whole = Counting(vectors)
    assert select_from(query, whole, n=3, noise=1e-4, k=20, certify=True).certified.all()
    assert 160 <= max(whole.asked) <= 401


def test_a_zero_residual_is_no_trouble():
    found = select_from(np.zeros(3), NumpyIndex(np.eye(3)), n=2, normalize=False)
    assert found.uncertainty.tolist() == [0, 0, 0]


def test_the_prompt_is_normalised_only_if_asked(vectors, query):
    index = NumpyIndex(vectors)
    assert select_from(10 * query, index, n=2).uncertainty[0] == pytest.approx(1)
    long = select_from(10 * unit(query), index, n=2, normalize=False)
    assert long.uncertainty[0] == pytest.approx(100)


def test_explain_knows_the_picks(vectors, query):
    found = select_from(query, NumpyIndex(vectors), n=3, k=400)
    expected = select(query, vectors, n=3)
    texts = [f"text {i}" for i in range(400)]
    np.testing.assert_allclose(found.explain(texts).relevance, expected.explain(texts).relevance, atol=1e-6)
    assert found.explain(texts).texts == expected.explain(texts).texts


def test_nothing_is_kept_or_changed(vectors, query):
    before = vectors.copy()
    index = NumpyIndex(vectors)
    first, second = (select_from(query, index, n=10, k=20) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert np.array_equal(vectors, before)
    assert np.shares_memory(index._vectors, vectors)


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.ones(23)}, "width 23, expected 24"),
        ({"query": np.full(24, np.nan)}, "query row 0 is not finite"),
        ({"query": np.zeros(24)}, "query row 0 is all zeros"),
        ({"k": 0}, "k must be a whole number ≥ 1"),
        ({"k": 2.5}, "k must be a whole number"),
        ({"n": 0}, "n must be a whole number ≥ 1"),
        ({"n": 401}, "more than the 400 vectors"),
        ({"noise": 0}, "noise must be a number > 0"),
        ({"certify": -1}, "certify must be a whole number ≥ 0"),
        ({"certify": "yes"}, "certify must be a whole number"),
        ({"replacement": 0}, "replacement must be a whole number ≥ 1"),
        ({"exclude": [-1]}, "exclude holds -1"),
        ({"exclude": [0.5]}, "exclude must be a list of indices"),
        ({"exclude": np.arange(400)}, "exclude leaves nothing"),
        ({"max_norm": 0}, "max_norm must be a number > 0"),
        ({"max_norm": 0.5}, "max_norm is 0.5"),
    ],
)
def test_bad_settings(vectors, query, change, message):
    settings = {"query": query, "index": NumpyIndex(vectors), **change}
    with pytest.raises(errors.InvalidInput, match=message):
        select_from(**settings)


def test_bad_vectors(vectors, query):
    with pytest.raises(errors.InvalidInput, match=r"has length 2.*normalise the vectors"):
        select_from(query, NumpyIndex(2 * vectors), n=2)
    bad = vectors.copy()
    bad[5, 3] = np.nan
    with pytest.raises(errors.InvalidInput, match="vector 5 is nan"):
        select_from(query, NumpyIndex(bad), n=2)
    with pytest.raises(errors.InvalidInput, match="empty"):
        select_from(query, NumpyIndex(np.zeros((0, 24))), n=2)
    with pytest.raises(errors.InvalidInput, match=r"must be \(rows, width\)"):
        NumpyIndex(np.zeros((2, 2, 2)))


class Broken:
    """Answers as told."""

    def __init__(self, ids, scores, width=2):
        self.ids, self.scores, self.width = np.array(ids), np.array(scores), width

    def search(self, queries, k):
        return self.ids, self.scores

    def vectors(self, ids):
        return np.eye(max(2, len(ids)), self.width)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (Broken([[-1], [-1]], [[0.0], [0.0]]), "it is empty"),
        (Broken([[0], [0]], [[0.0, 1.0], [0.0, 1.0]]), "whole ids and scores"),
        (Broken([[0.0], [0.0]], [[0.0], [0.0]]), "whole ids and scores"),
        (Broken([[0]], [[0.0]]), "whole ids and scores"),
        (Broken([[0], [1]], [[np.nan], [0.0]]), "score nan for id 0"),
        (Broken([[0], [1]], [[0.5], [0.0]], width=3), "width 3, expected 2"),
        (Broken([[0], [0]], [[0.5], [0.0]]), "returned 2 vectors for 1 ids"),
    ],
)
def test_answers_that_make_no_sense(index, message):
    with pytest.raises(errors.InvalidInput, match=message):
        select_from([1.0, 0.5], index, n=1, k=1)


# --- the numpy index


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_index_is_a_sort(vectors, dtype):
    rows, queries = vectors.astype(dtype), vectors[:3]
    for k in (1, 7, 399, 400, 405):
        ids, scores = NumpyIndex(rows).search(queries, k)
        assert ids.shape == scores.shape == (3, k)
        assert ids.dtype == np.int64
        expected = np.argsort(-(queries.astype(np.float64) @ rows.astype(np.float64).T), axis=1)[:, :k]
        assert (ids[:, : min(k, 400)] == expected).mean() > 0.99  # but for ties within rounding
        assert (np.diff(scores[:, :400], axis=1) <= 0).all()
        assert (ids[:, 400:] == -1).all()


def test_numpy_index_refuses(vectors):
    index = NumpyIndex(vectors)
    with pytest.raises(errors.InvalidInput, match="width 3, expected 24"):
        index.search(np.ones((1, 3)), 2)
    with pytest.raises(errors.InvalidInput, match=r"ids\[0\] is -1"):
        index.vectors(np.array([-1]))


# --- faiss


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss")


def flat(faiss, vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def inverted(faiss, vectors, *, ids=None, probe=1):
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], 8, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors) if ids is None else index.add_with_ids(vectors, ids)
    index.nprobe = probe
    return index


def test_faiss_flat_is_numpy(faiss, vectors, query):
    threads = faiss.omp_get_max_threads()
    for k in (5, 400, 1000):
        ours = select_from(query, NumpyIndex(vectors), n=20, noise=0.3, k=k)
        theirs = select_from(query, FaissIndex(flat(faiss, vectors)), n=20, noise=0.3, k=k)
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert ours.certified.tolist() == theirs.certified.tolist()
    assert faiss.omp_get_max_threads() == threads


def test_faiss_ids_need_not_be_rows(faiss, vectors, query):
    names = np.random.default_rng(0).permutation(10**6)[:400].astype(np.int64)
    ours = select_from(query, NumpyIndex(vectors), n=15, noise=0.3, k=50, certify=True)
    for kind in (faiss.IndexIDMap, faiss.IndexIDMap2):
        index = kind(faiss.IndexFlatIP(24))
        index.add_with_ids(vectors, names)
        found = select_from(query, FaissIndex(index), n=15, noise=0.3, k=50, certify=True)
        assert found.indices.tolist() == names[ours.indices].tolist()
        assert found.certified.all()
        with pytest.raises(errors.InvalidInput, match="id 1000001 is not in the index"):
            FaissIndex(index).vectors(np.array([names[0], 10**6 + 1]))
    mapped = FaissIndex(inverted(faiss, vectors, ids=names, probe=8))
    found = select_from(query, mapped, n=15, noise=0.3, k=50, certify=True)
    assert found.indices.tolist() == names[ours.indices].tolist()


def test_faiss_ivf_is_certified_only_if_it_probes_every_list(faiss, vectors, query):
    partial = FaissIndex(inverted(faiss, vectors, probe=2))
    assert not partial.exact
    found = select_from(query, partial, n=10, k=300)  # more than two lists hold: −1 comes back
    assert (found.indices >= 0).all()
    assert not found.certified.any()
    complete = FaissIndex(inverted(faiss, vectors, probe=8))
    assert complete.exact
    assert select_from(query, complete, n=10, k=400).certified.all()


def test_faiss_graphs_work_without_a_certificate(faiss, vectors, query):
    index = faiss.IndexHNSWFlat(24, 16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    found = select_from(query, FaissIndex(index), n=10, k=50)
    assert len(found) == 10
    assert not found.certified.any()


def test_faiss_refusals(faiss, vectors, query):
    with pytest.raises(errors.InvalidInput, match="inner product"):
        FaissIndex(faiss.IndexFlatL2(24))
    with pytest.raises(errors.InvalidInput, match="adapts a faiss index"):
        FaissIndex(faiss.IndexBinaryFlat(24))
    with pytest.raises(errors.InvalidInput, match="empty"):
        select_from(query, FaissIndex(faiss.IndexFlatIP(24)))
    raw = faiss.IndexIVFFlat(faiss.IndexFlatIP(24), 24, 8, faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(errors.InvalidInput, match="not trained"):
        FaissIndex(raw).search(query, 3)
    with pytest.raises(errors.InvalidInput, match="width 3, expected 24"):
        FaissIndex(flat(faiss, vectors)).search(np.ones((1, 3)), 3)
    closed = faiss.IndexShards(24)
    closed.metric_type = faiss.METRIC_INNER_PRODUCT
    closed.add_shard(flat(faiss, vectors))
    with pytest.raises(errors.InvalidInput, match="cannot give vectors back"):
        FaissIndex(closed).vectors(np.array([1]))


def test_faiss_is_not_imported_until_used():
    code = "import sys, siftlm.selection; siftlm.selection.FaissIndex; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what is no index


def test_what_is_no_index_is_told_how_to_become_one(vectors, query):
    class Raw:
        ntotal = 400

        def search(self, queries, k):
            raise AssertionError

    for plain in (vectors, vectors.tolist(), tuple(vectors)):
        with pytest.raises(errors.InvalidInput, match=r"wrap it: NumpyIndex\(array\)"):
            select_from(query, plain, n=2)
    with pytest.raises(errors.InvalidInput, match=r"bare Raw; wrap it: FaissIndex\(index\)"):
        select_from(query, Raw(), n=2)
    for nothing in (None, "index", 3, object()):
        with pytest.raises(errors.InvalidInput, match=r"index must have search\(queries, k\) and vectors\(ids\)"):
            select_from(query, nothing, n=2)


def test_a_bare_faiss_index_is_told_how_to_become_one(vectors, query):
    faiss = pytest.importorskip("faiss")
    with pytest.raises(errors.InvalidInput, match=r"bare IndexFlatIP; wrap it: FaissIndex\(index\)"):
        select_from(query, flat(faiss, vectors), n=2)


@pytest.mark.parametrize("normalize", [None, 1, "no"])
def test_normalize_is_yes_or_no(vectors, query, normalize):
    with pytest.raises(errors.InvalidInput, match="normalize must be True or False"):
        select_from(query, NumpyIndex(vectors), n=2, normalize=normalize)
