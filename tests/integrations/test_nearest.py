"""FAISS, sentence-transformers and datasets: the same picks everywhere, in the shape that each library's users know."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import siftlm
from siftlm.embedding import embedder
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.datasets import rank_rows
from siftlm.integrations.faiss import SiftIndex
from siftlm.integrations.ranking import rank, rank_nearest
from siftlm.integrations.sentence_transformers import semantic_search
from siftlm.selection import Limits
from siftlm.selection.diagnosis import UnitVectors

RNG = np.random.default_rng(0)
CORPUS = np.repeat(RNG.normal(size=(60, 16)), 5, axis=0) + 0.1 * RNG.normal(size=(300, 16))
CORPUS /= np.linalg.norm(CORPUS, axis=1, keepdims=True)
CORPUS = CORPUS.astype(np.float32)
QUERIES = CORPUS[:4] + CORPUS[50:54]


def expected(query, n=20, fetch=50, **settings):
    """Ids of what SIFT picks among the nearest, by the shortest way."""
    near = np.sort(np.argsort(-(CORPUS @ query.T).reshape(len(CORPUS), -1).max(axis=1), kind="stable")[:fetch])
    return near[rank(query, CORPUS[near], n, **settings).indices].tolist()


def test_a_corpus_is_ranked_among_its_nearest():
    ranking = rank_nearest(QUERIES[0], UnitVectors("corpus", CORPUS))
    assert ranking.indices == expected(QUERIES[0])
    assert ranking.considered == 50
    assert rank_nearest(QUERIES[0], UnitVectors("corpus", CORPUS), fetch=1000).considered == 300


def test_settings_with_a_value_for_each_row_follow_the_rows():
    corpus = UnitVectors("corpus", CORPUS)
    first = rank_nearest(QUERIES[0], corpus).indices[0]
    without = rank_nearest(QUERIES[0], corpus, exclude=[first])
    assert first not in without.indices
    assert without.indices == rank_nearest(QUERIES[0], corpus, limits=Limits(exclude=[first])).indices
    costs = np.ones(300)
    costs[first] = 100
    cheap = rank_nearest(QUERIES[0], corpus, costs=costs, budget=5, min_gain=0)
    assert (len(cheap), cheap.stopped) == (5, "budget")
    assert first not in cheap.indices
    sources = [at // 5 for at in range(300)]
    spread = rank_nearest(QUERIES[0], corpus, sources=sources, source_cap=1, min_gain=0)
    assert len({sources[index] for index in spread.indices}) == len(spread) > 5
    prior = np.zeros(300)
    prior[without.indices[0]] = 1
    assert rank_nearest(QUERIES[0], corpus, prior=prior).indices[0] == without.indices[0]
    with pytest.raises(InvalidInput, match=r"costs must have one number per candidate \(300,\)"):
        rank_nearest(QUERIES[0], corpus, costs=[1.0], budget=1)


# --- FAISS


def faiss_index(kind="IndexFlatIP"):
    faiss = pytest.importorskip("faiss")
    index = getattr(faiss, kind)(16)
    index.add(CORPUS)
    return index


def test_a_faiss_index_keeps_the_shape_of_its_search():
    index = faiss_index()
    near, found = SiftIndex(index).search(QUERIES, 20)
    theirs, ids = index.search(QUERIES, 20)
    assert (near.shape, near.dtype, found.shape, found.dtype) == (theirs.shape, theirs.dtype, ids.shape, ids.dtype)
    for row, query in enumerate(QUERIES):
        picks = expected(query)
        stop = len(picks)
        assert stop < 20
        assert found[row].tolist() == picks + [-1] * (20 - stop)
        assert near[row, :stop] == pytest.approx(CORPUS[picks] @ query, rel=1e-5)
        assert (near[row, stop:] == index.search(QUERIES[:1], 301)[0][0, -1]).all()  # as FAISS fills up


def test_no_queries_are_no_error_as_in_faiss():
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(3)
    index.add(np.eye(3, dtype=np.float32))
    assert [part.shape for part in SiftIndex(index).search(np.zeros((0, 3), np.float32), 2)] == [(0, 2), (0, 2)]


def test_distances_stay_distances():
    index = faiss_index("IndexFlatL2")
    near, found = SiftIndex(index, min_gain=0).search(QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True), 5)
    same, ids = SiftIndex(faiss_index(), min_gain=0).search(QUERIES, 5)
    assert np.array_equal(found, ids)
    assert near == pytest.approx(2 - 2 * same / np.linalg.norm(QUERIES, axis=1, keepdims=True), abs=1e-5)
    assert SiftIndex(index).search(QUERIES, 20)[0].max() == np.finfo(np.float32).max


def test_indexes_of_every_kind_give_their_vectors_back():
    faiss = pytest.importorskip("faiss")
    flat = SiftIndex(faiss_index()).search(QUERIES, 10)
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(16), 16, 4, faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(InvalidInput, match="not trained yet"):
        SiftIndex(inverted).search(QUERIES, 10)
    inverted.train(CORPUS)
    inverted.add(CORPUS)
    inverted.nprobe = 4
    named = faiss.IndexIDMap(faiss.IndexFlatIP(16))
    named.add_with_ids(CORPUS, np.arange(300) + 1000)
    assert np.array_equal(SiftIndex(inverted).search(QUERIES, 10)[1], flat[1])
    ids = SiftIndex(named).search(QUERIES, 10)[1]
    assert np.array_equal(np.where(ids < 0, ids, ids - 1000), flat[1])


def test_vectors_may_be_given_and_parameters_of_the_search_passed():
    faiss = pytest.importorskip("faiss")
    lossy = faiss.IndexPQ(16, 4, 4, faiss.METRIC_INNER_PRODUCT)
    lossy.train(CORPUS)
    lossy.add(CORPUS)
    exact, rough = SiftIndex(lossy, vectors=CORPUS, fetch=300), SiftIndex(lossy, fetch=300)
    assert np.array_equal(exact.search(QUERIES, 10)[1], SiftIndex(faiss_index(), fetch=300).search(QUERIES, 10)[1])
    assert not np.array_equal(exact.search(QUERIES, 10)[1], rough.search(QUERIES, 10)[1])
    some = faiss.SearchParameters(sel=faiss.IDSelectorRange(100, 200))
    found = SiftIndex(faiss_index()).search(QUERIES, 10, params=some)[1]
    assert ((found == -1) | ((found >= 100) & (found < 200))).all()
    with pytest.raises(InvalidInput, match="ids must be rows"):
        SiftIndex(lossy, vectors=CORPUS[:9]).search(QUERIES, 10)


def test_a_faiss_ranking_has_the_verdict_and_takes_several_vectors():
    wrapped = SiftIndex(faiss_index())
    assert wrapped.rank(QUERIES[0]).indices == expected(QUERIES[0])
    both = wrapped.rank(CORPUS[[0, 100]], 2)
    assert {index // 5 for index in both.indices} == {0, 20}
    assert "passages: " in both.verdict
    empty = SiftIndex(pytest.importorskip("faiss").IndexFlatIP(16))
    assert len(empty.rank(QUERIES[0])) == 0
    assert (empty.search(QUERIES, 3)[1] == -1).all()


def test_what_the_index_can_do_the_wrapper_can():
    wrapped = SiftIndex(faiss_index())
    assert (wrapped.ntotal, wrapped.d, wrapped.is_trained) == (300, 16, True)
    wrapped.add(CORPUS[:5])
    assert wrapped.ntotal == 305
    assert pickle.loads(pickle.dumps(wrapped)).search(QUERIES, 3)[1].shape == (4, 3)


def test_what_a_faiss_wrapper_refuses():
    with pytest.raises(InvalidInput, match="index must be a faiss index"):
        SiftIndex(CORPUS)
    index = faiss_index()
    with pytest.raises(InvalidInput, match="did you mean 'until'"):
        SiftIndex(index, untill=0.1)
    with pytest.raises(InvalidInput, match="x has vectors of width 3, expected 16"):
        SiftIndex(index).search(np.ones((1, 3)), 2)
    with pytest.raises(InvalidInput, match="fetch must be"):
        SiftIndex(index, fetch=0)


# --- sentence-transformers


def test_semantic_search_has_the_shape_that_users_know():
    results = semantic_search(QUERIES, CORPUS)
    assert [[one["corpus_id"] for one in own] for own in results] == [expected(query) for query in QUERIES]
    first = results[0][0]
    assert first["score"] == pytest.approx(float(CORPUS[first["corpus_id"]] @ QUERIES[0] / np.linalg.norm(QUERIES[0])))
    assert set(first) == {"corpus_id", "score", "rank", "gain", "overlap", "left", "stopped", "verdict"}
    assert semantic_search(QUERIES[0], CORPUS) == results[:1]
    assert semantic_search(list(QUERIES), CORPUS.tolist())[3] == results[3]
    assert [len(own) for own in semantic_search(QUERIES, CORPUS, 3, min_gain=0)] == [3] * 4


def test_semantic_search_by_nearest_is_that_of_the_library():
    util = pytest.importorskip("sentence_transformers.util")
    ours = semantic_search(QUERIES, CORPUS, top_k=7, method="nearest")
    theirs = util.semantic_search(QUERIES, CORPUS, top_k=7)
    for own, other in zip(ours, theirs, strict=True):
        assert [one["corpus_id"] for one in own] == [one["corpus_id"] for one in other]
        assert [one["score"] for one in own] == pytest.approx([one["score"] for one in other], abs=1e-5)


def test_semantic_search_takes_tensors_and_queries_of_several_vectors():
    torch = pytest.importorskip("torch")
    tensors = semantic_search(torch.tensor(QUERIES, requires_grad=True), torch.tensor(CORPUS).bfloat16())
    assert [len(own) for own in tensors] == [len(own) for own in semantic_search(QUERIES, CORPUS)]
    [[*both], one] = semantic_search([CORPUS[[0, 100]], CORPUS[7]], CORPUS, 2)
    assert {result["corpus_id"] // 5 for result in both} == {0, 20}
    assert one[0]["corpus_id"] == 7


def test_semantic_search_refuses_what_does_not_fit():
    with pytest.raises(InvalidInput, match="query has vectors of width 3, expected 16"):
        semantic_search(np.ones((2, 3)), CORPUS)
    with pytest.raises(InvalidInput, match="corpus_embeddings row 0 is all zeros"):
        semantic_search(QUERIES, np.zeros((5, 16)))
    with pytest.raises(Conflict, match="budget needs costs"):
        semantic_search(QUERIES, CORPUS, budget=3)


# --- datasets


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    texts = [f"{fact} {word}" for fact in ("Jordan is a country.", "He has five children.") for word in "abcde"]
    rows = {"vector": CORPUS[:10].tolist(), "text": texts, "tokens": list(range(1, 11)), "fact": ["a"] * 5 + ["b"] * 5}
    return datasets.Dataset.from_dict(rows)


def test_rows_of_a_data_set_are_picked_by_vectors(dataset):
    ranking = rank_rows(dataset, CORPUS[[0, 7]], column="vector", n=2, min_gain=0)
    assert sorted(index // 5 for index in ranking.indices) == [0, 1]
    assert dataset.select(ranking.indices)["text"][:] == [dataset["text"][index] for index in ranking.indices]
    assert rank_rows(dataset, CORPUS[0].tolist(), column="vector").indices[0] == 0


def test_rows_of_a_data_set_are_picked_by_texts(dataset):
    question = ["Where is the country Jordan?", "How many children has he?"]
    ranking = rank_rows(dataset, question, column="text", n=2, min_gain=0)
    assert sorted(dataset[index]["fact"] for index in ranking.indices) == ["a", "b"]
    static = embedder("static")
    same = siftlm.select(static.embed(question), static.embed(dataset["text"][:]), 2, noise=1.0, replacement=False)
    assert ranking.indices == same.indices.tolist()
    assert rank_rows(dataset, question[1], column="text", embedder="hashing").indices[0] >= 5


def test_rows_without_words_are_never_picked():
    datasets = pytest.importorskip("datasets")
    texts = ["tea with milk", "", "black coffee", " ", "green tea", "tea with milk and sugar"]
    rows = datasets.Dataset.from_dict({"text": texts})
    plain = rank_rows(rows.select([0, 2, 4, 5]), "tea", column="text", min_gain=0)
    ranking = rank_rows(rows, "tea", column="text", min_gain=0)
    assert ranking.indices == [[0, 2, 4, 5][index] for index in plain.indices]
    assert 0 not in rank_rows(rows, "tea", column="text", exclude=[0], costs=[9, 1, 1, 1, 1, 1], budget=8).indices
    with pytest.raises(InvalidInput, match="column='text': the embedder knows no word of any row"):
        rank_rows(rows.select([1, 3]), "tea", column="text")


def test_costs_and_sources_may_be_columns(dataset):
    settings = {"column": "vector", "min_gain": 0}
    cheap = rank_rows(dataset, CORPUS[0], **settings, costs="tokens", budget=6)
    assert sum(dataset["tokens"][index] for index in cheap.indices) <= 6
    one_each = rank_rows(dataset, CORPUS[[0, 7]], **settings, sources="fact", source_cap=1)
    assert sorted(dataset["fact"][index] for index in one_each.indices) == ["a", "b"]


def test_what_a_data_set_refuses(dataset):
    with pytest.raises(UnknownName, match="unknown column 'texts'; did you mean 'text'"):
        rank_rows(dataset, "Jordan", column="texts")
    with pytest.raises(InvalidInput, match=r"dataset must be a datasets\.Dataset, got list"):
        rank_rows([1], "Jordan", column="text")
    with pytest.raises(InvalidInput, match="column must hold texts, or vectors of one width, got 'tokens'"):
        rank_rows(dataset, CORPUS[0], column="tokens")
    with pytest.raises(InvalidInput, match="width"):
        rank_rows(dataset, "Jordan", column="vector")
    with pytest.raises(InvalidInput, match="dataset has no rows"):
        rank_rows(dataset.select([]), "Jordan", column="text")


def test_a_count_is_refused_by_the_name_that_it_has_here():
    with pytest.raises(InvalidInput, match="top_k must be a whole number"):
        semantic_search(np.eye(3)[:1], np.eye(3), top_k=0)
