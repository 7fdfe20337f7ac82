"""SIFT over Qdrant, in the client's local mode."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import pytest

from integrations.facts import HASHING, TEXTS
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.qdrant import query_points, query_points_async
from siftlm.integrations.ranking import rank
from siftlm.memory import ArrayStore, Outside

pytest.importorskip("qdrant_client")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from qdrant_client import AsyncQdrantClient, QdrantClient, models

    from siftlm.integrations.qdrant_store import QdrantStore

METADATA = [
    {"fact": at // 5, "size": len(text) / 10, "last": text.split()[-1], "odd": at % 2 == 1, "at": {"a.b": at}}
    | ({"tags": ["x", f"t{at}"]} if at % 3 == 0 else {})
    for at, text in enumerate(TEXTS)
]
VECTORS = HASHING.embed(TEXTS)
QUESTION = HASHING.embed(["What is the age of Michael Jordan and how many children does he have?"])[0]
QUESTIONS = HASHING.embed(["How old is Michael Jordan?", "How many children has Michael Jordan?"])


def vector_params(distance="Cosine", **more):
    return models.VectorParams(size=64, distance=distance, **more)


def points_of(vectors):
    return [
        models.PointStruct(id=at + 100, vector=vectors[at], payload={"text": text, **METADATA[at]})
        for at, text in enumerate(TEXTS)
    ]


def multivector(at):
    return np.stack([VECTORS[at], VECTORS[(at + 1) % len(TEXTS)]])


def fill(create, upsert):
    """The calls that make the collections of these tests, for either kind of client."""
    late = models.MultiVectorConfig(comparator="max_sim")
    named = {"dense": vector_params(), "tokens": vector_params(multivector_config=late)}
    both = [{"dense": one.tolist(), "tokens": multivector(at).tolist()} for at, one in enumerate(VECTORS)]
    yield create("docs", vectors_config=vector_params())
    yield upsert("docs", points_of(VECTORS.tolist()))
    yield create("named", vectors_config=named)
    yield upsert("named", points_of(both))
    yield create("far", vectors_config=vector_params("Euclid"))
    yield upsert("far", points_of(VECTORS.tolist()))
    yield create("empty", vectors_config=vector_params())


@pytest.fixture(scope="module")
def client():
    made = QdrantClient(":memory:")
    list(fill(made.create_collection, made.upsert))
    yield made
    made.close()


def indices(picked):
    return [one.id - 100 for one in picked.points]


class Recorded:
    """A client that notes the searches it is asked for."""

    def __init__(self, client):
        self.client, self.searches = client, []

    def __getattr__(self, name):
        return getattr(self.client, name)

    def query_points(self, collection_name, **search):
        self.searches.append(search)
        return self.client.query_points(collection_name, **search)


# --- in the place of the client's own search


def test_points_are_what_sift_picks_with_figures_and_a_verdict(client):
    picked = query_points(client, "docs", query=QUESTION)
    ranking = rank(QUESTION, VECTORS)
    assert indices(picked) == ranking.indices
    assert picked.ranking.verdict == ranking.verdict
    assert [one.gain for one in picked.ranking] == pytest.approx([one.gain for one in ranking], rel=1e-4)
    alone = {one.id: one for one in client.query_points("docs", query=QUESTION, limit=50).points}
    assert picked.points == [alone[one.id] for one in picked.points]  # payload and score are Qdrant's, and no vector
    assert [one.score for one in picked.points] == pytest.approx([one.relevance for one in ranking], abs=1e-5)


def test_the_search_is_qdrants_own(client):
    recorded = Recorded(client)
    is_fact = models.Filter(must=[models.FieldCondition(key="fact", match=models.MatchValue(value=2))])
    picked = query_points(
        recorded, "docs", QUESTION.tolist(), 2, fetch=4, query_filter=is_fact, with_payload=["fact"], with_vectors=True
    )
    assert [one.payload for one in picked.points] == [{"fact": 2}] * len(picked.points)
    assert [len(one.vector) for one in picked.points] == [64] * len(picked.points)
    assert picked.ranking.considered == 4
    [search] = recorded.searches
    assert (search["limit"], search["query_filter"], search["with_payload"]) == (4, is_fact, ["fact"])
    assert query_points(client, "docs", QUESTION, score_threshold=0.4).ranking.considered == 4


def test_settings_reach_the_selection(client):
    settings = {"min_gain": 0, "noise": 0.5}
    picked = query_points(client, "docs", QUESTION, 3, select_kwargs=settings)
    assert indices(picked) == rank(QUESTION, VECTORS, 3, **settings).indices
    short = {"costs": lambda payload: len(payload["text"]), "budget": 60}
    assert (
        sum(len(one.payload["text"]) for one in query_points(client, "docs", QUESTION, select_kwargs=short).points)
        <= 60
    )
    assert len(query_points(client, "docs", QUESTION, 12, select_kwargs={"method": "nearest"}).points) == 12


def test_several_vectors_are_several_targets_found_by_one_search_each(client):
    recorded = Recorded(client)
    picked = query_points(recorded, "docs", QUESTIONS)
    assert indices(picked) == [int(one) for one in rank(QUESTIONS, VECTORS).indices]
    assert len(recorded.searches) == 2
    narrow = query_points(client, "docs", QUESTIONS, 4, fetch=4)
    nearest = [client.query_points("docs", one, limit=4).points for one in QUESTIONS]
    found = {one.id for some in nearest for one in some}
    assert narrow.ranking.considered == len(found) > 4
    scores = {one.id: one.score for some in reversed(nearest) for one in some}
    assert all(one.score == scores[one.id] for one in narrow.points)


def test_named_vectors_are_named(client):
    assert indices(query_points(client, "named", QUESTION, using="dense")) == rank(QUESTION, VECTORS).indices
    shown = query_points(client, "named", QUESTION, using="dense", with_vectors=True).points[0]
    assert list(shown.vector) == ["dense"]


def test_a_multivector_is_searched_at_once_and_is_several_targets(client):
    recorded = Recorded(client)
    picked = query_points(recorded, "named", QUESTIONS, 10, using="tokens", fetch=15)
    [search] = recorded.searches
    assert np.shape(search["query"]) == (2, 64)
    means = np.stack([multivector(at).mean(axis=0) for at in range(len(TEXTS))])
    assert sorted(indices(picked)) == sorted(rank(QUESTIONS, means).indices)
    scores = client.query_points("named", QUESTIONS, using="tokens", limit=15).points
    assert {one.id: one.score for one in picked.points}.items() <= {one.id: one.score for one in scores}.items()


def test_an_empty_collection_has_nothing_to_pick_from(client):
    picked = query_points(client, "empty", QUESTION)
    assert picked.points == []
    assert "none to choose from" in picked.ranking.verdict


def test_an_asynchronous_client_picks_the_same(client):
    async def search():
        waiting = AsyncQdrantClient(":memory:")
        for call in fill(waiting.create_collection, waiting.upsert):
            await call
        picked = [
            await query_points_async(waiting, "docs", QUESTION, 3),
            await query_points_async(waiting, "docs", QUESTIONS, with_vectors=True),
            await query_points_async(waiting, "named", QUESTIONS, using="tokens"),
        ]
        await waiting.close()
        return picked

    expected = [
        query_points(client, "docs", QUESTION, 3),
        query_points(client, "docs", QUESTIONS, with_vectors=True),
        query_points(client, "named", QUESTIONS, using="tokens"),
    ]
    for one, other in zip(asyncio.run(search()), expected, strict=True):
        assert one.points == other.points
        assert one.ranking.verdict == other.ranking.verdict


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, InvalidInput, "limit must be a whole number"),
        ({"fetch": 5}, InvalidInput, "fetch=5 must be at least limit=20"),
        ({"query": "words"}, InvalidInput, "query must hold vectors, got 'words': SIFT compares by vectors"),
        ({"query": 7}, InvalidInput, "query must hold vectors, got 7: SIFT compares by vectors"),
        ({"query": models.SparseVector(indices=[1], values=[1.0])}, InvalidInput, "query must hold real numbers"),
        ({"with_vectors": ["dense"]}, InvalidInput, "with_vectors must be True or False"),
        ({"select_kwargs": {"n": 3}}, Conflict, "pass limit"),
        ({"select_kwargs": {"method": "shift"}}, UnknownName, "did you mean 'sift'"),
    ],
)
def test_what_is_wrong_is_told_before_any_search(arguments, error, message):
    with pytest.raises(error, match=message):
        query_points(None, "docs", **{"query": QUESTION, **arguments})


# --- in a memory's place


@pytest.fixture(scope="module")
def arrays():
    return Outside(ArrayStore(VECTORS, TEXTS, METADATA), HASHING)


def test_a_collection_takes_the_place_of_a_memory(client, arrays):
    for name, using in (("docs", None), ("named", "dense")):
        outside = Outside(QdrantStore(client, name, using=using), HASHING)
        found = outside.search("How old is Michael Jordan?", n=5)
        same = arrays.search("How old is Michael Jordan?", n=5)
        assert found.texts == same.texts
        assert [hit.meta for hit in found] == [hit.meta for hit in same]
        assert [hit.id for hit in found] == [str(hit.row + 100) for hit in same]


FILTERS = [
    {"fact": 1},
    {"fact": 1.0},
    {"size": {">": 4, "<=": 4.6}},
    {"last": "Indeed."},
    {"last": ["Indeed.", "say."]},
    {"last": {"!=": "say."}},
    {"last": {"not-in": ["say.", "known."]}},
    {"odd": True},
    {"odd": 1},
    {"fact": True},
    {"last": []},
    {"tags": "t3"},
    {"tags": {"!=": "x"}},
    {"tags": {"exists": True}},
    {"tags": {"exists": False}},
    {"missing": {"!=": 1}},
    {'at."a.b"': {"<": 4}},
    {"or": [{"fact": 0}, {"not": {"odd": True}}]},
    {"not": {"or": [{"fact": 0}, {"and": [{"odd": True}, {"fact": 1}]}]}},
    {},
]


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_filters_mean_in_qdrant_what_they_mean_in_a_memory(client, arrays, where):
    outside = Outside(QdrantStore(client, "docs"), HASHING)
    settings = {"n": 15, "method": "nearest", "where": where}
    assert outside.search("Jordan", **settings).texts == arrays.search("Jordan", **settings).texts


@pytest.mark.parametrize(
    "where",
    [{"last": {"contains": "n"}}, {"last": {">": "say."}}, {"@id": "100"}, {'"a\\"b"': 1}],
    ids=str,
)
def test_filters_that_qdrant_does_not_know_are_a_conflict(client, where):
    with pytest.raises(Conflict, match="Qdrant cannot filter by"):
        Outside(QdrantStore(client, "docs"), HASHING).search("Jordan", where=where)


def test_metadata_may_be_a_field_of_the_payload(client):
    client.create_collection("nested", vectors_config=vector_params("Dot"))
    payloads = [{"page_content": text, "metadata": METADATA[at]} for at, text in enumerate(TEXTS)]
    client.upsert("nested", models.Batch(ids=list(range(15)), vectors=VECTORS.tolist(), payloads=payloads))
    store = QdrantStore(client, "nested", text="page_content", metadata="metadata")
    found = Outside(store, HASHING).search("Jordan", n=5, where={"fact": 2})
    assert {hit.meta["fact"] for hit in found} == {2}
    assert set(found.texts) <= set(TEXTS)


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_an_exact_search_is_promised_only_where_it_is_made(client):
    exact = Outside(QdrantStore(client, "docs", exact=True), HASHING)
    assert exact.search("Jordan", n=3, exact=True).texts
    with pytest.raises(Conflict, match="does not say that it is exact"):
        Outside(QdrantStore(client, "docs"), HASHING).search("Jordan", n=3, exact=True)


@pytest.mark.parametrize(
    ("collection", "settings", "message"),
    [
        ("far", {}, "distance of Cosine or Dot"),
        ("named", {}, "no vectors using=None"),
        ("named", {"using": "tokens"}, "one vector a point"),
        ("docs", {"using": "dense"}, "no vectors using='dense'"),
    ],
)
def test_a_collection_that_cannot_be_a_store_is_an_error(client, collection, settings, message):
    with pytest.raises(InvalidInput, match=message):
        QdrantStore(client, collection, **settings)


def test_ids_that_are_no_numbers_are_an_error(client):
    client.create_collection("uuids", vectors_config=vector_params())
    name = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b"
    client.upsert("uuids", [models.PointStruct(id=name, vector=VECTORS[0].tolist(), payload={"text": TEXTS[0]})])
    with pytest.raises(InvalidInput, match="ids that are whole numbers"):
        Outside(QdrantStore(client, "uuids"), HASHING).search("Jordan")
    assert query_points(client, "uuids", QUESTION).points[0].id == name


def test_a_text_that_is_not_there_is_an_error(client):
    with pytest.raises(InvalidInput, match="must have a str as text"):
        Outside(QdrantStore(client, "docs", text="content"), HASHING).search("Jordan")
