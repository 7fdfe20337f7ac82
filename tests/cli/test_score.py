"""``siftlm score``: the figures are the library's, each way of learning beside the others, and many texts resume."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from cli.corpora import Screen
from siftlm import LocalModel
from siftlm.cli import charts, main, tuning
from siftlm.cli.terminal import Terminal
from siftlm.types import Step, Trace

TEXT = "tea is brewed with hot water and lists are sorted by a key, they say"


def scores(siftlm, *words):
    status, out, err = siftlm("score", "memory", *words, "--json", "--model", "m")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_json_is_what_the_library_says(fake, siftlm):
    record = scores(siftlm, TEXT, "-n", "4", "--at", "1,3", "--context")
    model = LocalModel("m", "memory")
    assert list(record["scores"]) == ["in context", "nearest", "auto"]
    for name, settings in (
        ("auto", {"n": 4}),
        ("nearest", {"n": 4, "method": "nearest"}),
        ("in context", {"n": 4, "method": "auto", "use": "context"}),
    ):
        expected = model.score(TEXT, at=[1, 3], **settings)
        got = record["scores"][name]
        assert (record["base"], got["tuned"], got["percent"]) == (expected.base, expected.tuned, expected.percent)
        assert got["curve"] == [list(point) for point in expected.curve]
        assert got["found"]["selection"] == expected.found.selection.to_dict()
        assert "hits" not in got["found"]
    assert record["bytes"] == expected.likelihood.bytes < len(TEXT)
    assert scores(siftlm, TEXT, "-n", "2", "--why")["scores"]["auto"]["found"]["hits"][0]["text"]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--method mmr --option balance=0.3", {"method": "mmr", "balance": 0.3}),
        ("--k 7 --noise 0.5 --replacement no", {"k": 7, "noise": 0.5, "replacement": False}),
        ("--k all", {"k": None}),
        ("--mode transductive", {"mode": "transductive"}),
        ("--rate 0.5 --order reversed --passes 2", {"rate": 0.5, "order": "reversed", "passes": 2}),
        (
            "--set betas=[0.5,0.9] --set watch-every=2 --use auto",
            {"betas": [0.5, 0.9], "watch_every": 2, "use": "auto"},
        ),
        ("--set reuse=2 --set repeats=grouped", {"reuse": 2, "repeats": "grouped"}),
        ("--tokens 2", {"tokens": 2}),
        ("--use both", {"use": "both"}),
        ("--decide 0.9", {"decide": 0.9}),
        ("--per-document 1 --without-copies 0.5", {"per_document": 1, "without_copies": 0.5}),
        ("--until 0.99 --candidates both", {"until": 0.99, "candidates": "both"}),
    ],
)
def test_every_flag_is_a_setting(fake, siftlm, words, given):
    record = scores(siftlm, TEXT, "-n", "5", "--compare", "none", *words.split())
    expected = LocalModel("m", "memory").score(TEXT, 5, **given)
    (got,) = record["scores"].values()
    assert got["tuned"] == expected.tuned
    assert got["found"]["selection"] == expected.found.selection.to_dict()
    assert got["trace"]["settings"] == json.loads(json.dumps(expected.trace.settings))
    assert got["trace"].get("choice") == json.loads(json.dumps(expected.trace.to_dict().get("choice")))
    assert [step["watched"] for step in got["trace"]["steps"]] == [step.watched for step in expected.steps]


def test_where_and_kernel_reach_the_search(fake, siftlm):
    record = scores(siftlm, TEXT, "-n", "5", "--where", 'source = "book1"', "--kernel", "power:2", "--why")
    for one in record["scores"].values():
        assert {hit["meta"]["source"] for hit in one["found"]["hits"]} == {"book1"}
    linear = scores(siftlm, TEXT, "-n", "5", "--where", 'source = "book1"', "--method", "sift")
    powered, plain = record["scores"]["sift"], linear["scores"]["sift"]  # a kernel is a setting of SIFT's
    uncertainty = [one["found"]["selection"]["uncertainty"] for one in (powered, plain)]
    assert uncertainty[0] != uncertainty[1]


def test_the_same_texts_are_learned_once(fake, siftlm, monkeypatch):
    calls = []
    plain = LocalModel.score
    monkeypatch.setattr(LocalModel, "score", lambda *given, **how: calls.append(how) or plain(*given, **how))
    record = scores(siftlm, TEXT, "-n", "3", "--option", "likeness=1")["scores"]
    assert len(calls) == 1
    assert record["auto"]["tuned"] == record["nearest"]["tuned"]
    assert record["nearest"]["found"]["selection"]["method"] == "nearest"
    expected = plain(LocalModel("m", "memory"), TEXT, 3, "nearest")
    assert record["nearest"]["tuned"] == expected.tuned
    assert record["nearest"]["found"]["selection"] == expected.found.selection.to_dict()
    scores(siftlm, TEXT, "-n", "3", "--option", "likeness=1", "--use", "both")
    assert len(calls) == 3, "one reads them too, and the other does not"


def test_the_model_gets_its_flags(fake, siftlm):
    scores(siftlm, TEXT, "-n", "1", "--engine", "lora", "--rank", "3", "--targets", "a,b", "--dtype", "bfloat16",
           "--context-tokens", "32", "--device", "cpu")  # fmt: skip
    arguments = fake.made[0].arguments
    assert arguments == {"engine": "lora", "rank": 3, "alpha": None, "targets": ["a", "b"], "dtype": "bfloat16",
                     "context": 32, "device": "cpu"}  # fmt: skip


def test_another_method_gets_as_many_texts_and_nothing_that_is_not_its_own(fake, siftlm):
    record = scores(siftlm, TEXT, "-n", "9", "--method", "mmr", "--option", "balance=0.4", "--until", "0.999")
    picked = {name: len(one["found"]["selection"]["indices"]) for name, one in record["scores"].items()}
    assert list(picked) == ["nearest", "mmr"]
    assert picked["nearest"] == picked["mmr"] < 9


def test_the_table_names_all_and_the_best_is_bold_on_a_screen(fake, siftlm, monkeypatch):
    status, out, err = siftlm("score", "memory", TEXT, "-n", "3", "--at", "0,1", "--model", "m")
    assert status == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line[:1].strip()}
    expected = LocalModel("m", "memory").score(TEXT, 3)
    assert rows["base"][1:3] == [f"{expected.base:.3f}", "100.0"]
    assert rows["auto"][1:4] == [f"{expected.tuned:.3f}", f"{expected.percent:.1f}", "3"]
    assert re.search(r"steps +nearest +auto\n +0 +2\.000 +2\.000\n +1 ", out)
    assert "(30 bytes, 7 tokens) is scored. Model: m." in out
    assert "auto: step 1 of 3 loss 3.000" in err  # no screen: plain lines
    assert "\x1b" not in out + err
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Screen())
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["score", "memory", TEXT, "-n", "3", "--model", "m"]) == 0
    assert "\x1b[1m" in sys.stdout.getvalue()
    live = sys.stderr.getvalue()
    assert "auto: step 3 of 3 █▃▁ loss 1.000" in live
    assert "\n" not in live
    assert all(len(part) <= 69 for part in live.split("\r"))


def test_quiet_is_quiet(fake, siftlm):
    assert siftlm("score", "memory", TEXT, "-n", "2", "--quiet", "--model", "m")[2] == ""


def test_the_text_comes_from_a_file_or_stdin_as_it_is(fake, siftlm, monkeypatch):
    expected = scores(siftlm, TEXT, "-n", "2")["scores"]["auto"]["tuned"]
    Path("t.txt").write_text(f"\ufeff{TEXT}", encoding="utf-8")
    assert scores(siftlm, "--file", "t.txt", "-n", "2")["scores"]["auto"]["tuned"] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="ascii"))
    assert scores(siftlm, "-n", "2", "-")["scores"]["auto"]["tuned"] == expected


MANY = (
    *("score", "memory", "--texts", "texts.jsonl", "-n", "3", "--method", "nn-f", "--model", "m"),
    *("--out", "scores.jsonl"),
)


@pytest.fixture
def texts(fake):
    lines = [json.dumps(f"{TEXT} number {at}") for at in range(3)]
    lines.insert(1, json.dumps({"text": TEXT, "name": "mine"}))
    Path("texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def saved():
    return [json.loads(line) for line in Path("scores.jsonl").read_text(encoding="utf-8").splitlines()]


def test_many_texts_are_json_lines_with_what_their_lines_said(texts, siftlm):
    status, out, err = siftlm(*MANY[:-2])
    assert status == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["line"] for record in records] == [1, 2, 3, 4]
    assert records[1]["name"] == "mine"
    model = LocalModel("m", "memory")
    assert records[1]["scores"]["nn-f"]["tuned"] == model.score(TEXT, 3, "nn-f").tuned
    mean = sum(record["scores"]["nn-f"]["percent"] for record in records) / 4
    assert "4 texts, means: base 2.000 bits per byte; nearest " in err
    assert f"nn-f {mean:.1f} % of the base model" in err


def test_an_interrupted_run_goes_on_where_it_stopped(texts, fake, siftlm, monkeypatch):
    whole = [record["scores"]["nn-f"]["tuned"] for record in map(json.loads, siftlm(*MANY[:-2])[1].splitlines())]
    fake.interrupt_at = None
    real = fake.learn
    seen = []

    def learn(self, found, **rest):
        seen.append(found)
        if len(seen) == 4:  # the second method of the second text
            raise KeyboardInterrupt
        return real(self, found, **rest)

    monkeypatch.setattr(fake, "learn", learn)
    status, out, err = siftlm(*MANY)
    assert (status, out) == (130, "")
    assert "repeat the command to resume" in err
    assert "Traceback" not in err
    assert len(saved()) == 1
    assert all(controller.learned is None for controller in fake.made)
    with open("scores.jsonl", "a", encoding="utf-8") as file:
        file.write('{"line": 2, "sha')  # a crash in the middle of a line
    assert siftlm(*MANY)[0] == 0
    assert [record["scores"]["nn-f"]["tuned"] for record in saved()] == whole
    made = len(fake.made)
    status, _, err = siftlm(*MANY)
    assert status == 0
    assert len(fake.made) == made  # nothing left: no model was loaded
    assert "scores.jsonl has 4 of 4 texts already" in err


def test_figures_of_another_question_do_not_get_into_the_same_file(texts, siftlm):
    siftlm(*MANY)
    status, _, err = siftlm(*MANY, "--rate", "0.5")
    assert status == 1
    assert "scores.jsonl:1: scored with other settings (settings: " in err
    assert len(saved()) == 4
    Path("scores.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    assert "not a record of siftlm score" in siftlm(*MANY)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score none TEXT", "none: there is no such folder; build a memory with siftlm index"),
        ("score memory", "no text: pass it in quotes"),
        ("score memory TEXT --file t.txt", "the text and --file exclude each other"),
        ("score memory --file none.txt", "none.txt: No such file"),
        ("score memory word", "has no two words to split between; --mode transductive scores all of it"),
        ("score memory TEXT --model none", "'none' is no causal language model that can be loaded"),
        ("score memory TEXT --method shift", "unknown method 'shift'; did you mean 'sift'?"),
        ("score memory TEXT --compare auto", "--compare auto: already the main method (--method)"),
        ("score memory TEXT --compare neerest", "did you mean 'nearest'?"),
        ("score memory TEXT --use context --context", "--context and --use context are the same"),
        ("score memory TEXT --set clib=1", "unknown setting of tuning 'clib'; did you mean 'clip'?"),
        ("score memory TEXT --set noise=2", "--set noise: not a setting of tuning; use --noise"),
        ("score memory TEXT --set n=2", "--set n: not a setting of tuning; use -n"),
        ("score memory TEXT --set passes=x", "siftlm: --set passes must be a whole number ≥ 1, got 'x'"),
        ("score memory TEXT --passes 0", "siftlm: --passes must be a whole number ≥ 1, got 0"),
        (
            "score memory TEXT --method hullft --set repeats=steps",
            "--set reuse=2 comes from the recipe 'hullft': leave out --set repeats=steps",
        ),
        ("score memory TEXT --rate 0", "rate must be a number > 0"),
        ("score memory TEXT --rate 1 --set rate=1", "--rate and --set rate=… are the same setting"),
        ("score memory TEXT --set reuse=2", "--set reuse=2 needs --set repeats=grouped"),
        ("score memory TEXT --option n=2", "--option n: not a setting of a selection method"),
        ("score memory TEXT --option foo=2", "unknown setting 'foo'"),
        ("score memory TEXT -n 0", "n must be a whole number"),
        ("score memory TEXT --decide 2", "decide must be a number from 0 to 1"),
        ("score memory TEXT --where und", "where"),
        ("score memory TEXT --out x", "--out needs --texts"),
        ("score memory TEXT --why", "--why needs --json"),
        ("score memory --texts bad.jsonl", "bad.jsonl:2: the text 'word' has no two words"),
        ("score memory --texts empty.jsonl", "empty.jsonl: holds no texts"),
        ("score made TEXT", "made: its vectors are precomputed"),
        ("score hollow TEXT", "hollow: has no texts"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fake, siftlm, words, message):
    from siftlm.memory import Memory

    Path("bad.jsonl").write_text('"two words"\n{"text": "word"}\n', encoding="utf-8")
    Path("empty.jsonl").write_text("\n", encoding="utf-8")
    if "made" in words:
        from siftlm.embedding import embedder

        Memory.create("made", embedder=embedder("precomputed", width=3)).close()
    if "hollow" in words:
        Memory.create("hollow").close()
    status, out, err = siftlm(*(TEXT if word == "TEXT" else word for word in words.split()))
    assert (status, out) == (1, "")
    assert err.startswith("siftlm: ")
    assert message in err
    assert err.count("\n") == 1 or "where" in words


def test_a_device_without_enough_memory_is_one_line(fake, siftlm, monkeypatch):
    def learn(self, texts, **rest):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    monkeypatch.setattr(fake, "learn", learn)
    status, _, err = siftlm("score", "memory", TEXT, "--model", "m", "--quiet")
    assert status == 1
    assert "not enough memory on the device: try --engine lora" in err
    assert err.count("\n") == 1
    assert fake.made[0].learned is None


def test_a_bug_is_not_hidden(fake, siftlm, monkeypatch):
    def learn(self, texts, **rest):
        raise RuntimeError("a bug")

    monkeypatch.setattr(fake, "learn", learn)
    with pytest.raises(RuntimeError, match="a bug"):
        siftlm("score", "memory", TEXT, "--model", "m")


def test_ctrl_c_leaves_nothing_behind(fake, siftlm):
    fake.interrupt_at = 3
    status, out, err = siftlm("score", "memory", TEXT, "-n", "5", "--model", "m")
    assert (status, out) == (130, "")
    assert "Traceback" not in err
    assert fake.made[0].learned is None
    assert len(fake.made[0].histories[0]) == 2


def test_sparklines():
    assert charts.sparkline([], 5, Terminal()) == ""
    assert charts.sparkline([3.0, 1.0, float("nan")], 5, Terminal()) == "█▁?"
    assert charts.sparkline(list(range(100)), 8, Terminal()) == "▁▂▃▄▅▆▇█"
    assert charts.sparkline([float("nan")], 5, Terminal(unicode=False)) == "?"


def test_why_it_ended_is_said():
    steps = (Step(0, 3.0, 5, 1.0, 0.1),) * 4
    assert tuning.remark(Trace(steps, "done", 4)) == ""
    assert "after step 2 was kept" in tuning.remark(Trace(steps, "worse", 2))
    for ended in ("seconds", "tokens", "diverged", "declined", "nothing"):
        assert tuning.remark(Trace(steps, ended, 0))
    assert tuning.loss_summary(Trace((), "declined", 0)) == "no steps"


@pytest.mark.slow
def test_a_real_model_scores_and_is_itself_again(folder, sixty, tiny_model, siftlm):
    (folder / "memory").symlink_to(sixty, target_is_directory=True)
    words = ("score", "memory", TEXT, "-n", "3", "--json", "--model", str(tiny_model), "--set", "precision=float32")
    first, second = (json.loads(siftlm(*words, *more)[1]) for more in ((), ("--rate", "1e-2")))
    assert first["base"] == second["base"]
    assert second["scores"]["auto"]["tuned"] < first["base"]
    assert first["scores"]["auto"]["tuned"] != second["scores"]["auto"]["tuned"]
    expected = LocalModel(tiny_model, "memory", precision="float32").score(TEXT, 3)
    assert first["scores"]["auto"]["tuned"] == expected.tuned
    status, _, err = siftlm("score", "memory", TEXT, "--model", "nowhere/at/all")
    assert status == 1
    assert err.startswith("siftlm: 'nowhere/at/all' is no causal language model that can be loaded")
    assert err.count("\n") == 1
    status, _, err = siftlm("score", "memory", TEXT, "--model", str(tiny_model), "--device", "nonsense")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("siftlm: --device nonsense is unknown to torch")


def test_a_text_without_a_figure_spoils_no_mean():
    from siftlm.cli.score import _means

    records = [
        {"base": base, "scores": {"sift": {"percent": percent}}} for base, percent in [(2.0, 90.0), (None, None)]
    ]
    assert "base 2.000 bits per byte; sift 90.0 %" in _means(records)
    assert "base nan bits per byte; sift nan %" in _means(records[1:])
