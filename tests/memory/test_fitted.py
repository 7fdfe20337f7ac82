"""A memory whose embedder is fitted to what it is built from, and lies in it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm import Document, Memory
from siftlm.embedding import embedder
from siftlm.embedding.lexical import LexicalEmbedder, UnfittedLexicalEmbedder
from siftlm.errors import Conflict, Damaged, InvalidInput, MissingExtra, WrongEmbedder
from siftlm.memory import ingest, manifest
from siftlm.memory.reading import open_source

pytest.importorskip("scipy")

TOPICS = (
    "harbour tide ship sailor anchor wave storm mast keel",
    "onion butter oven flour knife simmer pepper salt pan",
    "violin chord tempo melody choir rhythm string bow note",
)


def texts(count=120, words=12):
    generator = np.random.default_rng(0)
    return [
        f"{' '.join(generator.choice([*TOPICS[n % 3].split(), 'the', 'and', 'of'], words).tolist())} entry{n}"
        for n in range(count)
    ]


def write(path, some):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.jsonl", texts())


def content(folder):
    with Memory.open(folder) as memory:
        rows = memory.rows()
        return memory.manifest.fingerprint, memory.texts(rows), memory.vectors(rows).tobytes()


# --- from the first pass to a memory that is opened


def test_it_is_fitted_to_the_passages_kept_and_opened_without_an_argument(tmp_path, corpus):
    seen = []
    with Memory.build(corpus, tmp_path / "memory", embedder="lexical", progress=seen.append) as memory:
        built = memory.vectors(memory.rows())
        assert (built == LexicalEmbedder.embed(embedder("lexical").fit(texts()), texts())).all()
    whats = list(dict.fromkeys(report.what for report in seen))
    assert [what.split(" ")[0] for what in whats] == ["sampling", "counting", "finding", "reading"]
    moved = shutil.move(tmp_path / "memory", tmp_path / "moved")
    for opened in (
        Memory.open(moved),
        Memory.open(moved, embedder="lexical"),
        pickle.loads(pickle.dumps(memory_of(moved))),
    ):
        with opened as memory:
            assert (memory.embedder.embed(texts()) == built).all()
            assert memory.info().embedder_settings == {"width": memory.width} == {"width": 30}
            found = memory.search("anchor and keel", 5, method="nearest")
            assert all(set(hit.text.split()) & set(TOPICS[0].split()) for hit in found)


def memory_of(folder):
    return Memory.open(folder, embedder=embedder("lexical"))


def test_later_texts_are_embedded_by_the_embedder_that_is_there(tmp_path, corpus):
    with Memory.build(corpus, tmp_path / "memory", embedder=embedder("lexical", width=9)) as memory:
        before = memory.manifest.fingerprint
    with Memory.open(tmp_path / "memory") as memory:
        memory.add(["salt and pepper in the pan", "nothing known"])
        memory.ingest(write(tmp_path / "more.jsonl", texts(130)[120:]))
        memory.delete({"@id": "none"})
        expected = memory.embedder.embed(["salt and pepper in the pan", "nothing known", *texts(130)[120:]])
        np.testing.assert_array_equal(memory.vectors(memory.rows()[120:]), expected)
        assert (memory.manifest.fingerprint, memory.width) == (before, 9)


def test_it_stays_at_a_compaction_and_goes_with_its_embedder_into_another_memory(tmp_path, corpus):
    with Memory.build(corpus, tmp_path / "memory", embedder="lexical") as memory:
        memory.add(["going"], ids=["x"])
        memory.delete({"@id": "x"})
        assert memory.compact().dropped_rows == 1
        own = memory.embedder
        with Memory.create(tmp_path / "other", embedder=own) as other:
            other.add(texts(9))
        first, _, _ = content(tmp_path / "memory")
    shutil.rmtree(tmp_path / "memory")
    assert content(tmp_path / "other")[0] == first
    with Memory.open(tmp_path / "other") as other:
        assert (other.vectors(other.rows()) == own.embed(texts(9))).all()


def test_another_width_or_embedder_is_refused(tmp_path, corpus):
    Memory.build(corpus, tmp_path / "memory", embedder=embedder("lexical", width=9)).close()
    Memory.build(corpus, tmp_path / "memory", embedder=embedder("lexical", width=9)).close()
    for other in (embedder("lexical", width=8), "hashing"):
        with pytest.raises(WrongEmbedder, match="was built with embedder 'lexical'"):
            Memory.build(corpus, tmp_path / "memory", embedder=other)
    Memory.build(corpus, tmp_path / "hashed").close()
    with pytest.raises(WrongEmbedder, match="was built with embedder 'static'"):
        Memory.build(corpus, tmp_path / "hashed", embedder="lexical")


# --- what is read, and how much of it


@pytest.mark.parametrize("words", [12, 60])
def test_a_source_that_can_be_read_once_is_read_once(tmp_path, monkeypatch, words):
    some = texts(words=words)
    monkeypatch.setattr(ingest, "FIT_DOCUMENTS", 50)
    given_out = []

    def generator():
        for at, text in enumerate(some):
            given_out.append(at)
            yield {"text": text, "at": at} if at % 10 else {"text": "", "at": at}

    with Memory.build(generator(), tmp_path / "memory", embedder="lexical", passage_tokens=40) as memory:
        good = [text for at, text in enumerate(some) if at % 10]
        assert memory.info().inputs[0].bad == 12
        assert given_out == list(range(120))
        metas = [one.meta["at"] for one in snapshot_passages(memory) if one.part == 0]
        assert metas == [at for at in range(120) if at % 10]
        # Fitted to the first fifty records, of which five are bad; cut as they are stored.
        with Memory.build(good[:45], tmp_path / "first", embedder="lexical", passage_tokens=40) as first:
            assert first.manifest.fingerprint == memory.manifest.fingerprint
            assert first.embedder.texts == len(first)


def snapshot_passages(memory):
    with memory.snapshot() as snapshot:
        return snapshot.passages(memory.rows().tolist(), None)


def test_a_stream_is_not_read_a_second_time(tmp_path):
    datasets = pytest.importorskip("datasets")
    given_out = []

    def rows():
        for text in texts():
            given_out.append(text)
            yield {"text": text}

    Memory.build(datasets.IterableDataset.from_generator(rows), tmp_path / "memory", embedder="lexical").close()
    assert given_out == texts()


@given(
    lengths=st.lists(st.integers(1, 30), max_size=40),
    documents=st.integers(1, 12),
    characters=st.integers(30, 200),
    once=st.booleans(),
)
def test_a_sample_keeps_to_its_bounds_and_is_the_same_each_time(lengths, documents, characters, once):
    some = [f"{at:02d}" + "x" * length for at, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "FIT_DOCUMENTS", documents)
        patch.setattr(ingest, "FIT_CHARACTERS", characters)
        patch.setattr(ingest, "FIT_DOCUMENT_CHARACTERS", 20)
        samples = [ingest.sample_source(open_source(iter(some) if once else some), None) for _ in range(2)]
    sample = samples[0].texts
    assert sample == samples[1].texts
    assert len(sample) <= documents
    whole = {text[:20]: at for at, text in enumerate(some)}
    places = [whole[text] for text in sample]
    assert places == sorted(set(places))
    if once:
        assert places == list(range(len(places)))
        assert sum(len(some[at]) for at in places[:-1]) < characters
    else:
        assert sum(map(len, sample)) <= characters
    if len(some) <= documents and sum(map(len, some)) < characters:
        assert len(sample) == len(some)
    # Everything comes afterwards, once.
    assert [record.document.text for record in samples[0].source.read()] == some


def test_a_sample_is_drawn_from_the_whole_input(monkeypatch):
    monkeypatch.setattr(ingest, "FIT_DOCUMENTS", 100)
    sample = ingest.sample_source(open_source([f"text {at}" for at in range(1000)]), None).texts
    by_quarter = np.bincount([int(text.split()[1]) // 250 for text in sample], minlength=4)
    assert by_quarter.sum() == 100
    assert by_quarter.min() >= 10


# --- what is refused, before anything is written


@pytest.mark.parametrize(
    ("records", "settings", "error", "words"),
    [
        ([], {}, InvalidInput, "holds no text that the embedder 'lexical' could be fitted to"),
        ([""], {}, InvalidInput, "holds no text that the embedder 'lexical' could be fitted to"),
        (texts(28), {}, InvalidInput, "needs 29 different texts or more to be fitted to, got 28"),
        (texts(9) * 9, {}, InvalidInput, "needs 29 different texts or more to be fitted to, got 9"),
        (texts(29), {"embedder": embedder("lexical", width=9)}, InvalidInput, "29 texts are too few to find width=9"),
        ([f"?!{'.' * at}" for at in range(99)], {}, InvalidInput, "0 directions: too few words"),
        ([Document(text, {}, None, np.ones(3)) for text in texts()], {}, Conflict, "comes with a vector"),
        (texts(), {"storage": "int3"}, InvalidInput, "storage"),
        (texts(), {"bad": "ignore"}, InvalidInput, "bad must be"),
    ],
)
def test_what_it_cannot_be_fitted_to(tmp_path, records, settings, error, words):
    with pytest.raises(error, match=words):
        Memory.build(records, tmp_path / "memory", **{"embedder": "lexical", **settings})
    assert not (tmp_path / "memory").exists()


def test_a_folder_of_something_else_is_refused_before_the_first_pass(tmp_path):
    (tmp_path / "memory" / "embedder").mkdir(parents=True)

    def never():
        raise AssertionError("was read")
        yield

    with pytest.raises(Conflict, match="is not empty"):
        Memory.build(never(), tmp_path / "memory", embedder="lexical")


def test_an_empty_memory_has_nothing_to_fit_to(tmp_path):
    with pytest.raises(InvalidInput, match=r"has to be fitted to texts first: .* Memory\.build"):
        Memory.create(tmp_path / "memory", embedder="lexical")
    assert not (tmp_path / "memory").exists()


def test_without_scipy_nothing_is_read_and_a_memory_still_opens(tmp_path, corpus, monkeypatch):
    with Memory.build(corpus, tmp_path / "memory", embedder="lexical") as memory:
        expected = memory.search("anchor", 3).ids if hasattr(memory.search("anchor", 3), "ids") else None
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingExtra, match=r"siftlm\[lexical\]"):
        Memory.build(iter(["never read"]), tmp_path / "other", embedder="lexical")
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.search("anchor", 3)[0].text
        assert expected is None or memory.search("anchor", 3).ids == expected


# --- damage


@pytest.mark.parametrize("file", ["lexical.json", "weights.npy", "directions.npy"])
def test_a_damaged_embedder_is_found_and_named(tmp_path, corpus, file):
    with Memory.build(corpus, tmp_path / "memory", embedder="lexical") as memory:
        assert memory.verify().ok
    path = tmp_path / "memory" / "embedder" / file
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    with Memory.open(tmp_path / "memory") as memory:
        [problem] = memory.verify().problems
        assert "embedder" in problem
    path.unlink()
    with Memory.open(tmp_path / "memory") as memory:
        assert f"{file} is missing" in memory.verify().problems[0]
        with pytest.raises(Damaged, match=f"its embedder is gone.*{file}"):
            memory.search("anchor")
        assert len(memory.search(memory.vectors([0]), 2)) == 2


# --- a build that is stopped

KILLED = """
import os, signal, sys
from unittest import mock
import numpy as np
from siftlm.embedding.lexical import LexicalEmbedder
from siftlm.memory import Memory, ingest
ingest.MAX_BATCH_DOCUMENTS = 16
corpus, into, target, calls = sys.argv[1:]
left = int(calls)
module, _, name = target.rpartition(".")

def killing(real):
    def call(*args, **named):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)
    return call

import importlib
owner = LexicalEmbedder if module == "LexicalEmbedder" else importlib.import_module(module)
mock.patch.object(owner, name, killing(getattr(owner, name))).start()
Memory.build(corpus, into, embedder="lexical", progress=False).close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "calls", "fitted_again"),
    [
        ("siftlm.embedding.lexical._singular_vectors", 1, True),
        ("siftlm.memory.manifest.sync_files", 1, True),
        ("siftlm.memory.manifest.write_manifest", 1, True),
        ("LexicalEmbedder.embed", 1, False),
        ("LexicalEmbedder.embed", 4, False),
    ],
)
def test_a_killed_build_goes_on_with_the_embedder_that_was_fitted(tmp_path, corpus, moment, calls, fitted_again):
    Memory.build(corpus, tmp_path / "whole", embedder="lexical").close()
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "memory"), moment, str(calls)]
    assert subprocess.run(command, check=False).returncode == -9
    fits = []
    with pytest.MonkeyPatch.context() as patch:
        fit = UnfittedLexicalEmbedder.fit
        patch.setattr(UnfittedLexicalEmbedder, "fit", lambda *args: fits.append(1) or fit(*args))
        with Memory.build(corpus, tmp_path / "memory", embedder="lexical") as memory:
            assert memory.verify().ok
    assert len(fits) == fitted_again
    assert content(tmp_path / "memory") == content(tmp_path / "whole")


def test_an_interrupted_build_goes_on_even_when_another_fit_would_differ(tmp_path, corpus, monkeypatch):
    Memory.build(corpus, tmp_path / "whole", embedder="lexical").close()
    monkeypatch.setattr(ingest, "MAX_BATCH_DOCUMENTS", 16)
    embed, calls = LexicalEmbedder.embed, []

    def interrupted(self, some, **how):
        calls.append(len(some))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(self, some, **how)

    with monkeypatch.context() as patch:
        patch.setattr(LexicalEmbedder, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Memory.build(corpus, tmp_path / "memory", embedder="lexical")
    monkeypatch.setattr(ingest, "FIT_DOCUMENTS", 60)
    Memory.build(corpus, tmp_path / "memory", embedder="lexical").close()
    assert content(tmp_path / "memory") == content(tmp_path / "whole")


def test_what_a_killed_build_left_is_no_embedder_of_the_next(tmp_path, corpus, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            Memory.build(corpus, tmp_path / "memory", embedder="lexical")
    assert (tmp_path / "memory" / "embedder").is_dir()
    Memory.build(corpus, tmp_path / "memory").close()
    assert not (tmp_path / "memory" / "embedder").exists()
