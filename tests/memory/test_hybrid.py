"""Search by words, and by words and vectors: the order, the scores, the selection, and memories of before."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm import Memory, select
from siftlm.errors import InvalidInput, NotAMemory
from siftlm.memory import ArrayStore, Neighbours, Outside, database, keywords, manifest

VOCABULARY = ["oil", "lamp", "keeper", "fog", "horn", "rock", "ship", "lens", "coal", "boat", "gull", "the", "of"]
WIDTH = 512


def bm25(texts: dict[int, str], prompt: str) -> dict[int, float]:
    """The definition, as FTS5 has it, over the words of the prompt that are not too common."""
    counts = {row: Counter(text.split()) for row, text in texts.items()}
    holding = Counter(word for own in counts.values() for word in own)
    known = [word for word in dict.fromkeys(prompt.split()) if holding[word]]
    rare = [word for word in known if holding[word] <= 0.3 * len(texts)] or known
    mean = sum(own.total() for own in counts.values()) / max(1, len(texts))
    scores = {}
    for row, own in counts.items():
        if not any(own[word] for word in rare):
            continue
        longer = 1.2 * (0.25 + 0.75 * own.total() / mean)
        scores[row] = 0.0
        for word in rare:
            weight = max(1e-6, math.log((len(texts) - holding[word] + 0.5) / (holding[word] + 0.5)))
            scores[row] += weight * 2.2 * own[word] / (own[word] + longer)
    return scores


def alive(memory: Memory) -> dict[int, str]:
    rows = memory.rows().tolist()
    return dict(zip(rows, memory.texts(rows), strict=True))


def ranked(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda row: (-round(scores[row], 9), row))


TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=24)


@settings(max_examples=examples(25), deadline=None)
@given(TEXTS, st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join), st.integers(0, 3))
def test_the_nearest_by_words_are_in_the_order_of_bm25(tmp_path_factory, texts, prompt, turn):
    with Memory.create(tmp_path_factory.mktemp("words") / "memory", embedder="hashing") as memory:
        memory.add(texts, [{"third": at % 3} for at in range(len(texts))])
        if turn == 1:
            memory.delete({"third": 0})
        where = {"third": 1} if turn == 2 else None
        exclude = [0, 2] if turn == 3 else None
        scores = bm25(alive(memory), prompt)
        allowed = set(memory.rows(where).tolist()) - set(exclude or ())
        expected = [row for row in ranked(scores) if row in allowed]
        for k in (4, 200):
            settings = {"k": k, "candidates": "words", "method": "nearest", "where": where, "exclude": exclude}
            found = memory.search(prompt, 50, **settings)
            assert [hit.row for hit in found] == expected[:k]
            assert [hit.words_score for hit in found] == pytest.approx([scores[row] for row in expected[:k]])
            assert {hit.fused_score for hit in found} <= {None}


@settings(max_examples=examples(25), deadline=None)
@given(TEXTS, st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join), st.integers(0, 3))
def test_the_nearest_by_both_are_in_the_order_of_the_fused_scores(tmp_path_factory, texts, prompt, turn):
    with Memory.create(tmp_path_factory.mktemp("both") / "memory", embedder="hashing") as memory:
        memory.add(texts, [{"third": at % 3} for at in range(len(texts))])
        if turn == 1:
            memory.delete({"third": 0})
        where = {"third": 1} if turn == 2 else None
        exclude = [0, 2] if turn == 3 else None
        rows = [row for row in memory.rows(where).tolist() if row not in (exclude or ())]
        words = bm25(alive(memory), prompt)
        best = max((words.get(row, 0) for row in rows), default=0) or 1
        [query] = memory.embedder.embed([prompt], as_query=True)
        cosines = dict(zip(rows, (memory.vectors(rows) @ query / np.linalg.norm(query)).tolist(), strict=True))
        fused = {row: 0.6 * cosines[row] + 0.4 * words.get(row, 0) / best for row in rows}
        found = memory.search(prompt, 50, candidates="both", method="nearest", where=where, exclude=exclude)
        # Scores that differ by rounding alone may stand in either order.
        assert sorted(hit.row for hit in found) == rows
        assert [hit.fused_score for hit in found] == pytest.approx(sorted(fused.values(), reverse=True), abs=1e-6)
        for hit in found:
            assert hit.fused_score == pytest.approx(fused[hit.row], abs=1e-6)
            assert hit.words_score == pytest.approx(words.get(hit.row, 0.0))
            assert hit.score == pytest.approx(cosines[hit.row], abs=1e-6)
        assert all(np.diff([hit.fused_score for hit in found]) <= 0)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    rng = np.random.default_rng(5)
    texts = [f"{' '.join(rng.choice(VOCABULARY, 9))} number {at}" for at in range(120)]
    with Memory.create(tmp_path_factory.mktemp("hybrid") / "memory", embedder="hashing") as memory:
        memory.add(texts, [{"half": at % 2, "text": at // 3} for at in range(len(texts))])
        yield memory


PROMPTS = ["the lamp of the keeper", "fog horn", "a ship on the rock", "nothing of it", "lens"]
VARIATIONS = [
    {},
    {"method": "nearest"},
    {"method": "mmr"},
    {"method": "auto"},
    {"method": "nn-f"},
    {"method": "max-sum"},
    {"method": "itl"},
    {"method": "sift-fast"},
    {"where": {"half": 1}, "exclude": [3, 5]},
    {"per_document": 1},
    {"known": ["the oil of the lamp"], "kernel": "power:2"},
    {"prior": "relevance:2", "noise": 0.1},
    {"until": 0.5},
]


def facts(found):
    return [(hit.row, round(hit.gain, 9), round(hit.uncertainty, 9), hit.words_score, hit.fused_score) for hit in found]


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
@pytest.mark.parametrize("candidates", ["words", "both"])
def test_many_prompts_are_searched_as_one_at_a_time(memory, candidates, variation):
    together = memory.search_many(PROMPTS, 6, candidates=candidates, k=30, **variation)
    alone = [memory.search(prompt, 6, candidates=candidates, k=30, **variation) for prompt in PROMPTS]
    assert [facts(found) for found in together] == [facts(found) for found in alone]
    assert any(len(found) for found in alone)
    where = variation.get("where")
    assert all(hit.meta["half"] == 1 for found in alone for hit in found) or where is None


@pytest.mark.parametrize("candidates", ["words", "both"])
def test_sift_selects_from_vectors_and_words_side_by_side(memory, candidates):
    """The kernel is 0.6 of the cosine and 0.4 of the words that two passages share, as the prompt weighs them."""
    prompt = "the lamp of the keeper in the fog"
    found = memory.search(prompt, 8, candidates=candidates, noise=0.5)
    near = memory.search(prompt, 200, candidates=candidates, method="nearest")
    rows = np.array([hit.row for hit in near])
    with memory.snapshot() as snapshot:
        parts = snapshot.term_scores(prompt, rows)
    np.testing.assert_allclose(parts.sum(axis=1), [hit.words_score for hit in near], atol=1e-9)
    vectors = memory.vectors(rows).astype(float)
    [query] = memory.embedder.embed([prompt], as_query=True)
    most, best = parts.max(axis=0), parts.sum(axis=1).max()
    shared = (parts / most) @ parts.T / best
    gram = 0.6 * vectors @ vectors.T + 0.4 * shared
    cross = 0.6 * vectors @ query / np.linalg.norm(query) + 0.4 * parts.sum(axis=1) / best
    expected = _sift_by_hand(cross, gram, 8, 0.5)
    assert [hit.row for hit in found] == rows[expected].tolist()
    assert found.selection.uncertainty[0] == pytest.approx(0.6 + 0.4 * most.sum() / best)


def _sift_by_hand(cross, gram, n, noise):
    picks: list[int] = []
    for _ in range(n):
        left, variance = cross, np.diag(gram)
        if picks:
            inverse = np.linalg.inv(gram[np.ix_(picks, picks)] + noise * np.eye(len(picks)))
            left = cross - gram[:, picks] @ inverse @ cross[picks]
            variance = np.diag(gram) - np.einsum("ki,ij,kj->k", gram[:, picks], inverse, gram[:, picks])
        gains = left**2 / (variance + noise)
        gains[picks] = -1
        picks.append(int(gains.argmax()))
    return picks


@pytest.mark.parametrize("method", ["sift", "nearest"])
def test_without_a_word_that_counts_only_vectors_do(memory, method):
    prompt = "qwertz uiop"
    alone = memory.search(prompt, 9, method=method)
    both = memory.search(prompt, 9, method=method, candidates="both")
    assert [(hit.row, hit.gain, hit.uncertainty) for hit in both] == [
        (hit.row, hit.gain, hit.uncertainty) for hit in alone
    ]
    assert {hit.words_score for hit in both} == {0.0}
    assert len(memory.search(prompt, 9, method=method, candidates="words")) == 0


def test_sift_answers_both_halves_of_a_question(tmp_path):
    oil = [f"the lamp burns rapeseed oil from barrel {at}" for at in range(6)]
    horn = ["the horn sounds every ninety seconds"]
    with Memory.create(tmp_path / "memory") as memory:
        memory.add([*oil, *horn, *(f"gulls nest on ledge {at} of the cliff" for at in range(20))])
        prompt = "which oil does the lamp burn, rapeseed? how often does the horn sound, in seconds?"
        picks = memory.search(prompt, 2, candidates="both").texts
        assert picks[0] in oil + horn
        assert len({text in oil for text in picks}) == 2


def test_per_candidate_settings_are_those_of_rows_in_order(memory):
    """Whatever order the words bring: candidates that are the whole memory are its rows."""
    costs = np.linspace(1, 9, len(memory))
    found = memory.search("fog horn", 10, candidates="both", k=200, costs=costs, budget=30.0)
    assert sum(costs[hit.row] for hit in found) <= 30
    assert len(found) > 3
    capped = memory.search("fog horn", 10, candidates="both", k=200, costs=costs, budget=30.0, per_document=1)
    assert sum(costs[hit.row] for hit in capped) <= 30
    near = memory.search("fog horn", 10, k=200, costs=costs, budget=30.0, per_document=1)
    assert sum(costs[hit.row] for hit in near) <= 30


# --- scripts without spaces

SCRIPTS = {
    "Chinese": ["长城在中国的北方", "故宫是北京的博物馆", "熊猫喜欢吃竹子", "茶叶产自福建的山区"],
    "Japanese": [
        "富士山は日本で一番高い山です",
        "寿司は酢飯と魚で作ります",
        "新幹線は東京と大阪を結ぶ",
        "京都には古い寺が多い",
    ],
    "Thai": ["ช้างเป็นสัตว์ประจำชาติของไทย", "แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพ", "ผัดไทยทำจากเส้นก๋วยเตี๋ยว", "สงกรานต์คือเทศกาลปีใหม่"],
    "Hindi": ["दिल्ली भारत की राजधानी है", "ताजमहल आगरा में है", "हाथी बड़ा जानवर है", "चाय में दूध डालते हैं"],
}
QUESTIONS = {
    "Chinese": ["长城在哪里", "北京有什么博物馆？", "吃竹子的动物", "福建的茶叶"],
    "Japanese": ["日本で一番高い山は？", "寿司の作り方", "東京から大阪まで新幹線で", "古い寺はどこ"],
    "Thai": ["สัตว์ประจำชาติ", "แม่น้ำในกรุงเทพ", "ผัดไทย", "เทศกาลสงกรานต์"],
    "Hindi": ["राजधानी", "ताजमहल", "हाथी", "दूध"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_are_found_in_every_script(tmp_path, script):
    with Memory.create(tmp_path / "memory") as memory:
        memory.add([text for texts in SCRIPTS.values() for text in texts])
        for text, question in zip(SCRIPTS[script], QUESTIONS[script], strict=True):
            assert memory.search(question, 1, candidates="words", method="nearest").texts == [text]
        assert memory.verify().ok
        memory.add(["一只熊猫"], ids=["panda"])
        assert len(memory.search("熊猫", candidates="words")) == 2
        memory.delete({"@id": "panda"})
        assert len(memory.search("熊猫", candidates="words")) == 1
        assert memory.verify().ok


def as_before(path: Path) -> None:
    """Make the memory one of before texts were spaced: FTS5 reads them as they are, and the manifest says nothing."""
    known = manifest.read_manifest(path)
    with closing(sqlite3.connect(known.folder(path) / database.DATABASE_FILE, isolation_level=None)) as connection:
        for statement in ("DROP TABLE vocabulary", "DROP TABLE words", "DROP VIEW spaced"):
            connection.execute(statement)
        connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5(text, content='passages', content_rowid='row', "
            "tokenize='unicode61 remove_diacritics 2')"
        )
        connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab('words', 'row')")
        connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
    manifest.write_manifest(path, replace(known, tokenizer=keywords.UNSPACED))
    file = path / manifest.MANIFEST_FILE
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["tokenizer"], content["checksum"]
    content["checksum"] = manifest._manifest_checksum(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def test_a_memory_of_before_goes_on_with_its_own_words(tmp_path):
    path = tmp_path / "memory"
    with Memory.create(path) as memory:
        memory.add(["新幹線は東京と大阪を結ぶ", "the café by the sea"], ids=["train", "sea"])
    as_before(path)
    with Memory.open(path) as memory:
        assert memory.manifest.tokenizer == keywords.UNSPACED
        assert memory.search("cafe", candidates="words").texts == ["the café by the sea"]
        assert len(memory.search("東京", candidates="words")) == 0
        memory.add(["東京 の 天気", "北京是首都"], ids=["weather", "capital"])
        assert memory.search("東京", candidates="words", method="nearest").texts == ["東京 の 天気"]
        memory.delete({"@id": "capital"})
        assert memory.verify().ok
        memory.delete({"@id": "sea"})
        memory.compact()  # which indexes the words anew
        assert memory.manifest.tokenizer == keywords.SPACED
        assert len(memory.search("東京", candidates="both")) == 2
        assert len(memory.search("東京", candidates="words")) == 2
        memory.add(["東京都"])
        assert len(memory.search("東京", candidates="words")) == 3
        assert memory.verify().ok


def test_a_tokenizer_of_a_later_version_is_named(tmp_path):
    Memory.create(tmp_path / "memory").close()
    known = manifest.read_manifest(tmp_path / "memory")
    manifest.write_manifest(tmp_path / "memory", replace(known, tokenizer="icu"))
    with pytest.raises(NotAMemory, match="split by 'icu'"):
        Memory.open(tmp_path / "memory")


# --- outside stores


class WordStore(ArrayStore):
    """A store whose words are those of a memory, in one of the three forms that are understood."""

    def __init__(self, memory: Memory, form: str) -> None:
        rows = memory.rows()
        super().__init__(memory.vectors(rows), memory.texts(rows))
        self._memory, self._words = memory, form
        if form == "parts":
            self.term_scores = self._parts

    def words(self, text, k, where):
        with self._memory.snapshot() as snapshot:
            found = snapshot.words(text, k, where)
        return found.ids.tolist() if self._words == "ids" else found

    def _parts(self, text, ids):
        with self._memory.snapshot() as snapshot:
            return snapshot.term_scores(text, ids)


@pytest.mark.parametrize("method", ["sift", "nearest"])
@pytest.mark.parametrize("candidates", ["words", "both"])
def test_an_outside_store_answers_as_a_memory(memory, candidates, method):
    settings = {"candidates": candidates, "method": method, "k": 40}
    outside = {form: Outside(WordStore(memory, form), memory.embedder) for form in ("ids", "scores", "parts")}
    for prompt in PROMPTS:
        own = memory.search(prompt, 7, **settings)
        assert facts(outside["parts"].search(prompt, 7, **settings)) == facts(own)
        for form in ("ids", "scores"):
            found = outside[form].search(prompt, 7, **settings)
            assert len(found) == len(own)
            if method == "nearest" and candidates == "words":
                assert [hit.row for hit in found] == [hit.row for hit in own]
        ranks = outside["ids"].search(prompt, 7, method="nearest", candidates="words")
        assert [hit.words_score for hit in ranks] == pytest.approx([1 / (at + 1) for at in range(len(ranks))])


def test_an_outside_store_that_scores_wrongly_is_named():
    class Distances(ArrayStore):
        def words(self, text, k, where):
            return Neighbours(np.array([1, 0]), np.array([-0.5, -1.5]))

    class Short(ArrayStore):
        def words(self, text, k, where):
            return [1, 0]

        def term_scores(self, text, ids):
            return np.zeros((1, 3))

    vectors = np.eye(2, WIDTH)
    with pytest.raises(InvalidInput, match="not above 0"):
        Outside(Distances(vectors, ["a", "b"]), "hashing").search("a", candidates="words")
    with pytest.raises(InvalidInput, match=r"term_scores must return numbers ≥ 0 \(len\(ids\), T\) for 2 ids"):
        Outside(Short(vectors, ["a", "b"]), "hashing").search("a", candidates="both")


# --- what it stands on


def test_relevance_takes_the_place_of_the_cosine():
    texts, prompt = np.eye(3), np.array([1.0, 0.5, 0.1])
    assert select(prompt, texts, 3, method="nearest").indices.tolist() == [0, 1, 2]
    given = select(prompt, texts, 3, method="nearest", relevance=[0.1, 0.3, 0.2])
    assert given.indices.tolist() == [1, 2, 0]
    assert given.gains.tolist() == pytest.approx([0.65, 0.6, 0.55])
    assert select(prompt, texts, 2, method="mmr", relevance=[0.1, 0.3, 0.2], known=[[0, 1, 0]]).indices.tolist() == [
        2,
        0,
    ]
    with pytest.raises(InvalidInput, match=r"relevance\[1\] is 1.5"):
        select(prompt, texts, 3, method="nearest", relevance=[0.1, 1.5, 0.2])
    with pytest.raises(InvalidInput, match="relevance has shape"):
        select(prompt, texts, 3, method="nearest", relevance=[0.1, 0.5])


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_scores_of_the_nearest_descend(tmp_path, storage):
    rng = np.random.default_rng(0)
    with Memory.create(tmp_path / "memory", storage=storage, full_text=False) as memory:
        memory.add([" ".join(rng.choice(VOCABULARY, 9)) + f" {at}" for at in range(300)])
        for prompt in PROMPTS:
            scores = [hit.score for hit in memory.search(prompt, 100, method="nearest")]
            assert np.diff(scores).max() <= 0
