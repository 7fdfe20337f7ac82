"""Ctrl-C, once and twice, at any moment: it is heard, and the model is the base model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("peft")

from controller import tiny
from siftlm.controller import Controller

TEXTS = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour"]


@pytest.fixture(params=["full", "lora"])
def one(request):
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine=request.param, rate=1e-2, precision="float32")


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "rounds"), [("full", 150), ("lora", 150)])
def test_at_any_moment(engine, rounds):
    program = Path(__file__).with_name("interrupted.py")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, str(program), engine, str(rounds)], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["left"] == []
    assert said["heard"] > rounds / 4, "enough of the signals arrived inside"


def test_while_it_learns(one, untouched):
    check = untouched(one.model)
    with pytest.raises(KeyboardInterrupt), one.tuning() as tuner:
        tuner.learn(TEXTS, after=interrupt)
    check()


@pytest.mark.parametrize("where", ["begin", "end"])
def test_while_it_is_changed_or_put_back_it_waits(one, untouched, monkeypatch, where):
    real, seen = getattr(one.engine, where), []

    def changing(*settings):
        interrupt()
        real(*settings)
        seen.append("whole")

    monkeypatch.setattr(one.engine, where, changing)
    check = untouched(one.model)
    with pytest.raises(KeyboardInterrupt), one.tuning() as tuner:
        tuner.learn(TEXTS, after=seen.append)
    assert len(seen) == (1 if where == "begin" else 1 + len(TEXTS))
    assert seen[-1] == "whole"
    check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_while_the_first_is_dealt_with(one, untouched, monkeypatch):
    real = one.engine.end
    monkeypatch.setattr(one.engine, "end", lambda: (interrupt(), real(), interrupt()))
    check = untouched(one.model)
    with pytest.raises(KeyboardInterrupt), one.tuning() as tuner:
        tuner.learn(TEXTS, after=interrupt)
    check()


def test_a_handler_that_does_not_raise_ends_nothing(one, untouched, monkeypatch):
    """As servers have it: the signal is noted, and the block goes on."""
    noted = []
    real = one.engine.begin
    monkeypatch.setattr(one.engine, "begin", lambda settings: (interrupt(), real(settings)))
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    try:
        check = untouched(one.model)
        with one.tuning() as tuner:
            assert noted == [1]
            base = one.likelihood(TEXTS[0])
            assert tuner.learn(TEXTS, after=interrupt).ended == "done"
            assert one.likelihood(TEXTS[0]) != base
            assert noted == [1, 1, 1]
        check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_is_set_inside_the_block_stays(one):
    before = signal.getsignal(signal.SIGINT)
    mine = lambda *_: None  # noqa: E731
    try:
        with one.tuning():
            signal.signal(signal.SIGINT, mine)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handler_alone(one):
    seen = []

    def work():
        with one.tuning() as tuner:
            tuner.learn(TEXTS)
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
