"""``siftlm index``: what becomes of a corpus, and of a command that was stopped."""

from __future__ import annotations

import functools
import json
import sys

import numpy as np
import pytest

from cli.corpora import LONG, Screen, corpus
from siftlm.cli import main
from siftlm.embedding.static import StaticEmbedder
from siftlm.memory import Memory, durability, ingest, reading

HASHING = ("--embedder", "hashing")


def test_a_folder_of_texts_becomes_a_memory_that_the_next_command_searches(folder, siftlm):
    (folder / "notes").mkdir()
    (folder / "notes" / "tea.md").write_text("Tea is brewed with hot water.", encoding="utf-8")
    (folder / "notes" / "moon.txt").write_text("The moon moves around the earth.", encoding="utf-8")
    status, out, err = siftlm("index", "notes", "--into", "memory")
    assert (status, err) == (0, "")
    assert "2 documents, 2 passages" in out
    assert 'siftlm search memory "your question"' in out
    assert [hit.text for hit in Memory.open("memory").search("how is tea brewed", n=1)] == [
        "Tea is brewed with hot water."
    ]


def test_settings_of_the_memory_and_fields_of_the_corpus_reach_it(folder, siftlm):
    line = {"body": "one two three four five six seven eight", "name": "first", "kind": "x", "left": "out"}
    (folder / "c.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    words = "--text body --id name --meta kind --storage int8 --passage-tokens 4 --overlap 1 --no-full-text"
    words += " --near-duplicates 0.9 --embedder hashing --embedder-option width=64"
    assert siftlm("index", "c.jsonl", "--into", "memory", *words.split())[0] == 0
    with Memory.open("memory") as memory:
        known = memory.manifest
        hit = memory.search("one two", n=1)[0]
    assert (known.storage, known.passage_tokens, known.overlap, known.full_text) == ("int8", 4, 1, False)
    assert (known.near_duplicates, known.width) == (0.9, 64)
    assert (hit.id, dict(hit.meta)) == ("first", {"kind": "x"})


def test_lexical_is_fitted_by_its_name_and_stays(folder, siftlm, monkeypatch):
    pytest.importorskip("scipy")
    corpus(folder / "c.jsonl", 90)
    (folder / "notes").mkdir()
    for n, line in enumerate((folder / "c.jsonl").read_text(encoding="utf-8").splitlines()):
        (folder / "notes" / f"{n}.md").write_text(json.loads(line)["text"], encoding="utf-8")
    words = ("--into", "memory", "--embedder", "lexical")
    status, out, err = siftlm("index", "notes", *words, "--embedder-option", "width=5")
    assert (status, err) == (0, "")
    assert "90 documents, 90 passages" in out
    assert "embedder lexical, 5 wide, float32" in out
    for _ in range(2):
        assert "(0 new)" in siftlm("index", "notes", *words)[1]
    corpus(folder / "more.jsonl", 3, rest=" again")
    assert "93 documents (3 new)" in siftlm("index", "more.jsonl", *words, "--append")[1]
    assert "lexical (width=5)" in siftlm("info", "memory")[1]
    [hit] = json.loads(siftlm("search", "memory", "hot tea", "-n", "1", "--json")[1])["hits"]
    assert "tea is brewed" in hit["text"]
    status, _, err = siftlm("index", "notes", *words, "--embedder-option", "width=6")
    assert status == 1
    assert "was built with embedder 'lexical'" in err


def test_what_lexical_cannot_be_fitted_to_is_said_and_leaves_no_folder(folder, siftlm):
    pytest.importorskip("scipy")
    corpus(folder / "few.jsonl", 9)
    words = ("index", "few.jsonl", "--into", "memory", "--embedder", "lexical")
    status, _, err = siftlm(*words)
    assert status == 1
    assert "needs 29 different texts or more to be fitted to, got 9. Give more, or use 'hashing' or 'static'" in err
    status, _, err = siftlm(*words, "--embedder-option", "width=50")
    assert (status, "9 texts are too few to find --embedder-option width=50 directions" in err) == (1, True)
    assert not (folder / "memory").exists()
    status, _, err = siftlm("index", "few.jsonl", "--into", "memory", "--embedder", "lexcal")
    assert "unknown embedder 'lexcal'; did you mean 'lexical'?" in err
    assert "lexical, fitted to the" in siftlm("index", "--help")[1]


def test_several_inputs_become_one_memory(folder, siftlm):
    corpus(folder / "a.jsonl", 4)
    corpus(folder / "b.jsonl", 6)
    for _ in range(2):
        status, out, _ = siftlm("index", "a.jsonl", "b.jsonl", "--into", "memory")
        assert status == 0
        assert "10 documents" in out
    assert "6 passages; 4 duplicates stored once" in out
    assert "(0 new)" in out


def test_append_adds_and_uses_the_embedder_that_is_there(folder, siftlm):
    corpus(folder / "a.jsonl", 3)
    corpus(folder / "b.jsonl", 7)
    assert siftlm("index", "a.jsonl", "--into", "memory", *HASHING, "--embedder-option", "width=64")[0] == 0
    status, out, _ = siftlm("index", "b.jsonl", "--into", "memory", "--append")
    assert status == 0
    assert "10 documents (7 new), 7 passages" in out


def test_vectors_of_a_field_and_of_a_file_need_no_embedder(folder, siftlm):
    vectors = np.eye(3, 5, dtype=np.float32)
    np.save("own.npy", vectors)
    lines = [json.dumps({"text": f"text {n}", "v": vectors[n].tolist()}) for n in range(3)]
    (folder / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for given in ("v", "own.npy"):
        assert siftlm("index", "c.jsonl", "--into", f"m-{given}", "--vectors", given)[0] == 0
        with Memory.open(f"m-{given}") as memory:
            assert memory.manifest.embedder == "precomputed"
            np.testing.assert_array_equal(memory.vectors(memory.rows()), vectors)
    np.save("q.npy", vectors[1])
    for words in (("some text",), ("--query", "q.npy", "--known", "some text")):
        status, out, err = siftlm("search", "m-v", *words)
        assert (status, out) == (1, "")
        assert "pass the prompt's vectors with --query FILE.npy" in err
    _, out, _ = siftlm("search", "m-v", "--query", "q.npy", "-n", "1", "--json")
    assert [hit["text"] for hit in json.loads(out)["hits"]] == ["text 1"]


def test_bad_records_are_named_with_file_and_line_even_when_quiet(folder, siftlm):
    corpus(folder / "c.jsonl", 2, bad=7)
    status, out, err = siftlm("index", "c.jsonl", "--into", "memory")
    assert (status, err) == (0, "")
    assert "skipped 7 unusable records" in out
    assert "c.jsonl:3" in out
    assert "and 2 more" in out
    status, out, err = siftlm("index", "c.jsonl", "--into", "other", "--quiet")
    assert (status, out) == (0, "")
    assert "c.jsonl:3" in err


def test_bad_fail_stops_at_the_first(folder, siftlm):
    corpus(folder / "c.jsonl", 2, bad=1)
    status, out, err = siftlm("index", "c.jsonl", "--into", "memory", "--bad", "fail")
    assert (status, out) == (1, "")
    assert "c.jsonl:3: " in err
    assert err.count("\n") == 1


def test_after_an_interrupt_the_same_command_goes_on_and_embeds_nothing_twice(folder, siftlm, monkeypatch):
    corpus(folder / "c.jsonl", 600, rest=LONG)
    embed, given = StaticEmbedder.embed, []

    def interrupted(self, texts, **how):
        if given:
            raise KeyboardInterrupt
        given.extend(texts)
        return embed(self, texts, **how)

    def counted(self, texts, **how):
        given.extend(texts)
        return embed(self, texts, **how)

    monkeypatch.setattr(StaticEmbedder, "embed", interrupted)
    words = ("index", "c.jsonl", "--into", "memory")
    assert siftlm(*words) == (130, "", "siftlm: stopped; repeat the command to resume\n")
    monkeypatch.setattr(StaticEmbedder, "embed", counted)
    assert siftlm(*words)[0] == 0
    assert len(given) == len(set(given)) == 600
    assert len(Memory.open("memory")) == 600


def test_an_interrupt_leaves_the_line_of_progress_alone(folder, monkeypatch, capsys):
    corpus(folder / "c.jsonl", 300)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("siftlm.memory.ingest.replace", stop)  # when all is read
    assert main(["index", "c.jsonl", "--into", "memory"]) == 130
    *drawn, message, end = screen.getvalue().split("\n")
    assert (message, end) == ("siftlm: stopped; repeat the command to resume", "")
    assert drawn
    assert all(len(line) <= 39 for part in drawn for line in part.split("\r"))


def test_the_same_command_keeps_the_embedder_that_is_there(folder, siftlm):
    corpus(folder / "a.jsonl", 3)
    assert siftlm("index", "a.jsonl", "--into", "memory", *HASHING)[0] == 0
    status, out, err = siftlm("index", "a.jsonl", "--into", "memory")
    assert (status, err) == (0, "")
    assert "(0 new)" in out
    with Memory.build("a.jsonl", "memory", progress=False) as memory:
        assert memory.manifest.embedder == "hashing"


def test_another_corpus_or_embedder_does_not_slip_in(folder, siftlm):
    corpus(folder / "a.jsonl", 3)
    corpus(folder / "b.jsonl", 4)
    siftlm("index", "a.jsonl", "--into", "memory")
    status, _, err = siftlm("index", "b.jsonl", "--into", "memory")
    assert status == 1
    assert "use siftlm index --append" in err
    status, _, err = siftlm("index", "a.jsonl", "--into", "memory", "--storage", "int8")
    assert status == 1
    assert err.endswith("memory: was built with --storage float32, not 'int8'\n")
    status, _, err = siftlm("index", "a.jsonl", "--into", "memory", *HASHING, "--embedder-option", "width=32")
    assert status == 1
    assert "cannot be compared" in err


def test_empty_files_of_a_folder_are_counted(folder, siftlm):
    (folder / "project").mkdir()
    for name, text in {"a.py": "one = 1", "__init__.py": "", "b.py": ""}.items():
        (folder / "project" / name).write_text(text, encoding="utf-8")
    status, out, err = siftlm("index", "project", "--into", "memory")
    assert (status, "2 empty files passed over" in out, "unusable" in out, err) == (0, True, False, "")
    assert siftlm("index", "project", "--into", "memory", "--quiet") == (0, "", "")
    assert "passed over" not in siftlm("index", "project", "--into", "memory")[1]  # nothing was read again
    (folder / "project" / "c.py").write_text("", encoding="utf-8")
    assert "3 empty files passed over" in siftlm("index", "project", "--into", "memory", "--append")[1]


def test_a_folder_is_not_read_again_for_its_empty_files(folder, siftlm, monkeypatch):
    """All that `siftlm index` says of a corpus comes from the one source that was opened of it."""
    (folder / "project").mkdir()
    for name, text in {"a.py": "one = 1", "b.py": ""}.items():
        (folder / "project" / name).write_text(text, encoding="utf-8")
    opened = []

    @functools.wraps(reading.open_source)
    def open_source(corpus, **settings):
        opened.append(corpus)
        return open_source.__wrapped__(corpus, **settings)

    monkeypatch.setattr(ingest, "open_source", open_source)
    monkeypatch.setattr(reading, "open_source", open_source)
    _, out, _ = siftlm("index", "project", "--into", "memory")
    assert "1 empty file passed over" in out
    assert len(opened) == 1


def test_a_faiss_index_can_be_built_with_the_memory_or_later(folder, siftlm):
    pytest.importorskip("faiss")
    corpus(folder / "c.jsonl", 30)
    siftlm("index", "c.jsonl", "--into", "memory")
    assert Memory.open("memory").info().index is None
    status, out, _ = siftlm("index", "--into", "memory", "--faiss", "flat")
    assert (status, "FAISS index flat of 30 rows" in out) == (0, True)
    assert Memory.open("memory").info().index.kind == "flat"
    approximate = siftlm("search", "memory", "tea", "-n", "3", "--json")[1]
    exact = siftlm("search", "memory", "tea", "-n", "3", "--json", "--exact")[1]
    assert json.loads(approximate)["selection"]["indices"] == json.loads(exact)["selection"]["indices"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.jsonl --into memory", "there is no file or folder 'none.jsonl'"),
        ("--into memory", "no corpus: pass files"),
        ("c.jsonl --into c.jsonl", "c.jsonl: is a file, and a memory is a folder"),
        ("c.jsonl --into full", "full: is not empty"),
        ("c.jsonl --into memory --append", "there is no such folder; build a memory with siftlm index"),
        ("c.jsonl --into memory --append --storage int8", "--storage cannot be changed after a memory is built"),
        ("--into memory --faiss flat --no-full-text", "--no-full-text cannot be changed"),
        ("c.jsonl --into memory --embedder precomputed", "'precomputed' needs --embedder-option width"),
        (
            "c.jsonl --into memory --embedder hashing --embedder-option width=0",
            "--embedder-option width must be a whole number",
        ),
        ("c.jsonl --into memory --embedder hashng", "unknown embedder 'hashng'; did you mean 'hashing'?"),
        ("c.jsonl --into memory --embedder-option wide=3", "'wide'"),
        ("c.jsonl --into memory --embedder static --embedder-option words=2", "--embedder-option words must be"),
        ("c.jsonl --into memory --passage-tokens 0", "--passage-tokens must be a whole number"),
        ("c.jsonl --into memory --near-duplicates 2", "--near-duplicates must be a number > 0 and ≤ 1"),
        ("c.jsonl --into memory --text body", "c.jsonl:1: there is no field 'body' (--text)"),
        ("c.jsonl --into memory --format odd", "unknown format 'odd'"),
        ("c.jsonl --into memory --glob *.md", "--glob '*.md' chooses files of a folder"),
        ("c.jsonl --into memory --vectors nothing", "c.jsonl:1: there is no field 'nothing' (--vectors)"),
        ("c.jsonl c.npy --into memory", "there is no file or folder 'c.npy'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, siftlm, words, message):
    corpus(folder / "c.jsonl", 3)
    (folder / "full").mkdir()
    (folder / "full" / "letter.txt").write_text("Dear", encoding="utf-8")
    status, out, err = siftlm("index", *words.split())
    assert (status, out) == (1, "")
    assert err.startswith("siftlm: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_memory_that_somebody_writes_to_says_who(folder, siftlm):
    corpus(folder / "c.jsonl", 3)
    siftlm("index", "c.jsonl", "--into", "memory")
    with durability.writer_lock(folder / "memory", "a long work"):
        for words in (("index", "c.jsonl", "--into", "memory", "--append"), ("compact", "memory")):
            status, out, err = siftlm(*words)
            assert (status, out) == (1, "")
            assert "is writing (a long work" in err
            assert err.count("\n") == 1


def test_an_input_without_any_text_is_a_failure(folder, siftlm):
    (folder / "empty.jsonl").write_text("", encoding="utf-8")
    status, out, err = siftlm("index", "empty.jsonl", "--into", "nothing")
    assert status == 1
    assert "holds no text" in out + err
    assert "Now try" not in out
