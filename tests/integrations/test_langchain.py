"""The adapters for LangChain, against LangChain itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from siftlm.embedding import embedder
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.ranking import DEFAULT_NOISE, DEFAULT_STOPPING, METADATA_KEY, rank
from siftlm.memory import Memory

pytest.importorskip("langchain_core")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import ValidationError

from siftlm.integrations.langchain import MemoryRetriever, SiftCompressor, SiftRetriever

HASHING = embedder("hashing", width=64)
FACTS = ["Michael Jordan has five children.", "The age of Michael Jordan is 61 years.", "Jordan is a country."]
TEXTS = [
    f"{fact} {word}" for fact in FACTS for word in ("Indeed.", "Really.", "They say.", "Sources agree.", "It is known.")
]
QUESTION = "What is the age of Michael Jordan and how many children does he have?"


class HashingEmbeddings(Embeddings):
    """Counts what it embeds, and in which thread."""

    def __init__(self) -> None:
        self.documents: list[str] = []
        self.queries: list[str] = []
        self.threads: set[int] = set()

    def embed_documents(self, texts):
        self.documents += texts
        self.threads.add(threading.get_ident())
        return HASHING.embed(texts).tolist()

    def embed_query(self, text):
        self.queries.append(text)
        self.threads.add(threading.get_ident())
        return HASHING.embed([text])[0].tolist()


class TextOnlyStore(VectorStore):
    """A store that finds by text alone, gives no vectors, and names no embeddings: the least LangChain asks for."""

    def __init__(self, texts):
        self.texts, self.asked = texts, []

    def similarity_search(self, query, k=4, **kwargs):
        self.asked.append((query, k, kwargs))
        return [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(self.texts[:k])]

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, **kwargs):
        return cls(texts)


@pytest.fixture
def store():
    made = InMemoryVectorStore(HashingEmbeddings())
    made.add_texts(TEXTS, [{"fact": at // 5} for at in range(len(TEXTS))])
    made.embedding.documents.clear()
    return made


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "m", embedder=HASHING) as made:
        made.add(TEXTS, [{"fact": at // 5} for at in range(len(TEXTS))], ids=[f"t{at}" for at in range(len(TEXTS))])
        yield made


def expected(question=QUESTION, texts=TEXTS, n=20, **settings):
    questions = [question] if isinstance(question, str) else question
    ranking = rank(HASHING.embed(questions), HASHING.embed(texts), n, **settings)
    return [texts[index] for index in ranking.indices], ranking


def texts_of(documents):
    return [one.page_content for one in documents]


def check_figures(document, ranking, at):
    kept, figures = dict(document.metadata[METADATA_KEY]), ranking.metadata(at)
    for words in ("verdict", "stopped"):
        assert kept.pop(words) == figures.pop(words)
    assert kept == pytest.approx(figures, rel=1e-4)


def both(retriever, *arguments, **settings):
    """The documents, which must not depend on whether one waits for them."""
    found = retriever.invoke(*arguments, **settings)
    assert asyncio.run(retriever.ainvoke(*arguments, **settings)) == found
    return found


# --- over a vector store


def test_a_store_retriever_returns_what_sift_picks_and_says_why(store):
    found = both(SiftRetriever(vectorstore=store), QUESTION)
    texts, ranking = expected()
    assert texts_of(found) == texts
    assert {one.metadata["fact"] for one in found[:2]} == {0, 1}
    assert len(found) < 14
    for at, one in enumerate(found):
        check_figures(one, ranking, at)
        assert json.dumps(one.metadata, allow_nan=False)
    plain = store.similarity_search(QUESTION, k=1)[0]
    assert METADATA_KEY not in plain.metadata  # the store's own documents stay as they were


def test_vectors_that_the_store_has_are_not_made_again(store):
    SiftRetriever(vectorstore=store).invoke(QUESTION)
    assert (store.embedding.documents, store.embedding.queries) == ([], [QUESTION])


def test_a_store_without_vectors_is_embedded_and_one_without_a_search_by_vector_searched_by_text():
    plain, embeddings = TextOnlyStore(TEXTS), HashingEmbeddings()
    retriever = SiftRetriever(
        vectorstore=plain, embeddings=embeddings, search_kwargs={"k": 12, "fetch_k": 12, "filter": "x"}
    )
    found = retriever.invoke(QUESTION)
    assert texts_of(found) == expected(texts=TEXTS[:12], n=12)[0]
    assert plain.asked == [(QUESTION, 12, {"filter": "x"})]
    assert embeddings.documents == TEXTS[:12]
    assert asyncio.run(retriever.ainvoke(QUESTION)) == found


def test_vectors_may_come_from_a_function():
    plain, embeddings = TextOnlyStore(TEXTS), HashingEmbeddings()
    retriever = SiftRetriever(
        vectorstore=plain,
        embeddings=embeddings,
        document_vectors=lambda documents: HASHING.embed(TEXTS)[[one.metadata["at"] for one in documents]],
    )
    assert texts_of(both(retriever, QUESTION)) == expected()[0]
    assert embeddings.documents == []


def test_search_kwargs_are_those_of_as_retriever(store):
    kwargs = {"k": 1, "fetch_k": 7, "filter": lambda document: document.metadata["fact"] == 2}
    [only] = both(SiftRetriever(vectorstore=store, search_kwargs=kwargs), QUESTION)
    assert only.metadata["fact"] == 2
    assert only.metadata[METADATA_KEY]["verdict"].startswith("1 of 5 passages: as many as were asked for")
    retriever = SiftRetriever(vectorstore=store, select_kwargs={"min_growth": 0})
    assert len(both(retriever, QUESTION)) > len(expected()[0])
    assert len(both(retriever, QUESTION, k=3)) == 3


def test_select_kwargs_go_to_the_selection(store):
    select_kwargs = {"noise": 1.0, "min_gain": 0, "budget": 90, "costs": len}
    found = both(SiftRetriever(vectorstore=store, select_kwargs=select_kwargs), QUESTION)
    assert sum(map(len, texts_of(found))) <= 90
    assert "budget" in found[0].metadata[METADATA_KEY]["verdict"]
    settings = {"method": "mmr", "balance": 0.5}
    mmr = both(SiftRetriever(vectorstore=store, search_kwargs={"k": 4}, select_kwargs=settings), QUESTION)
    theirs = store.max_marginal_relevance_search(QUESTION, k=4, fetch_k=50, lambda_mult=0.5)
    assert texts_of(mmr) == texts_of(theirs)


def test_several_questions_are_several_targets(store):
    questions = ["How many children does Michael Jordan have?", "Where is the country?"]
    retriever = SiftRetriever(
        vectorstore=store, sub_questions=lambda _: questions, search_kwargs={"k": 2}, select_kwargs={"noise": 0.1}
    )
    found = both(retriever, "both of them")
    assert {one.metadata["fact"] for one in found} == {0, 2}
    near = SiftRetriever(
        vectorstore=store, sub_questions=lambda _: questions, search_kwargs={"k": 5, "fetch_k": 5}
    ).invoke("both of them")
    assert "of 10 passages" in near[0].metadata[METADATA_KEY]["verdict"]  # five for each of the two


def test_an_empty_store_returns_nothing():
    assert both(SiftRetriever(vectorstore=InMemoryVectorStore(HashingEmbeddings())), QUESTION) == []


# --- over a memory


def test_a_memory_retriever_returns_the_memorys_hits(memory):
    found = both(MemoryRetriever(memory=memory), QUESTION)
    same = memory.search(QUESTION, noise=DEFAULT_NOISE, **DEFAULT_STOPPING.chosen())
    assert texts_of(found) == same.texts
    assert [one.id for one in found] == [hit.id for hit in same]
    assert {one.metadata["fact"] for one in found[:2]} == {0, 1}
    kept, last = found[-1].metadata[METADATA_KEY], same[-1]
    assert kept["gain"] == pytest.approx(last.gain, rel=1e-4)
    assert kept["relevance"] == pytest.approx(last.score, rel=1e-4)
    assert kept["left"] == pytest.approx(same.selection.uncertainty[-1] / same.selection.uncertainty[0], rel=1e-4)
    assert kept["overlap"] == pytest.approx(same.selection.explain().overlap[-1], rel=1e-4)
    assert kept["verdict"].startswith(f"{len(same)} of {len(TEXTS)} passages: ")
    assert memory.texts([kept["row"]]) == [found[-1].page_content]


def test_a_verdict_says_when_the_memory_has_no_more(memory):
    for how in ({"method": "nearest"}, {"min_growth": 0}):
        found = MemoryRetriever(memory=memory, search_kwargs={"n": 50, **how}).invoke(QUESTION)
        assert found[0].metadata[METADATA_KEY]["stopped"] == "exhausted"
        assert "there are no more to pick" in found[0].metadata[METADATA_KEY]["verdict"]
    assert len(MemoryRetriever(memory=memory, search_kwargs={"min_growth": 0}).invoke(QUESTION)) > 10


def test_a_blank_document_does_not_spoil_the_others():
    documents = [Document(page_content=text) for text in ["", *TEXTS[:3], " "]]
    compressor = SiftCompressor(embeddings=HashingEmbeddings())
    found = compressor.compress_documents(documents, QUESTION)
    assert texts_of(found) == texts_of(compressor.compress_documents(documents[1:-1], QUESTION))


def test_search_kwargs_are_those_of_the_memory(memory):
    retriever = MemoryRetriever(memory=memory, search_kwargs={"n": 3, "where": {"fact": 2}, "min_gain": 0})
    assert [one.metadata["fact"] for one in both(retriever, QUESTION)] == [2, 2, 2]
    assert len(both(retriever, QUESTION, n=1)) == 1
    assert MemoryRetriever(memory=memory, search_kwargs={"where": {"fact": 9}}).invoke(QUESTION) == []
    nearest = MemoryRetriever(memory=memory, search_kwargs={"n": 3, "method": "nearest"}).invoke(QUESTION)
    assert texts_of(nearest) == memory.search(QUESTION, n=3, method="nearest").texts


def test_a_memory_takes_several_questions(memory):
    retriever = MemoryRetriever(
        memory=memory,
        search_kwargs={"n": 2, "noise": 0.1},
        sub_questions=lambda _: ["How many children does Michael Jordan have?", "Where is the country?"],
    )
    assert {one.metadata["fact"] for one in both(retriever, "both")} == {0, 2}


# --- after any retriever


def test_a_compressor_keeps_the_documents_that_sift_picks():
    compressor = SiftCompressor(embeddings=HashingEmbeddings(), top_n=4)
    documents = [Document(page_content=text, metadata={"at": at}, id=str(at)) for at, text in enumerate(TEXTS)]
    kept = compressor.compress_documents(documents, QUESTION)
    texts, ranking = expected(n=4)
    assert texts_of(kept) == texts
    assert [one.id for one in kept] == [str(index) for index in ranking.indices]
    check_figures(kept[0], ranking, 0)
    assert METADATA_KEY not in documents[0].metadata
    assert asyncio.run(compressor.acompress_documents(documents, QUESTION)) == kept
    assert compressor.compress_documents([], QUESTION) == []
    assert asyncio.run(compressor.acompress_documents([], QUESTION)) == []


# --- LangChain's own machinery


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.events = []

    def on_retriever_start(self, serialized, query, **kwargs):
        self.events.append(("start", query, kwargs.get("tags")))

    def on_retriever_end(self, documents, **kwargs):
        self.events.append(("end", len(documents)))

    def on_retriever_error(self, error, **kwargs):
        self.events.append(("error", type(error)))


def test_callbacks_and_tags_are_told(store, memory):
    for retriever in (SiftRetriever(vectorstore=store, tags=["t"]), MemoryRetriever(memory=memory, tags=["t"])):
        recorder = Recorder()
        found = retriever.invoke(QUESTION, config={"callbacks": [recorder]})
        assert recorder.events == [("start", QUESTION, ["t"]), ("end", len(found))]
        asyncio.run(retriever.ainvoke(QUESTION, config={"callbacks": [recorder]}))
        assert recorder.events[2:] == recorder.events[:2]
        with pytest.raises((InvalidInput, UnknownName)):
            retriever.invoke(QUESTION, config={"callbacks": [recorder]}, k=0)
        assert recorder.events[-1][0] == "error"


def test_waiting_retrievers_leave_the_loop_free(memory):
    embeddings = HashingEmbeddings()
    compressor = SiftCompressor(embeddings=embeddings)

    async def retrieve():
        await compressor.acompress_documents([Document(page_content=text) for text in TEXTS], QUESTION)
        return threading.get_ident()

    assert asyncio.run(retrieve()) not in embeddings.threads


def test_batches_and_chains_work(store):
    retriever = SiftRetriever(vectorstore=store)
    chain = retriever | (lambda documents: " ".join(texts_of(documents)))
    assert chain.batch([QUESTION, "Jordan?"])[0] == " ".join(expected()[0])


# --- settings


@pytest.mark.parametrize(
    ("select_kwargs", "error", "message"),
    [
        ({"until": 3}, InvalidInput, "until must be a number from 0 to 1"),
        ({"method": "shift"}, UnknownName, "did you mean 'sift'"),
        ({"nosie": 1}, InvalidInput, "did you mean 'noise'"),
        ({"n": 3}, Conflict, "as top_n of a compressor"),
        ({"budget": 3}, Conflict, "budget needs costs"),
    ],
)
def test_select_kwargs_are_checked_at_construction(store, select_kwargs, error, message):
    with pytest.raises(error, match=message):
        SiftRetriever(vectorstore=store, select_kwargs=select_kwargs)
    with pytest.raises(error, match=message):
        SiftCompressor(embeddings=HashingEmbeddings(), select_kwargs=select_kwargs)


@pytest.mark.parametrize(
    ("search_kwargs", "error", "message"),
    [
        ({"k": 0}, InvalidInput, "k must be a whole number"),
        ({"k": 9, "fetch_k": 5}, InvalidInput, "fetch_k=5 must be at least k"),
        ({"lambda_mult": 0.3}, Conflict, r"select_kwargs=\{'method': 'mmr', 'balance': 0.3\}"),
    ],
)
def test_search_kwargs_are_checked_at_construction(store, search_kwargs, error, message):
    with pytest.raises(error, match=message):
        SiftRetriever(vectorstore=store, search_kwargs=search_kwargs)


def test_what_else_is_wrong_is_told_at_construction(memory):
    with pytest.raises(InvalidInput, match=r"memory must be a siftlm\.Memory, got str"):
        MemoryRetriever(memory="folder")
    with pytest.raises(UnknownName, match="did you mean 'where'"):
        MemoryRetriever(memory=memory, search_kwargs={"were": {"fact": 2}})
    with pytest.raises(InvalidInput, match="TextOnlyStore does not say what its vectors were made with"):
        SiftRetriever(vectorstore=TextOnlyStore(TEXTS))
    with pytest.raises(InvalidInput, match="top_n must be a whole number"):
        SiftCompressor(embeddings=HashingEmbeddings(), top_n=0)
    with pytest.raises(ValidationError, match="serach_kwargs"):
        MemoryRetriever(memory=memory, serach_kwargs={})


def test_langchains_embeddings_embed_a_memory(tmp_path):
    embeddings = HashingEmbeddings()
    with Memory.create(tmp_path / "m", embedder=embeddings) as memory:
        memory.add(TEXTS)
        assert np.allclose(memory.vectors([0]), HASHING.embed(TEXTS[:1]), atol=1e-6)
        [first] = MemoryRetriever(memory=memory, search_kwargs={"n": 1}).invoke(QUESTION)
    assert embeddings.queries == [QUESTION]
    assert first.page_content == expected()[0][0]


def test_without_langchain_the_install_command_is_told():
    code = "import sys; sys.modules['langchain_core'] = None; import siftlm.integrations.langchain"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'siftlm[langchain]'" in run.stderr
