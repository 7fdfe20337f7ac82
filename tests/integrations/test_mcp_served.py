"""`siftlm mcp` as a process of its own: the protocol over stdio and HTTP, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio
import httpx
from mcp import Client, StdioServerParameters, stdio_client

from siftlm.memory import Memory
from siftlm.serving.auth import add_key

pytestmark = pytest.mark.slow
TEXTS = ["The lamp burns two pints of colza oil in a night.", "Puffins nest on the cliff to the north."]
COMMAND = [sys.executable, "-m", "siftlm", "mcp", "--memory", "station"]
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
SECONDS = 120  # for a busy machine
# Starts the server in its place as a client would, says which process it is, and waits to be killed.
CLIENT = """
import subprocess, sys, time
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
server.stdin.write(b'{hello}\\n'); server.stdin.flush(); server.stdout.readline()
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a memory."""
    monkeypatch.chdir(tmp_path)
    with Memory.create("station") as memory:
        memory.add(TEXTS)
    return tmp_path


def search_call(query: str) -> dict[str, Any]:
    params = {"name": "search", "arguments": {"query": query, "n": 1}}
    return {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The command, ended at the end of the block if it has not ended itself."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The status, and what was printed on stdout and stderr after what was read."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


# --- stdio


def test_an_assistant_talks_to_it_over_stdio(folder: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    parameters = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment, cwd=folder)

    async def main() -> None:
        async with Client(stdio_client(parameters)) as client:
            assert client.instructions is not None
            assert "n is a maximum" in client.instructions
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["search", "explain", "select", "redundancy"]
            found = await client.call_tool("search", {"query": "How much oil?"})
            assert found.structured_content["passages"][0]["text"] == TEXTS[0]
            assert (await client.call_tool("search", {"query": ""})).is_error
            grow = f"from siftlm import Memory; Memory.open({str(folder / 'station')!r}).add(['Whales pass in May.'])"
            await anyio.run_process([sys.executable, "-c", grow])
            found = await client.call_tool("search", {"query": "whales"})
            assert found.structured_content["passages"][0]["text"] == "Whales pass in May."

    anyio.run(main)


def test_it_ends_when_its_client_closes_stdin(folder: Path) -> None:
    with started() as process:
        assert ask(process, HELLO)["result"]["serverInfo"]["name"] == "siftlm"
        assert ended(process) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(folder: Path, number: signal.Signals) -> None:
    with started() as process:
        ask(process, HELLO)
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_is_no_message_is_passed_over(folder: Path) -> None:
    with started() as process:
        ask(process, HELLO)
        assert process.stdin is not None
        process.stdin.write("nonsense\n")
        assert ask(process, {"jsonrpc": "2.0", "id": 7, "method": "nothing"})["error"]["code"] == -32601
        assert TEXTS[0] in ask(process, search_call("How much oil?"))["result"]["content"][0]["text"]
        assert ended(process)[:2] == (0, "")


def test_a_client_that_stops_reading_leaves_no_traceback(folder: Path) -> None:
    with started() as process:
        ask(process, HELLO)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(json.dumps(search_call("oil")) + "\n" + json.dumps(search_call("puffins")) + "\n")
        process.stdin.close()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_it_does_not_outlive_a_client_that_was_killed(folder: Path) -> None:
    script = CLIENT.format(hello=json.dumps(HELLO))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, *COMMAND], stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == "ready\n"
        client.kill()
        # The server holds the other end of stderr until it ends.
        assert client.stderr.read() == ""


def test_it_loads_no_model_for_a_memory_that_needs_none(folder: Path) -> None:
    script = """
import sys
from siftlm import Memory
from siftlm.integrations import _mcp_tools, mcp
memories = {"station": Memory.open("station")}
mcp.create_server(memories)
print(mcp.TOOLS["search"].run(memories, mcp.TOOLS["search"].parsed({"query": "oil"})).passages[0].text)
print(sorted({"torch", "transformers", "fastapi", "sentence_transformers"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


# --- HTTP


@contextmanager
def listening(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server and its address."""
    with started("--http", "0", *words) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("siftlm: http://127.0.0.1:"), line
        yield process, line.split()[1]


def post(url: str, message: dict[str, Any], **headers: str) -> httpx.Response:
    accept = "application/json, text/event-stream"
    return httpx.post(url, json=message, headers={"accept": accept, **headers}, timeout=SECONDS)


def test_an_assistant_talks_to_it_over_http(folder: Path) -> None:
    with listening() as (process, url):

        async def main() -> list[Any]:
            async with Client(url) as client:
                assert len((await client.list_tools()).tools) == 4
                results: list[Any] = []

                async def call(query: str) -> None:
                    results.append(await client.call_tool("search", {"query": query}))

                async with anyio.create_task_group() as group:
                    for query in ("oil", "puffins", "") * 3:
                        group.start_soon(call, query)
                return results

        results = anyio.run(main)
        assert sorted(result.is_error for result in results) == [False] * 6 + [True] * 3
        # Another site's page that points its own name at this machine is refused, and so is one that calls by ours.
        assert TEXTS[0] in post(url, search_call("How much oil?")).text
        assert post(url, search_call("oil"), host="example.org").status_code == 421
        assert post(url, search_call("oil"), origin="http://example.org").status_code == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0


def test_keys_say_who_may_read_what(folder: Path) -> None:
    with Memory.create("birds") as birds:
        birds.add(["Puffins lay one egg."])
    reader = add_key("keys.json", "ann", {"birds": "read"})
    nobody = add_key("keys.json", "ben", {"wiki": "read"})
    with listening("--memory", "birds", "--keys", "keys.json") as (_, url):
        refused = post(url, search_call("oil"))
        assert (refused.status_code, "an API key is required" in refused.text) == (401, True)
        assert post(url, search_call("oil"), authorization="Bearer sift-wrong").status_code == 401
        found = post(url, search_call("puffins"), authorization=f"Bearer {reader}").json()["result"]
        assert found["structuredContent"]["passages"][0]["text"] == "Puffins lay one egg."
        call = search_call("oil")
        call["params"]["arguments"]["memory"] = "station"
        refusal = post(url, call, authorization=f"Bearer {reader}").json()["result"]
        assert refusal["content"][0]["text"] == "unknown memory 'station'. Known: birds"
        refusal = post(url, search_call("oil"), authorization=f"Bearer {nobody}").json()["result"]
        assert refusal["content"][0]["text"] == "this API key may read none of the memories"
        tools = {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}
        listed = post(url, tools, authorization=f"Bearer {reader}").json()["result"]["tools"]
        assert listed[0]["description"].endswith("Memories: birds.")
