"""``siftlm demo``: what is printed, what the page shows and what --json gives are the same figures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len as width_of

from cli.corpora import Screen
from cli.fakes import FakeController
from siftlm import Document
from siftlm.cli import demo, demo_page, main
from siftlm.types import UseChoice

CODES = re.compile(r"\x1b\[[\d;]*[mAK]")
WILD = "<script>alert('x')</script> & more "
USES = ("base", "context", "nearest", "sift", "auto")


def sampled(number: int) -> Document:
    words = f"{WILD if number % 2 else ''}number {number}: to add {number} and {number * 7} is {number * 8}. "
    return Document(words * 4, {"kind": "code", "source": "code", "name": f"code.<b>{number}"}, f"code:{number}")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A demo with few texts and a controller that counts; stands in an empty folder. Yields how often it built."""
    built = []
    facts = {"one": 9, "two": 7}

    def documents():
        built.append(1)
        return [sampled(number) for number in range(20)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("siftlm.extras.load", lambda *_: None)
    monkeypatch.setattr("siftlm.controller.Controller", FakeController)
    monkeypatch.setattr(
        demo,
        "library_facts",
        lambda: {
            kind: [demo.Fact(f"{kind}{at}", f"{kind} is {WILD if at == 1 else at}") for at in range(count)]
            for kind, count in facts.items()
        },
    )
    monkeypatch.setattr("siftlm.sample.documents", documents)
    monkeypatch.setattr("siftlm.sample.prompts", lambda _kind, count, seed: [sampled(101 + seed)] * count)
    yield built
    FakeController.made.clear()
    FakeController.interrupt_at = None


def test_plain_text_without_a_terminal(tiny, siftlm):
    status, out, err = siftlm("demo", "-n", "5", "--texts", "3")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert len(re.findall(r"^Explain \w+, \w+, \w+\.$", out, re.MULTILINE)) == 3
    for name in ("before", "SIFT in context", "tuned, nearest", "tuned, SIFT", "auto, SIFT"):
        assert len(re.findall(rf"^ *{name} ", out, re.MULTILINE)) == 3 + 1
    assert "3 questions ask for three facts each" in " ".join(out.split())
    assert "code.<b>101" in out
    assert "siftlm-demo/report.html" in out


def test_json_the_table_and_the_page_agree(tiny, siftlm):
    out = siftlm("demo", "-n", "5", "--texts", "2")[1]
    page = Path("siftlm-demo/report.html").read_text(encoding="utf-8")
    status, printed, err = siftlm("demo", "-n", "5", "--texts", "2", "--json")
    assert (status, err) == (0, "")
    record = json.loads(printed)
    facts = record["facts"]
    assert tuple(facts["summary"]) == USES
    for use, row in facts["summary"].items():
        answers = [answer for question in facts["questions"] for answer in question[use]["answers"]]
        assert row["answers"] == len(answers) == 6
        assert row["exact"] == sum(answer["expected"] == answer["answer"] for answer in answers)
        assert row["bits_per_byte"] == pytest.approx(sum(a["bits_per_byte"] for a in answers) / 6)
        cells = [f"{row['exact']} of 6", f"{row['bits_per_byte']:.2f}"]
        name = re.escape(demo.USES[use][0])
        assert re.search(rf"^{name} +{cells[0]} +{cells[1]} ", out, re.MULTILINE)
        assert f"<td>{demo.USES[use][0]}</td><td>{cells[0]}</td><td>{cells[1]}</td>" in page
    for question in facts["questions"]:
        for use in USES[1:]:
            run = question[use]
            assert len(run["texts"]) == 5
            assert len(run["uncertainty"]) == 6
            assert run["uncertainty"] == sorted(run["uncertainty"], reverse=True)
        assert question["sift"]["texts"] == question["context"]["texts"] == question["auto"]["texts"]
        assert "choice" in question["auto"]
        assert question["base"]["texts"] == []
    harmed = record["harmed"]
    assert f"base {harmed['base']:.3f}, tuned {harmed['tuned']:.3f}, auto {harmed['auto']:.3f}." in out
    assert harmed["choice"]["reason"] in " ".join(out.split())


def test_the_page(tiny, siftlm):
    assert siftlm("demo", "-n", "6", "--texts", "2")[0] == 0
    page = Path("siftlm-demo/report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|@import|url\(", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    body = re.search(r"<body>.*</body>", page, re.DOTALL)[0]
    tree = ElementTree.fromstring(body)  # well formed, so that nothing is nested wrongly
    assert len(tree.findall("h2")) == 3
    assert len(tree.findall(".//svg")) == 2
    assert len(tree.findall(".//details//ol[@class='picks']/li")) == 2 * 2 * 6


def test_findings_are_what_was_found():
    answer = demo.FactAnswer
    right, wrong = answer("yes", "yes", 0.5), answer("yes", "no", 1.5)
    question = demo.Question("Explain a, b.", (demo.Fact("a", "yes"), demo.Fact("b", "yes")))
    choice = UseChoice("none", {"weights": 104.0}, 3)
    runs = {use: [demo.QuestionRun((wrong, wrong))] for use in USES}
    runs["nearest"] = [demo.QuestionRun((right, right), facts_found=2)]
    runs["sift"] = [demo.QuestionRun((right, wrong), facts_found=1)]
    runs["auto"] = [demo.QuestionRun((wrong, wrong), choice=choice)]
    message = " ".join(demo_page.fact_findings(demo.FactsOutcome([question], runs)))
    assert "the model gives 1 of 2 answers exactly (0 before, 0 with" in message
    assert "2 tuned on nearest neighbour's), at 1.00 bits per byte (1.50 before" in message
    assert "state 1 of the 2 facts, nearest neighbour's 2." in message
    assert 'use="auto" chose none for 1 of 1 questions: 0 of 2 exact.' in message


def test_json_has_no_nan():
    run = demo.QuestionRun((demo.FactAnswer("a", "b", float("nan")),))
    assert json.loads(json.dumps(run.to_dict(), allow_nan=False))["answers"][0]["bits_per_byte"] is None


def test_no_question_is_in_the_words_of_the_memory():
    texts = [document.text for document in demo.fact_documents()]
    assert len(texts) == len(set(texts)) > 2000
    memory = "\n".join(texts)
    for seed in range(3):
        questions = demo.make_questions(9, seed)
        assert len({one.prompt for one in questions}) == 9
        for one in questions:
            assert one.prompt not in memory
            for fact in one.facts:
                assert demo.ANSWER.format(name=fact.name) not in memory
                assert sum(f'"{fact.text}"' in text and fact.name in text for text in texts) >= len(demo.WORDINGS)
    assert demo.make_questions(3, 1) == demo.make_questions(9, 1)[:3] != demo.make_questions(3, 2)


def test_a_second_run_uses_the_memory_again(tiny, siftlm):
    for _ in range(2):
        assert siftlm("demo", "-n", "2", "--texts", "1")[0] == 0
    assert len(tiny) == 1


def test_a_memory_that_was_left_half_built_is_begun_anew(tiny, siftlm):
    for name in ("memory.part", f"{demo.FACTS_FOLDER}.part"):
        part = Path("siftlm-demo") / name
        part.mkdir(parents=True)
        (part / "rest").write_text("of a demo that was stopped")
    assert siftlm("demo", "-n", "2", "--texts", "1")[0] == 0
    assert sorted(path.name for path in Path("siftlm-demo").iterdir()) == [demo.FACTS_FOLDER, "memory", "report.html"]
    assert not list(Path("siftlm-demo").rglob("rest"))


@pytest.mark.slow
@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("columns", [40, 80, 130])
def test_on_a_screen(tiny, monkeypatch, environ, columns):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["demo", "-n", "4", "--texts", "1"]) == 0
    shown = screen.getvalue()
    assert bool(re.search(r"\x1b\[[\d;]*m", shown)) is not bool(environ)
    assert max(map(width_of, CODES.sub("", shown).splitlines())) <= columns


def test_ctrl_c(tiny, siftlm):
    FakeController.interrupt_at = 2
    status, out, err = siftlm("demo", "-n", "4", "--texts", "1")
    assert status == 130
    assert "Traceback" not in out + err
    assert err.strip() == "siftlm: interrupted; the next demo reuses the memory in siftlm-demo"
    assert not Path("siftlm-demo/report.html").exists()
    assert siftlm("demo", "-n", "4", "--texts", "1")[0] == 0


def test_ctrl_c_while_the_memory_is_built(tiny, siftlm, monkeypatch):
    def interrupted():
        yield Document("a fact", {"name": "a"})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "fact_documents", interrupted)
        status, _, err = siftlm("demo", "-n", "4", "--texts", "1")
    assert status == 130
    assert "the next demo rebuilds the memory" in err
    assert siftlm("demo", "-n", "4", "--texts", "1")[0] == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["-n", "0"], 2, "-n: expected a whole number ≥ 1, got '0'"),
        (["-n", "-3"], 2, "-n"),
        (["-n", "many"], 2, "expected a whole number ≥ 1, got 'many'"),
        (["--texts", "0"], 2, "--texts: expected a whole number ≥ 1, got '0'"),
        (["--into", "file"], 1, "--into file: is a file, not a folder"),
        (["--into", "file/below"], 1, "--into file/below: not writable"),
        (["--model", "none"], 1, "'none' is no causal language model"),
        (["--seed", "x"], 2, "--seed"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_what_is_wrong_is_said_on_one_line_before_anything_is_built(tiny, siftlm, words, status, message):
    Path("file").write_text("not a folder")
    found, out, err = siftlm("demo", *words)
    assert (found, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
    assert not tiny


@pytest.mark.parametrize(
    ("library", "extra"), [("torch", "tune"), ("transformers", "tune"), ("peft", "tune"), ("scipy", "lexical")]
)
def test_what_is_not_installed_is_named_with_the_command(folder, siftlm, monkeypatch, library, extra):
    from siftlm import extras

    real = extras.load
    monkeypatch.setitem(sys.modules, library, None)  # as if there were none
    monkeypatch.setattr(extras, "load", lambda name, room: real(name, room) if name == library else None)
    status, out, err = siftlm("demo")
    assert (status, out) == (1, "")
    assert library in err
    assert f"pip install 'siftlm[{extra}]'" in err
    assert err.count("\n") == 1
    assert not Path("siftlm-demo").exists()


@pytest.mark.slow
def test_the_bundled_model_learns(tmp_path, shell):
    run = shell("demo", "--into", str(tmp_path / "demo"), "--json", OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr == b""
    record = json.loads(run.stdout)
    picks, harmed = record["picks"], record["harmed"]
    assert picks["nearest"]["facts_found"] <= 2
    assert picks["sift"]["facts_found"] == 5
    assert picks["min_gain"] == {"min_gain": 0.05, "picks": 5, "facts_found": 5}
    assert harmed["choice"]["use"] == "none"
    assert harmed["auto"] == pytest.approx(harmed["base"])
    assert harmed["tuned"] > 1.01 * harmed["base"]
    ElementTree.fromstring(
        re.search(r"<body>.*</body>", (tmp_path / "demo/report.html").read_text(encoding="utf-8"), re.DOTALL)[0]
    )


def test_the_seed_is_checked_first(siftlm, tmp_path):
    status, _, err = siftlm("demo", "--into", str(tmp_path / "out"), "--seed", "-1")
    assert (status, err) == (1, "siftlm: --seed must be a whole number ≥ 0, got -1\n")
    assert not (tmp_path / "out").exists()
