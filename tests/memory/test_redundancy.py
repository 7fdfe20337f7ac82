"""How redundant a memory is: counted fast, and counted by the definition."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from siftlm.embedding import embedder
from siftlm.errors import InvalidInput
from siftlm.memory import ArrayStore, Memory, Redundancy, redundancy
from siftlm.progress import Progress
from siftlm.selection import diagnosis


def clustered(seed: int, size: int, clusters: int, noise: float, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, width))
    vectors = centres[rng.integers(clusters, size=size)] + noise * rng.normal(size=(size, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def store_of(vectors: np.ndarray) -> ArrayStore:
    return ArrayStore(vectors, [f"text {at}" for at in range(len(vectors))])


def measured(vectors: np.ndarray, **options) -> Redundancy:
    return redundancy.redundancy(store_of(vectors), np.arange(len(vectors)), **options)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 60),
    clusters=st.integers(1, 60),
    noise=st.sampled_from([0.01, 0.1, 0.3, 1.0]),
    neighbours=st.integers(1, 7),
    threshold=st.sampled_from([-0.5, 0.0, 0.5, 0.8, 0.9, 0.99]),
    block=st.sampled_from([1, 64, 1000, 1 << 20]),
)
@settings(max_examples=examples(100))
def test_counts_by_the_definition(seed, size, clusters, noise, neighbours, threshold, block):
    vectors = clustered(seed, size, clusters, noise)
    cosines = vectors @ vectors.T
    assume(np.abs(cosines - threshold).min() > 1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "MAX_BLOCK_COSINES", block)
        found = measured(vectors, neighbours=neighbours, threshold=threshold)
    others = [[float(cosines[i, j]) for j in range(size) if j != i] for i in range(size)]
    counts = [sum(cosine > threshold for cosine in row) for row in others]
    pairs = [cosines[i, j] for i in range(size) for j in range(i)]
    assert found.redundant == pytest.approx(sum(count >= neighbours for count in counts) / size)
    assert found.spread == pytest.approx(
        {
            "0": sum(count == 0 for count in counts) / size,
            "1": sum(count == 1 for count in counts) / size,
            "2-4": sum(2 <= count <= 4 for count in counts) / size,
            "5+": sum(count >= 5 for count in counts) / size,
        }
    )
    assert found.mean_pair == pytest.approx(np.mean(pairs), abs=1e-5)
    assert found.median_pair == pytest.approx(np.median(pairs), abs=1e-5)
    assert found.mean_nearest == pytest.approx(np.mean([max(row) for row in others]), abs=1e-5)
    assert found.median_nearest == pytest.approx(np.median([max(row) for row in others]), abs=1e-5)
    check_groups(found, cosines, counts, threshold)


def check_groups(found, cosines, counts, threshold):
    if not any(counts):
        assert found.groups == ()
        return
    assert found.groups[0].size == 1 + max(counts)
    assert len(found.groups) <= 3
    for group in found.groups:
        centre, *near = group.rows
        assert group.size == 1 + counts[centre]
        assert len(near) == min(2, counts[centre])
        assert all(cosines[centre, row] > threshold for row in near)
        assert group.snippets == tuple(f"text {row}" for row in group.rows)
    centres = [group.rows[0] for group in found.groups]
    assert all(cosines[a, b] <= threshold for i, a in enumerate(centres) for b in centres[:i])


def test_a_sample_has_the_size_that_was_asked_for():
    vectors = clustered(1, 500, 20, 0.1)
    found = measured(vectors, sample=200)
    assert (found.passages, found.sample, found.asked) == (500, 200, 200)
    assert "200 of 500 passages" in str(found)
    assert "fewer than" not in str(found)
    everything = measured(vectors, sample=10_000)
    assert (everything.passages, everything.sample, everything.asked) == (500, 500, 10_000)
    assert "fewer than 10,000: compare with equal samples only" in str(everything)


def test_a_seed_is_a_sample():
    vectors = clustered(1, 500, 20, 0.1)
    one, same, other = (measured(vectors, sample=100, seed=seed) for seed in (1, 1, 2))
    assert one.to_dict() == same.to_dict()
    assert one.mean_nearest != other.mean_nearest


@pytest.mark.slow
def test_samples_are_uniform():
    # Half of the passages equal one another: whatever the sample, about half of it does.
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 30))
    vectors[:200] = vectors[0]
    shares = [measured(vectors, sample=100, seed=seed).redundant for seed in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_random_pairs_stand_for_all(monkeypatch):
    vectors = clustered(5, 300, 4, 0.5)
    everything = measured(vectors)
    monkeypatch.setattr(diagnosis, "MAX_RANDOM_PAIRS", 40_000)  # of 44,850
    some = measured(vectors)
    assert some.mean_pair != everything.mean_pair
    assert some.mean_pair == pytest.approx(everything.mean_pair, abs=0.02)
    assert some.median_pair == pytest.approx(everything.median_pair, abs=0.04)


def test_random_pairs_are_of_different_passages(monkeypatch):
    monkeypatch.setattr(diagnosis, "MAX_RANDOM_PAIRS", 5)
    assert measured(np.eye(6)).mean_pair == 0.0


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "m", embedder=embedder("hashing", width=32)) as made:
        yield made


def test_only_living_passages_of_a_memory_count_and_copies_are_told(memory):
    vectors = clustered(2, 40, 40, 1.0, width=32)
    vectors[:8] = vectors[0]
    texts = [f"text {at}" for at in range(40)]
    memory.add(texts, [{"at": at} for at in range(40)], vectors=vectors)
    memory.add(texts[20:30], vectors=vectors[20:30])
    found = memory.redundancy()
    assert (found.passages, found.sample) == (40, 40)
    assert found.redundant == pytest.approx(8 / 40)
    assert found.copies == pytest.approx(10 / 50)
    assert found.groups[0].size == 8
    memory.delete({"at": {"<": 4}})
    after = memory.redundancy(neighbours=3)
    assert (after.passages, after.redundant, after.groups[0].size) == (36, pytest.approx(4 / 36), 4)
    assert set(after.groups[0].rows) < {4, 5, 6, 7}


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_compressed_memories_say_nearly_the_same(tmp_path, storage):
    vectors = clustered(2, 200, 30, 0.05, width=32)
    with Memory.create(tmp_path / "m", embedder=embedder("hashing", width=32), storage=storage) as made:
        made.add([f"text {at}" for at in range(200)], vectors=vectors)
        found = made.redundancy(threshold=0.7)
    same = measured(vectors, threshold=0.7)
    assert found.redundant == pytest.approx(same.redundant, abs=0.02)
    assert found.mean_pair == pytest.approx(same.mean_pair, abs=1e-2)


def test_an_empty_memory_and_a_single_passage(memory):
    for size in (0, 1):
        found = memory.redundancy()
        assert (found.passages, found.sample, found.redundant, found.groups) == (size, size, 0.0, ())
        assert math.isnan(found.mean_pair)
        assert "too few" in found.advice
        assert found.recommendation is None
        assert found.advice in str(found)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["mean_pair"] is None
        memory.add(["one text"])


def test_the_advice_follows_from_the_numbers():
    rng = np.random.default_rng(0)
    scattered = rng.normal(size=(2000, 40))
    assert "Near-copies are rare: 0.00%" in measured(scattered).advice
    some, most = scattered.copy(), scattered.copy()
    some[:100] = some[0]
    assert "for some prompts: 5.0%" in measured(some).advice
    most[:900] = most[0]
    assert "Diversity will matter: 45%" in measured(most).advice
    assert "few" not in measured(most).advice.replace("2,000", "")
    assert "500 passages are few" in measured(most, sample=500).advice
    assert "Among all 2,000, a passage has about 4 times as many" in measured(most, sample=500).advice


def test_the_recommendation_is_that_of_the_diagnosis(memory):
    facts = np.repeat(clustered(3, 40, 40, 1.0, width=32), 10, axis=0)
    vectors = facts + 0.03 * np.random.default_rng(0).normal(size=facts.shape)
    memory.add([f"text {at}" for at in range(400)], vectors=vectors)
    found, same = memory.redundancy(), siftlm.diagnose(vectors)
    assert found.recommendation == same.recommendation == "use SIFT and stop early"
    assert (found.retrieval.prompts, found.retrieval.n) == (same.retrieval.prompts, same.retrieval.n) == (200, 10)
    assert found.retrieval.repeats == pytest.approx(same.retrieval.repeats, abs=0.05)
    assert found.retrieval.picks == pytest.approx(same.retrieval.picks, abs=0.3)
    assert str(found.retrieval) in str(found)
    assert found.to_dict()["recommendation"] == found.recommendation
    # A small sample has few near-copies in itself; searches still go to the whole memory.
    few = memory.redundancy(sample=20)
    assert few.redundant < 0.2
    assert few.retrieval.repeats > 0.7


def test_a_memory_in_a_narrow_cone_is_centred_for_the_recommendation():
    rng = np.random.default_rng(0)
    found = measured(rng.normal(size=(1000, 40)) + 20)
    assert found.redundant == 1.0
    assert found.recommendation == "top-k is enough"


def test_embeddings_that_are_not_centred_are_told_apart():
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(1000, 40)) + 20
    found = measured(narrow)
    assert found.redundant == 1.0
    assert found.median_pair > 0.9
    assert "threshold 0.9 says little" in found.advice
    assert "not centred" in found.advice
    low = measured(rng.normal(size=(1000, 40)), threshold=0.1)
    assert "threshold 0.1 says little" in low.advice
    assert "not centred" not in low.advice


def test_it_is_plain_and_printable():
    found = measured(clustered(1, 300, 10, 0.05))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["redundant"] == found.redundant
    assert plain["groups"][0]["size"] == found.groups[0].size
    assert f"{found.redundant:.1%}" in str(found)
    assert all(group.snippets[0] in str(found) for group in found.groups)


def test_snippets_are_one_short_line():
    long = ["word\n  " * 500, "word\n  " * 499]
    found = redundancy.redundancy(ArrayStore([[1.0, 0.0], [1.0, 0.0]], long), np.arange(2))
    for snippet in found.groups[0].snippets:
        assert len(snippet) <= 120
        assert "\n" not in snippet
        assert snippet.endswith("…")


def test_progress_is_told():
    seen: list[Progress] = []
    measured(clustered(1, 300, 10, 0.05), report=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].finished) == (300, 300, True)


@pytest.mark.parametrize(
    "options",
    [
        {"sample": 1},
        {"sample": 10.0},
        {"sample": True},
        {"neighbours": 0},
        {"neighbours": "5"},
        {"threshold": 1},
        {"threshold": -1.5},
        {"threshold": float("nan")},
        {"threshold": "0.9"},
        {"threshold": True},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_what_cannot_be_asked(memory, options):
    (name,) = options
    with pytest.raises(InvalidInput, match=f"{name} must be"):
        memory.redundancy(**options)
