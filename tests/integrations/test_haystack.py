"""The components for Haystack, in Haystack's own pipelines."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings

import pytest

from integrations.facts import HASHING, QUESTION, QUESTIONS, TEXTS
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.ranking import DEFAULT_NOISE, DEFAULT_STOPPING, METADATA_KEY, rank
from siftlm.memory import ArrayStore, Memory, Outside

pytest.importorskip("haystack")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from haystack import Document, Pipeline, component, default_from_dict, default_to_dict
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.routers import ConditionalRouter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from siftlm.integrations.haystack import MemoryDocumentRetriever, SiftRanker


@component
class TextHashing:
    """A text embedder that must be warmed up first, and counts what it embeds."""

    def __init__(self, width: int = 64) -> None:
        self.width, self.seen, self.warm = width, [], False

    def warm_up(self):
        self.warm = True

    @component.output_types(embedding=list[float])
    def run(self, text: str):
        assert self.warm
        self.seen.append(text)
        return {"embedding": HASHING.embed([text])[0].tolist()}

    def to_dict(self):
        return default_to_dict(self, width=self.width)

    @classmethod
    def from_dict(cls, data):
        return default_from_dict(cls, data)


@component
class DocumentHashing:
    """The document embedder beside it."""

    def __init__(self, width: int = 64) -> None:
        self.width, self.seen = width, []

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]):
        self.seen += [one.content for one in documents]
        vectors = HASHING.embed([one.content for one in documents]).tolist()
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [Document(id=one.id, content=one.content, embedding=own) for one, own in pairs]}


def words_of(text: str) -> int:
    return len(text.split())


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "m", embedder="hashing") as made:
        made.add(TEXTS, [{"fact": at // 5} for at in range(len(TEXTS))], ids=[f"t{at}" for at in range(len(TEXTS))])
        yield made


def documents_of(vectors=None):
    vectors = [None] * len(TEXTS) if vectors is None else vectors.tolist()
    return [
        Document(content=text, meta={"fact": at // 5}, embedding=own, score=0.5)
        for at, (text, own) in enumerate(zip(TEXTS, vectors, strict=True))
    ]


def ranker(**settings):
    made = SiftRanker(text_embedder=TextHashing(), document_embedder=DocumentHashing(), **settings)
    made.warm_up()
    return made


def expected(question=QUESTION, n=10, **settings):
    questions = [question] if isinstance(question, str) else question
    ranking = rank(HASHING.embed(questions), HASHING.embed(TEXTS), n, **settings)
    return [TEXTS[index] for index in ranking.indices], ranking


def hits_of(memory, question=QUESTION, **settings):
    """What the memory finds with the ranking's defaults."""
    return memory.search(question, noise=DEFAULT_NOISE, **DEFAULT_STOPPING.chosen(), **settings)


def texts_of(result):
    return [one.content for one in result["documents"]]


def reloaded(pipeline):
    """The pipeline after a round trip through YAML, which names only trusted modules."""
    return Pipeline.loads(pipeline.dumps(), allowed_modules=["siftlm", __name__])


# --- after a retriever


def test_a_ranker_keeps_what_sift_picks_and_says_why():
    given = documents_of()
    found = ranker().run(given, query=QUESTION)
    texts, ranking = expected()
    assert texts_of(found) == texts
    assert found["verdict"] == ranking.verdict
    assert found["left"] == pytest.approx(ranking.left)
    for at, one in enumerate(found["documents"]):
        kept, figures = dict(one.meta[METADATA_KEY]), ranking.metadata(at)
        for words in ("verdict", "stopped"):
            assert kept.pop(words) == figures.pop(words)
        assert kept == pytest.approx(figures, rel=1e-4)
        before = given[ranking.indices[at]]
        assert (one.id, one.score, one.embedding) == (before.id, 0.5, None)
        assert json.dumps(one.meta, allow_nan=False)
    assert all(METADATA_KEY not in one.meta for one in given)  # the retriever's own stay as they were


def test_embeddings_that_documents_have_are_not_made_again():
    made = ranker()
    assert texts_of(made.run(documents_of(HASHING.embed(TEXTS)), query=QUESTION)) == expected()[0]
    assert made.document_embedder.seen == []
    vector = HASHING.embed([QUESTION])[0].tolist()
    bare = SiftRanker()
    assert texts_of(bare.run(documents_of(HASHING.embed(TEXTS)), query_embedding=vector)) == expected()[0]
    assert made.text_embedder.seen == [QUESTION]


def test_where_a_document_lacks_its_embedding_all_are_embedded_with_one_model():
    given = documents_of(HASHING.embed(TEXTS[::-1]))
    given[3] = Document(content=TEXTS[3])
    made = ranker()
    assert texts_of(made.run(given, query=QUESTION)) == expected()[0]
    assert made.document_embedder.seen == TEXTS


def test_several_questions_are_several_targets():
    assert texts_of(ranker().run(documents_of(), query=QUESTIONS)) == expected(QUESTIONS)[0]


def test_settings_reach_the_selection():
    made = ranker(top_k=3, select_kwargs={"min_gain": 0})
    assert texts_of(made.run(documents_of(), query=QUESTION)) == expected(n=3, min_gain=0)[0]
    assert len(made.run(documents_of(), query=QUESTION, top_k=5)["documents"]) == 5
    short = ranker(select_kwargs={"costs": words_of, "budget": 14})
    assert sum(map(words_of, texts_of(short.run(documents_of(), query=QUESTION)))) <= 14


def test_no_documents_are_no_error():
    found = SiftRanker().run([])
    assert found["documents"] == []
    assert found["left"] == 1
    assert "none to choose from" in found["verdict"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "pass query or query_embedding"),
        ({"query": QUESTION}, "pass query_embedding, or a text_embedder"),
        ({"query_embedding": [1.0] * 64}, r"15 of 15 documents have no embedding.*return_embedding=True"),
    ],
)
def test_what_a_ranker_lacks_is_told(inputs, message):
    with pytest.raises(InvalidInput, match=message):
        SiftRanker().run(documents_of(), **inputs)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 0}, InvalidInput, "top_k must be a whole number"),
        ({"select_kwargs": {"n": 3}}, Conflict, "pass top_k"),
        ({"select_kwargs": {"method": "shift"}}, UnknownName, "did you mean 'sift'"),
    ],
)
def test_a_wrong_setting_of_a_ranker_is_an_error_before_any_work(settings, error, message):
    with pytest.raises(error, match=message):
        SiftRanker(**settings)


def pipeline_of(**settings):
    store = InMemoryDocumentStore()
    store.write_documents(documents_of(HASHING.embed(TEXTS)))
    made = Pipeline()
    made.add_component("embedder", TextHashing())
    made.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=15, return_embedding=True))
    made.add_component("ranker", SiftRanker(**settings))
    made.connect("embedder.embedding", "retriever.query_embedding")
    made.connect("embedder.embedding", "ranker.query_embedding")
    made.connect("retriever.documents", "ranker.documents")
    return made


def test_a_ranker_runs_in_a_pipeline_that_waits_or_does_not():
    inputs = {"embedder": {"text": QUESTION}}
    found = pipeline_of().run(inputs)["ranker"]
    assert texts_of(found) == expected()[0]
    assert asyncio.run(pipeline_of().run_async(inputs))["ranker"] == found


def test_a_router_branches_on_what_is_left():
    made = pipeline_of()
    routes = [
        {"condition": "{{left > 0.9}}", "output": "{{verdict}}", "output_name": "more", "output_type": str},
        {"condition": "{{left <= 0.9}}", "output": "{{verdict}}", "output_name": "enough", "output_type": str},
    ]
    made.add_component("router", ConditionalRouter(routes))
    made.connect("ranker.left", "router.left")
    made.connect("ranker.verdict", "router.verdict")
    found = made.run({"embedder": {"text": QUESTION}})
    assert found["router"] == {"enough": expected()[1].verdict}


def test_a_ranker_and_its_embedders_go_through_yaml():
    made = Pipeline()
    settings = {"until": 0.2, "costs": words_of, "budget": 30}
    made.add_component("ranker", ranker(top_k=4, select_kwargs=settings))
    again = reloaded(made)
    assert again.to_dict() == made.to_dict()
    one = again.get_component("ranker")
    assert (one.top_k, one.select_kwargs, one.text_embedder.width) == (4, settings, 64)
    inputs = {"ranker": {"documents": documents_of(), "query": QUESTION}}
    assert again.run(inputs) == made.run(inputs)  # a pipeline warms the embedders up
    bare = SiftRanker(top_k=2)
    assert SiftRanker.from_dict(bare.to_dict()).to_dict() == bare.to_dict()


# --- over a memory


def test_a_memory_is_a_retriever(memory):
    found = MemoryDocumentRetriever(memory).run(QUESTION)
    hits = hits_of(memory)
    assert texts_of(found) == hits.texts
    for one, hit in zip(found["documents"], hits, strict=True):
        assert (one.id, one.score, one.meta["fact"]) == (hit.id, hit.score, hit.meta["fact"])
        assert one.meta[METADATA_KEY]["row"] == hit.row
        assert one.meta[METADATA_KEY]["verdict"] == found["verdict"]
    assert found["left"] == pytest.approx(hits.selection.uncertainty[-1] / hits.selection.uncertainty[0])


def test_a_memory_takes_several_questions(memory):
    found = MemoryDocumentRetriever(memory).run(QUESTIONS)
    assert texts_of(found) == hits_of(memory, QUESTIONS).texts != hits_of(memory).texts


def test_settings_reach_the_search_of_the_memory(memory):
    retriever = MemoryDocumentRetriever(memory, top_k=2, search_kwargs={"where": {"fact": 2}, "min_gain": 0})
    assert {one.meta["fact"] for one in retriever.run(QUESTION)["documents"]} == {2}
    assert len(retriever.run(QUESTION)["documents"]) == 2
    assert len(retriever.run(QUESTION, top_k=4)["documents"]) == 4


IS_FACT_1 = {"field": "meta.fact", "operator": "==", "value": 1}


@pytest.mark.parametrize(
    ("filters", "facts"),
    [
        (IS_FACT_1, {1}),
        ({"operator": "NOT", "conditions": [IS_FACT_1]}, {0, 2}),
        ({"field": "fact", "operator": "not in", "value": [0, 1]}, {2}),
        ({"operator": "OR", "conditions": [IS_FACT_1, {"field": "meta.fact", "operator": "<", "value": 1}]}, {0, 1}),
        (
            {
                "operator": "AND",
                "conditions": [IS_FACT_1, {"field": "id", "operator": "in", "value": ["t6", "t1"]}],
            },
            {1},
        ),
        ({"field": "meta.year", "operator": "==", "value": None}, {0, 1, 2}),
        ({"field": "meta.fact", "operator": "!=", "value": None}, {0, 1, 2}),
    ],
)
def test_filters_are_written_as_everywhere_in_haystack(memory, filters, facts):
    whole = MemoryDocumentRetriever(memory, top_k=15, search_kwargs={"method": "nearest"})
    documents = whole.run(QUESTION, filters=filters)["documents"]
    assert {one.meta["fact"] for one in documents} == facts
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=f"t{at}", content=TEXTS[at], meta={"fact": at // 5}) for at in range(15)])
    assert {one.id for one in documents} == {one.id for one in store.filter_documents(filters)}


def test_a_filter_holds_beside_where_and_one_of_a_run_replaces_it(memory):
    either = {"where": {"fact": [0, 1]}, "min_gain": 0}
    retriever = MemoryDocumentRetriever(memory, filters=IS_FACT_1, top_k=15, search_kwargs=either)
    assert {one.meta["fact"] for one in retriever.run(QUESTION)["documents"]} == {1}
    other = retriever.run(QUESTION, filters={"field": "meta.fact", "operator": "!=", "value": 1})
    assert {one.meta["fact"] for one in other["documents"]} == {0}


def test_a_memory_goes_through_yaml_by_its_folder(memory):
    made = Pipeline()
    made.add_component("retriever", MemoryDocumentRetriever(memory, filters=IS_FACT_1, top_k=3))
    again = reloaded(made)
    assert again.to_dict() == made.to_dict()
    inputs = {"retriever": {"query": QUESTION}}
    assert again.run(inputs) == made.run(inputs)
    assert asyncio.run(again.run_async(inputs)) == made.run(inputs)
    assert {one.meta["fact"] for one in again.run(inputs)["retriever"]["documents"]} == {1}
    again.get_component("retriever").memory.close()


def test_an_outside_store_is_a_memory_too_but_not_in_a_file():
    outside = Outside(ArrayStore(HASHING.embed(TEXTS), TEXTS), HASHING)
    retriever = MemoryDocumentRetriever(outside)
    assert texts_of(retriever.run(QUESTION)) == hits_of(outside).texts
    with pytest.raises(InvalidInput, match=r"only a siftlm\.Memory can be named in a file, not Outside"):
        retriever.to_dict()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 0}, InvalidInput, "top_k must be a whole number"),
        ({"search_kwargs": {"n": 3}}, Conflict, "pass top_k"),
        ({"search_kwargs": {"where": "year >"}}, InvalidInput, "where"),
        ({"filters": {"fact": 1}}, InvalidInput, "filters must be a comparison"),
        ({"filters": {"operator": "XOR", "conditions": []}}, InvalidInput, "filters must be a comparison"),
    ],
)
def test_a_wrong_setting_of_a_retriever_is_an_error_before_any_work(memory, settings, error, message):
    with pytest.raises(error, match=message):
        MemoryDocumentRetriever(memory, **settings)


def test_a_folder_without_a_memory_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match=str(tmp_path)):
        MemoryDocumentRetriever(str(tmp_path))


def test_without_the_library_the_install_command_is_told():
    code = "import sys; sys.modules['haystack'] = None; import siftlm.integrations.haystack"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'siftlm[haystack]'" in run.stderr


def test_the_verdict_on_nothing_says_why(memory):
    nothing = MemoryDocumentRetriever(memory, search_kwargs={"where": "fact = 99"}).run("Jordan")
    assert (nothing["documents"], nothing["verdict"]) == ([], "0 passages: there were none to choose from.")
    for component in (SiftRanker(), MemoryDocumentRetriever(memory)):
        given = {"documents": []} if isinstance(component, SiftRanker) else {"query": "Jordan"}
        with pytest.raises(InvalidInput, match="top_k must be a whole number"):
            component.run(**given, top_k=0)
