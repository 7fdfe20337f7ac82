"""What a search promises: fast and shared paths give what the plain one gives, and filters and exclusions hold."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import siftlm
from memory.oracle import cosines
from siftlm import Memory
from siftlm.embedding import HashingEmbedder
from siftlm.errors import Conflict, Damaged, InvalidInput
from siftlm.memory import request
from siftlm.selection import Stopping

RNG = np.random.default_rng(1)
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu", "sha") for b in ("ran", "tul", "vek", "dis", "gom", "bri")]
TEXTS = list(dict.fromkeys(" ".join(RNG.choice(WORDS, RNG.integers(4, 12))) for _ in range(150)))
METAS = [{"source": "abc"[at % 3], "year": 2000 + at % 7} for at in range(len(TEXTS))]
PROMPTS = [" ".join(RNG.choice(WORDS, 6)) for _ in range(5)]
VECTORS = HashingEmbedder(width=64).embed(PROMPTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "memory"
    with Memory.create(path, embedder=HashingEmbedder(width=64)) as memory:
        memory.add(TEXTS, METAS)
        # A text that documents of two sources share, and gaps in the rows.
        memory.add(TEXTS[:30], [{"source": "shared", "year": 1990}] * 30)
        memory.delete({"year": 2006})
    return path


@pytest.fixture
def memory(folder):
    with Memory.open(folder) as opened:
        yield opened


def same(one, other):
    assert one.considered == other.considered
    assert [hit.row for hit in one] == [hit.row for hit in other]
    assert [hit.to_dict() | {"score": 0, "gain": 0, "uncertainty": 0} for hit in one] == [
        hit.to_dict() | {"score": 0, "gain": 0, "uncertainty": 0} for hit in other
    ]
    assert np.allclose(one.selection.gains, other.selection.gains, atol=1e-6, equal_nan=True)
    assert np.allclose(one.selection.uncertainty, other.selection.uncertainty, atol=1e-6, equal_nan=True)
    assert np.allclose([hit.score for hit in one], [hit.score for hit in other], atol=1e-6)
    assert one.selection.stopped == other.selection.stopped


SEARCHES: list[dict[str, Any]] = [
    {},
    {"n": 3, "k": 5},
    {"k": None},
    {"k": None, "where": {"source": "a"}},
    {"k": None, "exclude": [0, 1, 2]},
    {"method": "nearest"},
    {"method": "mmr", "k": 40},
    {"method": "random", "seed": 3},
    {"method": "cover", "k": 30, "n": 4},
    {"where": 'source = "shared" or year < 2002', "n": 20},
    {"candidates": "words"},
    {"candidates": "both", "k": 12},
    {"candidates": "both", "where": {"source": "b"}, "exclude": [1, 4]},
    {"residual": True, "k": 10},
    {"residual": True, "k": 10, "where": {"source": "c"}, "exclude": [2, 5]},
    {"without_copies": True},
    {"without_copies": 0.5, "k": None},
    {"per_document": 1, "n": 6},
    {"adaptive": 1.0, "n": 20},
    {"until": 0.3, "noise": 0.1},
    {"replacement": False, "n": 50},
    {"where": {"source": "nobody"}},
]


@pytest.mark.parametrize("wanted", SEARCHES, ids=str)
def test_a_batch_is_the_loop(memory, wanted):
    for together, prompt in zip(memory.search_many(PROMPTS, **wanted), PROMPTS, strict=True):
        same(together, memory.search(prompt, **wanted))


def test_a_batch_of_all_kinds_of_prompts_is_the_loop(memory):
    prompts = [PROMPTS[0], PROMPTS[1:3], VECTORS[3], VECTORS[2:], [PROMPTS[4]]]
    for together, prompt in zip(memory.search_many(prompts, k=20), prompts, strict=True):
        same(together, memory.search(prompt, k=20))
    assert memory.search_many([]) == []
    same(memory.search_many(VECTORS)[1], memory.search(VECTORS[1]))


def test_a_text_is_its_vector_and_several_are_several(memory):
    same(memory.search(PROMPTS[0]), memory.search(VECTORS[0]))
    same(memory.search(PROMPTS[:3]), memory.search(VECTORS[:3]))
    same(memory.search([PROMPTS[0]]), memory.search(3 * VECTORS[:1]))


@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("where", [None, {"source": "shared"}, {"year": {"<": 2003}}])
@pytest.mark.parametrize("m", [1, 3])
def test_nearest_is_a_sort_by_cosine(memory, n, where, m):
    rows = memory.rows(where)
    vectors = memory.vectors(rows)
    found = memory.search(VECTORS[:m], n, method="nearest", k=1000, where=where)
    picked = vectors[np.searchsorted(rows, [hit.row for hit in found])]
    # Nearest to several is nearest to them on average; the score is that to the nearest of them.
    assert np.allclose(
        (picked @ VECTORS[:m].T).mean(1), np.sort((vectors @ VECTORS[:m].T).mean(1))[::-1][:n], atol=1e-6
    )
    assert np.allclose([hit.score for hit in found], cosines(VECTORS[:m], picked), atol=1e-6)
    assert len(found) == min(n, len(rows))
    assert found.considered == len(rows)


@pytest.mark.parametrize("opposites", [False, True])
@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("exclude", [[], [0, 3, 8], list(range(0, 150, 2))])
def test_candidates_are_the_best_of_each_vector_and_of_its_opposite_if_asked(memory, k, exclude, opposites):
    rows = np.setdiff1d(memory.rows(), exclude)
    vectors = memory.vectors(rows)
    scores = vectors @ VECTORS[:2].T
    signs = (1, -1) if opposites else (1,)
    best = [np.argsort(-sign * column, kind="stable")[:k] for column in scores.T for sign in signs]
    among = np.unique(np.concatenate(best))
    found = memory.search(VECTORS[:2], 5, k=k, exclude=exclude, opposites=opposites)
    expected = siftlm.select(VECTORS[:2], vectors[among], min(5, len(among)), noise=1, replacement=False)
    assert found.considered == len(among)
    assert [hit.row for hit in found] == rows[among][expected.indices].tolist()


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("method", ["sift", "nearest", "mmr"])
def test_the_whole_memory_is_what_select_sees(tmp_path, storage, method):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=64), storage=storage) as memory:
        memory.add(TEXTS[:60], METAS[:60])
        memory.delete({"source": "b"})
        rows = memory.rows()
        found = memory.search(PROMPTS[0], 8, k=None, method=method, opposites=method == "sift")
        once = {"replacement": False} if method == "sift" else {}
        expected = siftlm.select(VECTORS[0], memory.vectors(rows), 8, method=method, noise=1, **once)
    assert [hit.row for hit in found] == rows[expected.indices].tolist()
    assert np.allclose(found.selection.uncertainty, expected.uncertainty, atol=1e-6)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_residual_picks_that_are_certified_are_those_of_the_whole_memory(tmp_path, storage):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=64), storage=storage) as memory:
        memory.add(TEXTS, METAS)
        certified = memory.search(PROMPTS[0], 6, residual=True, k=4, certify=True, noise=0.3)
        whole = memory.search(PROMPTS[0], 6, k=None, noise=0.3)
    assert certified.selection.certified.all()
    assert [hit.row for hit in certified] == [hit.row for hit in whole]


@pytest.mark.parametrize("wanted", SEARCHES, ids=str)
@pytest.mark.parametrize("where", [{"source": "shared"}, {"source": "a"}, 'source != "shared"'])
def test_no_hit_is_of_a_document_that_the_filter_forbids(memory, wanted, where):
    allowed = set(memory.rows(where).tolist())
    for hit in memory.search(PROMPTS[0], **(wanted | {"where": where})):
        assert hit.row in allowed
        assert siftlm.memory.filters.parse(where).matches(hit.meta)


@pytest.mark.parametrize("wanted", SEARCHES, ids=str)
def test_what_is_excluded_is_as_if_it_were_not_there(memory, wanted):
    first = {hit.row for hit in memory.search(PROMPTS[0], **wanted)}
    banned = sorted(first | set(wanted.get("exclude", [])))
    again = memory.search(PROMPTS[0], **(wanted | {"exclude": banned}))
    assert not first & {hit.row for hit in again}


def test_words_find_only_what_holds_a_word(memory):
    for prompt in PROMPTS:
        for hit in memory.search(prompt, 50, candidates="words", replacement=False):
            assert set(prompt.split()) & set(hit.text.split())
    assert len(memory.search("nowhere", candidates="words")) == 0


def test_copies_of_the_prompt_are_left_out(tmp_path):
    text = "the quick brown fox jumps over the lazy dog and runs far away into the deep green forest"
    near = text.replace("lazy", "tired").upper()
    with Memory.create(tmp_path / "memory") as memory:
        memory.add([text, near, text[4:40], "a fox lives in the forest", f"He wrote: {text}!"])
        assert {hit.text for hit in memory.search(text, 5, replacement=False)} == set(memory.texts(memory.rows()))
        for k in (200, None):
            kept = memory.search(text, 5, k=k, without_copies=True, replacement=False)
            assert {hit.text for hit in kept} == {near, "a fox lives in the forest"}
            kept = memory.search(text, 5, k=k, without_copies=0.5, replacement=False)
            assert [hit.text for hit in kept] == ["a fox lives in the forest"]
        with pytest.raises(Conflict, match="only vectors"):
            memory.search(memory.vectors([0])[0], without_copies=True)


def test_at_most_so_many_picks_a_document(tmp_path):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=64), passage_tokens=8, overlap=0) as memory:
        memory.add([" ".join(RNG.choice(WORDS, 60)) for _ in range(4)])
        found = memory.search(PROMPTS[0], 30, per_document=2)
        assert len(memory) > 20
    _, counts = np.unique([hit.document for hit in found], return_counts=True)
    assert (len(counts), counts.max(), len(found)) == (4, 2, 8)


def test_nothing_there_is_no_error_but_a_wrong_setting_is(tmp_path, memory):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=64)) as empty:
        for wanted in SEARCHES:
            found = empty.search(PROMPTS[0], **wanted)
            assert (len(found), found.considered, found.selection.stopped) == (0, 0, "exhausted")
            assert found.selection.uncertainty.tolist() == pytest.approx([1.0])
            assert [len(each) for each in empty.search_many(PROMPTS[:2], **wanted)] == [0, 0]
    for wrong in ({"noise": "much"}, {"method": "shift"}, {"nosie": 1}, {"noise": -1.0}):
        with pytest.raises(siftlm.errors.InvalidInput):
            memory.search(PROMPTS[0], where={"source": "nobody"}, **wrong)


@pytest.mark.slow
def test_eight_threads_find_what_one_finds(memory):
    # More filters than are remembered, so that threads drop each other's.
    jobs = [(prompt, f"year != {year}", k) for prompt in PROMPTS[:2] for year in range(30) for k in (20, None)]

    def search(job):
        return memory.search(job[0], 2, where=job[1], k=job[2])

    alone = [search(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(search, jobs), strict=True):
            same(one, other)


def test_ended_threads_leave_no_connections(memory):
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("needs /proc")
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(len, memory).result()
    before = len(os.listdir(descriptors))
    for _ in range(10):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(len, memory).result()
    assert len(os.listdir(descriptors)) <= before


@pytest.mark.slow
def test_a_snapshot_does_not_change_and_can_be_asked_everything(tmp_path):
    with Memory.create(tmp_path / "memory") as memory, Memory.open(tmp_path / "memory") as writer:
        memory.add(["one", "two"], [{"a": 1}, {"a": 2}])
        with memory.snapshot() as snapshot:
            writer.add(["three"])
            writer.delete({"a": 1})
            writer.compact()
            assert len(snapshot) == len(memory) == 2
            assert memory.texts(memory.rows()) == ["one", "two"]
            assert {hit.text for hit in memory.search("one two")} == {"one", "two"}
        assert memory.texts(memory.rows()) == ["two", "three"]


def test_a_memory_can_be_used_after_close_and_from_two_objects(folder):
    one, other = Memory.open(folder), Memory.open(folder)
    before = one.search(PROMPTS[0])
    one.close()
    same(before, one.search(PROMPTS[0]))
    same(before, other.search(PROMPTS[0]))
    one.close()
    other.close()


def test_a_memory_that_was_built_anew_in_the_same_place_is_the_one_that_is_searched(tmp_path):
    with Memory.create(tmp_path / "memory") as old:
        old.add(["old one", "old two"])
        assert len(old) == 2
        shutil.rmtree(tmp_path / "memory")
        with Memory.create(tmp_path / "memory") as new:
            new.add(["new one", "new two"])
        assert old.texts(old.rows()) == ["new one", "new two"]
        assert old.search("old one", 1).texts == ["new one"]


def test_a_pickled_memory_searches_alike(folder, memory):
    copy = pickle.loads(pickle.dumps(memory))
    same(copy.search(PROMPTS[0]), memory.search(PROMPTS[0]))
    assert copy.embedder is not memory.embedder
    copy.close()
    own = HashingEmbedder(width=64)
    with Memory.open(folder, embedder=own) as handed:
        copy = pickle.loads(pickle.dumps(handed))
    assert copy.embedder.fingerprint == own.fingerprint
    copy.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_searches_and_the_parent_goes_on(memory):
    before = memory.search(PROMPTS[0])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr([hit.row for hit in memory.search(PROMPTS[0])]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == repr([hit.row for hit in before])
    os.waitpid(child, 0)
    same(before, memory.search(PROMPTS[0]))


def test_what_is_known_may_be_texts_or_vectors(memory):
    known = TEXTS[:2]
    by_texts = memory.search(PROMPTS[0], n=5, known=known)
    by_vectors = memory.search(PROMPTS[0], n=5, known=memory.embedder.embed(known))
    assert [hit.row for hit in by_texts] == [hit.row for hit in by_vectors]
    assert by_texts.selection.uncertainty[0] < memory.search(PROMPTS[0], n=5).selection.uncertainty[0]
    [one] = memory.search_many([PROMPTS[0]], n=5, known=known)
    assert [hit.row for hit in one] == [hit.row for hit in by_texts]


@pytest.mark.parametrize("setting", [{"known": ["a text"]}, {"kernel": None}, {"budget": 3}, {"nope": 1}])
def test_what_a_residual_search_does_not_take_is_named(memory, setting):
    with pytest.raises(Conflict, match=f"residual=True does not go with {next(iter(setting))}"):
        memory.search(PROMPTS[0], residual=True, **setting)
    with pytest.raises(Conflict, match="does not go with"):
        memory.search_many(PROMPTS[:2], residual=True, **setting)


def test_what_a_residual_search_takes_is_what_select_from_takes():
    taken = set(inspect.signature(siftlm.select_from).parameters) - {"limits", "stopping", "rules"}
    taken |= {"replacement", "exclude", *inspect.signature(Stopping).parameters}
    assert taken == request.RESIDUAL_SETTINGS | {"query", "index", "n", "k", "exclude"}


WRONG: list[dict[str, Any]] = [
    {"n": 0},
    {"n": "3"},
    {"k": 0},
    {"k": 2.5},
    {"noise": -1},
    {"noise": "low"},
    {"noise": None},
    {"where": 5},
    {"where": "year >"},
    {"where": {"year": {"near": 1}}},
    {"candidates": "luck"},
    {"candidates": "both", "k": None},
    {"opposites": 1},
    {"without_copies": 2},
    {"per_document": 0},
    {"per_document": 2, "k": None},
    {"exclude": "row"},
    {"kernel": 5},
    {"adaptive": 0},
    {"until": 2},
    {"min_gain": -1},
    {"at_least": -1},
    {"replacement": "often"},
    {"method": "shift"},
    {"method": "eig"},
    {"method": "max-entropy"},
    {"method": "mmr", "balance": 7},
    {"method": "nearest", "balance": 1},
    {"residual": True, "kernel": None},
    {"residual": True, "method": "nearest"},
    {"residual": True, "noise": -1},
    {"budget": 3},
    {"known": 3},
    {"seed": -1},
    {"method": "hull", "replacement": True},
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_what_is_wrong_for_a_search_is_known_without_one(memory, settings, monkeypatch):
    with pytest.raises(InvalidInput) as searched:
        memory.search(PROMPTS[0], **settings)
    monkeypatch.setattr(memory, "_store", lambda: 1 / 0)
    with pytest.raises(InvalidInput) as checked:
        memory.check(**settings)
    assert (type(checked.value), str(checked.value)) == (type(searched.value), str(searched.value))


@pytest.mark.parametrize(
    "settings",
    [
        *SEARCHES,
        {"known": PROMPTS[:2]},
        {"known": VECTORS[:2]},
        {"k": None, "costs": np.ones(len(TEXTS)), "budget": 3},
        {"prior": siftlm.kernels.relevance()},
        {"kernel": siftlm.kernels.centred()},
        {"exclude": [3]},
    ],
    ids=str,
)
def test_what_is_right_for_a_search_is_right_without_one(memory, settings, monkeypatch):
    monkeypatch.setattr(memory, "_store", lambda: 1 / 0)
    memory.check(**settings)


def test_vectors_that_are_cut_off_under_a_reader_are_an_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    with Memory.open(tmp_path / "cut") as memory:
        memory.search(PROMPTS[0])
        path = next(memory.path.glob("*/vectors.f32"))
        whole = path.read_bytes()
        os.truncate(path, len(whole) - 1)
        with pytest.raises(Damaged, match=f"has {len(whole) - 1:,} bytes"):
            memory.search(PROMPTS[0])
        path.write_bytes(whole)
        memory.search(PROMPTS[0])
        path.unlink()
        memory.search(PROMPTS[0])  # what is open stays
