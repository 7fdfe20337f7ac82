"""SIFT in LlamaIndex: a node postprocessor after any retriever, and a retriever over a memory.

    engine = index.as_query_engine(similarity_top_k=10)                                                  # before
    engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[SiftPostprocessor()])       # after

Each node returned holds its figures and the verdict in ``metadata["siftlm"]``, which neither the language model nor the
embedding model reads. A query with several ``custom_embedding_strs`` has as many targets.
"""

from __future__ import annotations

from asyncio import gather, to_thread
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.integrations.ranking import DEFAULT_N, METADATA_KEY, rank, with_costs
from siftlm.integrations.retrieval import check_memory_search, check_selection, search_memory

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import ConfigDict, Field, SerializeAsAny, field_validator
    from llama_index.core.embeddings.loading import load_embed_model
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import (
        MetadataMode,
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
    from llama_index.core.settings import Settings
except ModuleNotFoundError:
    load("llama_index.core", "llama-index")  # says how to install it, if it is absent
    raise

Vectors = Sequence[Sequence[float]]


class MemoryNodeRetriever(BaseRetriever):  # type: ignore[misc]
    """A retriever over a `siftlm.Memory`, or over whatever `siftlm.memory.Outside` searches.

    The memory embeds the query. A node's id is that of its document (and its part, where that was cut into several),
    its score the cosine with the query.

    Args:
        memory: the memory.
        similarity_top_k: at most so many nodes.
        search_kwargs: arguments of `Memory.search`, such as ``{"where": {"year": 2024}}``, and the ``method``. λ and
            the stop are those of `siftlm.integrations.ranking`, unless given.
        **settings: as of every retriever: ``callback_manager``, ``object_map``, ``objects``, ``verbose``.
    """

    def __init__(
        self,
        memory: Any,
        similarity_top_k: int = DEFAULT_N,
        search_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.search_kwargs = {} if search_kwargs is None else search_kwargs
        self.memory = check_memory_search(memory, similarity_top_k, self.search_kwargs, count="similarity_top_k")
        self.similarity_top_k = similarity_top_k
        super().__init__(**settings)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query: Any = query_bundle.embedding_strs
        if not query:
            if query_bundle.embedding is None:
                raise InvalidInput("the query is empty: it must have a text, or the embedding that the memory's gives")
            query = np.asarray(query_bundle.embedding)
        passages, _ = search_memory(self.memory, query, self.similarity_top_k, self.search_kwargs)
        return [
            NodeWithScore(
                node=TextNode(
                    id_=one.id,
                    text=one.hit.text,
                    metadata=one.metadata,
                    excluded_embed_metadata_keys=[METADATA_KEY],
                    excluded_llm_metadata_keys=[METADATA_KEY],
                    start_char_idx=one.hit.start,
                    end_char_idx=one.hit.start + len(one.hit.text),
                    relationships=_source(one.hit.id),
                ),
                score=one.hit.score,
            )
            for one in passages
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes: list[NodeWithScore] = await to_thread(self._retrieve, query_bundle)
        return nodes


class SiftPostprocessor(BaseNodePostprocessor):  # type: ignore[misc]
    """A node postprocessor that keeps, of what any retriever found, the nodes that together tell most.

    Where all nodes come with embeddings, those are used, and the query's own if it has one: an index has left it there,
    made with the same model. Else query and nodes are embedded by ``embed_model``. Scores stay the retriever's.
    """

    model_config = ConfigDict(extra="forbid")

    top_n: int = DEFAULT_N
    """At most so many nodes."""
    embed_model: SerializeAsAny[BaseEmbedding] | None = None
    """What the nodes were, or shall be, embedded with; ``Settings.embed_model`` unless given."""
    select_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings of `siftlm.integrations.ranking.rank`, such as ``{"until": 0.2}``; ``costs`` may be a function of a
    text."""

    @field_validator("embed_model", mode="before")  # type: ignore[untyped-decorator]
    @classmethod
    def _load(cls, model: Any) -> Any:
        """The model, also from the dict that it is serialised to."""
        return load_embed_model(model) if isinstance(model, dict) else model

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        check_selection(self.top_n, self.select_kwargs, count="top_n")

    @classmethod
    def class_name(cls) -> str:
        return "SiftPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        questions, vectors = _questions(query_bundle), _stored_vectors(nodes)
        targets = _stored_query(query_bundle, questions, vectors)
        if targets is None:
            targets = [self._model.get_query_embedding(question) for question in questions]
        if vectors is None:
            vectors = self._model.get_text_embedding_batch(_texts(nodes))
        return self._picked(nodes, targets, vectors)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        questions, vectors = _questions(query_bundle), _stored_vectors(nodes)
        targets = _stored_query(query_bundle, questions, vectors)
        if targets is None:
            targets = await gather(*map(self._model.aget_query_embedding, questions))
        if vectors is None:
            vectors = await self._model.aget_text_embedding_batch(_texts(nodes))
        return await to_thread(self._picked, nodes, targets, vectors)

    @property
    def _model(self) -> Any:
        return self.embed_model or Settings.embed_model

    def _picked(self, nodes: list[NodeWithScore], targets: Vectors, vectors: Vectors) -> list[NodeWithScore]:
        """The nodes that SIFT picks, copied, each with its figures and the verdict."""
        settings = with_costs(self.select_kwargs, [one.get_content() for one in nodes])
        ranking = rank(targets, vectors, self.top_n, **settings)
        return [_annotated(nodes[one.index], ranking.metadata(at)) for at, one in enumerate(ranking)]


def _questions(query: QueryBundle | None) -> list[str]:
    if query is None or (not query.embedding_strs and query.embedding is None):
        raise InvalidInput(f"the query is missing: pass {setting('query_str')} or a {setting('query_bundle')} with one")
    return list(query.embedding_strs)


def _stored_query(query: QueryBundle, questions: list[str], vectors: Vectors | None) -> Vectors | None:
    """The query's embedding, where it has one that is comparable: of several questions, it is only their mean."""
    comparable = not questions or (len(questions) == 1 and vectors is not None)
    return [query.embedding] if comparable and query.embedding is not None else None


def _stored_vectors(nodes: list[NodeWithScore]) -> Vectors | None:
    """The embeddings of all nodes; None where one has none, since those of two models cannot be compared."""
    vectors = [one.node.embedding for one in nodes]
    return None if any(one is None for one in vectors) else vectors


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [one.get_content(metadata_mode=MetadataMode.EMBED) for one in nodes]


def _source(document: str | None) -> dict[Any, Any]:
    return {} if document is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}


def _annotated(found: NodeWithScore, figures: Mapping[str, Any]) -> NodeWithScore:
    node = found.node
    changes: dict[str, Any] = {"metadata": {**node.metadata, METADATA_KEY: figures}}
    for keys in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        changes[keys] = [*(key for key in getattr(node, keys) if key != METADATA_KEY), METADATA_KEY]
    return NodeWithScore(node=node.model_copy(update=changes), score=found.score)
