"""No client can fill the log by asking for WebSocket, and everything else is still said."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
import uvicorn

from serving.fakes import until
from siftlm.serving.server import log_config

ASKING = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def app(scope, receive, send):
    logging.getLogger("uvicorn.error").warning("the disk is full")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quiet", "said"), [(True, ["the disk"]), (False, ["Unsupported", "No supported", "the disk"])]
)
def test_who_asks_for_another_protocol_is_answered_and_not_logged(quiet, said, capsys):
    given = {"log_config": log_config()} if quiet else {}
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off", **given)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        with socket.create_connection(listening.getsockname()) as line:
            line.sendall(ASKING)
            assert line.recv(100).startswith(b"HTTP/1.1 204")
        server.should_exit = True
        thread.join(60)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(word in line for word, line in zip(said, lines, strict=True))
