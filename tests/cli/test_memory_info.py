"""``siftlm info``, ``verify`` and ``compact``: looking after a memory."""

from __future__ import annotations

import json
import re
import sys

import pytest
from rich.cells import cell_len as width_of

from cli.corpora import LONG, Screen, corpus
from siftlm.cli import main
from siftlm.memory import Memory


@pytest.fixture
def memory(folder):
    """Of thirty texts and a bad line, in the folder ``memory``."""
    with Memory.build(corpus(folder / "c.jsonl", bad=1), folder / "memory", near_duplicates=1.0) as built:
        yield built


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_info_counts_what_is_there_and_what_was_deleted(memory, siftlm):
    memory.add([memory.texts([0])[0], "a new text"], [{"a": {"b.c": 1}}, {}], ids=["x", "y"])
    memory.delete({"year": {"<": 2005}, "source": "book1"})
    info = json.loads(siftlm("info", "memory", "--json")[1])
    assert (info["passages"], info["documents"], info["duplicates"], info["deleted"]) == (29, 30, 1, 2)
    assert info["passages"] == len(memory)
    assert (info["embedder"], info["fingerprint"]) == (memory.embedder.name, memory.embedder.fingerprint)
    assert (info["inputs"][0]["documents"], info["inputs"][0]["bad"], info["inputs"][0]["finished"]) == (30, 1, True)
    assert info["bytes"] == sum(info["files"].values())
    for name, size in info["files"].items():
        assert (memory.path / name).stat().st_size == size
    seen = {field["name"]: field for field in info["fields"]}
    assert set(seen) == {"source", "year", 'a."b.c"'}
    assert seen["source"]["documents"] == 28


def test_info_says_what_calibration_found_for_which_model(memory, siftlm):
    assert "calibrated" not in siftlm("info", "memory")[1]
    memory.note_calibration("gpt2", {"settings": {"method": "sift", "rate": 0.5, "decide": None}, "date": "today"})
    assert json.loads(siftlm("info", "memory", "--json")[1])["calibration"]["gpt2"]["rate"] == 0.5
    assert re.search(r"^calibrated +for gpt2: method=sift, rate=0.5$", siftlm("info", "memory")[1], re.M)


def test_a_field_is_spelled_as_a_filter_reads_it(folder, siftlm):
    with Memory.create("memory") as memory:
        memory.add(["one", "two"], [{"a": {"b.c": 1, "and": [1, 2]}, "@id": True}, {"ü x": None}])
        for field in memory.info().fields:
            assert len(memory.rows(f"exists {field.name}")) == (field.examples[0] is not None), field.name


def test_the_sample_of_fields_goes_over_the_whole_memory(folder):
    with Memory.create("memory") as memory:
        memory.add([f"text {n}" for n in range(1000)], [{"early" if n < 500 else "late": n} for n in range(1000)])
        memory.delete({"early": {">=": 5}})
        info = memory.info()
    assert info.sampled <= 200
    assert {field.name for field in info.fields} == {"early", "late"}


def test_an_input_that_was_not_read_to_its_end_is_called_that(folder, siftlm, monkeypatch):
    corpus(folder / "c.jsonl", 600, rest=LONG)

    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Memory.build("c.jsonl", "memory", progress=stop)
    read = re.search(r"c.jsonl: (\d+) documents; not read to the end", siftlm("info", "memory")[1])
    assert 0 < int(read[1]) < 600


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_info_keeps_to_the_screen(memory, monkeypatch, columns, encoding):
    memory.add(["ein Text"], [{"größe": "ä" * 80}])
    for words in ((), ("--redundancy",)):
        screen = Screen(encoding)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        assert main(["info", "memory", *words]) == 0
        assert max(width_of(line) for line in screen.getvalue().splitlines()) <= columns


def test_redundancy_is_what_the_memory_measures(memory, siftlm):
    words = ("--redundancy", "--sample", "20", "--seed", "3", "--threshold", "0.5")
    record = json.loads(siftlm("info", "memory", *words, "--json")[1])
    measured = memory.redundancy(sample=20, seed=3, threshold=0.5)
    assert record["redundancy"] == json.loads(json.dumps(measured.to_dict()))
    out = siftlm("info", "memory", *words)[1]
    assert "5 or more others above cosine 0.5" in out
    status, _, err = siftlm("info", "memory", "--sample", "20")
    assert (status, err) == (1, "siftlm: --sample needs --redundancy\n")


def test_a_sound_memory_passes(memory, siftlm):
    status, out, err = siftlm("verify", "memory")
    assert (status, err) == (0, "")
    assert out.startswith("memory: intact; checked ")
    assert siftlm("verify", "memory", "--quiet") == (0, "", "")
    assert json.loads(siftlm("verify", "memory", "--json")[1])["ok"] is True


def test_a_damaged_file_is_named_with_status_1(memory, siftlm):
    memory.close()
    damage(memory.path / "g0001" / "vectors.f32")
    status, out, err = siftlm("verify", "memory", "--quiet")
    assert (status, err) == (1, "")
    assert out
    assert all("vectors.f32" in line for line in out.splitlines())
    record = json.loads(siftlm("verify", "memory", "--json")[1])
    assert (record["ok"], bool(record["problems"])) == (False, True)
    assert siftlm("verify", "memory")[1].splitlines()[-1].startswith("memory: damaged")


def test_compact_frees_what_was_deleted(memory, siftlm):
    memory.delete({"source": "book1"})
    status, out, err = siftlm("compact", "memory")
    assert (status, err) == (0, "")
    assert "removed 15 deleted rows; 15 passages left" in out
    assert memory.info().deleted == 0
    record = json.loads(siftlm("compact", "memory", "--json")[1])
    assert (record["passages"], record["dropped_rows"]) == (15, 0)
    assert siftlm("compact", "memory", "--quiet") == (0, "", "")


@pytest.mark.parametrize("command", ["info", "verify", "compact"])
def test_what_is_no_memory_is_said_in_one_line(folder, siftlm, command):
    for path, message in (("none", "there is no such folder"), ("texts.txt", "is a file, and a memory is a folder")):
        status, out, err = siftlm(command, path)
        assert (status, out) == (1, "")
        assert err.startswith("siftlm: ")
        assert f"{path}: {message}" in err
        assert err.count("\n") == 1
