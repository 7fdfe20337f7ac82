"""``siftlm mcp``: memories for an assistant, over the Model Context Protocol."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import re
import sys
from typing import Any

from siftlm import extras
from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, repeated, switch
from siftlm.cli.serve import log, open_memories
from siftlm.errors import Conflict

EPILOG = """\
examples:
  siftlm mcp --memory notes/                              stdio, for a client that starts the server itself
  siftlm mcp --memory docs=docs/ --memory wiki=wiki/      several memories; the first is the default
  siftlm mcp --memory notes/ --http 8000                  http://127.0.0.1:8000/mcp, for this machine only
  siftlm mcp --memory notes/ --http 0.0.0.0:8000 --keys keys.json

An assistant's configuration, with paths written in full:
  {"mcpServers": {"notes": {"command": "siftlm", "args": ["mcp", "--memory", "/path/to/notes"]}}}

Tools: search and explain read a memory, select chooses among texts that the assistant passes, redundancy tells whether
a memory repeats itself. A search stops by itself, and says how much of the uncertainty about the query is left.

Over stdio, stdout carries the protocol alone. The server ends when its client closes stdin, and at Ctrl-C.
"""
ADDRESS = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):)?(?P<port>[0-9]{1,5})")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "mcp",
        run,
        "memories for an assistant, over the Model Context Protocol",
        EPILOG,
        usage="siftlm mcp --memory [NAME=]FOLDER [options]",
    )
    memories = "a memory to search; repeatable (default NAME: the folder's name)"
    address = "serve streamable HTTP at this address instead of stdio (default HOST: 127.0.0.1, for this machine only)"
    keys = "API keys, made by siftlm keys; required if other machines can reach the host"
    flags.declare(
        parser,
        repeated("--memory", "[NAME=]FOLDER", str, memories, required=True, dest="memories"),
        flags.EMBEDDER,
        "network",
        Flag("--http", "[HOST:]PORT", read_address, address, setting="host"),
        Flag("--keys", "FILE", str, keys),
        switch("--open", "serve without keys, even to other machines", setting="anybody"),
    )


def read_address(word: str) -> tuple[str, int]:
    """A host and a port.

    >>> read_address("8000"), read_address("[::1]:0")
    (('127.0.0.1', 8000), ('::1', 0))
    """
    found = ADDRESS.fullmatch(word)
    if found is None or int(found["port"]) > 65535:
        raise argparse.ArgumentTypeError(f"expected PORT or HOST:PORT, with a port from 0 to 65535, got {word!r:.40}")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


def run(arguments: argparse.Namespace) -> int:
    """Open the memories, and serve until the client leaves or somebody interrupts."""
    extras.load("mcp", "mcp")
    from siftlm.integrations import mcp

    if arguments.http is None and (arguments.keys is not None or arguments.open):
        raise Conflict("--keys and --open need --http: over stdio, the client has started the server itself")
    atexit.register(gc.freeze)  # the last garbage collection takes longer than all else at the end
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="siftlm: %(message)s")
    memories = open_memories(arguments)
    try:
        if arguments.http is None:
            if sys.stdin is not None and sys.stdin.isatty():
                log("siftlm: waiting for a client on stdin; an assistant starts this command itself  (Ctrl-C ends)")
            mcp.serve_stdio(memories)
        else:
            host, port = arguments.http
            readers = None
            if arguments.keys is not None:
                from siftlm.serving.auth import ApiKeys

                readers = ApiKeys.read(arguments.keys).of
            mcp.serve_http(memories, host=host, port=port, readers=readers, anybody=arguments.open, on_ready=log)
    finally:
        for memory in memories.values():
            memory.close()
    return 0
