"""From documents to rows: passages know where they stand, everything is counted, nothing is embedded twice."""

from __future__ import annotations

import itertools
import json
import os
import tracemalloc

import numpy as np
import pytest

from memory.oracle import Counting
from siftlm import Document, Memory
from siftlm.embedding import HashingEmbedder
from siftlm.errors import BadRecord, Conflict, InvalidInput
from siftlm.memory import ingest

RNG = np.random.default_rng(2)
WORDS = ["river", "stone", "lamp", "garden", "copper", "winter", "signal", "harbour", "violet", "engine"]


def document(words: int) -> str:
    return " ".join(f"{word}{'.' if at % 9 == 8 else ''}" for at, word in enumerate(RNG.choice(WORDS, words)))


@pytest.fixture
def corpus(tmp_path):
    """Good, bad, long and repeated records."""
    lines = [json.dumps({"text": document(n), "n": n}) for n in (3, 80, 5, 300, 7, 2, 41)] * 2
    lines[4:4] = ["{broken", json.dumps({"text": ""}), json.dumps({"no": "text"})]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def content(memory):
    with memory.snapshot() as snapshot:
        places = [tuple(row) for row in snapshot.connection.execute("SELECT * FROM places ORDER BY document, part")]
        documents = list(snapshot.connection.execute("SELECT id, key, meta FROM documents ORDER BY id"))
    return memory.texts(memory.rows()), places, documents, memory.vectors(memory.rows()).tobytes()


def small_batches(monkeypatch, documents):
    monkeypatch.setattr(ingest, "MAX_BATCH_DOCUMENTS", documents)


@pytest.mark.parametrize("overlap", [0, 3, 10])
def test_passages_know_where_they_stand(tmp_path, overlap):
    texts = [document(n) for n in (1, 19, 20, 21, 100, 500)] + ["  \n" + document(60) + "\n\n " + document(30) + "  "]
    with Memory.create(tmp_path / "memory", passage_tokens=20, overlap=overlap) as memory:
        memory.add(texts, ids=[str(at) for at in range(len(texts))])
        for at, text in enumerate(texts):
            covered = 0
            with memory.snapshot() as snapshot:
                own = sorted(
                    snapshot.passages(memory.rows({"@id": str(at)}).tolist(), None), key=lambda passage: passage.part
                )
            assert [(one.part, one.parts) for one in own] == [(part, len(own)) for part in range(len(own))]
            for one in own:
                assert text[one.start : one.start + len(one.text)] == one.text
                assert not text[covered : one.start].strip()
                assert len(HashingEmbedder().tokens([one.text])[0]) <= 20
                covered = one.start + len(one.text)
            assert not text[covered:].strip()
            shared = sum(max(0, a.start + len(a.text) - b.start) for a, b in itertools.pairwise(own))
            assert bool(shared) == (overlap > 0 and len(own) > 1)


@pytest.mark.slow
@pytest.mark.parametrize("documents", [1, 2, 5, 1000])
@pytest.mark.parametrize("near", [None, 0.7])
def test_the_size_of_the_batches_changes_nothing(tmp_path, corpus, monkeypatch, documents, near):
    settings = {"passage_tokens": 16, "near_duplicates": near}
    with Memory.build(corpus, tmp_path / "one", **settings) as one:
        expected = content(one)
    small_batches(monkeypatch, documents)
    with Memory.build(corpus, tmp_path / "other", **settings) as other:
        assert content(other) == expected
        assert other.verify().problems == ()


def test_everything_is_counted(tmp_path, corpus):
    with Memory.create(tmp_path / "memory", passage_tokens=16) as memory:
        added = memory.ingest(corpus)
        with memory.snapshot() as snapshot:
            places = snapshot.connection.execute("SELECT COUNT(*) FROM places").fetchone()[0]
        assert (added.documents, added.bad, len(added.complaints)) == (14, 3, 3)
        assert (added.passages, added.passages + added.duplicates) == (len(memory), places)
        assert [complaint.split(": ")[0].split(":")[-1] for complaint in added.complaints] == ["5", "6", "7"]


def test_sums_of_what_was_added_keep_the_first_complaints():
    one = ingest.Added(1, 2, 3, 4, 5, tuple("abc"))
    total = sum([one] * 30, ingest.Added())
    assert (total.documents, total.passages, total.duplicates, total.near_duplicates, total.bad) == (
        30,
        60,
        90,
        120,
        150,
    )
    assert total.complaints == tuple("abc" * 10)[: ingest.KEPT_COMPLAINTS]


def test_a_bad_record_stops_a_strict_build_which_a_lenient_one_ends(tmp_path, corpus, monkeypatch):
    small_batches(monkeypatch, 2)
    with pytest.raises(BadRecord, match=r"corpus\.jsonl:5: "):
        Memory.build(corpus, tmp_path / "memory", bad="fail")
    with Memory.open(tmp_path / "memory") as memory:
        assert 0 < len(memory) < 14
        added = memory.ingest(corpus)
        assert (added.documents, added.bad, len(added.complaints)) == (10, 3, 3)
        assert memory.ingest(corpus) == ingest.Added()
        assert memory.verify().problems == ()


class Killed(Exception):
    """As if the process had ended."""


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_build_that_was_broken_off_goes_on_and_embeds_nothing_twice(tmp_path, corpus, monkeypatch, after):
    small_batches(monkeypatch, 2)
    whole, broken = Counting(), Counting()
    with Memory.build(corpus, tmp_path / "whole", embedder=whole, passage_tokens=16) as memory:
        expected = content(memory)
    batches, prepare = itertools.count(), ingest.Ingester.prepare

    def breaking(self, documents):
        if next(batches) == after:
            raise Killed
        return prepare(self, documents)

    monkeypatch.setattr(ingest.Ingester, "prepare", breaking)
    with pytest.raises(Killed):
        Memory.build(corpus, tmp_path / "broken", embedder=broken, passage_tokens=16)
    with Memory.build(corpus, tmp_path / "broken", embedder=broken, passage_tokens=16) as memory:
        assert content(memory) == expected
    assert broken.embedded == whole.embedded


def test_building_again_embeds_nothing(tmp_path, corpus):
    embedder = Counting()
    for _ in range(2):
        with Memory.build(corpus, tmp_path / "memory", embedder=embedder) as memory:
            assert embedder.embedded == len(memory)
    with pytest.raises(Conflict, match="storage='float32', not 'int8'"):
        Memory.build(corpus, tmp_path / "memory", embedder=embedder, storage="int8")
    with pytest.raises(Conflict, match="already holds"):
        Memory.build(["another"], tmp_path / "memory", embedder=embedder)


def test_lists_are_known_again_by_what_is_in_them(tmp_path):
    with Memory.create(tmp_path / "memory") as memory:
        assert memory.ingest(["tea", "rain"]).documents == 2
        assert memory.ingest(["tea", "rain"]).documents == 0
        assert memory.ingest(["snow", "hail"]).documents == 2
        assert memory.ingest([Document("a", {"n": 1}), {"text": "b", "n": 2}]).documents == 2
        assert memory.ingest([Document("a", {"n": 2}), {"text": "b", "n": 2}]).documents == 2
        assert memory.ingest([Document("v", vector=np.ones(memory.width)), ""]).documents == 1
        assert memory.ingest([Document("v", vector=np.eye(memory.width)[0]), ""]).documents == 1
        assert memory.ingest([{1: 2, "text": "odd"}]).documents == 1


def test_iterators_are_always_new(tmp_path):
    with Memory.create(tmp_path / "memory") as memory:
        assert memory.ingest(iter(["tea", "rain"])).passages == 2
        assert memory.ingest(iter(["snow", "hail"])).passages == 2
        again = memory.ingest(text for text in ["tea", "rain"])
        assert (again.documents, again.duplicates) == (2, 2)


def test_a_build_of_an_iterator_skips_what_it_had_read(tmp_path, monkeypatch):
    small_batches(monkeypatch, 2)
    texts = [document(5) for _ in range(9)]

    def breaking():
        yield from texts[:5]
        raise Killed

    with Memory.build(texts, tmp_path / "whole") as whole:
        expected = content(whole)
    with pytest.raises(Killed):
        Memory.build(breaking(), tmp_path / "memory")
    with Memory.build(iter(texts), tmp_path / "memory") as memory:
        assert content(memory) == expected
        assert memory.ingest(iter(texts)).documents == len(texts)


def test_empty_files_are_counted_and_are_no_bad_records(tmp_path):
    for name, text in {"a.py": "one = 1", "__init__.py": "", "deep/__init__.py": "", "blank.txt": " \n"}.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    with Memory.create(tmp_path / "memory") as memory:
        added = memory.ingest(tmp_path / "project")
        assert (added.documents, added.empty, added.bad) == (1, 2, 1)
        assert memory.ingest(tmp_path / "project") == ingest.Added()


def test_a_memory_knows_what_its_last_build_or_ingest_added(tmp_path):
    memory = Memory.build(["one", "two", "one", ""], tmp_path / "memory")
    added = memory.ingested
    assert (added.documents, added.passages, added.duplicates, added.bad) == (3, 2, 1, 1)
    assert memory.ingest(["two", "three"]) == memory.ingested == ingest.Added(documents=2, passages=1, duplicates=1)
    assert Memory.build(["one", "two", "one", ""], tmp_path / "memory").ingested == ingest.Added()
    assert Memory.open(tmp_path / "memory").ingested is None


def test_vectors_without_embedding_share_a_commit_and_leave_whole_batches(tmp_path, monkeypatch):
    small_batches(monkeypatch, 2)
    texts = [f"text {at}" for at in range(9)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ""]))
    np.save(tmp_path / "vectors.npy", RNG.normal(size=(10, 64)).astype(np.float32))
    settings = {"into": tmp_path / "memory", "embedder": Counting(), "vector": "vectors.npy"}
    with pytest.raises(BadRecord):
        Memory.build(tmp_path / "corpus.jsonl", bad="fail", **settings)
    with Memory.build(tmp_path / "corpus.jsonl", **settings) as memory:
        assert (memory.texts(memory.rows()), memory.info().inputs[0].bad) == (texts, 1)
        expected = np.load(tmp_path / "vectors.npy")[:9]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(memory.vectors(memory.rows()), expected, atol=1e-6)
        assert memory.verify().ok
    with Memory.open(tmp_path / "memory") as memory, memory.snapshot() as snapshot:
        assert snapshot.connection.execute("SELECT next FROM inputs").fetchone() == (10,)


def test_texts_with_vectors_and_without_keep_their_own(tmp_path):
    """A text that is there already, one with a vector, and one that is cut: as many new passages as texts."""
    embedder = Counting()
    known, given = RNG.normal(size=(2, 64))
    long = document(15)
    records = [Document("known", vector=known), Document("given", vector=given), Document(long)]
    with Memory.create(tmp_path / "memory", embedder=embedder, passage_tokens=10, overlap=0) as memory:
        memory.ingest([Document("known", vector=known)])
        added = memory.ingest(records)
        assert (added.passages, added.duplicates, embedder.embedded) == (3, 1, 2)
        texts = memory.texts(memory.rows())
        expected = embedder.embed(texts)
        expected[:2] = np.stack([known, given])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(memory.vectors(memory.rows()), expected, atol=1e-6)


def test_vectors_come_with_the_corpus(tmp_path):
    vectors = RNG.normal(size=(4, 64))
    vectors[2] = 0
    records = [{"text": document(100), "vector": vector.tolist()} for vector in vectors]
    embedder = Counting()
    with Memory.create(tmp_path / "memory", embedder=embedder, passage_tokens=10) as memory:
        added = memory.ingest(records, vector="vector")
        assert (added.passages, added.bad, embedder.embedded) == (3, 1, 0)
        assert "zero" in added.complaints[0]
        expected = vectors[[0, 1, 3]] / np.linalg.norm(vectors[[0, 1, 3]], axis=1, keepdims=True)
        assert np.allclose(memory.vectors(memory.rows()), expected, atol=1e-6)
        with pytest.raises(InvalidInput, match=r"\(3,\).* width 64"):
            memory.ingest([{"text": "a", "vector": [1, 2, 3]}], vector="vector")
        with pytest.raises(BadRecord, match="zero"):
            memory.ingest([{"text": "a", "vector": [0] * 64}], vector="vector", bad="fail")


def test_progress_only_ever_grows_and_ends(tmp_path, corpus, monkeypatch):
    small_batches(monkeypatch, 1)
    monkeypatch.setattr("siftlm.progress.REPORT_INTERVAL_SECONDS", 0.0)
    seen = []
    Memory.build(corpus, tmp_path / "memory", progress=seen.append).close()
    done = [report.done for report in seen]
    assert done == sorted(done)
    assert len(seen) > 10
    assert [report.finished for report in seen] == [False] * (len(seen) - 1) + [True]
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (os.path.getsize(corpus), os.path.getsize(corpus), "bytes")


def peak(folder, documents) -> int:
    """Bytes, without SQLite's cache, which has a fixed size, and new words, which the embedder keeps up to a limit."""
    tracemalloc.start()
    try:
        words = [f"{word}{number}" for word in WORDS for number in range(97)]
        chosen = ((at % 970, at // 970, *((at * 7 + j * j * at) % 970 for j in range(50))) for at in range(documents))
        texts = (" ".join(words[place] for place in places) for places in chosen)
        Memory.build(texts, folder, progress=False).close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_ten_times_the_documents_need_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "MAX_BATCH_CHARACTERS", ingest.INITIAL_BATCH_CHARACTERS)
    peak(tmp_path / "first", 500)  # whatever is loaded once
    few, many = peak(tmp_path / "few", 1500), peak(tmp_path / "many", 15_000)
    assert many < 1.2 * few
