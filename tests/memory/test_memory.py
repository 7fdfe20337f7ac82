"""What is stored, what goes with a deletion, and what is refused, with words that name the wrong value."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from memory.oracle import Counting
from siftlm import Memory
from siftlm.embedding import HashingEmbedder
from siftlm.errors import BadRecord, Conflict, InvalidInput, NotAMemory, SiftlmError, UnknownName, WrongEmbedder
from siftlm.memory import Added, manifest

LINE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
NEARLY = LINE + " fifteen"


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=64)) as made:
        yield made


@pytest.fixture
def near(tmp_path):
    with Memory.create(tmp_path / "near", embedder=HashingEmbedder(width=64), near_duplicates=0.7) as made:
        yield made


def passages(memory: Memory, where: Any = None) -> list[Any]:
    with memory.snapshot() as snapshot:
        return snapshot.passages(memory.rows(where).tolist(), None)


# --- what is stored


def test_an_equal_text_is_stored_once_with_a_count(memory):
    assert memory.add(["tea", "rain", "tea"]) == Added(documents=3, passages=2, duplicates=1)
    assert memory.add(["tea"]) == Added(documents=1, duplicates=1)
    assert [(one.text, one.copies) for one in passages(memory)] == [("tea", 3), ("rain", 1)]


def test_a_shared_text_goes_with_its_last_holder(memory):
    memory.add(["tea", "tea", "rain"], [{"by": "ann"}, {"by": "ben"}, {}])
    assert (memory.delete({"by": "ann"}).documents, len(memory)) == (1, 2)
    [hit] = memory.search("tea", 1)
    assert (hit.text, hit.meta, hit.copies) == ("tea", {"by": "ben"}, 1)
    assert memory.delete({"by": "ben"}).passages == 1
    assert memory.texts(memory.rows()) == ["rain"]
    assert memory.delete({"by": "ben"}).documents == 0


def test_a_near_copy_goes_with_the_text_that_it_leans_on(near):
    added = near.add([LINE, NEARLY, "rain"], [{"by": "ann"}, {"by": "ben"}, {}])
    assert (added.passages, added.near_duplicates) == (2, 1)
    [hit] = near.search(LINE, 1, where={"by": "ben"})
    assert (hit.text, hit.meta, hit.copies) == (LINE, {"by": "ben"}, 2)
    deleted = near.delete({"by": "ann"})
    assert (deleted.documents, deleted.passages) == (2, 1)
    assert near.verify().problems == ()
    # What was nearly a copy of something that is gone is new.
    assert near.add([NEARLY]).passages == 1


def test_a_near_copy_that_goes_leaves_the_text(near):
    near.add([LINE, NEARLY], [{"by": "ann"}, {"by": "ben"}])
    deleted = near.delete({"by": "ben"})
    assert (deleted.documents, deleted.passages) == (1, 0)
    assert [(one.text, one.copies, one.meta) for one in passages(near)] == [(LINE, 1, {"by": "ann"})]


def test_a_document_that_lost_a_passage_still_counts_the_others(tmp_path):
    with Memory.create(tmp_path / "memory", near_duplicates=0.7, passage_tokens=16, overlap=0) as memory:
        memory.add([LINE], [{"by": "ann"}])
        memory.add([f"{NEARLY}.\n\nsomething that is quite another matter"])
        assert [(one.part, one.parts) for one in passages(memory)] == [(0, 1), (1, 2)]
        memory.delete({"by": "ann"})
        [left] = passages(memory)
        assert (left.part, left.parts, memory.verify().problems) == (1, 2, ())


def test_the_meta_shown_is_of_a_document_that_the_filter_means(memory):
    memory.add(["tea"] * 3, [{"n": 1}, {"n": 2}, {"n": 3}], ids=["a", "b", "c"])
    for n, key in ((1, "a"), (2, "b"), (3, "c")):
        [hit] = memory.search("tea", 1, where={"n": n})
        assert (hit.meta, hit.id) == ({"n": n}, key)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("full_text", [True, False])
def test_nothing_in_it_is_no_trouble(tmp_path, storage, full_text):
    with Memory.create(tmp_path / "memory", storage=storage, full_text=full_text) as memory:
        assert (len(memory), memory.rows().tolist(), memory.texts([])) == (0, [], [])
        assert memory.vectors([]).shape == (0, memory.width)
        assert memory.add([]) == Added()
        assert memory.delete({"a": 1}).documents == 0
        assert memory.compact().passages == 0
        assert memory.verify().ok
        assert "0 passages" in repr(memory)


ODD = [
    "a\0b nul",
    "\0 first",
    "né à 東京 🙂",
    "  around  ",
    "tab\tline\nend\r\n",
    "\ufeffmark",
    "x" * 20_000,  # a longer word is cut
    "'; DROP --",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text[:8]))
def test_odd_texts_come_back_as_they_were(tmp_path, text):
    with Memory.create(tmp_path / "memory", passage_tokens=100) as memory:
        memory.add([text], [{"text": text[:10], "nested": {"a": [1, None, True, 1.5]}}], ids=[text[:10]])
        [hit] = memory.search(text[:50], 1, method="nearest")  # 50 letters of 20,000 are another word
        assert hit.text == text.strip()
        assert (hit.meta, hit.id) == ({"text": text[:10], "nested": {"a": [1, None, True, 1.5]}}, text[:10])
        memory.delete({"nested.a": 1.5})
        memory.compact()
        assert len(memory) == 0


def test_a_huge_document_is_cut(tmp_path):
    words = np.random.default_rng(0).integers(0, 500, size=40_000)
    text = " ".join(f"word{number}" for number in words)
    with Memory.create(tmp_path / "memory", passage_tokens=400, overlap=0) as memory:
        assert memory.add([text]).passages == len(memory) > 90
        assert " ".join(memory.texts(memory.rows())) == text


def test_add_is_all_or_nothing(memory):
    memory.add(["rain"])
    with pytest.raises(InvalidInput, match="'b'"):
        memory.add(["a", "b"], vectors=[[1.0] * 64, [0.0] * 64])
    assert memory.texts(memory.rows()) == ["rain"]
    assert memory.verify().problems == ()
    assert memory.add(["a"]).passages == 1


# --- what is refused


def unit(n: int = 1, d: int = 64) -> Any:
    return np.ones((n, d))


ADDING: list[tuple[str, dict[str, Any], str]] = [
    ("one string", {"texts": "tea"}, "texts must be a list of strings, got str"),
    ("none", {"texts": None}, "texts must be a list"),
    ("a generator", {"texts": (text for text in "ab")}, "texts must be a list"),
    ("a number", {"texts": ["a", 5]}, r"texts\[1\] must be a string, got int"),
    ("bytes", {"texts": [b"a"]}, r"texts\[0\] must be a string, got bytes"),
    ("empty", {"texts": ["a", ""]}, r"texts\[1\] is empty"),
    ("space", {"texts": [" \n"]}, r"texts\[0\] is empty"),
    ("surrogate", {"texts": ["a", "b\ud800"]}, r"texts\[1\] holds half a character .* position 1"),
    ("one dict", {"texts": ["a"], "metadata": {"b": 1}}, "metadata must be a list, got dict"),
    ("generated dicts", {"texts": ["a"], "metadata": ({} for _ in "a")}, "metadata must be a list, got generator"),
    ("two dicts", {"texts": ["a"], "metadata": [{}, {}]}, "metadata has 2 entries for 1 texts"),
    ("no dict", {"texts": ["a"], "metadata": [5]}, r"metadata\[0\] must be a dict, got int"),
    ("NaN", {"texts": ["the text"], "metadata": [{"b": float("nan")}]}, "'the text': metadata must be what JSON"),
    ("a set", {"texts": ["the text"], "metadata": [{"b": {1}}]}, "'the text': metadata .* set"),
    ("a tuple as key", {"texts": ["a"], "metadata": [{(1, 2): 3}]}, "metadata must be what JSON"),
    ("half a character", {"texts": ["a"], "metadata": [{"b": "\udc00"}]}, "metadata must be what JSON"),
    ("an id", {"texts": ["a"], "ids": "a"}, "ids must be a list, got str"),
    ("ids", {"texts": ["a"], "ids": 5}, "ids must be a list, got int"),
    ("number as id", {"texts": ["a"], "ids": [5]}, r"ids\[0\] must be a string, got 5"),
    ("half an id", {"texts": ["a"], "ids": ["\ud83d"]}, r"ids\[0\] holds half a character"),
    ("too few ids", {"texts": ["a", "b"], "ids": ["x"]}, "ids has 1 entries for 2 texts"),
    ("a vector", {"texts": ["a"], "vectors": [1.0] * 64}, r"vectors must be \(1, d\) numbers, .* \(64,\)"),
    ("too many vectors", {"texts": ["a"], "vectors": unit(2)}, r"vectors must be \(1, d\) .* \(2, 64\)"),
    ("width", {"texts": ["a"], "vectors": unit(1, 5)}, r"\(5,\).* width 64"),
    ("zero", {"texts": ["the text"], "vectors": 0 * unit()}, "'the text' is zero or not finite"),
    ("NaNs", {"texts": ["the text"], "vectors": np.nan * unit()}, "'the text' is zero or not finite"),
    ("infinity", {"texts": ["the text"], "vectors": np.inf * unit()}, "'the text' is zero or not finite"),
    ("words", {"texts": ["a"], "vectors": [["x"] * 64]}, "vectors must be"),
    ("complex", {"texts": ["a"], "vectors": 1j * unit()}, "vectors must be .* complex"),
    ("ragged", {"texts": ["a", "b"], "vectors": [[1.0], [1.0, 2.0]]}, "vectors cannot be made into an array"),
]


@pytest.mark.parametrize(("given", "words"), [case[1:] for case in ADDING], ids=[case[0] for case in ADDING])
def test_what_cannot_be_added_is_named(memory, given, words):
    with pytest.raises(InvalidInput, match=words):
        memory.add(**given)
    assert len(memory) == 0


SEARCHING: list[tuple[Any, dict[str, Any], str]] = [
    ("", {}, "the prompt is empty: it must be a text, texts, or vectors"),
    ("  ", {}, "the prompt is empty"),
    ([], {}, "width 64, got shape"),
    (None, {}, "the prompt must be a text, texts, or vectors of width 64, got None"),
    (3, {}, "the prompt must be a text, texts, or vectors of width 64, got 3"),
    (["a", 5], {}, "the prompt must be a text, texts, or vectors of width 64, got texts among which number 1 is 5"),
    (b"a", {}, "the prompt must be a text, texts, or vectors of width 64, got b'a'"),
    (np.ones(5), {}, r"width 64, got shape \(1, 5\)"),
    (np.ones((1, 1, 64)), {}, r"got shape \(1, 1, 64\)"),
    (np.zeros(64), {}, "zero or not finite"),
    (np.full(64, np.nan), {}, "zero or not finite"),
    ("tea", {"n": 0}, "n must be a whole number ≥ 1, got 0"),
    ("tea", {"n": 2.0}, "n must be a whole number ≥ 1, got 2.0"),
    ("tea", {"n": True}, "n must be a whole number"),
    ("tea", {"n": "3"}, "n must be a whole number ≥ 1, got '3'"),
    ("tea", {"k": 0}, "k must be a whole number ≥ 1"),
    ("tea", {"k": "all"}, "k must be a whole number ≥ 1, got 'all'"),
    ("tea", {"method": "shift"}, "unknown method 'shift'; did you mean 'sift'"),
    ("tea", {"method": ["sift"]}, "unknown method"),
    ("tea", {"candidates": "vector"}, "candidates must be one of vectors, words, both, got 'vector'"),
    ("tea", {"candidates": "words", "k": None}, "candidates='words' needs a limited k"),
    ("tea", {"residual": True, "method": "nearest"}, "residual=True needs a limited k"),
    ("tea", {"residual": True, "k": None}, "residual=True needs a limited k"),
    ("tea", {"k": None, "per_document": 1}, "per_document needs a number of candidates"),
    ("tea", {"per_document": 0}, "per_document must be a whole number ≥ 1"),
    ("tea", {"without_copies": 2}, "without_copies must be a number > 0 and ≤ 1.*True or False"),
    ("tea", {"without_copies": "yes"}, "without_copies must be a number > 0 and ≤ 1.*True or False"),
    ("tea", {"exclude": "ab"}, "exclude must be a list of rows"),
    ("tea", {"exclude": [-1]}, "exclude must be a list of rows"),
    ("tea", {"exclude": [0.5]}, "exclude must be a list of rows"),
    ("tea", {"exclude": [[1], [2, 3]]}, "exclude must be a list of rows"),
    ("tea", {"where": 5}, "where: expected a dict"),
    ("tea", {"where": "source wiki"}, "where, column"),
    ("tea", {"where": {"a": None}}, "null"),
    ("tea", {"noise": -1}, "noise"),
    ("tea", {"nosie": 1}, "unknown setting 'nosie'; did you mean 'noise'"),
]


@pytest.mark.parametrize(("query", "settings", "words"), SEARCHING, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("filled", [True, False])
def test_what_cannot_be_searched_is_named(memory, query, settings, words, filled):
    memory.add(["tea", "rain"] if filled else [])
    with pytest.raises(InvalidInput, match=words):
        memory.search(query, **settings)
    with pytest.raises(InvalidInput, match=words):
        memory.search_many([query], **settings)


def test_a_prompt_without_a_direction_is_shown_and_a_wrong_one_of_several_is_numbered(memory, tmp_path):
    with pytest.raises(InvalidInput, match=r"^prompt 1 must be a text, texts, or vectors of width 64, got None"):
        memory.search_many(["tea", None])
    with (
        Memory.create(tmp_path / "zero", embedder=Counting(64, spoil=lambda found: 0 * found)) as zero,
        pytest.raises(InvalidInput, match="the prompt 'tea' has no direction"),
    ):
        zero.search("tea")


def test_prompts_that_are_no_list_are_refused(memory):
    for wrong in ("tea", 5, None):
        with pytest.raises(InvalidInput, match="queries must be a list of prompts"):
            memory.search_many(wrong)


@pytest.mark.parametrize("rows", [[5], [-1], [0.0], ["a"], [[0]], [[0], [0, 1]], [True], None, [1]])
def test_rows_that_are_not_there_are_refused(memory, rows):
    memory.add(["tea", "rain", "snow"], [{}, {"going": 1}, {}])
    memory.delete({"going": 1})
    for ask in (memory.texts, memory.vectors):
        with pytest.raises(InvalidInput, match="row"):
            ask(rows)


@pytest.mark.parametrize("where", [None, {}, "", "  "])
def test_deleting_everything_is_asked_for_otherwise(memory, where):
    with pytest.raises(InvalidInput, match="delete needs a filter"):
        memory.delete(where)


def test_documents_are_deleted_by_the_numbers_that_they_are_listed_by(tmp_path):
    with Memory.create(tmp_path / "m") as made:
        made.add(["one", "two", "three", "one"], ids=["a", None, None, None])
        assert [(one.number, one.id) for one in made.documents()] == [(0, "a"), (1, None), (2, None), (3, None)]
        gone = made.delete(numbers=[0, 2, 77])
        assert (gone.documents, gone.passages) == (2, 1)  # the last document holds "one" as well
        assert [one.text for one in made.documents()] == ["two", "one"]
        made.compact()
        assert made.delete(numbers=(3,)).passages == 1
        assert made.delete(numbers=[]).documents == 0
        with pytest.raises(InvalidInput, match="each of numbers must be a whole number ≥ 0, got -1"):
            made.delete(numbers=[-1])
        with pytest.raises(InvalidInput, match="a filter or numbers of documents, not both"):
            made.delete("x = 1", numbers=[1])
        assert [one.text for one in made.documents()] == ["two"]


MAKING: list[tuple[dict[str, Any], str]] = [
    ({"storage": "float64"}, "unknown storage 'float64'; did you mean 'float.*'[?] Known: float16, float32, int8"),
    ({"storage": ["int8"]}, "unknown storage"),
    ({"passage_tokens": 0}, "passage_tokens must be a whole number ≥ 1, got 0"),
    ({"passage_tokens": 2.5}, "passage_tokens must be"),
    ({"passage_tokens": True}, "passage_tokens must be"),
    ({"passage_tokens": 10, "overlap": 6}, r"overlap must be .* \(10\), got 6"),
    ({"overlap": -1}, "overlap must be"),
    ({"overlap": "1"}, "overlap must be"),
    ({"near_duplicates": 0}, "near_duplicates must be a number > 0 and ≤ 1, got 0"),
    ({"near_duplicates": 1.5}, "near_duplicates must be"),
    ({"near_duplicates": float("nan")}, "near_duplicates must be"),
    ({"full_text": "no"}, "full_text must be True or False, got 'no'"),
    ({"embedder": "hashng"}, "unknown embedder 'hashng'; did you mean 'hashing'"),
    ({"embedder": 5}, "int is no embedder"),
]


@pytest.mark.parametrize(("settings", "words"), MAKING, ids=str)
def test_what_cannot_be_made_is_named_and_leaves_nothing(tmp_path, settings, words):
    for make in (Memory.create, lambda into, **wrong: Memory.build(["tea"], into, **wrong)):
        with pytest.raises(InvalidInput, match=words):
            make(tmp_path / "memory", **settings)
        assert not (tmp_path / "memory").exists()


def test_a_corpus_that_is_not_there_or_badly_asked_for_leaves_nothing(tmp_path):
    into = tmp_path / "memory"
    with pytest.raises(InvalidInput, match=r"no file or folder .*gone\.jsonl"):
        Memory.build(str(tmp_path / "gone.jsonl"), into)
    with pytest.raises(UnknownName, match="'storge'"):
        Memory.build(["tea"], into, storge="int8")
    with pytest.raises(InvalidInput, match="put it in a list"):
        Memory.build(5, into)
    assert not into.exists()


def test_bad_must_be_one_of_two(memory):
    with pytest.raises(InvalidInput, match="bad must be 'skip' or 'fail', got 'stop'"):
        memory.ingest(["tea"], bad="stop")
    with pytest.raises(BadRecord, match="item 2"):
        memory.ingest(["tea", ""], bad="fail")


def test_only_a_memory_is_opened(tmp_path):
    with pytest.raises(NotAMemory, match="no such folder"):
        Memory.open(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAMemory, match="is a file"):
        Memory.open(tmp_path / "file")
    with pytest.raises(NotAMemory, match=r"no manifest\.json"):
        Memory.open(tmp_path)
    with pytest.raises(SiftlmError, match=r"holds 'file'"):
        Memory.create(tmp_path)
    with pytest.raises(NotAMemory, match="is a file"):
        Memory.create(tmp_path / "file")


def test_what_is_there_already_is_not_made_again(memory):
    with pytest.raises(Conflict, match="is a memory already"):
        Memory.create(memory.path)


@pytest.mark.parametrize("version", [manifest.MANIFEST_FORMAT + 1, 0, "two", None])
def test_another_format_is_refused(memory, version):
    path = memory.path / manifest.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": version}))
    with pytest.raises(SiftlmError, match="format"):
        Memory.open(memory.path)


def test_another_embedder_is_refused_and_both_are_named(memory):
    other = HashingEmbedder(width=128)
    for make in (Memory.open, lambda path, embedder: Memory.build(["tea"], path, embedder=embedder)):
        with pytest.raises(WrongEmbedder) as caught:
            make(memory.path, embedder=other)
        assert memory.manifest.fingerprint in str(caught.value)
        assert other.fingerprint in str(caught.value)


def test_an_embedder_is_held_to_its_promise(tmp_path):
    narrow = Counting(64, spoil=lambda found: found[:, :5])
    with (
        Memory.create(tmp_path / "memory", embedder=narrow) as memory,
        pytest.raises(InvalidInput, match=r"'counting' gave shape \(1, 5\) for 1 texts of width 64"),
    ):
        memory.add(["tea"])
    with Memory.create(tmp_path / "nan", embedder=Counting(64, spoil=lambda found: found * np.nan)) as memory:
        with pytest.raises(InvalidInput, match="'tea' is zero or not finite"):
            memory.add(["tea"])
        assert memory.verify().ok


def test_given_vectors_need_no_model(memory):
    with Memory.open(memory.path) as opened:
        opened.add(["tea"], vectors=unit())
        assert opened._embedder is None
    assert memory.search(np.ones(64), 1)[0].score == pytest.approx(1)


def test_a_relative_path_means_the_same_folder_wherever_one_goes(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    here = Memory.build(["alpha text"], into="memory")
    monkeypatch.chdir(tmp_path / "there")
    with Memory.build(["beta text", "gamma text"], into="memory") as there, here:
        assert here.texts(here.rows()) == ["alpha text"]
        assert [hit.text for hit in pickle.loads(pickle.dumps(here)).search("text")] == ["alpha text"]
        here.add(["delta text"])
        assert here.delete("not exists anything").documents == 2
        assert len(there) == 2
