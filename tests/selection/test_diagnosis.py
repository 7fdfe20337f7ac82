"""The diagnosis, against a count by the definition; and that its recommendation follows the corpus."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from siftlm.errors import InvalidInput
from siftlm.selection import diagnosis


def scattered(size: int = 600, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, width))


def versions(facts: int = 60, copies: int = 10, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    """Each fact several times, in nearly the same words."""
    repeated = np.repeat(scattered(facts, seed=seed), copies, axis=0)
    return repeated + noise * np.random.default_rng(seed + 1).normal(size=repeated.shape)


def by_definition(vectors, queries, n, k, threshold, noise):
    """Repeats among the n nearest, and SIFT's picks for 95 % of what they tell, one prompt at a time."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    repeats, picks = [], []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        order = sorted(range(len(units)), key=lambda row: -float(units[row] @ query))
        top = order[:n]
        repeats += [any(units[top[j]] @ units[top[i]] > threshold for j in range(i)) for i in range(n)]
        near = units[order[:k]]
        told = [1 - left_by_definition(query, units[top], noise)]
        sift = siftlm.select(query, near, n, noise=noise, replacement=False)
        lefts = [left_by_definition(query, near[sift.indices[:count]], noise) for count in range(n + 1)]
        picks.append(next((count for count, left in enumerate(lefts) if 1 - left >= 0.95 * told[0] - 1e-9), n))
    return np.mean(repeats), np.mean(picks)


def left_by_definition(query, rows, noise):
    """The posterior variance of a unit query, given these rows."""
    return 1 - query @ rows.T @ np.linalg.solve(rows @ rows.T + noise * np.eye(len(rows)), rows @ query)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(12, 60),
    n=st.integers(2, 6),
    k=st.integers(6, 80),
    noise=st.sampled_from([0.01, 0.1, 1.0]),
    threshold=st.sampled_from([0.3, 0.8, 0.9]),
    block=st.sampled_from([1, 200, 1 << 20]),
)
@settings(max_examples=examples(40))
def test_figures_of_retrieval_by_the_definition(seed, size, n, k, noise, threshold, block):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(8, 5))[rng.integers(8, size=size)] + 0.2 * rng.normal(size=(size, 5))
    queries = rng.normal(size=(4, 5))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(size, 1)]
    assume(np.abs(pairs - threshold).min() > 1e-5)
    assume(not diagnosis.in_narrow_cone(pairs, threshold))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "MAX_BLOCK_COSINES", block)
        found = siftlm.diagnose(vectors, queries, n=n, k=k, noise=noise, threshold=threshold).retrieval
    repeats, picks = by_definition(vectors, queries, n, k, threshold, noise)
    assert found.prompts == 4
    assert found.repeats == pytest.approx(repeats)
    assert found.picks == pytest.approx(picks, abs=0.26)  # a prompt on the edge of 95 % may be one pick off


def test_the_recommendation_follows_the_corpus():
    assert siftlm.diagnose(scattered()).recommendation == "top-k is enough"
    assert siftlm.diagnose(versions()).recommendation == "use SIFT and stop early"
    mixed = np.concatenate([scattered(900, seed=3), versions(10, 10)])
    assert siftlm.diagnose(mixed).recommendation == "use SIFT"


def test_the_queries_decide_where_only_some_texts_repeat():
    corpus, repeated = scattered(3000, seed=5), versions(5, 20)
    mixed = np.concatenate([corpus, repeated])
    about_repeats = siftlm.diagnose(mixed, versions(5, 2)[::2])
    about_others = siftlm.diagnose(mixed, corpus[:20] + 0.1 * scattered(20, seed=6))
    assert about_repeats.recommendation == "use SIFT and stop early"
    assert about_others.recommendation == "top-k is enough"
    assert about_repeats.redundant == about_others.redundant


def test_a_prompt_from_the_corpus_is_no_result_of_its_own():
    # Pairs of equal vectors: the other one is the first result, and repeats nothing but the prompt.
    pairs = np.repeat(scattered(100), 2, axis=0)
    found = siftlm.diagnose(pairs, prompts=50)
    own = siftlm.diagnose(pairs, scattered(100)[:50])
    assert own.retrieval.repeats - found.retrieval.repeats == pytest.approx(0.1, abs=0.05)


def test_vectors_in_a_narrow_cone_are_centred_first():
    shifted = versions() / 6 + 3
    units = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    assert np.median(units @ units.T) > 0.9
    found = siftlm.diagnose(shifted)
    assert found.centred
    assert found.median_pair < 0.5
    assert found.recommendation == "use SIFT and stop early"
    assert "kernel=siftlm.kernels.centred()" in str(found)
    assert siftlm.diagnose(scattered() / 6 + 3).recommendation == "top-k is enough"
    assert siftlm.diagnose(shifted, shifted[:20]).centred


def test_copies_of_one_text_are_no_narrow_cone():
    copies = scattered(1) + 0.05 * scattered(480, seed=1)
    found = siftlm.diagnose(np.concatenate([copies, scattered(120, seed=2)]))
    assert found.median_pair > 0.9
    assert not found.centred
    assert found.recommendation == "use SIFT and stop early"


def test_equal_seeds_and_scales_give_equal_figures():
    vectors = versions()
    one, same = (siftlm.diagnose(some, sample=200, prompts=30, seed=4) for some in (vectors, 7 * vectors))
    assert one.to_dict() == pytest.approx(same.to_dict())
    assert one.retrieval != siftlm.diagnose(vectors, sample=200, prompts=30, seed=5).retrieval


def test_float16_says_nearly_the_same_and_vectors_stay_as_they_are():
    vectors = versions().astype(np.float16)
    before = vectors.copy()
    half, whole = siftlm.diagnose(vectors), siftlm.diagnose(vectors.astype(np.float64))
    assert half.retrieval.repeats == pytest.approx(whole.retrieval.repeats, abs=0.01)
    assert np.array_equal(before, vectors)


def test_few_vectors_limit_the_candidates():
    found = siftlm.diagnose(scattered(12))
    assert (found.vectors, found.sample, found.k, found.retrieval.prompts) == (12, 12, 11, 12)


def test_it_is_plain_and_printable():
    found = siftlm.diagnose(versions())
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["recommendation"] == "use SIFT and stop early"
    assert plain["repeats"] == found.retrieval.repeats
    assert plain["advice"] in str(found)
    assert f"{found.redundant:.1%}" in str(found)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.ones((5, 3)), {}, "vectors has 5 rows"),
        (np.eye(20)[:, :0], {}, "width 0"),
        (np.zeros((20, 3)), {}, "vectors row 0 is all zeros"),
        (np.full((20, 3), np.nan), {}, "vectors row 0 is not finite"),
        (scattered(20), {"queries": np.ones((2, 31))}, "queries has vectors of width 31, expected 32"),
        (scattered(20), {"queries": np.zeros((2, 32))}, "queries row 0 is all zeros"),
        (scattered(20), {"n": 1}, "n must be"),
        (scattered(20), {"k": 5}, "k=5 must be at least n=10"),
        (scattered(20), {"noise": 0}, "noise must be"),
        (scattered(20), {"neighbours": 0}, "neighbours must be"),
        (scattered(20), {"threshold": 1.0}, "threshold must be"),
        (scattered(20), {"sample": 1}, "sample must be"),
        (scattered(20), {"prompts": 0}, "prompts must be"),
        (scattered(20), {"seed": -1}, "seed must be"),
    ],
)
def test_what_cannot_be_diagnosed(vectors, options, message):
    with pytest.raises(InvalidInput, match=message):
        siftlm.diagnose(vectors, **options)
