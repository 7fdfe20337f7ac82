"""Clients that go, clients that do not end, and all others meanwhile: over real connections."""

from __future__ import annotations

import json
import re
import select
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from serving.fakes import NAME, FakeEngine, Manners, app_of, served, until
from siftlm.serving import RequestLimits

pytestmark = pytest.mark.slow  # each starts a server

BODY = {"model": NAME, "prompt": "the time of the end", "max_tokens": 40}


def _connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _ask(line: socket.socket, **body: Any) -> None:
    content = json.dumps({**BODY, **body}).encode()
    line.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(content) + content
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("pause", [0.02, 30], ids=["while it is told", "before it is told anything"])
def test_a_client_that_hangs_up(stream, pause):
    engine = FakeEngine(Manners(pause=pause))
    with served(app_of(engine)) as address:
        line = _connected(address)
        _ask(line, prompt=["the time of the end in the end of the time", "in the end"], stream=stream)
        until(lambda: len(engine.jobs) == 2)
        if stream and pause < 1:
            assert b"200 OK" in line.recv(100)
        assert engine.cancelled == []
        line.close()
        until(lambda: len(engine.cancelled) == 2)
        with _connected(address) as other:  # and the server goes on
            other.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in other.recv(100)


def test_a_client_that_hangs_up_before_it_has_asked(caplog):
    answered: list[int] = []
    count: Any = SimpleNamespace(answered=lambda route, status, mode: answered.append(status), read=print)
    app = app_of(FakeEngine(count=count))
    with served(app) as address:
        with _connected(address) as line:
            line.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
        until(lambda: answered)
    assert answered == [499]
    assert not caplog.records, "that is nobody's failure"


def test_others_are_served_while_one_waits():
    with served(app_of(FakeEngine(Manners(pause=1)))) as address, _connected(address) as slow:
        _ask(slow, prompt="the time of the end", max_tokens=4)
        with _connected(address) as other:
            other.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in other.recv(100)
        assert select.select([slow], [], [], 0)[0] == [], "the slow one was answered first"
        assert re.match(rb"HTTP/1.1 200", slow.recv(1000))


def test_a_body_without_an_end_is_not_read():
    with served(app_of(FakeEngine(), limits=RequestLimits(body=10_000))) as address, _connected(address) as line:
        line.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        for _ in range(11):
            line.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_says_how_large_it_is_need_not_come():
    with served(app_of(FakeEngine(), limits=RequestLimits(body=10_000))) as address, _connected(address) as line:
        line.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10001\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        assert line.recv(100).startswith(b"HTTP/1.1 413")
