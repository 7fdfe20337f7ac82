"""``siftlm review``: the library's review as a command."""

from __future__ import annotations

import json
import sys

import pytest

from picking.conftest import read, write
from siftlm.cli import main

pytest.importorskip("torch")

ROWS = [
    *({"question": f"What is {n} plus one?", "answer": f"It is {n + 1}."} for n in range(12)),
    {"question": "Where is the moon?", "answer": "In the sky at night."},
    {"question": "Why?"},
]
JUDGES = """
def score(question, answer):
    return 0.9 if answer.startswith("It is") else 0.2

def rewrite(record, finding):
    return {**record, "note": finding.causes[0]}
"""


@pytest.fixture
def pool(folder):
    write(folder / "pool.jsonl", ROWS)
    (folder / "my_judges.py").write_text(JUDGES)
    yield folder
    sys.modules.pop("my_judges", None)


def test_the_command_writes_what_is_kept_and_says_why(pool, siftlm, tiny_model):
    words = ["review", "--pool", "pool.jsonl", "--model", str(tiny_model), "--samples", "1", "--max-new-tokens", "4"]
    words += ["--out", "out.jsonl", "--dropped", "dropped.jsonl", "--report", "rep", "--deviations", "2"]
    status, out, err = siftlm(*words)
    assert (status, err) == (0, "")
    assert out.startswith("14 of 14 records of pool.jsonl: keep ")
    assert "1 × no answer: it asks and has no answer" in out
    assert out.endswith("out.jsonl: written\ndropped.jsonl: written\nrep.html: written\nrep.md: written\n")
    kept, dropped = read(pool / "out.jsonl"), read(pool / "dropped.jsonl")
    assert len(kept) + len(dropped) == 14
    assert {"question": "Why?"}.items() <= dropped[-1].items()
    assert dropped[-1]["siftlm"]["reasons"] == ["no answer: it asks and has no answer"]
    summary = json.loads(siftlm(*words, "--json")[1])
    assert summary["verdicts"]["drop"] == len(dropped)
    assert summary["files"][:2] == ["dropped.jsonl", "rep.html"]


def test_functions_of_a_module_judge_and_refine(pool, siftlm):
    words = (
        "review --pool pool.jsonl --signals quality --judge my_judges:score --refine my_judges:rewrite --out a.jsonl"
    )
    status, out, err = siftlm(*words.split(), "--field", "none")
    assert (status, err) == (0, "")
    assert "1 × low quality: rewrite it" in out
    assert "1 refined" in out
    assert [row["note"] for row in read(pool / "a.jsonl") if "note" in row] == ["low quality"]
    assert all("siftlm" not in row for row in read(pool / "a.jsonl"))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--signals clarity", "unknown signal 'clarity'"),
        ("--signals diversity --judge score", "--judge score: expected MODULE:FUNCTION, such as my_judges:score"),
        ("--signals quality --judge nowhere:score", "--judge nowhere:score: No module named 'nowhere'"),
        ("--signals quality --judge my_judges:rate", "--judge my_judges:rate: module 'my_judges' has no attribute"),
        ("--confidence high", "--confidence: expected a number from 0 to 1, or median, got 'high'"),
        ("--signals diversity --dropped a.jsonl", "is the file of the other records: name another"),
        ("--signals diversity --dropped a.txt", "--dropped a.txt: records are written to"),
        ("--signals diversity --text body", "pool.jsonl:1: 'body' is empty; --bad skip leaves such records out"),
        ("--signals diversity --deviations 0", "--deviations must be a number > 0, got 0"),
        ("--model ./nowhere", "'./nowhere'"),
    ],
)
def test_errors_speak_of_flags(pool, siftlm, words, problem):
    status, out, err = siftlm(*f"review --pool pool.jsonl --out a.jsonl {words}".split())
    assert status in (1, 2)
    assert out == ""
    assert problem in err
    assert len(err.splitlines()) == 1


def test_a_pool_that_is_not_there_or_empty_is_one_line(pool, siftlm):
    (pool / "empty.jsonl").write_text("\n")
    for name in ("nothing.jsonl", "empty.jsonl"):
        status, out, err = siftlm("review", "--pool", name, "--signals", "diversity", "--out", "a.jsonl")
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert name in err


def test_ctrl_c_says_how_to_go_on(pool, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    words = ["review", "--pool", "pool.jsonl", "--signals", "diversity", "--out", "a.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr("siftlm.picking.work.WorkFolder.save_picks", stop)
        assert main(words) == 130
    assert "stopped; repeat the command to resume" in capsys.readouterr().err
    assert main(words) == 0
