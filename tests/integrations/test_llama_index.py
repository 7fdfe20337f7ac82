"""The adapters for LlamaIndex, against LlamaIndex itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from integrations.facts import FACTS, HASHING, QUESTION, QUESTIONS, TEXTS
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.ranking import DEFAULT_NOISE, DEFAULT_STOPPING, METADATA_KEY, rank
from siftlm.memory import ArrayStore, Memory, Outside

pytest.importorskip("llama_index.core")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.embeddings import BaseEmbedding, MockEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

    from siftlm.integrations.llama_index import MemoryNodeRetriever, SiftPostprocessor


class HashingEmbedding(BaseEmbedding):
    """Counts what it embeds."""

    seen: list[str] = []  # noqa: RUF012

    def _get_text_embedding(self, text):
        self.seen.append(text)
        return HASHING.embed([text])[0].tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class Listed(BaseRetriever):
    """A retriever that finds the same nodes, whatever the query is."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle):
        return self.nodes


def nodes_of(texts=TEXTS, vectors=None, **fields):
    vectors = [None] * len(texts) if vectors is None else [row.tolist() for row in vectors]
    return [
        NodeWithScore(node=TextNode(text=text, embedding=own, id_=f"n{at}", **fields), score=0.5)
        for at, (text, own) in enumerate(zip(texts, vectors, strict=True))
    ]


@pytest.fixture
def model():
    return HashingEmbedding(seen=[])


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "m", embedder=HASHING) as made:
        made.add(TEXTS, [{"fact": at // 5} for at in range(len(TEXTS))], ids=[f"t{at}" for at in range(len(TEXTS))])
        yield made


def expected(question=QUESTION, n=10, **settings):
    questions = [question] if isinstance(question, str) else question
    ranking = rank(HASHING.embed(questions), HASHING.embed(TEXTS), n, **settings)
    return [TEXTS[index] for index in ranking.indices], ranking


def hits_of(memory, question=QUESTION):
    """What the memory finds with the ranking's defaults."""
    return memory.search(question, noise=DEFAULT_NOISE, **DEFAULT_STOPPING.chosen())


def texts_of(nodes):
    return [one.node.get_content() for one in nodes]


def both(postprocessor, nodes, query=QUESTION):
    """The nodes, which must not depend on whether one waits for them."""
    bundle = QueryBundle(query) if isinstance(query, str) else query
    found = postprocessor.postprocess_nodes(nodes, bundle)
    assert asyncio.run(postprocessor.apostprocess_nodes(nodes, bundle)) == found
    return found


# --- after a retriever


def test_a_postprocessor_keeps_what_sift_picks_and_says_why(model):
    found = both(SiftPostprocessor(embed_model=model), nodes_of())
    texts, ranking = expected()
    assert texts_of(found) == texts
    assert len(found) < 10
    for at, one in enumerate(found):
        kept, figures = dict(one.node.metadata[METADATA_KEY]), ranking.metadata(at)
        for words in ("verdict", "stopped"):
            assert kept.pop(words) == figures.pop(words)
        assert kept == pytest.approx(figures, rel=1e-4)
        assert one.score == 0.5
        assert json.dumps(one.node.metadata, allow_nan=False)


def test_figures_are_for_the_program_and_not_for_the_models(model):
    given = nodes_of(metadata={"year": 2024}, excluded_llm_metadata_keys=["year"])
    [one, *_] = SiftPostprocessor(embed_model=model).postprocess_nodes(given, query_str=QUESTION)
    assert one.node.get_content(MetadataMode.LLM) == one.node.text
    assert one.node.get_content(MetadataMode.EMBED) == f"year: 2024\n\n{one.node.text}"
    assert "verdict" in one.node.get_content(MetadataMode.ALL)
    again = SiftPostprocessor(embed_model=model).postprocess_nodes([one], query_str=QUESTION)
    assert again[0].node.excluded_llm_metadata_keys == ["year", METADATA_KEY]
    assert all(METADATA_KEY not in node.node.metadata for node in given)  # the retriever's own stay as they were


def test_embeddings_that_nodes_have_are_not_made_again(model):
    nodes = nodes_of(vectors=HASHING.embed(TEXTS))
    postprocessor = SiftPostprocessor(embed_model=model)
    assert texts_of(postprocessor.postprocess_nodes(nodes, query_str=QUESTION)) == expected()[0]
    assert model.seen == [QUESTION]
    given = QueryBundle(QUESTION, embedding=HASHING.embed([QUESTION])[0].tolist())
    assert texts_of(both(postprocessor, nodes, given)) == expected()[0]
    assert model.seen == [QUESTION]


def test_where_a_node_lacks_its_embedding_all_are_embedded_with_one_model(model):
    nodes = nodes_of(vectors=np.eye(64)[: len(TEXTS)])
    nodes[3].node.embedding = None
    of_another_model = QueryBundle(QUESTION, embedding=[1.0, 2.0])
    assert texts_of(both(SiftPostprocessor(embed_model=model), nodes, of_another_model)) == expected()[0]


def test_the_model_of_the_settings_is_used_where_none_is_given(model, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", model)
    assert texts_of(both(SiftPostprocessor(), nodes_of())) == expected()[0]
    assert QUESTION in model.seen


def test_several_questions_are_several_targets(model):
    bundle = QueryBundle(QUESTION, custom_embedding_strs=QUESTIONS, embedding=[9.0] * 64)
    stored = nodes_of(vectors=HASHING.embed(TEXTS))
    postprocessor = SiftPostprocessor(embed_model=model)
    assert texts_of(both(postprocessor, stored, bundle)) == expected(QUESTIONS)[0]
    assert texts_of(both(postprocessor, nodes_of(), bundle)) == expected(QUESTIONS)[0]


def test_settings_reach_the_selection(model):
    postprocessor = SiftPostprocessor(embed_model=model, top_n=3, select_kwargs={"min_gain": 0, "noise": 0.5})
    found = both(postprocessor, nodes_of())
    assert texts_of(found) == expected(n=3, min_gain=0, noise=0.5)[0]
    assert len(found) == 3
    short = SiftPostprocessor(embed_model=model, select_kwargs={"costs": len, "budget": 60})
    assert sum(map(len, texts_of(both(short, nodes_of())))) <= 60


def test_no_nodes_and_no_query(model):
    postprocessor = SiftPostprocessor(embed_model=model)
    assert both(postprocessor, []) == []
    for missing in (None, QueryBundle("")):
        with pytest.raises(InvalidInput, match="query is missing"):
            postprocessor.postprocess_nodes(nodes_of(), missing)


def test_it_works_in_the_query_engine_of_an_index(model):
    index = VectorStoreIndex([one.node for one in nodes_of()], embed_model=model)
    engine = index.as_query_engine(
        llm=MockLLM(), similarity_top_k=len(TEXTS), node_postprocessors=[SiftPostprocessor(embed_model=model)]
    )
    for response in (engine.query(QUESTION), asyncio.run(engine.aquery(QUESTION))):
        assert texts_of(response.source_nodes) == expected()[0]
        assert "verdict" not in str(response)  # MockLLM answers with its prompt
        assert TEXTS[5].split()[0] in str(response)


def test_a_postprocessor_is_serialised_as_others_are(model):
    made = SiftPostprocessor(embed_model=MockEmbedding(embed_dim=3), top_n=4, select_kwargs={"until": 0.2})
    again = SiftPostprocessor.from_json(made.to_json())
    assert again.to_dict() == made.to_dict()
    assert made.to_dict()["class_name"] == "SiftPostprocessor"
    assert isinstance(again.embed_model, MockEmbedding)
    assert SiftPostprocessor.from_dict(SiftPostprocessor().to_dict()).embed_model is None
    assert SiftPostprocessor(embed_model=model).to_dict()["embed_model"]["seen"] == []


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"top_n": 0}, InvalidInput, "top_n must be a whole number"),
        ({"select_kwargs": {"n": 3}}, Conflict, "pass top_n"),
        ({"select_kwargs": {"method": "shift"}}, UnknownName, "did you mean 'sift'"),
        ({"select_kwargs": {"until": 2}}, InvalidInput, "until must be"),
    ],
)
def test_a_wrong_setting_of_a_postprocessor_is_an_error_before_any_work(fields, error, message):
    with pytest.raises(error, match=message):
        SiftPostprocessor(**fields)


# --- over a memory


def test_a_memory_is_a_retriever(memory):
    retriever = MemoryNodeRetriever(memory)
    found = retriever.retrieve(QUESTION)
    hits = hits_of(memory)
    assert texts_of(found) == hits.texts
    assert 1 < len(found) < 10
    assert [one.node_id for one in found] == [hit.id for hit in hits]
    assert [one.score for one in found] == [hit.score for hit in hits]
    for one, hit in zip(found, hits, strict=True):
        assert one.node.metadata["fact"] == hit.meta["fact"]
        assert one.node.metadata[METADATA_KEY]["row"] == hit.row
        assert "uncertainty" in one.node.metadata[METADATA_KEY]["verdict"]
        assert one.node.ref_doc_id == hit.id
        assert one.node.get_content(MetadataMode.LLM) == f"fact: {hit.meta['fact']}\n\n{hit.text}"
        assert one.node.get_content(MetadataMode.EMBED) == one.node.get_content(MetadataMode.LLM)
    assert asyncio.run(retriever.aretrieve(QUESTION)) == found


def test_settings_reach_the_search_of_the_memory(memory):
    retriever = MemoryNodeRetriever(memory, 2, {"where": {"fact": 2}, "min_gain": 0})
    found = retriever.retrieve(QUESTION)
    assert len(found) == 2
    assert {one.node.metadata["fact"] for one in found} == {2}


def test_a_memory_takes_several_questions_or_a_vector(memory):
    retriever = MemoryNodeRetriever(memory)
    several = retriever.retrieve(QueryBundle(QUESTION, custom_embedding_strs=QUESTIONS))
    assert texts_of(several) == hits_of(memory, QUESTIONS).texts != hits_of(memory).texts
    by_vector = retriever.retrieve(QueryBundle("", embedding=HASHING.embed([QUESTION])[0].tolist()))
    assert texts_of(by_vector) == hits_of(memory).texts
    with pytest.raises(InvalidInput, match="query is empty"):
        retriever.retrieve("")


def test_passages_of_one_document_are_nodes_of_their_own(tmp_path):
    with Memory.create(tmp_path / "m", embedder=HASHING, passage_tokens=8, overlap=0) as memory:
        memory.add([" ".join(TEXTS)], ids=["all"])
        memory.add([FACTS[0]])
        found = MemoryNodeRetriever(memory, 5, {"min_gain": 0}).retrieve(QUESTION)
    names = [one.node_id for one in found]
    assert len(set(names)) == len(names) == 5
    parts = [one.node for one in found if one.node.ref_doc_id == "all"]
    assert len(parts) >= 4
    assert all(node.node_id.startswith("all-") for node in parts)
    assert all(" ".join(TEXTS)[node.start_char_idx : node.end_char_idx] == node.text for node in parts)


def test_a_memory_works_in_a_query_engine(memory):
    engine = RetrieverQueryEngine.from_args(MemoryNodeRetriever(memory), llm=MockLLM())
    response = engine.query(QUESTION)
    assert texts_of(response.source_nodes) == hits_of(memory).texts
    assert all(text in str(response) for text in hits_of(memory).texts)
    assert "verdict" not in str(response)


def test_an_outside_store_is_a_memory_too():
    outside = Outside(ArrayStore(HASHING.embed(TEXTS), TEXTS), HASHING)
    found = MemoryNodeRetriever(outside).retrieve(QUESTION)
    assert texts_of(found) == hits_of(outside).texts
    assert all(one.node_id.startswith("row-") and one.node.ref_doc_id is None for one in found)


def test_any_retriever_may_come_before_the_postprocessor(model):
    engine = RetrieverQueryEngine.from_args(
        Listed(nodes_of()), llm=MockLLM(), node_postprocessors=[SiftPostprocessor(embed_model=model, top_n=1)]
    )
    assert texts_of(engine.query(QUESTION).source_nodes) == expected(n=1)[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"similarity_top_k": 0}, InvalidInput, "similarity_top_k must be a whole number"),
        ({"search_kwargs": {"n": 3}}, Conflict, "pass similarity_top_k"),
        ({"search_kwargs": {"where": "year >"}}, InvalidInput, "where"),
        ({"search_kwargs": {"nosie": 1}}, InvalidInput, "did you mean 'noise'"),
        ({"search_kwargs": "n=3"}, InvalidInput, "search_kwargs must be a dict"),
    ],
)
def test_a_wrong_setting_of_a_retriever_is_an_error_before_any_work(memory, arguments, error, message):
    with pytest.raises(error, match=message):
        MemoryNodeRetriever(memory, **arguments)


def test_a_retriever_needs_a_memory():
    with pytest.raises(InvalidInput, match=r"memory must be a siftlm\.Memory, got str"):
        MemoryNodeRetriever("memory")


def test_without_the_library_the_install_command_is_told():
    code = "import sys; sys.modules['llama_index'] = None; import siftlm.integrations.llama_index"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'siftlm[llama-index]'" in run.stderr
