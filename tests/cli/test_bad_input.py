"""Everything that can be wrong with a command line, its files or the disk is one line."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from siftlm.cli import files
from siftlm.cli.arguments import TUNING_NAMES
from siftlm.errors import InvalidInput

BASE = ("select", "--candidates", "vectors.npy", "--query", "q.npy")


class Trap:
    def __reduce__(self):
        return print, ("the trap was sprung",)


def broken_files() -> None:
    Path("empty.npy").write_bytes(b"")
    Path("cut.npy").write_bytes(Path("vectors.npy").read_bytes()[:200])
    Path("text.npy").write_text("hello", encoding="utf-8")
    np.save("pickled.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    Path("disguised.npy").write_bytes(pickle.dumps(Trap()))
    np.savez("two.npz", a=np.eye(2), b=np.eye(2))
    np.savez("trap.npz", a=np.array([Trap()], dtype=object))
    Path("text.npz").write_text("hello", encoding="utf-8")
    with zipfile.ZipFile("odd.npz", "w") as archive:
        archive.writestr("a.npy", b"hello")
    np.save("scalar.npy", np.float64(3))
    np.save("zeros.npy", np.zeros((3, 8)))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("narrow.npy", np.ones((3, 5)))
    bad = np.load("vectors.npy")
    bad[7, 2] = np.nan
    np.save("nan.npy", bad)
    for name, line in {
        "broken": "{", "fieldless": "{}", "wordy": '["a"]', "flat": '{"vector": 3}', "ragged": "[1]",
        "null": "[null, 1]", "deep": "[" * 100_000,
    }.items():  # fmt: skip
        Path(f"{name}.jsonl").write_text(f"[1, 2]\n{line}\n", encoding="utf-8")
    Path("nothing.jsonl").write_text("\n", encoding="utf-8")
    Path("latin.txt").write_bytes(b"ok\n\xe9\n")
    Path("few.txt").write_text("one\n", encoding="utf-8")
    Path("number.txt").write_text("1\ntwo\n", encoding="utf-8")
    Path("untold.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    Path("min_gain.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    Path("folder.npy").mkdir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--candidates none.npy", "none.npy: No such file"),
        ("--candidates folder.npy", "folder.npy: Is a directory"),
        ("--candidates empty.npy", "empty.npy: is not a .npy file"),
        ("--candidates cut.npy", "cut.npy: cannot be read: "),
        ("--candidates text.npy", "text.npy: is not a .npy file"),
        ("--candidates pickled.npy", "pickled.npy: holds pickled Python objects, which are never loaded"),
        ("--candidates disguised.npy", "disguised.npy: is not a .npy file"),
        ("--candidates two.npz", "two.npz: holds several arrays; choose one: two.npz:KEY of a, b"),
        ("--candidates two.npz:c", "two.npz: has no array 'c'; it has: a, b"),
        ("--candidates trap.npz", "trap.npz: holds pickled"),
        ("--candidates text.npz", "text.npz: is not a .npz file"),
        ("--candidates odd.npz", "odd.npz: 'a' in it is no array"),
        (
            "--candidates vectors.csv",
            "vectors.csv: vectors are read from .npy, .npz (file.npz:key) or .jsonl",
        ),
        ("--candidates broken.jsonl", "broken.jsonl:2: is not JSON: "),
        ("--candidates fieldless.jsonl", "fieldless.jsonl:2: has neither 'embedding' nor 'vector'"),
        ("--candidates wordy.jsonl", "wordy.jsonl:2: "),
        ("--candidates flat.jsonl", "flat.jsonl:2: the vector is not a list of numbers"),
        ("--candidates ragged.jsonl", "ragged.jsonl:2: the vector has width 1, those before it 2"),
        ("--candidates null.jsonl", "null.jsonl:2: the vector is not a list of numbers"),
        ("--candidates deep.jsonl", "deep.jsonl:2: is nested too deeply"),
        ("--candidates nothing.jsonl", "nothing.jsonl: holds no vectors"),
        ("--candidates scalar.npy", "scalar.npy: holds a single value"),
        ("--candidates scalar.npy --texts few.txt", "scalar.npy: holds a single value"),
        ("--candidates zeros.npy", "drop it or pass --no-normalize"),
        ("--candidates words.npy", "candidates must hold real numbers"),
        ("--candidates nan.npy", "7"),
        ("--query narrow.npy", "width"),
        ("--texts latin.txt", "latin.txt: is not UTF-8 text"),
        ("--texts few.txt", "few.txt: has 1 line for 40 candidates"),
        ("--texts untold.jsonl", "untold.jsonl:1: has no 'text'"),
        ("--exclude number.txt", "number.txt:2: 'two' is not an index"),
        ("--costs number.txt", "number.txt:2: 'two' is not a number"),
        ("--sources few.txt --source-cap 1", "few.txt: has 1 line for 40"),
        ("--method shift", "unknown method 'shift'; did you mean 'sift'?"),
        ("--kernel powder:2", "unknown kernel 'powder:2'"),
        ("--kernel power:x", "kernel 'power:x' needs a number"),
        ("--kernel power:0", "kernel 'power:0': "),
        ("--kernel centred:1", "takes no setting"),
        ("--noise 0", "noise"),
        ("-n 41", "-n 41 is more than the 40 candidates; ask for fewer, or pass --replacement yes to allow repeats"),
        ("--source-cap 1", "--sources and --source-cap go together"),
        ("--method hull --costs number.txt", "number.txt:2"),
        ("--method hull --replacement yes", "decides on all picks at once: leave out --replacement, which"),
        ("--method eig", "needs --option probabilities, a classifier's outputs"),
        ("--method max-entropy", "reads softmax outputs as candidates: leave out --query"),
        ("--min-gain 2", "--min-gain must be a number from 0 to 1"),
        ("--candidates at_least.npy", "at_least.npy: No such file"),
        ("--texts ./min_gain.jsonl", "./min_gain.jsonl:1: has no 'text'"),
        ("--option balance=0.3", "method 'sift' has no setting 'balance'"),
        ("--option noise=1", "--option noise: not a setting of a selection method; use --noise"),
        ("--method mmr --option balance=0 --option balance=1", "siftlm: --option balance is given twice"),
        ("--method mmr --option balance=2", "--option balance must be a number from 0 to 1"),
        ("--budget 3", "--budget needs --costs"),
        ("--out nowhere/x.json", "nowhere/x.json: No such file or directory"),
        ("--figure x.gif", "--figure x.gif: expected a .png, .svg or .pdf file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, siftlm, words, message):
    broken_files()
    status, out, err = siftlm(*BASE, *words.split())
    assert status == 1
    assert out == ""
    assert err.startswith("siftlm: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_the_seed_of_spread_is_checked(folder, siftlm):
    status, out, err = siftlm("spread", "--candidates", "vectors.npy", "--seed", "-1")
    assert (status, out, err) == (1, "", "siftlm: --seed must be a whole number ≥ 0, got -1\n")


def test_a_query_is_asked_for_as_a_flag(folder, siftlm):
    assert "needs a prompt: pass --query, or try" in siftlm("select", "--candidates", "vectors.npy")[2]
    _, _, err = siftlm("select", "--candidates", "vectors.npy", "--method", "undirected-vtl", "--until", "0.1")
    assert err == "siftlm: leave out --until, or pass --query: there is no uncertainty to follow\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--features gradients --k all", "--features are computed for the --k nearest: leave out --k all\n"),
        (
            "--features gradients --option residual=true",
            "--features are computed for the --k nearest: leave out --option residual=true\n",
        ),
        ("--option residual=true --kernel power:2", "--option residual=true does not go with --kernel; it takes --ada"),
        ("--set clip=1 --set clip=2", "--set clip is given twice"),
    ],
)
def test_settings_of_a_local_model_are_spelled_as_flags(siftlm, sixty, words, message):
    status, _, err = siftlm("generate", str(sixty), "a prompt", *words.split())
    assert (status, message in err) == (1, True), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "siftlm: the following arguments are required: COMMAND"),
        ("selekt", "siftlm: unknown command 'selekt'; did you mean 'select'?"),
        ("--bogus", "siftlm: unknown option --bogus (try: siftlm --help)"),
        ("search --metod mmr", "search: unknown option --metod; did you mean --method? (try: siftlm search --help)"),
        ("keys add --memry", "siftlm: keys add: unknown option --memry; did you mean --memory?"),
        ("search memory hello world", "siftlm: search: unexpected 'world'; put a text of several words in quotes"),
        ("search memory hi --candidates foo", "argument --candidates: expected vectors, words or both, got 'foo'"),
        ("search memory hi --noise x", "argument --noise: expected a number, got 'x'"),
        ("select", "siftlm: select: the following arguments are required: --candidates"),
        ("select --candidates x --cand y", "siftlm: select: unknown option --cand (try: siftlm select --help)"),
        ("select --candidates x -n many", "siftlm: select: argument -n: expected a whole number, got 'many'"),
        ("select --candidates x --replacement maybe", "expected yes, no or a whole number ≥ 1"),
        ("select --candidates x --replacement 0", "expected yes, no or a whole number ≥ 1"),
        ("select --candidates x --option balance", "expected NAME=VALUE, got 'balance'"),
        ("select --candidates x --prior p --relevance-prior 2", "not allowed with argument"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(siftlm, words, message):
    status, out, err = siftlm(*words.split())
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_what_needs_a_query_says_so(folder, siftlm):
    for words in (["--queries-are", "prompts"], ["--figure", "x.png"]):
        status, _, err = siftlm("select", "--candidates", "vectors.npy", "--method", "random", *words)
        assert status == 1
        assert f"{words[0]}" in err


def test_a_full_disk_is_one_line_and_no_leftover(folder, siftlm, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    status, _, err = siftlm(*BASE, "--out", "picks.json")
    assert (status, err) == (1, "siftlm: picks.json: No space left on device\n")
    assert sorted(path.name for path in folder.iterdir() if "picks" in path.name) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (MemoryError(), 1, "siftlm: not enough memory\n"),
        (InvalidInput("two\nlines"), 1, "siftlm: two lines\n"),
    ],
)
def test_how_a_command_can_end(folder, siftlm, monkeypatch, error, status, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(files, "vectors", fail)
    assert siftlm(*BASE) == (status, "", message)


def test_the_settings_of_tuning_are_those_of_the_library():
    tuning = pytest.importorskip("siftlm.controller").Tuning
    assert set(TUNING_NAMES) == {field.name for field in dataclasses.fields(tuning)}
