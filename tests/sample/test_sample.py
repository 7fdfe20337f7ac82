"""The corpus that ships: read whole, in order and lazily; nothing held out is in its documents."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import sys
import time
from collections import Counter

import pytest

from contracts.tree import ROOT
from siftlm import Memory, sample
from siftlm.errors import Damaged, InvalidInput, UnknownName
from siftlm.evaluation import read
from siftlm.evaluation.fingerprints import contents_fingerprint

STUDY = ROOT / "benchmarks" / "results" / "study" / "sample"

COUNTS = {
    "small": {"code": 1652, "prose": 770, "mathematics": 1140},
    "full": {"code": 5772, "prose": 1313, "mathematics": 5700},
}
PROMPTS = {"code": 515, "prose": 131, "mathematics": 380}


@pytest.fixture(scope="module")
def full():
    return list(sample.documents(size="full"))


def kind_of(document):
    return document.meta["kind"]


@pytest.mark.slow
@pytest.mark.parametrize("size", COUNTS)
def test_there_are_so_many_of_each_kind(size):
    found = list(sample.documents(size=size))
    assert Counter(map(kind_of, found)) == COUNTS[size]
    assert len({one.id for one in found}) == len(found)
    assert all(set(one.meta) == {"kind", "source", "name"} and one.text.strip() for one in found)


def test_the_first_line_says_where_the_rest_is_from():
    with lzma.open(sample.FILE) as lines:
        head, *rest = lines
    head = json.loads(head)
    assert re.fullmatch(r"3\.\d+\.\d+", head["python"])
    assert head["records"] == len(rest)
    assert "Python Software Foundation" in head["licence"]
    written = (sample.FILE.parent / "README.md").read_text(encoding="utf-8")
    assert f"Python {head['python']}" in written
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (sample.FILE.parent / "LICENSE-Python.txt").read_text("utf-8")


def test_the_file_is_small():
    assert sample.FILE.stat().st_size < 2_500_000


@pytest.mark.slow
def test_small_is_a_part_of_full_and_in_its_order(full):
    small = {one.id: one.text for one in sample.documents()}
    assert [(one.id, one.text) for one in full if one.id in small] == list(small.items())
    assert len({one.meta["source"].split(".")[0] for one in sample.documents(only="code")}) > 100


@pytest.mark.slow
def test_only_some_kinds():
    assert {kind_of(one) for one in sample.documents(only="prose")} == {"prose"}
    assert {kind_of(one) for one in sample.documents(only=["code", "mathematics"])} == {"code", "mathematics"}


def test_no_path_of_a_machine_is_told(full):
    for one in [*full, *sample.prompts("code", count=PROMPTS["code"])]:
        told = f"{one.id} {one.meta}"
        assert sys.prefix not in told
        assert not re.search(r"[/\\]", told)


# --- prompts


@pytest.mark.slow
def test_nothing_held_out_is_in_the_documents(full):
    everything = "\n".join(one.text for one in full)
    sources = {one.meta["source"] for one in full if kind_of(one) != "mathematics"} - {"language reference"}
    topics = {one.meta["name"] for one in full if one.meta["source"] == "language reference"}
    lines = set(re.split(r"\s*\n\s*", "\n".join(one.text for one in full if kind_of(one) != "mathematics")))
    for kind in ("code", "prose"):
        for prompt in sample.prompts(kind, count=PROMPTS[kind]):
            assert prompt.meta["source"] not in sources
            assert prompt.meta["name"] not in topics
        for prompt in sample.prompts(kind, count=60):
            assert prompt.text not in everything
            long = {line for line in re.split(r"\s*\n\s*", prompt.text) if len(line) > 40}
            assert len(long & lines) <= max(2, len(long) / 2), prompt.id


def test_no_held_out_problem_is_in_the_documents(full):
    asked = {problem for one in full if kind_of(one) == "mathematics" for problem in one.text.split("\n\n")}
    assert len(asked) == 8 * COUNTS["full"]["mathematics"]
    for prompt in sample.prompts("mathematics", count=PROMPTS["mathematics"]):
        assert asked.isdisjoint(prompt.text.split("\n\n"))


@pytest.mark.parametrize("kind", sample.KINDS)
def test_prompts_are_long_and_of_many_sources(kind):
    prompts = sample.prompts(kind, count=PROMPTS[kind])
    assert {kind_of(one) for one in prompts} == {kind}
    assert len({one.text for one in prompts}) == len(prompts)
    assert kind == "mathematics" or min(len(one.text) for one in prompts) >= 600
    first = [one.meta["name" if one.meta["source"] == "language reference" else "source"] for one in prompts[:12]]
    assert len(set(first)) == 12


def test_prompts_take_turns_and_follow_the_seed():
    prompts = sample.prompts(count=7, seed=3)
    assert [kind_of(one) for one in prompts] == [sample.KINDS[n % 3] for n in range(7)]
    assert [one.text for one in prompts] == [one.text for one in sample.prompts(count=7, seed=3)]
    assert [one.text for one in prompts] != [one.text for one in sample.prompts(count=7, seed=4)]


@pytest.mark.parametrize("kind", [None, *sample.KINDS])
def test_a_larger_draw_begins_with_a_smaller_one(kind):
    large = [one.id for one in sample.prompts(kind, count=100, seed=2)]
    assert large[:7] == [one.id for one in sample.prompts(kind, count=7, seed=2)]


def test_another_seed_begins_with_other_problems():
    drawn = [{one.id for one in sample.prompts("mathematics", count=38, seed=seed)} for seed in range(10)]
    assert sum(map(len, drawn)) == len(set.union(*drawn)) == PROMPTS["mathematics"]


def test_the_study_has_these_texts():
    drawn = {one.id for one in read("sample", per_domain=16, skip=4, longest=2000)}
    lines = gzip.decompress((STUDY / "records.jsonl.gz").read_bytes()).splitlines()
    assert {json.loads(line)["text"] for line in lines} == drawn


@pytest.mark.slow
def test_the_study_read_this_memory(full, tmp_path):
    asked = json.loads((STUDY / "run.json").read_text(encoding="utf-8"))["memory"]
    with Memory.build(full, tmp_path / "memory", progress=False) as memory:
        assert len(memory) == asked["passages"]
        assert contents_fingerprint(memory) == asked["contents"]


# --- what is asked wrongly


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"only": "poems"}, UnknownName, "unknown kind 'poems'"),
        ({"only": []}, InvalidInput, "names no kind"),
        ({"size": "huge"}, UnknownName, "unknown size 'huge'"),
    ],
)
def test_bad_settings_are_named_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        sample.documents(**settings)


def test_more_prompts_than_there_are():
    with pytest.raises(InvalidInput, match=r"count=5000: there are only \d+ prompts of kind 'code'"):
        sample.prompts("code", count=5000)
    with pytest.raises(InvalidInput, match="count=0"):
        sample.prompts(count=0)


# --- reading


def test_documents_are_read_as_they_are_asked_for(monkeypatch):
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(1) or loads(line))
    documents = sample.documents()
    assert not parsed
    next(documents)
    one = len(parsed)
    next(documents)
    assert len(parsed) <= one + 10
    parsed.clear()
    sample.prompts(count=3)
    assert len(parsed) < 1500  # the documents are not read


def test_reading_takes_no_time():
    # Of the best of three: a machine that is busy makes some runs slow.
    spent = []
    for _ in range(3):
        start = time.process_time()
        sample.prompts(count=3)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.5


def cut_short(data):
    return data[: len(data) // 2]


def changed(data):
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


def something_else(data):
    return lzma.compress(b'{"format": 1}\n{"text": "no part, no kind"}\n')


def no_json(data):
    return lzma.compress(b"a line\nanother line\n")


@pytest.mark.parametrize("harm", [cut_short, changed, something_else, no_json, lambda _: b"", lambda _: b"plain text"])
def test_a_damaged_file_is_named(harm, tmp_path, monkeypatch):
    damaged = tmp_path / "sample.jsonl.xz"
    damaged.write_bytes(harm(sample.FILE.read_bytes()))
    monkeypatch.setattr(sample, "FILE", damaged)
    with pytest.raises(Damaged, match=rf"{re.escape(str(damaged))}: not the sample corpus .*install siftlm again"):
        list(sample.documents(size="full"))


def test_a_file_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "FILE", tmp_path / "sample.jsonl.xz")
    with pytest.raises(Damaged, match="install siftlm again"):
        sample.prompts("code", count=1)


def test_a_python_without_lzma_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(InvalidInput, match="without lzma"):
        sample.prompts("code", count=1)


@pytest.mark.slow
def test_a_memory_of_it(tmp_path):
    with Memory.build(sample.documents(), tmp_path / "memory", progress=False) as memory:
        assert 3_000 < len(memory) < 20_000
        for prompt in sample.prompts(count=3):
            found = memory.search(prompt.text, n=3)
            assert prompt.text not in [hit.text for hit in found]
