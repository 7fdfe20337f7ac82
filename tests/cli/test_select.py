"""``siftlm select``: what goes in and what comes out."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len as width_of

import siftlm as library
from siftlm.cli import arguments, files, tables
from siftlm.cli.terminal import Terminal

BASE = ("select", "--candidates", "vectors.npy", "--query", "q.npy")


def expected(n=5, **given):
    return library.select(np.load("q.npy"), np.load("vectors.npy"), n, **given).to_dict()


# --- output


def test_json_is_the_selection(folder, siftlm):
    status, out, err = siftlm(*BASE, "-n", "5", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == expected()


def test_json_with_texts_and_explanation(folder, siftlm):
    _, out, _ = siftlm(*BASE, "-n", "5", "--json", "--texts", "texts.txt", "--explain")
    record = json.loads(out)
    assert record["texts"] == [f"text {index}" for index in record["indices"]]
    assert {len(values) for values in record["explanation"].values()} == {5}


def test_the_table_shows_every_pick(folder, siftlm):
    status, out, _ = siftlm(*BASE, "-n", "5", "--texts", "texts.txt")
    assert status == 0
    assert out.startswith("sift, λ = 0.01: 5 of 40 candidates")
    rows = out.splitlines()[4:]
    assert [int(row.split()[1]) for row in rows] == expected()["indices"]
    assert all(row.rstrip().endswith(f"text {row.split()[1]}") for row in rows)


def test_the_table_of_an_explained_selection_has_columns_for_it(folder, siftlm):
    _, out, _ = siftlm(*BASE, "-n", "3", "--explain")
    assert re.search("relevance +overlap", out)
    assert "target" not in out
    siftlm_out = siftlm("select", "--candidates", "vectors.npy", "--query", "prompts.npy", "-n", "9", "--explain")[1]
    assert "target" in siftlm_out


def test_without_a_prompt_there_is_no_uncertainty_to_draw(folder, siftlm):
    status, out, _ = siftlm("select", "--candidates", "vectors.npy", "--method", "random", "-n", "3")
    assert status == 0
    assert "uncertainty" not in out
    assert "nan" not in out


def test_texts_cannot_steer_the_terminal(folder, siftlm):
    Path("texts.txt").write_text("\x1b[2Jgone\tand\x07 back\n" * 40, encoding="utf-8")
    _, out, _ = siftlm(*BASE, "-n", "2", "--texts", "texts.txt")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "gone and" in out


def test_several_prompts_are_json_lines_in_order(folder, siftlm):
    words = (
        "select",
        "--candidates",
        "vectors.npy",
        "--query",
        "prompts.npy",
        "--queries-are",
        "prompts",
        "-n",
        "4",
    )
    _, out, _ = siftlm(*words, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["indices"][0] for record in records] == [3, 5, 7]
    _, out, _ = siftlm(*words)
    assert [line for line in out.splitlines() if line.startswith("prompt ")] == [
        "prompt 0",
        "prompt 1",
        "prompt 2",
    ]


def test_out_replaces_the_file(folder, siftlm):
    Path("picks.json").write_text("old", encoding="utf-8")
    Path("picks.json").chmod(0o640)
    status, out, _ = siftlm(*BASE, "-n", "5", "--json", "--out", "picks.json")
    assert (status, out) == (0, "")
    assert json.loads(Path("picks.json").read_text(encoding="utf-8")) == expected()
    assert Path("picks.json").stat().st_mode & 0o777 == 0o640
    assert not list(folder.glob(".picks*"))


def test_out_writes_through_a_link(folder, siftlm):
    Path("real.json").write_text("old", encoding="utf-8")
    Path("link.json").symlink_to("real.json")
    siftlm(*BASE, "-n", "5", "--json", "--out", "link.json")
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text(encoding="utf-8")) == expected()


def test_an_interrupted_write_leaves_the_old_file(folder):
    Path("kept.txt").write_text("old", encoding="utf-8")

    def write_half() -> None:
        with files.replacing("kept.txt") as new:
            new.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert Path("kept.txt").read_text(encoding="utf-8") == "old"
    assert [path.name for path in folder.glob(".kept*")] == []


# --- settings


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--noise", "0.5"], {"noise": 0.5}),
        (["--method", "nearest"], {"method": "nearest"}),
        (["--kernel", "power:4"], {"kernel": library.kernels.power(4)}),
        (["--kernel", "rbf:2"], {"kernel": library.kernels.rbf(2.0)}),
        (["--kernel", "centred"], {"kernel": library.kernels.centred()}),
        (["--kernel", "plus-constant:1"], {"kernel": library.kernels.plus_constant(1.0)}),
        (["--no-normalize"], {"normalize": False}),
        (["--replacement", "no"], {"replacement": False}),
        (["--replacement", "2"], {"replacement": 2}),
        (["--relevance-prior", "2"], {"prior": library.kernels.relevance(2.0)}),
        (["--until", "0.2"], {"until": 0.2}),
        (["--min-gain", "0.3", "--at-least", "2"], {"min_gain": 0.3, "at_least": 2}),
        (["--min-growth", "0.2"], {"min_growth": 0.2}),
        (["--adaptive", "1"], {"adaptive": 1.0}),
        (["--method", "mmr", "--option", "balance=0.3"], {"method": "mmr", "balance": 0.3}),
        (["--method", "random", "--seed", "7"], {"method": "random", "seed": 7}),
    ],
)
def test_words_become_settings(folder, siftlm, words, given):
    status, out, err = siftlm(*BASE, "-n", "5", "--json", *words)
    assert (status, err) == (0, "")
    assert json.loads(out) == expected(**given)


def test_files_become_settings(folder, siftlm):
    rng = np.random.default_rng(1)
    costs, prior = rng.uniform(1, 9, 40), rng.uniform(0, 1, 40)
    np.save("costs.npy", costs)
    Path("prior.txt").write_text("\n".join(map(str, prior)), encoding="utf-8")
    Path("ids.txt").write_text("0\n1\n\n2\n", encoding="utf-8")
    Path("sources.txt").write_text("".join(f"s{row % 3}\n" for row in range(40)), encoding="utf-8")
    np.save("known.npy", np.load("vectors.npy")[:2])
    words = "--costs costs.npy --budget 30 --prior prior.txt --exclude ids.txt --sources sources.txt"
    _, out, _ = siftlm(*BASE, "-n", "6", "--json", "--known", "known.npy", "--source-cap", "2", *words.split())
    given = {
        "costs": costs, "budget": 30.0, "prior": prior, "exclude": [0, 1, 2], "source_cap": 2,
        "sources": [f"s{row % 3}" for row in range(40)], "known": np.load("vectors.npy")[:2],
    }  # fmt: skip
    assert json.loads(out) == expected(6, **given)


def test_option_values_are_json_or_words():
    assert arguments.option("a=1") == ("a", 1)
    assert arguments.option("some-name=true") == ("some_name", True)
    assert arguments.option("a=word=more") == ("a", "word=more")


# --- files


def test_every_kind_of_file_gives_the_same(folder, siftlm):
    vectors, query = np.load("vectors.npy"), np.load("q.npy")
    np.savez("store.npz", texts=vectors, prompt=query)
    np.savez("alone.npz", vectors)
    lines = [json.dumps({"embedding" if row % 2 else "vector": v.tolist()}) for row, v in enumerate(vectors)]
    Path("docs.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    Path("bare.jsonl").write_text(json.dumps(query.tolist()), encoding="utf-8")
    for candidates in ("store.npz:texts", "alone.npz", "docs.jsonl"):
        for prompt in ("store.npz:prompt", "bare.jsonl"):
            _, out, err = siftlm("select", "--candidates", candidates, "--query", prompt, "-n", "5", "--json")
            assert err == ""
            assert json.loads(out)["indices"] == expected()["indices"]


def test_large_files_are_mapped(folder, monkeypatch):
    monkeypatch.setattr(files, "MAP_FROM", 1)
    assert isinstance(files.vectors("vectors.npy"), np.memmap)


def test_texts_from_json_lines(folder):
    Path("t.jsonl").write_text('{"text": "one\\ntwo"}\n"three"\n', encoding="utf-8")
    assert files.texts("t.jsonl", 2) == ["one\ntwo", "three"]


# --- as a process


@pytest.mark.slow
def test_as_a_process(folder, shell):
    run = shell(*BASE, "-n", "5", "--json")
    assert run.returncode == 0
    assert json.loads(run.stdout) == expected()


def test_an_error_of_a_process(folder, shell):
    run = shell(*BASE, "--method", "shift")
    assert run.returncode == 1
    assert run.stderr.startswith(b"siftlm: unknown method 'shift'")


def test_a_terminal_without_greek_letters(folder, encoded):
    Path("texts.txt").write_text("naïve λ 日本\n" * 40, encoding="utf-8")
    status, out = encoded("ascii", *BASE, "-n", "2", "--texts", "texts.txt")
    assert status == 0
    assert out.startswith(b"sift, lambda = 0.01")
    assert b"na?ve lambda ??" in out
    status, out = encoded("ascii", "select", "--help")
    assert status == 0
    assert b"examples:" in out


@pytest.mark.parametrize("command", ["select", "methods", "spread", "demo"])
def test_help_teaches_with_an_example(siftlm, command):
    status, out, _ = siftlm(command, "--help")
    assert status == 0
    assert f"examples:\n  siftlm {command}" in out


def test_the_version(siftlm):
    assert siftlm("--version") == (0, f"siftlm {library.__version__}\n", "")


# --- spread


def test_spread_reports(folder, siftlm):
    report = library.spread(np.load("vectors.npy"), np.load("prompts.npy"), n=5)
    words = ("spread", "--candidates", "vectors.npy", "--query", "prompts.npy", "-n", "5")
    assert siftlm(*words)[1] == f"{report}\n"
    assert json.loads(siftlm(*words, "--json")[1]) == json.loads(json.dumps(report.to_dict()))


@pytest.fixture
def pipe(folder):
    """The name of a FIFO, and a function that returns what was written to it."""
    os.mkfifo("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()), daemon=True)
    reader.start()

    def read():
        reader.join(timeout=20)
        return got[0]

    return "pipe", read


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_to_and_stays_one(siftlm, pipe, linked):
    name, read = pipe
    if linked:
        Path("link").symlink_to(name)
        name = "link"
    status, out, err = siftlm(*BASE, "-n", "5", "--json", "--out", name)
    assert (status, out, err) == (0, "", "")
    assert json.loads(read())["indices"] == expected()["indices"]
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert Path("link").is_symlink() == linked
    assert not list(Path.cwd().glob(".*"))


def test_a_figure_goes_into_a_pipe_too(folder, pipe):
    name, read = pipe
    with files.replacing(name) as new:
        assert new.suffix == Path(name).suffix
        new.write_bytes(b"drawn")
    assert read() == b"drawn"
    assert stat.S_ISFIFO(os.stat(name).st_mode)


def test_after_an_error_nothing_goes_into_a_pipe(folder):
    os.mkfifo("pipe")  # opening it would wait for a reader
    with pytest.raises(ZeroDivisionError), files.replacing("pipe") as new:
        new.write_text(str(1 // 0), encoding="utf-8")
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


# --- figure


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("f.png", b"\x89PNG"), ("f.svg", b"<?xml"), ("f.pdf", b"%PDF")])
def test_figure_is_drawn_beside_the_table(folder, siftlm, name, start):
    pytest.importorskip("matplotlib")
    status, out, err = siftlm(*BASE, "-n", "4", "--figure", name)
    assert (status, err) == (0, "")
    assert out.startswith("sift")
    assert Path(name).read_bytes().startswith(start)


@pytest.mark.parametrize("explain", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_on_a_screen_a_table_keeps_the_width(folder, width, explain):
    chosen = library.select(np.load("q.npy"), np.load("vectors.npy"), 5)
    terminal = Terminal(width=width, fixed=True)
    texts = ["a text of more than a few words, which goes on and on"] * 40
    lines = terminal.render(*tables.selection_parts(chosen, texts, 40, terminal, explain=explain)).split("\n")
    assert max(map(width_of, lines[2:])) <= max(width, 55 if explain else 0)
    assert sum("a text of" in line for line in lines) == 5
