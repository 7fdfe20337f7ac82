"""Functions and LangChain's ``Embeddings`` as embedders, as they are."""

from __future__ import annotations

import numpy as np
import pytest

from siftlm import LocalModel, Memory
from siftlm.embedding import HashingEmbedder, embedder
from siftlm.errors import Conflict, InvalidInput, WrongEmbedder

TEXTS = ["the tide comes in at noon", "a train leaves at nine", "the harbour is full of ships"]
HASHING = HashingEmbedder(width=64)


def by_words(texts):
    """Vectors as lists, as services give them."""
    return HASHING.embed(texts).tolist()


class Words:
    """Like LangChain's Embeddings; questions are turned round, so that the two can be told apart."""

    model = "words-v1"

    def embed_documents(self, texts):
        return by_words(texts)

    def embed_query(self, text):
        return (-HASHING.embed([text])[0]).tolist()


def test_a_function_is_an_embedder():
    made = embedder(by_words)
    assert (made.name, made.width, made.settings, made.max_tokens) == ("function:by_words", 64, {}, None)
    np.testing.assert_array_equal(made.embed(TEXTS), HASHING.embed(TEXTS))
    assert made.embed([]).shape == (0, 64)
    assert [spans.tolist() for spans in made.tokens(["one two"])] == [[[0, 3], [4, 7]]]


def test_an_object_of_langchain_is_an_embedder():
    made = embedder(Words())
    assert made.name == "function:Words/words-v1"
    np.testing.assert_array_equal(made.embed(TEXTS), HASHING.embed(TEXTS))
    np.testing.assert_array_equal(made.embed(TEXTS, as_query=True), -HASHING.embed(TEXTS))


def test_a_memory_is_built_and_opened_with_it(tmp_path):
    with Memory.build(TEXTS, tmp_path / "memory", embedder=by_words) as memory:
        assert memory.search("when does the tide come", 1)[0].text == TEXTS[0]
    with Memory.open(tmp_path / "memory", embedder=by_words) as memory:
        assert memory.search("ships", 1, method="nearest")[0].text == TEXTS[2]
        memory.add(["a fourth text"])
        assert len(memory) == 4
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.texts(memory.rows())[0] == TEXTS[0]  # nothing has to be embedded for that
        with pytest.raises(InvalidInput, match="made by a caller's function, 'by_words': pass it as embedder"):
            memory.search("ships")
    with pytest.raises(WrongEmbedder, match="function:Words"):
        Memory.open(tmp_path / "memory", embedder=Words())


def test_a_local_model_takes_it(tmp_path):
    pytest.importorskip("torch")
    Memory.build(TEXTS, tmp_path / "memory", embedder=by_words).close()
    model = LocalModel("siftlm-tiny", tmp_path / "memory", embedder=by_words)
    assert model.select("the tide", 1).texts == [TEXTS[0]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: texts, "must turn a list of texts into a vector of numbers for each"),
        (lambda texts: np.ones(len(texts)), r"gave shape \(1,\) for 1 texts"),
        (lambda _: np.ones((2, 3)), r"gave shape \(2, 3\) for 1 texts"),
        (lambda texts: np.ones((len(texts), 0)), r"gave shape \(1, 0\)"),
        (lambda texts: [[1.0] * (2 + at) for at, _ in enumerate([*texts, "more"])], "must turn a list of texts"),
        (lambda: None, "must turn a list of texts"),
    ],
)
def test_what_is_no_vector_for_each_text_is_refused(function, message):
    with pytest.raises(InvalidInput, match=message):
        embedder(function)


def test_a_width_that_changes_is_refused():
    made = embedder(lambda texts: np.ones((len(texts), len(texts))))
    with pytest.raises(InvalidInput, match="gave vectors of width 2, and of 1 before"):
        made.embed(["a", "b"])


def test_settings_belong_to_names():
    with pytest.raises(Conflict, match="width"):
        embedder(by_words, width=3)


def test_errors_of_the_function_itself_are_its_own():
    def broken(texts):
        raise RuntimeError("the service is down")

    with pytest.raises(RuntimeError, match="the service is down"):
        embedder(broken)
