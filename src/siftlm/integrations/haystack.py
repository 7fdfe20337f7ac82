"""SIFT in Haystack: a ranker of the documents that any retriever found, and a retriever over a memory.

    pipeline.add_component("ranker", SentenceTransformersDiversityRanker(top_k=10))      # before
    pipeline.add_component("ranker", SiftRanker(top_k=10))                               # after

Each document returned holds its figures and the verdict in ``meta["siftlm"]``. The verdict on all of them, and the
share of the uncertainty that is left, are outputs too: a router can branch on them.
"""

# Annotations stay objects here: Haystack 2 connects no inputs whose types are strings.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.integrations.ranking import DEFAULT_N, METADATA_KEY, Ranking, rank, with_costs
from siftlm.integrations.retrieval import check_memory_search, check_selection, search_memory
from siftlm.memory import Memory
from siftlm.memory.filters import All, parse
from siftlm.validation import list_of_texts, whole_number

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.core.serialization import component_to_dict
    from haystack.utils import deserialize_callable, serialize_callable
    from haystack.utils.deserialization import deserialize_component_inplace
except ModuleNotFoundError:
    load("haystack", "haystack")  # says how to install it, if it is absent
    raise

EMBEDDERS = ("text_embedder", "document_embedder")
# Haystack's comparisons, as a memory's filters spell them.
COMPARISONS = {"==": "=", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<=", "in": "in", "not in": "not-in"}


@component
class SiftRanker:
    """A ranker that keeps, of what any retriever found, the documents that together tell most.

    Documents are compared by their embeddings; where one has none, all are embedded by ``document_embedder``. Scores
    stay the retriever's.

    Args:
        top_k: at most so many documents.
        text_embedder: embeds the query, unless a run is given its embedding.
        document_embedder: embeds documents, unless the retriever returns their embeddings.
        select_kwargs: settings of `siftlm.integrations.ranking.rank`, such as ``{"until": 0.2}``; ``costs`` may be a
            function of a text.
    """

    def __init__(
        self,
        top_k: int = DEFAULT_N,
        *,
        text_embedder: Any = None,
        document_embedder: Any = None,
        select_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.top_k, self.text_embedder, self.document_embedder = top_k, text_embedder, document_embedder
        self.select_kwargs = {} if select_kwargs is None else select_kwargs
        check_selection(top_k, self.select_kwargs, count="top_k")

    def warm_up(self) -> None:
        """Load the embedders' models."""
        for embedder in (self.text_embedder, self.document_embedder):
            if hasattr(embedder, "warm_up"):
                embedder.warm_up()

    @component.output_types(documents=list[Document], verdict=str, left=float)  # type: ignore[untyped-decorator]
    def run(
        self,
        documents: list[Document],
        query: str | list[str] | None = None,
        query_embedding: list[float] | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """The documents that SIFT picks, most informative first, the verdict, and the share of uncertainty left.

        Args:
            documents: what a retriever found.
            query: the question, or several that the documents answer together.
            query_embedding: its embedding, if it was made before.
            top_k: another number than the component's.
        """
        most = whole_number("top_k", self.top_k if top_k is None else top_k)
        targets, vectors = [], [one.embedding for one in documents]
        if documents:
            targets = [query_embedding] if query_embedding is not None else self._embedded(query)
        if any(one is None for one in vectors):
            vectors = self._embedded_documents(documents)
        settings = with_costs(self.select_kwargs, [one.content or "" for one in documents])
        ranking = rank(targets, vectors, most, **settings)
        picked = [
            replace(documents[one.index], meta={**documents[one.index].meta, METADATA_KEY: ranking.metadata(at)})
            for at, one in enumerate(ranking)
        ]
        return _outputs(picked, ranking)

    def _embedded(self, query: str | list[str] | None) -> list[list[float]]:
        if query is None:
            raise InvalidInput(f"SiftRanker needs the query: pass {setting('query')} or {setting('query_embedding')}")
        if self.text_embedder is None:
            raise InvalidInput(
                f"the query has no embedding: pass {setting('query_embedding')}, or a {setting('text_embedder')}"
            )
        return [self.text_embedder.run(text=question)["embedding"] for question in _questions(query)]

    def _embedded_documents(self, documents: list[Document]) -> list[Any]:
        if self.document_embedder is None:
            bare = sum(one.embedding is None for one in documents)
            raise InvalidInput(
                f"{bare} of {len(documents)} documents have no embedding: let the retriever return them "
                f"({setting('return_embedding', True)}), or pass a {setting('document_embedder')}"
            )
        return [one.embedding for one in self.document_embedder.run(documents=documents)["documents"]]

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict, for a pipeline in YAML."""
        settings = dict(self.select_kwargs)
        if callable(settings.get("costs")):
            settings["costs"] = serialize_callable(settings["costs"])
        embedders = {name: getattr(self, name) for name in EMBEDDERS}
        made = {name: None if one is None else component_to_dict(one, name) for name, one in embedders.items()}
        data: dict[str, Any] = default_to_dict(self, top_k=self.top_k, **made, select_kwargs=settings)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "SiftRanker":
        """The component that a dict describes."""
        given = dict(data.get("init_parameters", {}))
        for name in EMBEDDERS:
            if given.get(name) is not None:
                deserialize_component_inplace(given, key=name)
        settings = given.get("select_kwargs") or {}
        if isinstance(settings.get("costs"), str):
            given["select_kwargs"] = {**settings, "costs": deserialize_callable(settings["costs"])}
        made: SiftRanker = default_from_dict(cls, {**data, "init_parameters": given})
        return made


@component
class MemoryDocumentRetriever:
    """A retriever over a `siftlm.Memory`, or over whatever `siftlm.memory.Outside` searches.

    The memory embeds the query. A document's id is that of the memory's document (and its part, where that was cut into
    several), its score the cosine with the query.

    Args:
        memory: the memory, or its folder.
        filters: a filter as Haystack writes them, over the documents' metadata; that of a run replaces it.
        top_k: at most so many documents.
        search_kwargs: arguments of `Memory.search`, and the ``method``. λ and the stop are those of
            `siftlm.integrations.ranking`, unless given. A ``where`` holds beside ``filters``.
    """

    def __init__(
        self,
        memory: Any,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = DEFAULT_N,
        search_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.search_kwargs = {} if search_kwargs is None else search_kwargs
        opened = Memory.open(memory) if isinstance(memory, (str, Path)) else memory
        self.memory = check_memory_search(opened, top_k, self.search_kwargs, count="top_k")
        self.filters, self.top_k = filters, top_k
        self._where(filters)

    def warm_up(self) -> None:
        """Load the memory's embedder."""
        self.memory.embedder  # noqa: B018

    @component.output_types(documents=list[Document], verdict=str, left=float)  # type: ignore[untyped-decorator]
    def run(
        self, query: str | list[str], filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """The documents that SIFT picks, most informative first, the verdict, and the share of uncertainty left.

        Args:
            query: the question, or several that the documents answer together.
            filters, top_k: others than the component's.
        """
        settings = {**self.search_kwargs, **self._where(self.filters if filters is None else filters)}
        most = whole_number("top_k", self.top_k if top_k is None else top_k)
        passages, ranking = search_memory(self.memory, _questions(query), most, settings)
        documents = [
            Document(id=one.id, content=one.hit.text, meta=one.metadata, score=one.hit.score) for one in passages
        ]
        return _outputs(documents, ranking)

    def _where(self, filters: Mapping[str, Any] | None) -> dict[str, Any]:
        if not filters:
            return {}
        return {"where": All((parse(self.search_kwargs.get("where")), parse(_as_dict(filters))))}

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict, for a pipeline in YAML; the memory is named by its folder."""
        if not isinstance(self.memory, Memory):
            raise InvalidInput(f"only a siftlm.Memory can be named in a file, not {type(self.memory).__name__}")
        settings = {"filters": self.filters, "top_k": self.top_k, "search_kwargs": self.search_kwargs}
        data: dict[str, Any] = default_to_dict(self, memory=str(self.memory.path), **settings)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MemoryDocumentRetriever":
        """The component that a dict describes; its memory is opened."""
        made: MemoryDocumentRetriever = default_from_dict(cls, data)
        return made


def _questions(query: str | Sequence[str]) -> list[str]:
    return [query] if isinstance(query, str) else list_of_texts("query", query)


def _outputs(documents: list[Document], ranking: Ranking) -> dict[str, Any]:
    return {"documents": documents, "verdict": ranking.verdict, "left": ranking.left}


def _as_dict(filters: Any) -> dict[str, Any]:
    """A filter of Haystack's as one of a memory's."""
    operator = filters.get("operator") if isinstance(filters, Mapping) else None
    if operator in ("AND", "OR", "NOT") and "conditions" in filters:
        parts = [_as_dict(one) for one in filters["conditions"]]
        return {"not": {"and": parts}} if operator == "NOT" else {operator.lower(): parts}
    if operator not in COMPARISONS or not {"field", "value"} <= filters.keys():
        raise InvalidInput(
            f"{setting('filters')} must be a comparison or a combination as Haystack writes them, such as "
            f"{{'field': 'meta.year', 'operator': '>=', 'value': 2000}}, got {filters!r:.80}"
        )
    field, value = filters["field"], filters["value"]
    name = "@id" if field == "id" else str(field).removeprefix("meta.")
    if value is None and operator in ("==", "!="):
        return {name: {"exists": operator == "!="}}
    return {name: {COMPARISONS[operator]: value}}
