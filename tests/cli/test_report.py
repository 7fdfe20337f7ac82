"""``siftlm report`` on the command line."""

from __future__ import annotations

import json

import pytest

from evaluation.invented import records, saved


@pytest.fixture
def run(folder):
    return saved(folder / "runs/a", records(("base", "nn", "sift"), per_domain=6, gain={"nn": 0.05, "sift": 0.3}))


def test_it_prints_the_table_and_the_verdicts(run, siftlm):
    status, out, err = siftlm("report", "runs/a")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["domain", "nn", "sift", "texts"]
    assert [line.split()[0] for line in lines[1:4]] == ["code", "prose", "all"]
    assert any(line.startswith("sift is better than nn: −") for line in lines)
    assert any(line.startswith("Protocol split; 12 texts") for line in lines)
    assert lines[-1].startswith("wrote runs/a/report/report.html and ")
    assert (run / "report/tables/percent.tex").is_file()


def test_json_says_the_same(run, siftlm):
    status, out, _ = siftlm("report", "runs/a", "--json", "--against", "base", "--out", "elsewhere")
    known = json.loads(out)
    assert status == 0
    assert [(one["method"], one["against"], one["verdict"]) for one in known["against"]] == [
        ("nn", "base", "better"), ("sift", "base", "better")
    ]  # fmt: skip
    assert known["files"][0] == "elsewhere/report.html"
    assert not (run / "report").exists()


def test_methods_are_split_as_for_eval(folder, siftlm):
    label = "nn+betas=(0.9,0.99)"
    saved(folder / "runs/b", records(("base", label, "sift", "mmr")))
    status, out, err = siftlm("report", "runs/b", "--methods", f"{label}, sift,", "--json")
    assert (status, err) == (0, "")
    assert [one["method"] for one in json.loads(out)["against"]] == [label, "sift"]
    assert "--methods is empty" in siftlm("report", "runs/b", "--methods", ",")[2]


def test_quiet_is_quiet(run, siftlm):
    assert siftlm("report", "runs/a", "--quiet") == (0, "", "")
    assert (run / "report/report.md").is_file()


def test_weights(run, folder, siftlm):
    (folder / "w.json").write_text('{"code": 3, "prose": 1}', encoding="utf-8")
    assert "\nweighted " in siftlm("report", "runs/a", "--weights", "w.json")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs/b",), "siftlm: runs/b: is no run: it has no run.json"),
        (("runs/a", "--against", "nm"), "unknown method of this run 'nm'; did you mean 'nn'?"),
        (("runs/a", "--methods", "sift,mmr"), "unknown method of this run 'mmr'"),
        (("runs/a", "--weights", "pile"), "--weights names none of the domains code, prose"),
        (("runs/a", "--weights", "no.json"), "no.json: there is no such file of weights"),
        (("runs/a", "--show", "worst"), "--show and --texts go together"),
        (("runs/a", "--show", "worst", "--texts", "runs"), "runs"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(run, siftlm, words, message):
    status, out, err = siftlm("report", *words)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (run / "report").exists()


def test_what_was_chosen_is_written_when_asked_for(folder, fake, siftlm):
    from siftlm.evaluation.fingerprints import contents_fingerprint, memory_fingerprint
    from siftlm.memory import Memory

    with Memory.open("memory") as memory:
        known = {**memory_fingerprint(memory), "contents": contents_fingerprint(memory)}
        texts = memory.texts(range(8))
    saved(folder / "runs/c", records(), memory=known)
    status, out, err = siftlm("report", "runs/c", "--texts", "memory", "--show", "best", "--show", "code-001")
    assert (status, err) == (0, "")
    page = (folder / "runs/c/report/texts/code-001.html").read_text(encoding="utf-8")
    assert any(text[:20] in page for text in texts)
    assert "report/texts/code-001.html" in out
