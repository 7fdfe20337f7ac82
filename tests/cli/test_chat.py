"""``siftlm chat``: each line a prompt of its own, commands between, and Ctrl-C that stops an answer only."""

from __future__ import annotations

import builtins
import io
import json
import sys

import pytest

from cli.corpora import Screen
from siftlm import LocalModel
from siftlm.cli import main

PROMPT = "Is tea brewed with hot water?"
ALONE = ("-n", "3", "--use", "weights")


@pytest.fixture
def talk(fake, siftlm, monkeypatch):
    """Lines from a pipe -> (status, stdout, stderr)."""

    def run(*lines, words=("-n", "3")):
        content = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        return siftlm("chat", "memory", "--model", "m", *words)

    return run


@pytest.fixture
def person(fake, monkeypatch):
    """Lines typed at a terminal, some of them Ctrl-C -> (status, what the screen shows)."""

    def typed(*lines):
        left = list(lines)

        def read(prompt):
            if not left:
                raise EOFError
            line = left.pop(0)
            if line is KeyboardInterrupt:
                raise KeyboardInterrupt
            return line

        monkeypatch.setattr(builtins, "input", read)
        for stream in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, stream, Screen())
        monkeypatch.setenv("COLUMNS", "100")
        status = main(["chat", "memory", "--model", "m", "-n", "4"])
        return status, sys.stdout.getvalue(), sys.stderr.getvalue()

    return typed


def test_each_line_is_a_prompt_of_its_own(talk):
    model = LocalModel("m", "memory")
    expected = [model.generate(prompt, 3).text for prompt in (PROMPT, "the moon")]
    status, out, err = talk(PROMPT, "", "the moon", "/quit", "never")
    assert (status, err) == (0, "")
    assert out == "".join(f"{text}\n" for text in expected)


def test_a_block_is_one_prompt(talk):
    status, out, _ = talk("/block", "/the moon", "  moves", "", "/set max_new_tokens=2", "tea", words=ALONE)
    assert status == 0
    expected = LocalModel("m", "memory").generate("/the moon\n  moves", 3, use="weights").text
    assert out == f"{expected}\nafter 3\n"
    assert talk("/block", "the moon", words=ALONE)[1].startswith("after 3")  # a block that the end of the input ends


def test_why_and_base(talk):
    status, out, _ = talk(PROMPT, "/why", "/base", "/why full")
    assert status == 0
    for hit in LocalModel("m", "memory").select(PROMPT, 3):
        assert f"{hit.score:.3f}" in out
        assert f"{hit.uncertainty:.4f}" in out
    assert "3 steps, mean loss 3.000 in the first half, 1.250 in the second" in out
    assert "\nafter 0 texts: nothing\n" in out
    assert "\x1b" not in out


def test_settings_change_what_comes_next(talk, fake):
    lines = ("/set n=2", "/set method=nearest", "/set k=all", "/set kernel=power:2", "/set rate=0.5", "/set use=auto",
             "/set watch_every=1", PROMPT, "/settings", "/set n", "/set method", PROMPT)  # fmt: skip
    status, out, err = talk(*lines)
    assert (status, err) == (0, "")
    first, second = fake.made[0].histories
    assert first == LocalModel("m", "memory").select(PROMPT, 2, method="nearest", k=None).texts
    assert len(second) == 3
    assert "* n = 2\n" in out
    assert "* rate = 0.5\n" in out
    assert "  passes = 1\n" in out
    assert fake.made[0].used.rate == 0.5


def test_what_is_wrong_is_said_and_the_talk_goes_on(talk):
    status, out, err = talk("/why", "/base", "/what", "/set", "/set n", "/set foo=1", "/set n=0", "/set temperature=-1",
                            "/set rate=0", "/set x", PROMPT)  # fmt: skip
    assert status == 1
    message = err.splitlines()
    assert len(message) == 10
    assert all(line.startswith("siftlm: ") for line in message)
    assert "unknown setting 'foo'" in message[5]
    assert "n must be a whole number" in message[6]
    assert out == LocalModel("m", "memory").generate(PROMPT, 3).text + "\n"  # nothing wrong was kept


def test_a_setting_that_is_wrong_from_the_beginning(talk):
    status, out, err = talk(PROMPT, words=("--temperature", "-1"))
    assert (status, out) == (1, "")
    assert err.startswith("siftlm: --temperature must be")


def test_input_that_is_no_text(fake, siftlm, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"tea\n\xff\n"), encoding="ascii"))
    status, _, err = siftlm("chat", "memory", "--model", "m", "-n", "1")
    assert status == 1
    assert "standard input:2: is not UTF-8 text" in err


def test_at_a_terminal_ctrl_c_stops_the_answer_and_at_the_prompt_it_leaves(person, fake):
    fake.interrupt_at = 2
    status, out, _ = person(PROMPT, PROMPT, KeyboardInterrupt, "never")
    assert status == 130
    assert "stopped; the model is restored" in out
    expected = LocalModel("m", "memory").generate(PROMPT, 4).text
    assert out.count(expected) == 1
    assert "tuned on 4 texts in 4 steps, uncertainty 1.00 to " in out
    assert [len(texts) for texts in fake.made[0].histories] == [1, 4]
    assert fake.made[0].learned is None


def test_ctrl_d_ends_and_colours_are_for_screens(person, fake):
    status, out, err = person(PROMPT, "/why", "/nonsense")
    assert status == 0
    assert "\x1b[2m" in out
    assert "/help lists them" in err
    assert "\rtuning: step 4 of 4 " in err


def test_ctrl_c_in_a_pipe_ends_it(talk, fake):
    fake.interrupt_at = 1
    status, out, err = talk(PROMPT, PROMPT)
    assert (status, out, err) == (130, "", "")
    assert fake.made[0].learned is None


def test_help_names_every_command(talk):
    out = talk("/help")[1]
    for command in ("/block", "/why", "/base", "/set", "/settings", "/help", "/quit"):
        assert command in out


@pytest.mark.slow
def test_a_real_model_answers(folder, sixty, tiny_model, siftlm, monkeypatch):
    (folder / "memory").symlink_to(sixty, target_is_directory=True)
    content = f"{PROMPT}\n/base\n/set rate=1e-9\n{PROMPT}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    words = ("-n", "3", "--max-new-tokens", "6", "--rate", "0.05", "--stop", "\\n")
    status, out, err = siftlm("chat", "memory", "--model", str(tiny_model), *words)
    assert (status, err) == (0, "")
    model = LocalModel(tiny_model, "memory", rate=0.05)
    base = model.controller.generate(PROMPT, max_new_tokens=6, stop="\n").text
    tuned = model.generate(PROMPT, 3, max_new_tokens=6, stop="\n").text
    said, _, remark = out.partition("(")
    assert said == f"{tuned}\n{base}\n{base}\n"
    assert remark.startswith(
        "the texts would not help, so this is the base model: expected loss by 3 held-out passages"
    )
    assert json.dumps(tuned) != json.dumps(base)
