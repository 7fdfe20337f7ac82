"""Where the server listens, and by which names it may be asked."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller import tiny
from siftlm.controller import Controller
from siftlm.errors import Conflict, SiftlmError
from siftlm.memory import Memory
from siftlm.serving import background_server
from siftlm.serving.server import bind_socket, is_loopback, server_url

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("host") / "docs") as made:
        made.add(["one text", "another text"])
        yield made


def controller():
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_what_only_this_machine_reaches(host, alone):
    assert is_loopback(host) is alone


def test_nobody_listens_to_the_world_by_accident(memory):
    with (
        pytest.raises(Conflict, match="keys to a file of API keys"),
        background_server(controller(), {"docs": memory}, host="0.0.0.0"),
    ):
        pass


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(memory):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SiftlmError, match=f"port {port}"),
            background_server("no-such-model", {"docs": memory}, port=port),
        ):
            pass
    with pytest.raises(ValueError, match="from 0 to 65535"):
        bind_socket("127.0.0.1", 70000)
    assert server_url("127.0.0.1", 80) == "http://127.0.0.1:80"


@pytest.mark.slow
def test_a_server_without_keys_is_asked_by_its_own_names_only(memory):
    with background_server(controller(), {"docs": memory}) as url:
        port = url.rpartition(":")[2]
        for name in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", f"[::1]:{port}", "LOCALHOST"):
            assert httpx.get(f"{url}/ready", headers={"host": name}).status_code == 200
        for name in (f"evil.example:{port}", "evil.example", "localhost.evil.example", ""):
            answer = httpx.get(f"{url}/v1/models", headers={"host": name})
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "not_allowed"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_a_shell_until_it_is_told_to_end(memory, number):
    line = [sys.executable, "-m", "siftlm", "serve", "--memory", f"docs={memory.path}", "--port", "0"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().split()[1]
        body = {"model": "siftlm-tiny:sift-2", "prompt": "one", "max_tokens": 3}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["usage"]["completion_tokens"] <= 3
    finally:
        process.send_signal(number)
        ended = process.wait(60)
        said = process.stderr.read()
        process.stderr.close()
    assert (ended, said) == (0, "")


@pytest.mark.slow
def test_at_the_end_of_the_grace_who_waits_is_told(memory):
    line = [sys.executable, "-m", "siftlm", "serve", "--memory", f"docs={memory.path}", "--port", "0", "--grace", "1"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().split()[1]
        body = {"model": "siftlm-tiny", "prompt": "one", "max_tokens": 1000, "n": 8, "temperature": 1}
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=60) for _ in range(6)]
            while "siftlm_speaking 0" in httpx.get(f"{url}/metrics").text:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        refused = [one for one in answers if one.status_code != 200]
        assert refused
        assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(503, "shutting_down")}
        assert (process.wait(60), process.stderr.read()) == (0, "")
    finally:
        process.kill()  # no second SIGTERM before: one that comes while Python itself ends is the system's to answer
        process.wait(60)
        process.stderr.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "nowhere"), "nowhere"),
        (("--memory", "docs", "--memory", "docs"), "another memory is already named 'docs'"),
        (("--memory", "docs", "--engine", "full"), "--engine lora"),
        (("--memory", "docs", "--host", "0.0.0.0"), "keys to a file of API keys"),
        (("--memory", "docs", "--port", "70000"), "65535"),
        ((), "--memory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(memory, words, said, monkeypatch, capsys):
    from siftlm.cli import main

    monkeypatch.chdir(memory.path.parent)
    assert main(["serve", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
