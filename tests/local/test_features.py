"""Selecting by what the model would learn, among what the memory's own vectors found."""

from __future__ import annotations

import json

import numpy as np
import pytest

import siftlm
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory import rerank as reranking
from siftlm.memory.request import search_request

TEXTS = [
    f"{what} {where} {when}"
    for what in ("rain fell", "the fox", "def add")
    for where in ("at sea", "on land")
    for when in ("today", "in the morning", "while ships waited")
]


@pytest.fixture
def memory(tmp_path):
    return siftlm.Memory.build(TEXTS, tmp_path / "memory")


def rerank(memory, prompt, n, features, *, method="sift", **settings):
    request = search_request(n, method, settings, prompts=[prompt])
    return reranking.rerank(memory, request, features)[0]


def lengths(texts):
    """Features with an answer that anybody can work out."""
    return np.array([[len(text), 10.0] for text in texts], dtype=np.float32)


def test_the_nearest_are_selected_from_by_their_features(memory):
    near = memory.search(TEXTS[0], 5, method="nearest", k=5)
    found = rerank(memory, TEXTS[0], 3, lengths, method="nearest", k=5)
    assert {hit.row for hit in found} <= {hit.row for hit in near}
    assert found.considered == 5
    vectors = lengths([TEXTS[0], *near.texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors[1:] @ vectors[0]
    assert [hit.score for hit in found] == pytest.approx(sorted(cosines.tolist(), reverse=True)[:3])
    assert found.selection.indices.tolist() == [hit.row for hit in found]
    assert [hit.gain for hit in found] == found.selection.gains.tolist()
    assert memory.search(TEXTS[0], 1)[0].row == found[0].row
    assert set(found.seconds) == {"embed", "search", "select", "read", "features"}
    json.dumps(found.to_dict())


def test_it_is_select_on_the_features(memory):
    near = memory.search(TEXTS[3], 8, method="nearest", k=8)
    found = rerank(memory, TEXTS[3], 6, lengths, k=8, noise=0.3, replacement=True, known=["the fox"])
    expected = siftlm.select(
        lengths([TEXTS[3]])[0], lengths(near.texts), 6, noise=0.3, replacement=True, known=lengths(["the fox"])
    )
    assert found.selection.indices.tolist() == [near[int(at)].row for at in expected.indices]
    np.testing.assert_allclose(found.selection.uncertainty, expected.uncertainty, atol=1e-6)


def test_texts_without_features_are_passed_over(memory):
    def only_long(texts):
        return np.array([[len(text) > 25 or at == 0, 0.0] for at, text in enumerate(texts)], dtype=np.float32)

    found = rerank(memory, TEXTS[0], 10, only_long, k=18, replacement=False)
    assert found.considered == sum(len(text) > 25 for text in TEXTS)
    assert all(len(hit.text) > 25 for hit in found)
    with pytest.raises(InvalidInput, match="no direction"):
        rerank(memory, TEXTS[0], 10, lambda texts: np.zeros((len(texts), 2)))


def test_nothing_is_found_in_an_empty_memory(tmp_path):
    found = rerank(siftlm.Memory.create(tmp_path / "empty"), "rain", 3, lengths)
    assert (len(found), found.selection.stopped, len(found.selection.uncertainty)) == (0, "exhausted", 1)


def test_what_is_left_out_stays_out(memory):
    first = memory.search(TEXTS[0], 1)[0]
    found = rerank(memory, TEXTS[0], 30, lengths, exclude=[first.row], replacement=False)
    assert len(found) == len(TEXTS) - 1
    assert first.row not in {hit.row for hit in found}
    assert len(rerank(memory, TEXTS[0], 30, lengths, per_document=1, replacement=False)) == len(TEXTS)


@pytest.mark.parametrize(
    "setting", [{"k": None}, {"residual": True}, {"opposites": True}, {"known": np.ones((1, 512))}]
)
def test_what_does_not_go_with_features_is_said(memory, setting):
    with pytest.raises(Conflict):
        rerank(memory, TEXTS[0], 2, lengths, **setting)


@pytest.fixture
def local(memory, tmp_path):
    pytest.importorskip("peft")
    from embedding import tiny

    return siftlm.LocalModel(str(tiny.llama(tmp_path / "model")), memory, n=4, k=9)


@pytest.mark.slow
def test_a_local_model_selects_by_the_gradients_of_its_own_model(local):
    found = local.select(TEXTS[0], features="gradients")
    made = siftlm.embedder(f"gradients:{local.controller.name}")
    expected = rerank(local.memory, TEXTS[0], 4, made.embed, k=9)
    assert found.selection.indices.tolist() == expected.selection.indices.tolist()
    np.testing.assert_allclose(found.selection.gains, expected.selection.gains, rtol=1e-4)
    assert found.selection.gains.tolist() != local.select(TEXTS[0]).selection.gains.tolist()
    assert local.select(TEXTS[0], features=made).texts == found.texts


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
def test_tuning_by_gradients_leaves_no_trace(memory, tmp_path, engine):
    import torch

    from embedding import tiny

    local = siftlm.LocalModel(str(tiny.llama(tmp_path / "model")), memory, n=4, k=9, engine=engine, context=32)
    before = {name: value.clone() for name, value in local.controller.model.state_dict().items()}
    scored = local.score(TEXTS[0], features="gradients")
    assert scored.trace.ended == "done"
    assert scored.found.seconds["features"] > 0
    after = local.controller.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # The same once adapters have been there.
    assert local.score(TEXTS[0], features="gradients").tuned == scored.tuned
    assert local.gradient_embedder.max_tokens == 32


@pytest.mark.slow
def test_other_features_are_named(local):
    with pytest.raises(UnknownName, match="did you mean 'gradients'"):
        local.select(TEXTS[0], features="gradient")
