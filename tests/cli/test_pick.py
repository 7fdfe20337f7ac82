"""``siftlm pick``: the library's choice as a command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from picking.conftest import TARGETS, read, records, write
from siftlm import embedder, pick
from siftlm.cli import main


@pytest.fixture
def pool(folder):
    write(folder / "pool.jsonl", records(300))
    write(folder / "targets.jsonl", [{"question": text} for text in TARGETS])
    return folder


def test_the_command_writes_what_the_library_picks(pool, siftlm):
    words = ("pick", "--pool", "pool.jsonl", "--targets", "targets.jsonl", "--target-text", "question", "-n", "10")
    status, out, err = siftlm(*words, "--out", "chosen.jsonl")
    assert (status, err) == (0, "")
    assert out.startswith("10 of 300 records of pool.jsonl for 3 targets; ")
    assert out.endswith("chosen.jsonl: written\n")
    picks = pick(records(300), TARGETS, 10)
    assert [row["n"] for row in read(pool / "chosen.jsonl")] == picks.numbers.tolist()
    assert siftlm(*words, "--out", "chosen.jsonl")[1].endswith("had been written before; nothing has changed\n")
    status, out, _ = siftlm(*words, "--out", "chosen.jsonl", "--json")
    summary = json.loads(out)
    assert (summary["picks"], summary["finished_before"], summary["stopped"]) == (10, True, "n")


def test_flags_reach_the_library(pool, siftlm):
    np.save("t.npy", np.random.default_rng(0).normal(size=(2, 64)))
    np.save("v.npy", np.random.default_rng(1).normal(size=(300, 64)))
    words = "pick --pool pool.jsonl --vectors v.npy --target-vectors t.npy --out a.jsonl --field none --quiet"
    words += " --budget 300 --cost characters --quota source=web:0.5,mail:1 --quality score --noise 0.1 --duplicates"
    assert siftlm(*words.split()) == (0, "", "")
    picks = pick(
        records(300), vectors="v.npy", target_vectors="t.npy", budget=300, cost="characters", noise=0.1,
        quota={"source": {"web": 0.5, "mail": 1}}, quality="score", duplicates=True,
    )  # fmt: skip
    assert read(pool / "a.jsonl") == list(picks.records)


def test_options_of_an_embedder_reach_it(pool, siftlm):
    words = "pick --pool pool.jsonl --targets targets.jsonl --target-text question -n 5 --method nearest --field none"
    status, _, err = siftlm(
        *words.split(), "--embedder", "hashing", "--embedder-option", "width=16", "--out", "a.jsonl"
    )
    assert (status, err) == (0, "")
    picks = pick(records(300), TARGETS, 5, method="nearest", embedder=embedder("hashing", width=16))
    assert read(pool / "a.jsonl") == list(picks.records)
    other = pick(records(300), TARGETS, 5, method="nearest", embedder="hashing")
    assert list(other.records) != list(picks.records)


def test_options_of_a_method_reach_it(pool, siftlm):
    words = "pick --pool pool.jsonl -n 6 --method mig --option labels=source --option edge=0.5 --field none"
    status, out, err = siftlm(*words.split(), "--out", "a.jsonl")
    assert (status, err) == (0, "")
    assert out.startswith("6 of 300 records of pool.jsonl\n")
    picks = pick(records(300), n=6, method="mig", options={"labels": "source", "edge": 0.5})
    assert read(pool / "a.jsonl") == list(picks.records)
    assert json.loads(siftlm(*words.split(), "--out", "a.jsonl", "--json")[1])["uncertainty"] is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("-n 3 --method mig --option lables=source", "'mig' has no setting 'lables'; did you mean 'labels'"),
        ("-n 3 --method mig --option labels=tags", "pool.jsonl:1: 'tags' (option labels) must be a label or a list"),
        ("-n 3 --method goracs --quality score", "decides on all picks at once: leave out --quality"),
        ("-n 3 --embedder hashing --embedder-option width=0", "--embedder-option width must be a whole number"),
        (
            "-n 3 --embedder states:siftlm-tiny --embedder-option pooling=sum",
            "unknown pooling 'sum'. Known: last, mean",
        ),
        ("-n 999", "-n 999 is more than the"),
        ("-n 3 --quota source", "--quota: expected FIELD=SHARE or FIELD=VALUE:SHARE,…, got 'source'"),
        ("-n 3 --quota source=much", "--quota: expected FIELD=SHARE"),
        ("-n 3 --without-copies 0.5 --keep-copies", "not allowed with argument"),
        ("-n 3 --text body", "pool.jsonl:1: 'body' is empty; --bad skip leaves such records out"),
        ("-n 3 --cost characters", "--cost characters counts against --budget"),
        ("", "how many? Pass --n, or --budget"),
        ("-n 3 --report .", "--report . must be the beginning of a file's name"),
        ("-n 3 --export trl=a --export axolotl=./a", "--export axolotl=./a and trl=a would write the same file"),
        ("-n 3 --verdict --proxy .", "'.' is no causal language model"),
    ],
)
def test_errors_speak_of_flags(pool, siftlm, words, problem):
    words = f"pick --pool pool.jsonl --targets targets.jsonl --target-text question --out a.jsonl {words}"
    status, out, err = siftlm(*words.split())
    assert status in (1, 2)
    assert out == ""
    assert problem in err.replace("--n 999", "-n 999")
    assert not (pool / "a.jsonl").exists()


def test_ctrl_c_says_how_to_go_on(pool, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    words = ["pick", "--pool", "pool.jsonl", "--targets", "targets.jsonl", "-n", "3", "--out", "a.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr("siftlm.picking.work.WorkFolder.picks", stop)
        assert main(words) == 130
    assert "stopped; repeat the command to resume" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.slow
def test_a_report_and_a_verdict_come_with_the_choice(pool, siftlm, tiny_model):
    words = "pick --pool pool.jsonl --targets targets.jsonl -n 9 --out a.jsonl --report a-report --verdict"
    words = [*words.split(), "--proxy", str(tiny_model), "--proxy-records", "2"]
    status, out, err = siftlm(*words)
    assert (status, err) == (0, "")
    assert "is inconclusive" in out
    assert "a-report.html: written" in out
    text = (pool / "a-report.md").read_text(encoding="utf-8")
    assert "## The verdict" in text
    assert "## Coverage of the targets" in text
    summary = json.loads(siftlm(*words, "--json")[1])
    assert (summary["verdict"]["verdict"], summary["verdict"]["records"]) == ("inconclusive", 2)
    assert "a-report.md" in summary["files"]


def test_exports_come_with_the_choice(pool, siftlm):
    words = "pick --pool pool.jsonl --targets targets.jsonl -n 4 --out a.jsonl --export trl=a --export axolotl=b"
    status, out, err = siftlm(*words.split())
    assert (status, err) == (0, "")
    assert out.endswith("a/siftlm_picks.jsonl: written\nb/siftlm_picks.jsonl: written\nb/siftlm_picks.yaml: written\n")
    assert [set(row) for row in read(pool / "a" / "siftlm_picks.jsonl")] == [{"text"}] * 4
    assert "--export: expected trl, llama-factory, axolotl" in siftlm(*words.split(), "--export", "torchtune=c")[2]


def test_an_export_does_not_overwrite_the_choice(pool, siftlm):
    words = "pick --pool pool.jsonl --targets targets.jsonl -n 3 --out siftlm_picks.jsonl --export trl=."
    assert "would overwrite --out siftlm_picks.jsonl" in siftlm(*words.split())[2]
    assert not (pool / "siftlm_picks.jsonl").exists()


def test_the_name_of_a_report_may_be_that_of_its_page(pool, siftlm):
    words = "pick --pool pool.jsonl --targets targets.jsonl -n 3 --out a.jsonl --report rep.html"
    assert siftlm(*words.split())[1].endswith("rep.html: written\nrep.md: written\n")
    assert (pool / "rep.html").is_file()
    assert not (pool / "rep.html.html").exists()


def test_settings_of_a_verdict_need_one(pool, siftlm):
    words = "pick --pool pool.jsonl -n 3 --method mig --option labels=source --out a.jsonl --verdict"
    assert siftlm(*words.split())[2] == "siftlm: --verdict needs texts to test on: pass --test, or --targets\n"
    assert not (pool / "a.jsonl").exists()
    words = "pick --pool pool.jsonl --targets targets.jsonl -n 3 --out a.jsonl --proxy-records 3"
    assert siftlm(*words.split())[2] == "siftlm: --proxy-records needs --verdict\n"
