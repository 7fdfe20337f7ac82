"""The file: what was made is what is read, and a Python makes the same bytes twice."""

from __future__ import annotations

import json
import lzma
import platform
import subprocess
import sys

import pytest
from benchmarks.sample_corpus import corpus, packing

from contracts.tree import ROOT
from siftlm import Document, sample
from siftlm.sample import KINDS


def made(kind, number):
    return Document(
        f"{kind} {number}: ü", {"kind": kind, "source": kind, "name": f"{kind} {number}"}, f"{kind}:{number}"
    )


@pytest.fixture
def corpus_of_nine(monkeypatch):
    """Three documents of each kind: one small, one of the full size alone, one held out."""
    monkeypatch.setattr(corpus, "held_out", lambda: (made(kind, 3) for kind in KINDS))
    monkeypatch.setattr(corpus, "is_prompt", lambda document: document.meta["kind"] != "prose")
    numbers = {"small": (1,), "full": (1, 2)}
    monkeypatch.setattr(corpus, "documents", lambda size: (made(kind, n) for kind in KINDS for n in numbers[size]))


def test_what_was_written_is_read(corpus_of_nine, tmp_path, monkeypatch):
    (tmp_path / "sample.xz").write_bytes(packing.compressed(packing.lines(packing.records())))
    monkeypatch.setattr(sample, "FILE", tmp_path / "sample.xz")
    assert [one.id for one in sample.documents()] == [f"{kind}:1" for kind in KINDS]
    full = list(sample.documents(size="full"))
    assert [(one.id, one.text, one.meta) for one in full] == [
        (made(kind, n).id, made(kind, n).text, made(kind, n).meta) for kind in KINDS for n in (1, 2)
    ]
    assert [one.id for kind in ("code", "mathematics") for one in sample.prompts(kind, count=1)] == [
        "code:3",
        "mathematics:3",
    ]


def test_the_first_line_says_where_it_is_from(corpus_of_nine):
    head, *rest = map(json.loads, packing.lines(packing.records()).decode().splitlines())
    assert (head["python"], head["records"], len(rest)) == (platform.python_version(), 9, 9)
    assert "Python Software Foundation" in head["licence"]


def test_the_same_bytes_every_time():
    assert packing.compressed(b"a text" * 99) == packing.compressed(b"a text" * 99)


def test_the_help_says_how():
    command = [sys.executable, "-m", "benchmarks.sample_corpus", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--out" in done.stdout
    assert "--check" in done.stdout


@pytest.mark.slow
def test_this_python_makes_the_file_that_ships():
    shipped = lzma.decompress(sample.FILE.read_bytes())
    if json.loads(shipped.partition(b"\n")[0])["python"] != platform.python_version():
        pytest.skip("the file was made by another Python")
    assert packing.lines(packing.records()) == shipped
