"""While the model is being loaded the server answers already: that it lives, and that it is not ready."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from controller import tiny
from siftlm.controller import Controller
from siftlm.errors import SiftlmError
from siftlm.memory import Memory
from siftlm.serving import background_server, lifecycle, open_server

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("entrance") / "docs") as made:
        made.add(["one text", "another text"])
        yield made


def test_a_model_that_takes_its_time(memory, monkeypatch):
    may = threading.Event()

    def loaded(model, settings):
        assert may.wait(30)
        return Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)

    monkeypatch.setattr(lifecycle, "load_controller", loaded)
    with open_server("any", {"docs": memory}, port=0) as server:
        threads = [threading.Thread(target=work) for work in (server.run, server.load)]
        for thread in threads:
            thread.start()
        try:
            with httpx.Client(base_url=server.url) as client:  # one connection through it all
                assert client.get("/health").json() == {"status": "alive"}
                for answer in (client.get("/ready"), client.get("/v1/models"), client.post("/v1/completions", json={})):
                    assert answer.status_code == 503
                    assert answer.json()["error"]["code"] == "not_ready"
                    assert int(answer.headers["retry-after"]) > 0
                evil = client.get("/health", headers={"host": "evil.example"})
                assert (evil.status_code, evil.json()["error"]["code"]) == (403, "not_allowed")
            with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as raw:
                raw.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**30}\r\n\r\n".encode())
                assert raw.recv(100).startswith(b"HTTP/1.1 413")
            assert threads[1].is_alive()
            may.set()
            threads[1].join(30)
            assert httpx.get(f"{server.url}/ready").status_code == 200
            assert (
                'siftlm_requests_total{mode="",route="other",status="503"} 3' in httpx.get(f"{server.url}/metrics").text
            )
        finally:
            may.set()
            server.shutdown.end()
            for thread in threads:
                thread.join()


def test_a_model_that_cannot_be_loaded(memory, monkeypatch):
    def loaded(model, settings):
        raise SiftlmError("there is no such model")

    monkeypatch.setattr(lifecycle, "load_controller", loaded)
    with pytest.raises(SiftlmError, match="no such model"), background_server("any", {"docs": memory}):
        pytest.fail("it is not ready")


# --- a whole process

LOADING = """
import sys, time
from siftlm.errors import SiftlmError
from siftlm.serving import lifecycle

def loaded(model, settings):
    time.sleep({seconds})
    raise SiftlmError("there is no such model")

lifecycle.load_controller = loaded
from siftlm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def started(memory, seconds):
    """A process that has its port, and loads for so long."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [
        sys.executable,
        "-c",
        LOADING.format(seconds=seconds),
        "serve",
        "--memory",
        str(memory.path),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        client = socket.socket()
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return process, client
        client.close()
        time.sleep(0.05)
    process.kill()
    raise TimeoutError(process.communicate())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_while_it_loads(memory, number):
    process, client = started(memory, 600)
    with client:
        client.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(10_000).startswith(b"HTTP/1.1 503")
        process.send_signal(number)
        assert (process.wait(30), process.communicate()[1]) == (0, "")


@pytest.mark.slow
def test_it_says_in_one_line_why_it_cannot_load(memory):
    process, client = started(memory, 1)
    with client:  # whoever is connected does not hold it back
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf")
        said = process.communicate(timeout=30)[1]
        assert (process.returncode, said) == (1, "siftlm: there is no such model\n")
