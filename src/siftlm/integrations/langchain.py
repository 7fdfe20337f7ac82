"""SIFT in LangChain: a retriever over a memory, one over any vector store, and a compressor after any retriever.

    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 10, "fetch_k": 50})       # before
    retriever = SiftRetriever(vectorstore=store, search_kwargs={"k": 10, "fetch_k": 50})            # after

Each document returned holds its figures and the verdict in ``metadata["siftlm"]``: its gain, relevance and overlap, the
uncertainty left after it, and why there are no more.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.extras import load
from siftlm.integrations.ranking import (
    DEFAULT_FETCH,
    DEFAULT_N,
    METADATA_KEY,
    Ranking,
    check_settings,
    memory_settings,
    rank,
    ranking_of,
    with_costs,
)
from siftlm.memory.searcher import Searcher
from siftlm.validation import list_of_texts, whole_number

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
    from pydantic import ConfigDict, Field
except ModuleNotFoundError:
    load("langchain_core", "langchain")  # says how to install it, if it is absent
    raise

STRICT = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
SubQuestions = Callable[[str], Sequence[str]]
Vectors = Sequence[Sequence[float]]


class MemoryRetriever(BaseRetriever):  # type: ignore[misc]
    """A retriever over a `siftlm.Memory`, or over whatever `siftlm.memory.Outside` searches.

    ``search_kwargs`` are the arguments of `Memory.search`, such as ``{"n": 5, "where": {"year": 2024}}``, and the
    ``method``; a call may change them: ``retriever.invoke(question, n=3)``.
    """

    model_config = STRICT

    memory: Any
    """The memory."""
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    """The arguments of its ``search``. ``n`` (20), λ and the stop are those of `siftlm.integrations.ranking`, unless
    given."""
    sub_questions: SubQuestions | None = None
    """Makes several questions of one; passages are picked to answer all of them."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if not isinstance(self.memory, Searcher):
            raise InvalidInput(f"{setting('memory')} must be a siftlm.Memory, got {type(self.memory).__name__}")
        self.memory.check(**self._settings({}))

    def _settings(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = {"n": DEFAULT_N, **self.search_kwargs, **changes}
        return memory_settings(settings.get("method", "sift"), settings)

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        del run_manager
        settings = self._settings(kwargs)
        found = self.memory.search(_questions(query, self.sub_questions), **settings)
        ranking = ranking_of(found, settings)
        return [
            Document(
                page_content=hit.text,
                id=hit.id,
                metadata={**hit.meta, METADATA_KEY: {**ranking.metadata(at), "row": hit.row}},
            )
            for at, hit in enumerate(found)
        ]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        search = partial(self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs)
        documents: list[Document] = await run_in_executor(None, search)
        return documents


class SiftRetriever(BaseRetriever):  # type: ignore[misc]
    """A retriever that lets SIFT pick from what a vector store finds, and stops when more would tell little.

    ``search_kwargs`` are those of ``store.as_retriever``: ``k`` documents at most (20), picked from ``fetch_k`` (50);
    the rest, such as ``filter``, goes to the store. ``select_kwargs`` are the settings of
    `siftlm.integrations.ranking.rank`, such as ``{"until": 0.2}``. A call may change the former:
    ``retriever.invoke(question, k=3)``.
    """

    model_config = STRICT

    vectorstore: VectorStore
    """Any vector store of LangChain."""
    embeddings: Embeddings | None = None
    """What embeds questions, and documents whose vectors the store does not give; the store's own, if it has any."""
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    """``k``, ``fetch_k``, and what the store's search takes."""
    select_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings of the selection; ``costs`` may be a function of a text."""
    sub_questions: SubQuestions | None = None
    """Makes several questions of one; documents are fetched for each, and picked to answer all of them."""
    document_vectors: Callable[[list[Document]], Vectors] | None = None
    """The vectors of documents that the store found, where it can give them. For an `InMemoryVectorStore` they are
    read from it; else documents are embedded."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        _store_search(self.search_kwargs)
        _check_select_kwargs(self.select_kwargs)
        if self._embeddings is None:
            store = type(self.vectorstore).__name__
            raise InvalidInput(f"{store} does not say what its vectors were made with: pass {setting('embeddings')}")

    @property
    def _embeddings(self) -> Any:
        return self.embeddings or self.vectorstore.embeddings

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        del run_manager
        search = _store_search({**self.search_kwargs, **kwargs})
        questions = _questions(query, self.sub_questions)
        targets = [self._embeddings.embed_query(question) for question in questions]
        if _searches_by_vector(self.vectorstore):
            find, asked = self.vectorstore.similarity_search_by_vector, targets
        else:
            find, asked = self.vectorstore.similarity_search, questions
        documents = _distinct([find(one, k=search.fetch, **search.rest) for one in asked])
        vectors = self._stored_vectors(documents)
        if vectors is None:
            vectors = self._embeddings.embed_documents([one.page_content for one in documents])
        return _picked(documents, targets, vectors, search.k, self.select_kwargs)

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        del run_manager
        search = _store_search({**self.search_kwargs, **kwargs})
        questions = await run_in_executor(None, _questions, query, self.sub_questions)
        targets = await gather(*map(self._embeddings.aembed_query, questions))
        if _searches_by_vector(self.vectorstore):
            find, asked = self.vectorstore.asimilarity_search_by_vector, targets
        else:
            find, asked = self.vectorstore.asimilarity_search, questions
        documents = _distinct(await gather(*[find(one, k=search.fetch, **search.rest) for one in asked]))
        vectors = await run_in_executor(None, self._stored_vectors, documents)
        if vectors is None:
            vectors = await self._embeddings.aembed_documents([one.page_content for one in documents])
        picked: list[Document] = await run_in_executor(
            None, _picked, documents, targets, vectors, search.k, self.select_kwargs
        )
        return picked

    def _stored_vectors(self, documents: list[Document]) -> Vectors | None:
        """The documents' vectors from the store; None where it does not give them."""
        if self.document_vectors is not None:
            return self.document_vectors(documents)
        stored = self.vectorstore.store if isinstance(self.vectorstore, InMemoryVectorStore) else {}
        if not documents or not all(one.id in stored for one in documents):
            return None
        return [stored[one.id]["vector"] for one in documents]


class SiftCompressor(BaseDocumentCompressor):  # type: ignore[misc]
    """A document compressor that keeps, of what any retriever found, the documents that together tell most.

    It goes wherever a reranker goes: ``ContextualCompressionRetriever(base_compressor=SiftCompressor(embeddings=…),
    base_retriever=…)``. Documents are embedded here, whatever found them.
    """

    model_config = STRICT

    embeddings: Embeddings
    """What embeds question and documents."""
    top_n: int = DEFAULT_N
    """At most so many documents."""
    select_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings of `siftlm.integrations.ranking.rank`; ``costs`` may be a function of a text."""
    sub_questions: SubQuestions | None = None
    """Makes several questions of one; documents are picked to answer all of them."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        whole_number("top_n", self.top_n)
        _check_select_kwargs(self.select_kwargs)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        del callbacks
        questions = _questions(query, self.sub_questions)
        targets = [self.embeddings.embed_query(question) for question in questions]
        vectors = self.embeddings.embed_documents([one.page_content for one in documents]) if documents else []
        return _picked(documents, targets, vectors, self.top_n, self.select_kwargs)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        del callbacks
        questions = await run_in_executor(None, _questions, query, self.sub_questions)
        targets = await gather(*map(self.embeddings.aembed_query, questions))
        vectors = await self.embeddings.aembed_documents([one.page_content for one in documents]) if documents else []
        picked: list[Document] = await run_in_executor(
            None, _picked, documents, targets, vectors, self.top_n, self.select_kwargs
        )
        return picked


@dataclass(frozen=True)
class _StoreSearch:
    """What ``search_kwargs`` mean."""

    k: int
    fetch: int
    rest: dict[str, Any]
    """What the store's search takes."""


def _store_search(search_kwargs: Mapping[str, Any]) -> _StoreSearch:
    rest = dict(search_kwargs)
    if "lambda_mult" in rest:
        mmr = setting("select_kwargs", {"method": "mmr", "balance": rest["lambda_mult"]})
        raise Conflict(f"{setting('lambda_mult')} is a setting of MMR: leave it out, or choose MMR with {mmr}")
    k = whole_number("k", rest.pop("k", DEFAULT_N))
    fetch = whole_number("fetch_k", rest.pop("fetch_k", max(k, DEFAULT_FETCH)))
    if fetch < k:
        raise InvalidInput(f"{setting('fetch_k', fetch)} must be at least {setting('k', k)}")
    return _StoreSearch(k, fetch, rest)


def _check_select_kwargs(settings: Mapping[str, Any]) -> None:
    if "n" in settings:
        raise Conflict(
            f"{setting('n')} does not belong into {setting('select_kwargs')}: pass the number of documents "
            f"as {setting('top_n')} of a compressor, or as 'k' in {setting('search_kwargs')} of a retriever"
        )
    check_settings(**settings)


def _questions(query: str, sub_questions: SubQuestions | None) -> list[str]:
    if sub_questions is None:
        return [query]
    return list_of_texts("sub_questions", sub_questions(query)) or [query]


def _searches_by_vector(store: VectorStore) -> bool:
    """Does the store have a search by vector of its own? It saves embedding the question again."""
    own: Any = type(store).similarity_search_by_vector
    return own is not VectorStore.similarity_search_by_vector


def _distinct(found: Sequence[Sequence[Document]]) -> list[Document]:
    """The documents that several searches found, each once."""
    once = {one.id or (one.page_content, repr(one.metadata)): one for own in found for one in own}
    return list(once.values())


def _picked(
    documents: Sequence[Document], targets: Vectors, vectors: Vectors, n: int, settings: Mapping[str, Any]
) -> list[Document]:
    """The documents that SIFT picks, each with its figures and the verdict."""
    ranking = rank(targets, vectors, n, **with_costs(settings, [one.page_content for one in documents]))
    return [_annotated(documents[one.index], ranking, at) for at, one in enumerate(ranking)]


def _annotated(document: Document, ranking: Ranking, at: int) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, METADATA_KEY: ranking.metadata(at)}})
