"""``siftlm demo``: what is printed, what the page shows and what --json gives are the same figures."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len as width_of

from cli.corpora import Screen
from cli.fakes import FakeController
from siftlm import Document
from siftlm.cli import demo, main
from siftlm.cli.terminal import Terminal

CODES = re.compile(r"\x1b\[[\d;]*[mAK]")
KINDS = ("code", "prose", "mathematics")
WILD = "<script>alert('x')</script> & more "


def sampled(kind: str, number: int) -> Document:
    words = f"{WILD if number % 2 else ''}{kind} number {number}: to add {number} and {number * 7} is {number * 8}. "
    return Document(words * 4, {"kind": kind, "source": kind, "name": f"{kind}.<b>{number}"}, f"{kind}:{number}")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A demo of a few texts with a controller that counts; stands in an empty folder. Yields how often it built."""
    built = []

    def documents():
        built.append(1)
        return [sampled(kind, number) for kind in KINDS for number in range(20)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("siftlm.extras.load", lambda *_: None)
    monkeypatch.setattr("siftlm.controller.Controller", FakeController)
    monkeypatch.setattr("siftlm.sample.documents", documents)
    monkeypatch.setattr(
        "siftlm.sample.prompts", lambda kind, count, seed: [sampled(kind, 100 + seed + at) for at in range(count)]
    )
    yield built
    FakeController.made.clear()
    FakeController.interrupt_at = None


def test_plain_text_without_a_terminal(tiny, siftlm):
    status, out, err = siftlm("demo", "-n", "5", "--texts", "1")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.count("steps") >= 3
    for kind in KINDS:
        assert f"{kind}: {kind}.<b>100" in out
    for word in ("prompt", "before", "after", "truth"):
        assert len(re.findall(rf"^{word} ", out, re.MULTILINE)) == 3
    assert "after 5 texts" in out
    assert (
        len(re.findall(r"(?:nearest neighbour|SIFT): 5 (?:texts|picks of \d texts), \d selected only here", out)) == 6
    )
    assert "siftlm-demo/report.html" in out


def test_json_the_table_and_the_page_agree(tiny, siftlm):
    out = siftlm("demo", "-n", "5", "--texts", "2")[1]
    page = Path("siftlm-demo/report.html").read_text(encoding="utf-8")
    status, printed, err = siftlm("demo", "-n", "5", "--texts", "2", "--json")
    assert (status, err) == (0, "")
    cases = json.loads(printed)
    assert [case["kind"] for case in cases] == [kind for kind in KINDS for _ in range(2)]
    for case in cases:
        for method in ("nearest", "sift"):
            run = case[method]
            assert len(run["bits"]) == len(run["uncertainty"]) == 6
            assert run["bits"][0] == case["base"]
            assert run["uncertainty"][0] == 1
            assert run["uncertainty"] == sorted(run["uncertainty"], reverse=True)
            assert len(run["picks"]) == 5
            assert run["continuation"].startswith("after 5 texts")
    figures = [
        statistics.fmean(case["base"] for case in cases),
        statistics.fmean(case["context"] for case in cases),
        statistics.fmean(case["nearest"]["bits"][-1] for case in cases),
        statistics.fmean(case["sift"]["bits"][-1] for case in cases),
    ]
    shown = [f"{figure:.3f}" for figure in figures]
    assert re.search(r"mean\s+" + r"\s+".join(map(re.escape, shown)), out)
    row = re.search(r"<tr><td[^>]*>mean</td>(.*?)</tr>", page)[1]
    assert re.findall(r">([\d.]+)</td>", row)[:4] == shown


def test_the_page(tiny, siftlm):
    assert siftlm("demo", "-n", "6", "--texts", "2")[0] == 0
    page = Path("siftlm-demo/report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|@import|url\(", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    body = re.search(r"<body>.*</body>", page, re.DOTALL)[0]
    tree = ElementTree.fromstring(body)  # well formed, so that nothing is nested wrongly
    assert len(tree.findall("h2")) == 6
    assert len(tree.findall(".//svg")) == 2 + 2 * 6
    assert len(tree.findall(".//ol[@class='picks']/li")) == 6 * 2 * 6
    assert len(tree.findall(".//p[@class='finding']")) == 2


def test_what_is_said_is_what_was_found(tiny, siftlm):
    cases = json.loads(siftlm("demo", "-n", "4", "--texts", "2", "--json")[1])
    message = " ".join(siftlm("demo", "-n", "4", "--texts", "2")[1].split())
    share = {m: [case[m]["bits"][-1] / case["base"] for case in cases] for m in ("nearest", "sift")}
    assert f"helped on {sum(one < 0.995 for one in share['sift'])} of 6" in message
    ahead = sum(one < other - 0.005 for one, other in zip(share["sift"], share["nearest"], strict=True))
    behind = sum(one > other + 0.005 for one, other in zip(share["sift"], share["nearest"], strict=True))
    assert f"ahead on {ahead}, behind on {behind} of 6" in message
    assert f"{100 * statistics.fmean(share['sift']):.1f} % of the base model's" in message
    assert "6 texts illustrate the method; they are far too few for a significant difference" in message


def test_json_has_no_nan():
    from siftlm.cli.demo import DemoCase, DemoRun

    case = DemoCase("code", "c", "p", "s", 2.0, "", runs={"sift": DemoRun("sift", [2.0, float("nan")])})
    record = json.loads(json.dumps(case.to_dict(), allow_nan=False))
    assert record["context"] is None
    assert record["sift"]["bits"] == [2.0, None]


def test_where_learning_hurts_the_page_says_so():
    from siftlm.cli.demo import DemoCase, DemoRun
    from siftlm.cli.demo_page import findings

    def case(name: str, nearest: float, sift: float) -> DemoCase:
        runs = {"nearest": DemoRun("nearest", [2.0, nearest]), "sift": DemoRun("sift", [2.0, sift])}
        for run in runs.values():
            run.found = type("Found", (), {"selection": type("S", (), {"uncertainty": [1.0, 0.5]})})()
        return DemoCase("code", name, "p", "s", 2.0, "c", 1.9, runs)

    better, worse = case("better", 1.6, 1.5), case("worse", 2.1, 2.2)
    message = " ".join(findings([better, worse]))
    assert "helped on 1 of 2: code (better)" in message
    assert "made the model worse on code (worse)" in message
    assert "ahead on 1, behind on 1 of 2" in message
    assert "hurt on none" in findings([better])[0]
    assert "helped on 0 of 1" in findings([worse])[0]
    assert "ahead on 0, behind on 0" in findings([case("same", 2.0, 2.001)])[1]


def test_a_second_run_uses_the_memory_again(tiny, siftlm):
    for _ in range(2):
        assert siftlm("demo", "-n", "2", "--texts", "1")[0] == 0
    assert len(tiny) == 1


def test_a_memory_that_was_left_half_built_is_begun_anew(tiny, siftlm):
    part = Path("siftlm-demo/memory.part")
    part.mkdir(parents=True)
    (part / "rest").write_text("of a demo that was stopped")
    assert siftlm("demo", "-n", "2", "--texts", "1")[0] == 0
    assert not part.exists()
    assert not Path("siftlm-demo/memory/rest").exists()


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
    # the chart is drawn over itself, 8 steps a text; a narrow screen sees it once
    assert len(re.findall(r"\x1b\[\d+A", shown)) == (0 if columns < demo.LIVE_COLUMNS else 8 * 3)
    lines = [line for line in CODES.sub("", shown).splitlines() if "%" in line or "─" in line]
    assert max(map(width_of, lines)) <= columns


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
        yield sampled("code", 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("siftlm.sample.documents", interrupted)
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


def test_more_texts_than_there_are(tiny, siftlm, monkeypatch):
    from siftlm.errors import InvalidInput

    def few(kind, count, seed):
        raise InvalidInput(f"count={count}: there are only 3 prompts of kind {kind!r}")

    monkeypatch.setattr("siftlm.sample.prompts", few)
    status, _, err = siftlm("demo", "--texts", "900")
    assert (status, err) == (1, "siftlm: --texts 900: there are only 3 prompts of kind 'code'\n")


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_what_is_not_installed_is_named_with_the_command(folder, siftlm, monkeypatch, library):
    from siftlm import extras

    real = extras.load
    monkeypatch.setitem(sys.modules, library, None)  # as if there were none
    monkeypatch.setattr(extras, "load", lambda name, extra: real(name, extra) if name == library else None)
    status, out, err = siftlm("demo")
    assert (status, out) == (1, "")
    assert library in err
    assert "pip install 'siftlm[tune]'" in err
    assert err.count("\n") == 1
    assert not Path("siftlm-demo").exists()


def test_a_curve_keeps_its_place_while_it_grows():
    from siftlm.cli.demo import DemoCase, DemoRun

    stage = demo.DemoScreen(Terminal(width=100), 10, quiet=False)
    run = DemoRun("nearest", [2.0, 1.9, 1.8])

    def drawn(case):
        return Terminal(width=100).render(stage.chart(case)).split("\n")

    early = drawn(DemoCase("code", "c", "p", "s", 2.0, "", runs={"nearest": run}))
    run.bits += [1.8] * 8
    late = drawn(DemoCase("code", "c", "p", "s", 2.0, "", runs={"nearest": run}))
    assert len(early) == len(late)
    assert early[-1] == late[-1], "the axis names all steps from the beginning"
    assert "90.0 %" in "\n".join(early)


@pytest.mark.slow
def test_the_bundled_model_learns(tmp_path, shell):
    run = shell("demo", "--texts", "1", "-n", "3", "--into", str(tmp_path / "demo"), OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr == b""
    out = run.stdout.decode()
    assert "\x1b" not in out
    mathematics = re.search(r"^mathematics: .*?([\d.]+)$", out, re.MULTILINE)
    assert float(mathematics[1]) < 97, "three worksheets teach the form of a fourth"
    assert "report.html" in out
    ElementTree.fromstring(
        re.search(r"<body>.*</body>", (tmp_path / "demo/report.html").read_text(encoding="utf-8"), re.DOTALL)[0]
    )


def test_the_seed_is_checked_first(siftlm, tmp_path):
    status, _, err = siftlm("demo", "--into", str(tmp_path / "out"), "--seed", "-1")
    assert (status, err) == (1, "siftlm: --seed must be a whole number ≥ 0, got -1\n")
    assert not (tmp_path / "out").exists()
