"""``siftlm eval``: what it says, what it keeps, and that the same command goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.corpora import TOPICS
from cli.fakes import FakeController
from siftlm.evaluation.run_folder import question_of, records_of

METHODS = ("--methods", "base,nn,sift", "-n", "3", "--model", "m")


class Evaluated(FakeController):
    """With what tells one model from another."""

    model = SimpleNamespace(state_dict=dict)
    engine = SimpleNamespace(description={"engine": "full"})


@pytest.fixture
def test_set(fake, monkeypatch):
    """Six texts of two domains, and one that is too short."""
    monkeypatch.setattr("siftlm.local.Controller", Evaluated)
    rows = [
        {"text": f"{TOPICS[n % 3]}, said witness {n}, and {TOPICS[(n + 1) % 3]}", "subset": f"d{n % 2}"}
        for n in range(6)
    ]
    rows.append({"text": "x" * 50, "subset": "d0"})
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(siftlm, *words):
    return siftlm("eval", "--memory", "memory", "--test", "t.jsonl", *METHODS, *words)


def known(folder):
    rows = [{name: value for name, value in one.items() if name != "seconds"} for one in records_of(folder)]
    return sorted(rows, key=lambda one: (one["text"], one["method"]))


def test_it_says_what_was_done_and_goes_on(test_set, siftlm):
    status, out, err = run(siftlm, "--out", "run", "--quiet")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "6 texts: 18 new results, 0 from before; next: siftlm report run",
        "1 text left out: too short for the protocol, or without a word that the memory can search for",
    ]
    status, out, _ = run(siftlm, "--out", "run", "--quiet", "--methods", "base,nn,sift,context")
    assert out.startswith("6 texts: 6 new results, 18 from before")
    assert len(records_of("run")) == 24
    question = question_of("run")
    contents = question["corpus"].pop("contents")
    assert question["corpus"] == {"name": "t.jsonl", "domain": None, "longest": None, "seed": 0}
    Path("t.jsonl").write_text(Path("t.jsonl").read_text().replace("witness", "woman"))
    status, _, err = run(siftlm, "--out", "run", "--quiet")
    assert status == 1
    assert f'corpus.contents="{contents}"' in err
    assert question["protocol"] == {"name": "split", "n": 3, "at": [1, 2, 3], "copies": "report"}


def test_json(test_set, siftlm):
    status, out, _ = run(siftlm, "--out", "run", "--json", "--per-domain", "2", "--domains", "d1")
    assert status == 0
    expected = {
        "path": "run",
        "texts": 2,
        "unusable": 0,
        "done": 6,
        "known": 0,
        "missing": 0,
        "unreadable": 0,
        "short": 0,
    }
    assert json.loads(out) == expected


def test_what_the_corpus_lost_is_said_on_one_line(test_set, siftlm):
    with open("t.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "too short"}\n{"text": 5}\nno JSON\n{"text": ""}\n')
    out = run(siftlm, "--out", "run", "--quiet")[1]
    (message,) = [line for line in out.splitlines() if line.startswith("left out of the corpus: ")]
    assert "2 could not be read (t.jsonl:9: " in message or "3 could not be read (t.jsonl:9: " in message
    assert "fewer than 40 characters" in message
    found = json.loads(run(siftlm, "--out", "run", "--json")[1])
    assert found["unreadable"] + found["short"] == 4


def test_one_is_no_plural():
    from siftlm.cli.evaluate import _evaluation_lines
    from siftlm.evaluation import Evaluation

    assert _evaluation_lines(Evaluation(Path("run"), 1, 1, 1, 0, 1)) == [
        "1 text: 1 new result, 0 from before; next: siftlm report run",
        "1 text left out: too short for the protocol, or without a word that the memory can search for",
        "another process is still computing 1 result",
    ]


def test_the_field_of_the_text_is_noted_and_is_part_of_the_question(test_set, siftlm):
    rows = [json.loads(line) for line in Path("t.jsonl").read_text(encoding="utf-8").splitlines()]
    Path("t.jsonl").write_text(
        "".join(json.dumps({**row, "body": row["text"] + " again"}) + "\n" for row in rows), encoding="utf-8"
    )
    assert run(siftlm, "--out", "run", "--quiet", "--text", "body")[0] == 0
    assert question_of("run")["corpus"]["text"] == "body"
    # A run of a version that did not note it goes on.
    question = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    del question["corpus"]["text"]
    Path("run/run.json").write_text(json.dumps(question), encoding="utf-8")
    assert run(siftlm, "--out", "run", "--quiet", "--text", "body")[1].startswith(
        "7 texts: 0 new results, 21 from before"
    )


def test_ctrl_c_keeps_what_is_known_and_the_same_command_goes_on(test_set, siftlm):
    run(siftlm, "--out", "whole", "--quiet")
    FakeController.interrupt_at = 3
    status, out, err = run(siftlm, "--out", "run", "--quiet")
    assert (status, out) == (130, "")
    assert "stopped; the results are kept: repeat the command to resume" in err
    there = len(records_of("run"))
    assert 0 < there < 18
    status, out, _ = run(siftlm, "--out", "run", "--quiet")
    assert out.startswith(f"6 texts: {18 - there} new results, {there} from before")
    assert known("run") == known("whole")


def test_a_setting_for_all_methods_is_one(test_set, siftlm):
    assert run(siftlm, "--out", "run", "--quiet", "--set", "clip=0.5", "--methods", "nn,sift+clip=2")[0] == 0
    noted = {one["method"]: one["settings"]["clip"] for one in records_of("run") if "settings" in one}
    assert noted == {"nn": 0.5, "sift+clip=2": 2}
    status, _, err = run(siftlm, "--out", "run", "--quiet", "--methods", "nn")
    assert status == 1
    assert "holds results of nn with clip=0.5, and now it is None" in err


def test_progress_is_drawn_for_a_person_only(test_set, siftlm):
    _, _, err = run(siftlm, "--out", "run")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--methods base,shift", "did you mean 'sift'"),
        ("--methods sift+noise=-1", "noise must be"),
        ("--methods nn,nn", "'nn' twice"),
        ("--methods calibrated", "siftlm calibrate"),
        ("--test nowhere.jsonl", "nowhere.jsonl"),
        ("--memory nowhere", "nowhere"),
        ("--domains d7", "did you mean 'd"),
        ("--domain topic", "no field 'topic'"),
        ("-n 0", "n must be"),
        ("--at 9", "there are only n=3"),
        ("--per-domain 0", "--per-domain must be"),
        ("--set clap=1", "clap"),
        ("--protocol prefix --prefix 0", "prefix must be"),
    ],
)
def test_a_wrong_call_is_one_line_and_makes_no_folder(test_set, siftlm, words, message):
    status, out, err = run(siftlm, "--out", "run", *words.split())
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not Path("run").exists()


def test_another_question_in_the_same_folder_is_refused(test_set, siftlm):
    run(siftlm, "--out", "run", "--quiet")
    status, _, err = run(siftlm, "--out", "run", "-n", "2")
    assert status == 1
    assert "protocol.at=[1, 2, 3], and this one has [1, 2]" in err
    shutil.rmtree("run")
    assert run(siftlm, "--out", "run", "-n", "2", "--quiet")[0] == 0
