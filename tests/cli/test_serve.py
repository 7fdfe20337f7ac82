"""`siftlm serve`: what is wrong with the command line is message at once, in one line."""

from __future__ import annotations

import pytest

from siftlm.cli import main, parser
from siftlm.controller import Tuning
from siftlm.memory import Memory


@pytest.fixture
def memory(tmp_path):
    Memory.create(tmp_path / "docs").close()
    return str(tmp_path / "docs")


@pytest.fixture
def opened(monkeypatch):
    """What a server would be opened with; none is."""
    seen = []
    monkeypatch.setattr("siftlm.serving.server.serve", lambda *args, **how: seen.append(how))
    return seen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--grace nan", "expected a number ≥ 0, got 'nan'"),
        ("--grace -1", "expected a number ≥ 0, got '-1'"),
        ("--grace inf", "expected a number ≥ 0, got 'inf'"),
        ("--seconds -1", "expected a number > 0, got '-1'"),
        ("--seconds nan", "expected a number > 0, got 'nan'"),
        ("--seconds 0", "expected a number > 0, got '0'"),
        ("--seconds 1e999", "expected a number > 0, got '1e999'"),
        ("--cache -1", "expected a whole number ≥ 0, got '-1'"),
        ("--slots 0", "expected a whole number ≥ 1, got '0'"),
        ("--slots 1.5", "expected a whole number ≥ 1, got '1.5'"),
        ("--queue 0", "expected a whole number ≥ 1, got '0'"),
        ("--vllm-adapters 0", "expected a whole number ≥ 1, got '0'"),
        ("--port -1", "expected a whole number from 0 to 65535, got '-1'"),
        ("--port 65536", "from 0 to 65535"),
    ],
)
def test_a_number_that_makes_no_sense_is_one_line(opened, memory, words, message, capsys):
    flag, value = words.split()
    assert main(["serve", "--memory", memory, f"{flag}={value}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert flag in error
    assert message in error
    assert not opened


def test_a_number_that_makes_sense_is_taken(opened, memory):
    words = ["--port=0", "--slots=1", "--queue=1", "--cache=0", "--seconds=0.5", "--grace=0", "--vllm-adapters=1"]
    assert main(["serve", "--memory", memory, *words]) == 0
    [how] = opened
    assert [how[name] for name in ("port", "slots", "queue", "cache", "seconds", "grace")] == [0, 1, 1, 0, 0.5, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--set host=x", "--set host: not a setting of selection or tuning that a server can start with; see --host"),
        ("--set seconds=5", "--set seconds: not a setting of selection or tuning that a server can start with; see"),
        ("--set on_ready=x", "--set on_ready: not a setting of selection or tuning that a server can start with\n"),
        ("--set passes=2 --set passes=3", "--set passes is given twice"),
        ("--rate 1e-3 --set rate=1e-4", "--rate and --set rate=… are the same setting"),
        ("-n 3 --set n=4", "-n and --set n=… are the same setting"),
    ],
)
def test_a_setting_that_set_cannot_have_is_one_line(opened, memory, words, message, capsys):
    assert main(["serve", "--memory", memory, *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not opened


def test_the_settings_of_set_reach_the_server(opened, memory):
    assert main(["serve", "--memory", memory, "-n", "3", "--set", "passes=2", "--set", "kernel=power:4"]) == 0
    assert {name: opened[0][name] for name in ("n", "passes", "kernel")} == {"n": 3, "passes": 2, "kernel": "power:4"}
    assert "noise" not in opened[0]


def test_a_conflict_of_settings_is_spelled_with_set(monkeypatch, memory, capsys):
    monkeypatch.setattr("siftlm.serving.server.serve", lambda *_, passes, **__: Tuning(reuse=passes))
    assert main(["serve", "--memory", memory, "--set", "passes=2"]) == 1
    assert "--set reuse=2 needs --set repeats=grouped" in capsys.readouterr().err


@pytest.mark.parametrize("engine", [None, "auto", "lora"])
def test_a_server_tunes_adapters(opened, memory, engine):
    assert main(["serve", "--memory", memory, *([] if engine is None else ["--engine", engine])]) == 0
    assert opened[0]["engine"] == "lora"


def test_it_cannot_tune_all_weights(opened, memory, capsys):
    assert main(["serve", "--memory", memory, "--engine", "full"]) == 1
    assert "--engine lora" in capsys.readouterr().err
    assert not opened


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["serve", "--memory", "{}", "--host", "0.0.0.0"], 1), (["search", "{}", "what", "-n", "0"], 1),
        (["search", "{}", "what", "--noise=-1"], 1), (["search", "nowhere", "what"], 1),
        (["serve", "--memory", "{}", "-n", "many"], 2), (["search", "{}", "what", "-n", "many"], 2), (["serve"], 2),
        (["serve", "--memory", "{}", "--slots", "0"], 2),
    ],
)  # fmt: skip
def test_the_status_is_what_the_help_says(memory, words, status, capsys):
    assert main([word.format(memory) for word in words]) == status
    capsys.readouterr()
    assert (
        "1 an error in a setting, the data or the environment; 2 a command line that cannot be parsed"
        in parser().epilog
    )


def test_the_help_says_what_auto_is():
    commands = next(one for one in parser()._actions if one.choices)
    assert "--engine auto is --engine lora" in " ".join(commands.choices["serve"].format_help().split())
