"""A store in the memory's place is searched as the memory is, and what it must not do is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from memory.fakes import Bare, Spoiled, each
from siftlm.embedding import embedder
from siftlm.errors import Conflict, InvalidInput, WrongEmbedder
from siftlm.memory import ArrayStore, CheckedStore, Memory, Outside, Passage

WIDTH, SIZE = 16, 120
HASHING = embedder("hashing", width=WIDTH)


def corpus():
    rng = np.random.default_rng(3)
    words = np.array(["age", "born", "Jordan", "law", "court", "ball", "river", "stone", "green", "seven"])
    texts = [f"{' '.join(rng.choice(words, 12))} number {at}" for at in range(SIZE)]
    metadata = [{"source": "wiki" if at % 3 else "web", "at": at} for at in range(SIZE)]
    return texts, metadata, [f"d{at}" for at in range(SIZE)]


TEXTS, METADATA, IDS = corpus()
PROMPTS = ["how old is Jordan", ["the law of the court", "a green river"], np.eye(WIDTH)[3], np.eye(WIDTH)[4:7]]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    made = Memory.create(tmp_path_factory.mktemp("memory") / "m", embedder=HASHING)
    made.add(TEXTS, METADATA, ids=IDS, vectors=HASHING.embed(TEXTS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def array(memory):
    # The memory's own vectors: what is compared is the search, not who rounds how.
    return ArrayStore(memory.vectors(memory.rows()), TEXTS, METADATA, ids=IDS)


def assert_same(one, other):
    assert [hit.row for hit in one] == [hit.row for hit in other]
    for mine, theirs in zip(one, other, strict=True):
        assert (mine.text, dict(mine.meta), mine.id) == (theirs.text, dict(theirs.meta), theirs.id)
        assert mine.document == theirs.document
        assert (mine.part, mine.parts, mine.copies) == (theirs.part, theirs.parts, theirs.copies)
    for name in ("score", "gain", "uncertainty"):
        values = [[getattr(hit, name) for hit in found] for found in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)
    assert one.selection.stopped == other.selection.stopped
    assert one.selection.method == other.selection.method


SETTINGS = [
    {},
    {"method": "nearest"},
    {"method": "mmr"},
    {"method": "uncertainty", "k": 30},
    {"k": 7, "n": 7},
    {"k": 7, "n": 30},
    {"k": None},
    {"k": None, "where": {"source": "web"}},
    {"k": None, "where": {"at": {"<": 4}}, "n": 10},
    {"where": "source = 'wiki' and at >= 20"},
    {"where": {"@id": ["d1", "d7", "d9"]}, "n": 10},
    {"where": {"source": "nowhere"}},
    {"where": {"source": "nowhere"}, "k": None},
    {"where": {"source": "nowhere"}, "residual": True},
    {"exclude": [1, 2, 3, 999]},
    {"exclude": list(range(SIZE))},
    {"exclude": list(range(SIZE)), "residual": True},
    {"residual": True, "k": 5},
    {"residual": True, "k": 5, "where": {"source": "web"}, "exclude": [0, 3]},
    {"residual": True, "k": 5, "where": {"at": {"<": 6}}, "exclude": [0, 30], "n": 10},
    {"per_document": 1, "k": 20},
    {"noise": 0.1, "adaptive": 2.0},
    {"candidates": "vectors", "until": 0.5},
]


def id_of(options):
    return ", ".join(f"{name}={str(value)[:24]}" for name, value in options.items()) or "defaults"


@pytest.mark.parametrize("options", SETTINGS, ids=id_of)
def test_arrays_are_searched_as_the_memory_is(memory, array, options):
    outside = Outside(array, HASHING)
    for prompt in PROMPTS:
        mine, theirs = memory.search(prompt, **options), outside.search(prompt, **options)
        assert_same(theirs, mine)
        if not options.get("residual"):
            assert mine.considered == theirs.considered


@pytest.mark.parametrize("options", [one for one in SETTINGS if one.get("k", 1) is not None], ids=id_of)
def test_so_is_a_store_that_has_nothing_optional(memory, array, options):
    outside = Outside(Bare(array), HASHING)
    for prompt in PROMPTS:
        assert_same(outside.search(prompt, **options), memory.search(prompt, **options))


@pytest.mark.parametrize("options", SETTINGS, ids=id_of)
def test_many_is_one_after_the_other(array, options):
    outside = Outside(array, HASHING)
    for one, prompt in zip(outside.search_many(PROMPTS, **options), PROMPTS, strict=True):
        assert_same(one, outside.search(prompt, **options))


def test_copies_of_the_prompt_are_left_out(memory, array):
    outside = Outside(Bare(array), HASHING)
    for options in ({}, {"residual": True, "k": 5}):
        with_copies = outside.search(TEXTS[5], method="sift", **options)
        without = outside.search(TEXTS[5], without_copies=True, **options)
        assert 5 in [hit.row for hit in with_copies]
        assert 5 not in [hit.row for hit in without]
        assert_same(without, memory.search(TEXTS[5], without_copies=True, **options))


def test_ids_are_the_stores_own(array):
    names = np.arange(SIZE)[::-1] * 10**12 + 7
    found = Outside(Bare(array, names), HASHING).search("how old is Jordan", k=20)
    same = Outside(array, HASHING).search("how old is Jordan", k=20)
    assert [hit.row for hit in found] == [int(names[hit.row]) for hit in same]
    assert [hit.document for hit in found] == [hit.row for hit in found]
    assert found.texts == same.texts


def test_residual_search_is_certified_only_where_the_store_says_that_it_is_exact(array):
    options = {"n": 4, "residual": True, "k": 20, "certify": True}
    assert Outside(array, HASHING).search("how old is Jordan", **options).selection.certified.all()
    assert not Outside(Bare(array), HASHING).search("how old is Jordan", **options).selection.certified.any()
    assert not Outside(Spoiled(array, exact="yes"), HASHING).search("a", **options).selection.certified.any()


def test_what_a_store_lacks_is_said(array):
    outside = Outside(Bare(array), HASHING)
    for options, lack in (
        ({"candidates": "words"}, "no full-text search"),
        ({"candidates": "both"}, "no full-text search"),
        ({"k": None}, "all of its vectors"),
        ({"k": None, "where": {"source": "web"}}, "all of its vectors"),
    ):
        with pytest.raises(Conflict, match=f"Bare.*{lack}"):
            outside.search("how old", **options)
    with pytest.raises(InvalidInput, match="without an embedder"):
        Outside(array, None).search("how old")
    assert len(Outside(array, None).search(np.eye(WIDTH)[0])) == 10


def test_exact_search_is_for_stores_that_say_so(array):
    outside = Outside(array, HASHING)
    assert_same(outside.search("how old", exact=True), outside.search("how old"))
    for search in (Outside(Bare(array), HASHING).search, Outside(Bare(array), HASHING).search_many):
        with pytest.raises(Conflict, match="Bare does not say that it is exact"):
            search(["how old"], exact=True)


def test_everything_cannot_be_filtered_without_allowed(array):
    class Whole(Bare):
        def everything(self):
            return array.everything()

    outside = Outside(Whole(array), HASHING)
    assert_same(outside.search("how old", k=None), Outside(array, HASHING).search("how old", k=None))
    with pytest.raises(Conflict, match="takes no where"):
        outside.search("how old", k=None, where={"source": "web"})


def test_words_are_searched_where_the_store_can(array):
    class Words(Bare):
        def words(self, text, k, where):
            return [at for at in (7, 3, 7, -1, 11, 12) if where is None or where.matches(METADATA[at])]

    outside = Outside(Words(array), HASHING)
    assert {hit.row for hit in outside.search("any", candidates="words", k=3, n=3, method="nearest")} == {7, 3, 11}
    found = outside.search("any", candidates="words", where={"source": "web"}, method="nearest")
    assert {hit.row for hit in found} == {3, 12}
    assert {7, 3} <= {hit.row for hit in outside.search("any", candidates="both", n=50, k=50, method="nearest")}


def test_the_embedder_must_fit(array):
    with pytest.raises(WrongEmbedder, match=f"width 32.*width {WIDTH}"):
        Outside(array, embedder("hashing", width=32))


# --- what databases do differently


@given(st.data())
@settings(max_examples=examples(30))
def test_order_repeats_padding_and_length_change_nothing(data):
    array = ArrayStore(HASHING.embed(TEXTS), TEXTS, METADATA, ids=IDS)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    lengths = rng.uniform(0.1, 50)

    def shuffled(ids, scores):
        again = rng.integers(len(ids), size=data.draw(st.integers(0, 3))) if len(ids) else []
        ids, scores = np.append(ids, ids[again]), np.append(scores, scores[again])
        ids, scores = np.append(ids, [-1, -1]), np.append(scores, [np.nan, -np.inf])
        order = rng.permutation(len(ids))
        kind = data.draw(st.sampled_from([np.int32, np.int64]))
        return ids[order].astype(kind).tolist(), scores[order].astype(np.float32)

    store = Spoiled(
        array,
        nearest=each(shuffled),
        vectors=lambda found: (found * lengths).astype(data.draw(st.sampled_from([np.float64, np.float32]))).tolist(),
        passages=tuple,
    )
    options = data.draw(st.sampled_from([{}, {"k": 9}, {"where": {"source": "web"}}, {"residual": True, "k": 9}]))
    prompt = data.draw(st.sampled_from(PROMPTS))
    assert_same(Outside(store, HASHING).search(prompt, **options), Outside(array, HASHING).search(prompt, **options))


def test_more_than_asked_for_is_cut(array):
    class Generous(Bare):
        def nearest(self, queries, k, where):
            return super().nearest(queries, 3 * k, where)

    same = Outside(array, HASHING).search("how old", k=5, n=5, method="nearest")
    assert_same(Outside(Generous(array), HASHING).search("how old", k=5, n=5, method="nearest"), same)


def test_answers_come_sorted_and_cut(array):
    def spoiled(ids, scores):
        return np.append(ids[::-1], ids), np.append(scores[::-1], scores)

    class Generous(Bare):
        def nearest(self, queries, k, where):
            return each(spoiled)(super().nearest(queries, 3 * k, where))

    queries = array.vectors(np.arange(4))
    for found, same in zip(
        CheckedStore(Generous(array)).nearest(queries, 8, None), Bare(array).nearest(queries, 8, None), strict=True
    ):
        assert found.ids.tolist() == same.ids.tolist()
        assert found.scores.tolist() == same.scores.tolist()


def test_half_precision_and_integers_are_brought_to_unit_length(array):
    half = Spoiled(array, vectors=lambda found: found.astype(np.float16))
    # By nearness: a rounded vector may well change which of two equally good passages SIFT takes.
    found = Outside(half, HASHING).search("how old is Jordan", method="nearest")
    same = Outside(array, HASHING).search("how old is Jordan", method="nearest")
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in same], abs=1e-2)
    codes = Spoiled(array, vectors=lambda found: np.rint(127 * found).astype(np.int8))
    assert len(Outside(codes, HASHING).search("how old is Jordan", residual=True, k=9)) == 10


WRONG = {
    "distances": ({"nearest": each(lambda ids, scores: (ids, 1 - scores))}, "must be cosines"),
    "squared distances": ({"nearest": each(lambda ids, scores: (ids, 2 - 2 * scores))}, "must be cosines"),
    "products of long vectors": ({"nearest": each(lambda ids, scores: (ids, 3 * scores))}, "must be cosines"),
    "a score that is no number": ({"nearest": each(lambda ids, scores: (ids, scores * np.nan))}, "score nan for id"),
    "one answer too few": ({"nearest": lambda answers: answers[1:]}, "for each of 2 queries, got 1"),
    "an array for all": (
        {"nearest": lambda answers: np.array([one.ids for one in answers])},
        "one \\(ids, scores\\) for each of 2 queries, got ndarray",
    ),
    "ids alone": ({"nearest": each(lambda ids, scores: ids)}, r"must return \(ids, scores\)"),
    "names as ids": ({"nearest": each(lambda ids, scores: (ids.astype(str), scores))}, "whole numbers, got <U"),
    "ids with a fraction": ({"nearest": each(lambda ids, scores: (ids + 0.5, scores))}, "whole numbers, got float64"),
    "huge ids": (
        {"nearest": each(lambda ids, scores: (ids.astype(np.uint64) + np.uint64(2**63), scores))},
        "whole numbers, got uint64",
    ),
    "fewer scores": ({"nearest": each(lambda ids, scores: (ids, scores[1:]))}, "10 ids and scores of shape"),
    "a vector too few": ({"vectors": lambda found: found[1:]}, "10 ids.*deleted since"),
    "narrow vectors": ({"vectors": lambda found: found[:, 1:]}, rf"shape \(10, {WIDTH}\).*\(10, {WIDTH - 1}\)"),
    "ragged vectors": ({"vectors": lambda found: [*found[1:].tolist(), [1.0]]}, "array of floats"),
    "no vectors": ({"vectors": lambda found: [None] * len(found)}, "got object"),
    "a zero vector": ({"vectors": lambda found: found * 0}, r"vector of id \d+ is zero"),
    "a vector that is not finite": ({"vectors": lambda found: np.full_like(found, np.inf)}, "zero or not finite"),
    "vectors in another order": (
        {"vectors": lambda found: found[np.argsort(found[:, 0])]},
        "vectors must return one row for each id, in the order",
    ),
    "texts in another order": (
        {"passages": lambda found: sorted(found, key=lambda one: one.text)},
        "passages must return one for each id, in the order",
    ),
    "a text too few": ({"passages": lambda found: found[1:]}, "a list of 10.*got 9"),
    "bare texts": ({"passages": lambda found: [one.text for one in found]}, "as a Passage, got str"),
    "a text that is none": ({"passages": lambda found: [replace(one, text=None) for one in found]}, "str as text"),
    "no metadata": ({"passages": lambda found: [Passage(one.text, None) for one in found]}, "dict as meta"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_would_be_silently_wrong_is_an_error(array, what):
    spoil, message = WRONG[what]
    # Ten each for q and −q, from both ends of the store: all of it is looked at.
    with pytest.raises(InvalidInput, match=message):
        Outside(Spoiled(array, **spoil), HASHING).search("how old is Jordan", k=10, opposites=True)


def test_a_filter_that_was_not_applied_is_found_out(array):
    class Deaf(Bare):
        def nearest(self, queries, k, where):
            return super().nearest(queries, k, None)

    with pytest.raises(InvalidInput, match='Deaf was asked for source = "web", and id'):
        Outside(Deaf(array), HASHING).search("how old is Jordan", where={"source": "web"})


def test_an_exact_store_repeats_nothing(array):
    twice = Spoiled(
        array, exact=True, nearest=each(lambda ids, scores: (np.append(ids, ids), np.append(scores, scores)))
    )
    with pytest.raises(InvalidInput, match="says that it is exact"):
        Outside(twice, HASHING).search("how old is Jordan", residual=True)


@pytest.mark.parametrize("store", [object(), np.eye(3), "milvus"])
def test_what_is_no_store(store):
    with pytest.raises(InvalidInput, match="is no Store: it has no method nearest, vectors, passages"):
        Outside(store, HASHING)


@pytest.mark.parametrize("width", [0, -1, "16", 16.0, True])
def test_a_width_that_is_none(array, width):
    with pytest.raises(InvalidInput, match="width must be a whole number"):
        Outside(Spoiled(array, width=width), None)


def test_wrong_masks_and_matrices_of_everything(array):
    class Whole(Bare):
        mask = np.ones(SIZE, dtype=np.bool_)
        matrix = array.everything()

        def everything(self):
            return self.matrix

        def allowed(self, where):
            return self.mask

    outside = Outside(store := Whole(array), HASHING)
    assert len(outside.search("how old is Jordan", k=None)) == 10
    store.mask = np.ones(SIZE - 1, dtype=np.bool_)
    with pytest.raises(InvalidInput, match=r"119 rows.*120"):
        outside.search("how old", k=None)
    store.mask = np.arange(5)
    with pytest.raises(InvalidInput, match="must return booleans"):
        outside.search("how old", k=None)
    store.matrix = array.everything()[:, 1:]
    with pytest.raises(InvalidInput, match=rf"everything must return floats of shape \(rows, {WIDTH}\)"):
        outside.search("how old", k=None)


# --- arrays


def test_an_array_store_refuses_what_is_no_vector():
    with pytest.raises(InvalidInput, match="vector 1 is zero"):
        ArrayStore([[1.0, 0.0], [0.0, 0.0]], ["a", "b"])
    with pytest.raises(InvalidInput, match="vectors must be"):
        ArrayStore([[1.0, 0.0]], ["a", "b"])
    with pytest.raises(InvalidInput, match="metadata"):
        ArrayStore([[1.0, 0.0]], ["a"], [])


def test_an_empty_array_store_is_searched_in_vain():
    outside = Outside(ArrayStore(np.zeros((0, WIDTH)), []), HASHING)
    for options in ({}, {"k": None}, {"residual": True}, {"per_document": 1}):
        found = outside.search("how old", **options)
        assert (len(found), found.considered) == (0, 0)
