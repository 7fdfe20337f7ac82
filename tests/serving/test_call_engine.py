"""Work for the model's thread, and clients that do not wait for it."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import Future

import pytest
from fastapi.testclient import TestClient

from serving.fakes import NAME, FakeEngine, app_of
from siftlm.serving.errors import DeadlineExceeded, QueueFull
from siftlm.serving.streaming import ClientDisconnected, call_engine


class Slow:
    """An engine that has not come to its calls yet."""

    def __init__(self):
        self.futures = []

    def call(self, work):
        self.futures.append(Future())
        return self.futures[-1]


async def goes(after=0.01):
    await asyncio.sleep(after)
    return {"type": "http.disconnect"}


async def stays():
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("receive", "deadline", "error"),
    [(goes, None, ClientDisconnected), (stays, -60, DeadlineExceeded), (None, -60, DeadlineExceeded)],
)
def test_what_nobody_waits_for_is_not_done(receive, deadline, error):
    slow = Slow()

    async def main():
        with pytest.raises(error):
            await call_engine(slow, print, receive, None if deadline is None else time.monotonic() + deadline)

    asyncio.run(main())
    assert slow.futures[0].cancelled()


def test_what_is_there_is_returned_and_what_fails_is_raised():
    engine = FakeEngine()
    assert asyncio.run(call_engine(engine, lambda: 5, stays, time.monotonic() + 5)) == 5
    with pytest.raises(ZeroDivisionError):
        asyncio.run(call_engine(engine, lambda: 1 // 0, stays))
    engine.close()


BODIES = {
    "/v1/select": {"input": "the end", "model": NAME},
    "/v1/embeddings": {"input": ["the end"] * 40, "model": NAME},
}


@pytest.mark.parametrize("path", BODIES)
def test_a_full_queue_of_calls(path):
    engine = FakeEngine()

    def full(work):
        raise QueueFull("3 requests are waiting already", retry_after=3)

    engine.call = full
    answer = TestClient(app_of(engine)).post(path, json=BODIES[path])
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "3"


@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_hangs_up_takes_its_call_along(path):
    engine, slow, sent = FakeEngine(), Slow(), []
    engine.call = slow.call
    messages = [{"type": "http.request", "body": json.dumps(BODIES[path]).encode(), "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        while not slow.futures:  # it hangs up while it waits
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
        "client": ("a", 1),
        "server": ("b", 2),
        "state": {},
    }
    asyncio.run(app_of(engine)(scope, receive, send))
    assert [future.cancelled() for future in slow.futures] == [True]
    assert sent[0]["status"] == 499
