"""What points away from a prompt is no passage for it, though SIFT's gain is the same for x and −x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import siftlm
from siftlm import Memory
from siftlm.errors import Conflict
from siftlm.memory.request import SIGN_BLIND_METHODS, search_request
from siftlm.memory.rerank import rerank

COUNT, WIDTH, N = 40, 6, 12
RNG = np.random.default_rng(5)
VECTORS = RNG.standard_normal((COUNT, WIDTH)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
PROMPTS = RNG.standard_normal((4, WIDTH)).astype(np.float32)
PROMPTS /= np.linalg.norm(PROMPTS, axis=1, keepdims=True)
PATHS: list[dict[str, Any]] = [{}, {"k": None}, {"residual": True, "k": 5}, {"where": "part < 2"}]


def table(texts):
    """Text "17" -> vector 17."""
    return np.array([VECTORS[int(text) if text.isdigit() else 0] for text in texts])


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    texts = [str(at) for at in range(COUNT)]
    with Memory.create(tmp_path_factory.mktemp("opposites") / "memory", embedder=table) as made:
        made.add(texts, [{"part": at % 3} for at in range(COUNT)])
        yield made


def allowed(how):
    rows = np.arange(COUNT)
    return rows[rows % 3 < 2] if "where" in how else rows


def towards(prompt, rows):
    """Those of the rows with a cosine above 0 to one of the prompt's vectors."""
    return rows[(VECTORS[rows] @ np.atleast_2d(prompt).T).max(axis=1) > 0]


@pytest.mark.parametrize("how", PATHS, ids=str)
@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[1], PROMPTS[:2]], ids=["one", "another", "two vectors"])
def test_hits_are_what_is_selected_from_all_that_point_towards_the_prompt(memory, how, noise, prompt):
    rows = towards(prompt, allowed(how))
    found = (
        memory.search(prompt, N, noise=noise, certify=True, **how)
        if "residual" in how
        else memory.search(prompt, N, noise=noise, **how)
    )
    expected = siftlm.select(prompt, VECTORS[rows], min(N, len(rows)), noise=noise, replacement=False)
    assert [hit.row for hit in found] == rows[expected.indices].tolist()
    assert min(hit.score for hit in found) > 0
    assert np.allclose(found.selection.gains, expected.gains, atol=1e-6)
    assert found.considered == len(allowed(how))


@pytest.mark.parametrize("how", PATHS, ids=str)
def test_many_prompts_have_the_hits_of_each_alone(memory, how):
    many = memory.search_many([*PROMPTS, PROMPTS[:2]], N, noise=0.1, **how)
    for found, prompt in zip(many, [*PROMPTS, PROMPTS[:2]], strict=True):
        alone = memory.search(prompt, N, noise=0.1, **how)
        assert [hit.row for hit in found] == [hit.row for hit in alone]
        assert min(hit.score for hit in found) > 0


@pytest.mark.parametrize("method", sorted(SIGN_BLIND_METHODS - {"eig"}))  # it needs a classifier
def test_no_method_that_sees_no_signs_picks_an_opposite_unless_allowed(memory, method):
    found = memory.search(PROMPTS[2], COUNT, method=method, noise=0.05)
    rows = towards(PROMPTS[2], np.arange(COUNT))
    assert sorted(hit.row for hit in found) == rows.tolist()
    assert found.selection.stopped == "exhausted"
    assert len(memory.search(PROMPTS[2], COUNT, method=method, noise=0.05, opposites=True)) == COUNT


@pytest.mark.parametrize("how", PATHS, ids=str)
def test_opposites_are_picked_where_they_are_allowed(memory, how):
    found = memory.search(PROMPTS[0], N, noise=0.01, opposites=True, **how)
    rows = allowed(how)
    expected = siftlm.select(PROMPTS[0], VECTORS[rows], N, noise=0.01, replacement=False)
    assert [hit.row for hit in found] == rows[expected.indices].tolist()
    assert min(hit.score for hit in found) < 0


@pytest.mark.parametrize("how", PATHS, ids=str)
def test_nothing_is_found_where_everything_points_away(memory, how):
    prompt = -VECTORS.mean(axis=0)
    rows = towards(prompt, allowed(how))
    for n in (1, N):
        found = memory.search(prompt, n, exclude=rows, **how)
        assert (len(found), found.selection.stopped, found.texts) == (0, "exhausted", [])
        assert len(found.selection.uncertainty) == 1
        assert len(memory.search(prompt, n, exclude=rows, method="nearest")) == n  # the nearest are the nearest
        assert len(memory.search_many([prompt, prompt], n, exclude=rows, **how)[1]) == 0


def test_repeats_make_up_for_opposites(memory):
    found = memory.search(PROMPTS[0], COUNT, noise=0.01, replacement=True)
    assert len(found) == COUNT
    assert min(hit.score for hit in found) > 0
    rows = towards(PROMPTS[0], np.arange(COUNT))
    assert len(memory.search(PROMPTS[0], COUNT, noise=0.01, replacement=2)) == min(COUNT, 2 * len(rows))


def test_values_for_each_candidate_keep_their_candidates(memory):
    costs = RNG.random(COUNT) + 0.5
    found = memory.search(PROMPTS[0], N, noise=0.01, costs=costs)
    rows = towards(PROMPTS[0], np.arange(COUNT))
    expected = siftlm.select(PROMPTS[0], VECTORS[rows], N, noise=0.01, replacement=False, costs=costs[rows])
    assert [hit.row for hit in found] == rows[expected.indices].tolist()
    capped = memory.search(PROMPTS[0], N, noise=0.01, per_document=1)
    assert [hit.row for hit in capped] == [hit.row for hit in memory.search(PROMPTS[0], N, noise=0.01)]


def test_reranked_texts_point_towards_the_prompt_by_their_features(memory):
    prompt = "7"
    flipped = RNG.standard_normal((COUNT, 3)).astype(np.float32)
    request = search_request(N, "sift", {"noise": 0.01}, prompts=[prompt])
    [found] = rerank(memory, request, lambda texts: np.array([flipped[int(text)] for text in texts]))
    units = flipped / np.linalg.norm(flipped, axis=1, keepdims=True)
    assert found.hits
    assert min(float(units[hit.row] @ units[7]) for hit in found) > 0


def test_opposites_still_need_vectors_to_compare(memory):
    with pytest.raises(Conflict, match="opposites=True compares vectors"):
        memory.search("7", 3, opposites=True, candidates="words")
