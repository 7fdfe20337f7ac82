"""The end of the server: whoever has no answer by then is told so, and nothing is said in red."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import uvicorn

from siftlm.memory import Memory
from siftlm.serving.lifecycle import GracefulShutdown
from siftlm.serving.middleware import GuardMiddleware

httpx = pytest.importorskip("httpx")

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


def asked(path="/", app=None):
    """What is sent to a request that is cancelled as soon as the application waits."""
    sent, gone = [], asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def run():
        counted = []
        guard = GuardMiddleware(app, 100, lambda _, status: counted.append(status))
        task = asyncio.ensure_future(guard({"type": "http", "path": path, "headers": []}, receive, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        waited = not task.done()
        gone.set()
        await task
        return counted, waited

    counted, waited = asyncio.run(run())
    return sent, counted, waited


def error_of(data):
    return json.loads(data)["error"]["code"]


def test_who_has_no_answer_yet_gets_503():
    async def app(scope, receive, send):
        await asyncio.sleep(60)

    sent, counted, _ = asked(app=app)
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert (sent[0]["status"], error_of(sent[1]["body"]), counted) == (503, "shutting_down", [503])


def test_a_stream_ends_with_an_error():
    async def app(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        await asyncio.sleep(60)

    sent, counted, _ = asked(app=app)
    last = sent[-1]
    assert not last.get("more_body")
    assert last["body"].startswith(b"data: ")
    assert last["body"].endswith(b"\n\n")
    assert (error_of(last["body"][6:]), counted) == ("shutting_down", [200])


@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
def test_nothing_is_added_to_what_is_complete(kind):
    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"{}"})
        await asyncio.sleep(60)

    sent, _, waited = asked(app=app)
    assert len(sent) == 2
    assert not waited


def test_half_a_document_waits_until_it_is_cut_off():
    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-type", b"application/json")]})
        await asyncio.sleep(60)

    sent, _, waited = asked(app=app)
    assert len(sent) == 1
    assert waited


# --- with uvicorn


REACHED = threading.Event()


async def applied(scope, receive, send):
    """/body reads it all; /flood says more than anybody reads."""
    REACHED.set()
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
        return
    await send(START)
    while True:
        await send({"type": "http.response.body", "body": b"data: " + b"x" * 100_000 + b"\n\n", "more_body": True})


@contextmanager
def running(grace):
    config = uvicorn.Config(
        GuardMiddleware(applied, 2**20, lambda *_: None),
        interface="asgi3",
        lifespan="off",
        log_level="warning",
        ws="none",
    )
    server, told = uvicorn.Server(config), []
    ending = GracefulShutdown(server, grace, told.append)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield ending, listening.getsockname(), thread, told
        finally:
            ending.end(0.0)
            thread.join()


def begun(place, path):
    client = socket.create_connection(place)
    REACHED.clear()
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhalf".encode())
    assert REACHED.wait(60)
    return client


@pytest.fixture
def complaints(monkeypatch):
    """What uvicorn's log says."""
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    handler = Handler()
    yield lambda: logging.getLogger("uvicorn.error").addHandler(handler) or seen
    logging.getLogger("uvicorn.error").removeHandler(handler)


@pytest.mark.slow
def test_half_a_request_is_answered_at_the_end_of_the_grace(complaints):
    with running(0.3) as (ending, place, thread, told), begun(place, "/body") as client:
        said = complaints()
        began = time.monotonic()
        ending.end()
        answer = b"".join(iter(lambda: client.recv(10_000), b""))
        assert time.monotonic() - began > 0.25
        assert answer.startswith(b"HTTP/1.1 503")
        assert error_of(answer.partition(b"\r\n\r\n")[2]) == "shutting_down"
        thread.join(60)
        assert not thread.is_alive()
        [left] = told
        assert 0 < left <= 0.3
    assert said == []


def test_the_second_signal_leaves_no_time(complaints):
    with running(30) as (ending, place, thread, told), begun(place, "/body") as client:
        said = complaints()
        ending.on_signal(signal.SIGINT, None)
        ending.on_signal(signal.SIGINT, None)
        assert client.recv(10_000).startswith(b"HTTP/1.1 503")
        thread.join(60)
        assert not thread.is_alive()
        first, second = told
        assert 20 < first <= 30
        assert second == 0
        # As uvicorn goes on, it would raise what it was told once more.
        ending._server._captured_signals.clear()
    assert said == []


@pytest.mark.slow
def test_who_does_not_read_is_cut_off(complaints):
    with running(0.1) as (ending, place, thread, _), begun(place, "/flood"):
        said = complaints()
        time.sleep(0.2)  # until nothing more goes into the connection
        ending.end()
        thread.join(60)
        assert not thread.is_alive()
    assert said == []


# --- a whole process

SLOW = """
import sys, time
from siftlm.serving.tuning import TuningQueue
TuningQueue.round = lambda self: time.sleep(600) or []
from siftlm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def held(url):
    """How many requests wait or learn."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(("siftlm_waiting ", "siftlm_learning ")))


@pytest.mark.slow
def test_a_second_signal_ends_a_process_whose_model_is_learning(tmp_path):
    pytest.importorskip("peft")
    with Memory.create(tmp_path / "docs") as memory:
        memory.add(["one text", "another text"])
    line = [sys.executable, "-c", SLOW, "serve", "--memory", str(tmp_path / "docs"), "--port", "0"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().split()[1]
        body = {"model": "siftlm-tiny:sift-2", "prompt": "one", "max_tokens": 3}
        with ThreadPoolExecutor(4) as pool:
            bodies = [{**body, "prompt": f"prompt {n}", "stream": n == 3} for n in range(4)]
            answers = [pool.submit(httpx.post, f"{url}/v1/completions", json=one, timeout=300) for one in bodies]
            while held(url) < len(bodies):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert not any(one.done() for one in answers)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert {(one.result().status_code, one.result().json()["error"]["code"]) for one in answers} == {
                (503, "shutting_down")
            }
        assert (process.wait(60), process.stderr.read()) == (0, "")
        assert time.monotonic() - began < 60  # and not the minutes of a step
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
