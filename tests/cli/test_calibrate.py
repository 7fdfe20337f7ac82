"""``siftlm calibrate``: the library's result in words, and what to do next."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

from calibration.worlds import TOPICS, Reader, copies_world, document
from siftlm import Memory
from siftlm.cli import main, parser

QUICK = ("--minutes", "all", "-n", "5", "--methods", "nearest,sift+noise=0.001+k=50", "--quiet")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A memory whose nearest neighbours repeat each other."""
    folder = tmp_path_factory.mktemp("world") / "memory"
    copies_world(folder).close()
    return folder


@pytest.fixture
def reader(world, tmp_path, monkeypatch):
    """A copy of the memory at ``memory``, its prompts in ``texts.jsonl``, and a model that needs no torch."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world, "memory")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(document(topic)) + "\n" for topic in range(TOPICS)))
    made = Reader(name="siftlm-tiny")
    monkeypatch.setattr("siftlm.cli.calibrate._model", lambda *_: made)
    return made


def calibrated(siftlm, *words):
    status, out, err = siftlm("calibrate", "memory", "--texts", "texts.jsonl", *QUICK, *words)
    assert (status, err) == (0, "")
    return out


def command_of(out):
    """The command that is recommended at the end, as a shell would read it."""
    return shlex.split(out.rstrip().splitlines()[-1])


@pytest.mark.slow
def test_the_table_ends_with_a_command_that_works(reader, siftlm):
    out = calibrated(siftlm)
    assert "learning rate" in out
    assert "chosen: sift, n=5, noise=0.001" in out
    assert out.count("✓") + out.count(" +\n") >= 2
    words = command_of(out)
    assert words == ["siftlm", "generate", "memory", "a prompt"]
    parser().parse_args(words[1:])
    with Memory.open("memory") as memory:
        assert memory.manifest.calibration["siftlm-tiny"]["settings"]["noise"] == 0.001


@pytest.mark.slow
def test_another_model_and_engine_are_named_in_it(reader, siftlm):
    words = command_of(calibrated(siftlm, "--model", "other", "--engine", "lora"))
    assert words[4:] == ["--model", "other", "--engine", "lora"]
    assert command_of(calibrated(siftlm, "--engine", "auto"))[4:] == []


@pytest.mark.slow
def test_only_looking_leaves_the_memory_and_says_the_settings(reader, siftlm):
    out = calibrated(siftlm, "--no-note")
    words = command_of(out)
    found = parser().parse_args(words[1:])
    assert (found.method, found.n, found.noise) == ("sift", 5, 0.001)
    with Memory.open("memory") as memory:
        assert memory.manifest.calibration == {}


@pytest.mark.slow
def test_json_is_the_record(reader, siftlm):
    record = json.loads(calibrated(siftlm, "--json"))
    assert record["settings"]["method"] == "sift"
    assert record["noted"] is True
    assert [one["question"] for one in record["races"]] == ["learning rate", "method"]


@pytest.mark.slow
def test_interrupted_it_goes_on(reader, siftlm, capsys):
    reader.interrupt_at = 12
    assert main(["calibrate", "memory", "--texts", "texts.jsonl", *QUICK]) == 130
    assert "repeat the command to resume" in capsys.readouterr().err
    before = reader.tunings
    calibrated(siftlm)
    once = reader.tunings - before
    calibrated(siftlm, "--again")
    assert once < reader.tunings - before - once


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--minutes", "-1"), "--minutes"),
        (("--minutes", "soon"), "--minutes"),
        (("--rates", "0.1,x"), "--rates"),
        (("--rates", "0"), "rates"),
        (("--methods", "nearest,shift"), "shift"),
        (("--methods", "sift+kernel=round"), "round"),
        (("--methods", ","), "methods"),
        (("--out", "texts.jsonl"), "texts.jsonl"),
        (("--texts", "none.jsonl"), "none.jsonl"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(reader, siftlm, words, message):
    status, out, err = siftlm("calibrate", "memory", "--texts", "texts.jsonl", *QUICK, *words)
    assert (status, out) != (0, "")
    assert message in err
    assert "Traceback" not in err
    assert reader.tunings == 0


def test_a_memory_that_is_none(reader, siftlm):
    status, _, err = siftlm("calibrate", "nowhere", *QUICK)
    assert status == 1
    assert "nowhere" in err
