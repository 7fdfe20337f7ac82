"""``siftlm serve`` and ``keys``: an OpenAI-compatible server whose model learns for every request, and its keys."""

from __future__ import annotations

import argparse
import atexit
import gc
import re
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, repeated, switch
from siftlm.cli.terminal import Terminal, note, print_json, table
from siftlm.cli.tuning import device_errors
from siftlm.errors import Conflict

if TYPE_CHECKING:
    from siftlm.memory import Memory

SERVE_EPILOG = """\
examples:
  siftlm serve --memory memory                            http://127.0.0.1:8000, and a page there to look at
  siftlm serve --memory docs=docs/ --memory wiki=wiki/    several memories; the first is the default
  siftlm keys add keys.json alice --memory docs=read
  siftlm serve --memory docs=docs/ --keys keys.json --host 0.0.0.0
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{"model": "siftlm-tiny:sift-20", "prompt": "def add(a, b):"}'

Any OpenAI client works with the base URL http://HOST:PORT/v1. The name of the model says how it learns:
  NAME                 not at all: the base model
  NAME:sift-50         from the 50 texts that SIFT selects for the prompt; NAME:nn-50 from the nearest ones
  NAME:context-10      not at all: ten texts are put before the prompt
  NAME:auto            from as many as are worth it
  NAME:sift-50@wiki    from another memory
Tuning is done by adapters (LoRA), for all requests share the model's weights: --engine auto is --engine lora here.
A bigger model may be served by vLLM: this server then tunes, and hands the adapters over. vLLM has to be started so:
  VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --port 8001 --enable-lora --max-lora-rank 16 \\
      --max-loras 8 --max-cpu-loras 32
with the same model, a rank that is not below --rank, and DIR where it sees it at the same path:
  siftlm serve --model MODEL --memory memory --vllm http://127.0.0.1:8001 --vllm-folder DIR
(its key, if it has one, in the environment variable VLLM_API_KEY). The weights are needed here as well, to be tuned.
Ctrl-C takes no more requests in and finishes those that were accepted; a second one answers them with 503 and ends.
"""
KEYS_EPILOG = """\
examples:
  siftlm keys add keys.json ann                           ann may ask, and learn from every memory
  siftlm keys add keys.json loader --memory docs=write    may add to and delete from docs, and no other memory
  siftlm keys add keys.json ben --memory docs=write --memory '*=read'
  siftlm keys list keys.json
  siftlm keys revoke keys.json ann                        from the next request on, without a restart
  siftlm serve --memory docs=memory --keys keys.json --host 0.0.0.0

A key is shown once, when it is made: the file keeps only its hash. Clients send it as they send OpenAI's, in the header
Authorization: Bearer sift-…, so OPENAI_API_KEY or api_key= is the place for it. To change a key, add one under a new
name, hand it out, and revoke the old one. The file is for its owner alone (chmod 600).
"""

NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<folder>.+)")


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = flags.command(
        commands,
        "serve",
        run,
        "an OpenAI-compatible server that learns for every request, and a page that shows why",
        SERVE_EPILOG,
        usage="siftlm serve --memory [NAME=]FOLDER [options]",
    )
    memories = "what to learn from; repeatable (without NAME: the folder's own)"
    queue = "requests that may wait; more are refused with 429 (default: 64)"
    adapters = "adapters that it keeps at once, its --max-cpu-loras (default: 32)"
    flags.declare(
        parser,
        repeated("--memory", "[NAME=]FOLDER", str, memories, required=True, dest="memories"),
        "where",
        Flag("--host", "H", str, "address to listen at (default: 127.0.0.1, this machine alone)", "127.0.0.1"),
        Flag("--port", "P", flags.whole(0, 65535), "(default: 8000; 0 takes a free one)", 8000),
        Flag("--keys", "FILE", str, "API keys: see siftlm keys; required where others can reach the host"),
        switch("--open", "serve anybody who reaches the host, without keys", setting="anybody"),
        "how much",
        Flag("--slots", "N", flags.whole(1), "prompts that are tuned at once (default: 8)", 8),
        Flag("--queue", "N", flags.whole(1), queue, 64),
        Flag("--cache", "MIB", flags.whole(0), "memory for adapters of requests that may repeat (default: 256)", 256),
        Flag("--seconds", "S", flags.above_zero, "time limit of a request (default: 300)", 300.0),
        Flag("--grace", "S", flags.from_zero, "time for accepted requests at shutdown (default: 30)", 30.0),
        "decoding by vLLM",
        Flag("--vllm", "URL", str, "a vLLM that serves the same model: see below"),
        Flag("--vllm-folder", "DIR", str, "where adapters are handed over; vLLM must see it too"),
        Flag("--vllm-adapters", "N", flags.whole(1), adapters, 32),
        "how to learn, unless a request says otherwise",
        Flag("-n", "N", int, "texts (default: by the calibration, else 50)"),
        flags.NOISE,
        Flag("--rate", "R", float, "learning rate (default: by the model's size)"),
        flags.SETTING.but("any other setting of the search or of tuning; repeatable"),
        "the model",
        *flags.MODEL,
    )
    _add_keys(commands)


def _add_keys(commands: Any) -> None:
    parser = commands.add_parser(
        "keys",
        help="API keys of a server: add, list, revoke",
        description="Make, list and revoke the keys that siftlm serve --keys FILE asks for.",
        epilog=KEYS_EPILOG,
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    file = Flag("file", "FILE", str, "the keys")
    adding = flags.command(actions, "add", run_add_key, "make a key and print it, once")
    rights = "what it may do to a memory; '*' stands for those that are not named; repeatable (default: '*=read')"
    name = Flag("name", "NAME", str, "whose it is; it stands in the log")
    flags.declare(adding, file, name, repeated("--memory", "NAME=read|write", _right, rights))
    about = "whose keys there are, since when, and what they may do"
    listing = flags.command(actions, "list", run_list_keys, about)
    flags.declare(listing, file, flags.JSON)
    revoking = flags.command(actions, "revoke", run_revoke_key, "refuse a key from now on")
    flags.declare(revoking, file, Flag("name", "NAME", str, "whose key"))


# --- serve


def run(arguments: argparse.Namespace) -> int:
    """Open everything, serve, and leave everything tidy."""
    from siftlm.serving import serve

    atexit.register(gc.freeze)  # or Python, at its end, looks for seconds through all that torch has made
    memories = _open_memories(arguments)
    learning = {"n": arguments.n, "noise": arguments.noise, "rate": arguments.rate, **dict(arguments.sets)}
    try:
        with device_errors():
            serve(
                arguments.model,
                memories,
                host=arguments.host,
                port=arguments.port,
                keys=arguments.keys,
                anybody=arguments.open,
                slots=arguments.slots,
                queue=arguments.queue,
                cache=arguments.cache * 2**20,
                seconds=arguments.seconds,
                grace=arguments.grace,
                vllm=arguments.vllm,
                vllm_folder=arguments.vllm_folder,
                vllm_adapters=arguments.vllm_adapters,
                on_ready=_log,
                **{name: value for name, value in learning.items() if value is not None},
                **{**flags.controller_settings(arguments), "engine": "lora"},
            )
    finally:
        for memory in memories.values():
            memory.close()
    return 0


def _open_memories(arguments: argparse.Namespace) -> dict[str, Memory]:
    """The memories by name."""
    from siftlm.memory import Memory

    if arguments.engine == "full":
        raise Conflict("--engine full: requests share the model's weights, so a server tunes adapters: --engine lora")
    memories: dict[str, Memory] = {}
    for word in arguments.memories:
        named = NAMED.fullmatch(word)
        folder = named["folder"] if named else word
        memory = Memory.open(folder, embedder=arguments.embedder)
        name = named["name"] if named else re.sub(r"[^A-Za-z0-9_.-]+", "-", memory.path.name).strip("-.") or "memory"
        if name in memories:
            raise Conflict(f"--memory {word}: another one is called {name!r} already; say --memory NAME={folder}")
        memories[name] = memory
    return memories


def _log(line: str) -> None:
    """What a person at the terminal should know."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


# --- keys


def run_add_key(arguments: argparse.Namespace) -> int:
    """The key goes to stdout, alone, so that it can be piped; the rest to stderr."""
    from siftlm.serving import auth

    key = auth.add_key(arguments.file, arguments.name, dict(arguments.memory) or {auth.ANY_MEMORY: "read"})
    print(key)
    note(f"this is the key of {arguments.name}; it cannot be shown again")
    return 0


def run_list_keys(arguments: argparse.Namespace) -> int:
    """A line a key."""
    from siftlm.serving import auth

    known = auth.list_keys(arguments.file)
    if arguments.json:
        print_json([{"name": key.name, "made": key.made, "memories": dict(key.memories)} for key in known])
        return 0
    terminal = Terminal.of(sys.stdout)
    rows = table(header=False)
    for key in known:
        rights = ", ".join(f"{memory}={right}" for memory, right in key.memories.items())
        rows.add_row(terminal.prose(key.name), terminal.prose(key.made), terminal.prose(rights))
    if known:
        terminal.show(rows)
    return 0


def run_revoke_key(arguments: argparse.Namespace) -> int:
    """Revoke a key."""
    from siftlm.serving import auth

    auth.revoke_key(arguments.file, arguments.name)
    Terminal.of(sys.stdout).show(f"{arguments.file}: the key of {arguments.name} is revoked")
    return 0


def _right(text: str) -> tuple[str, str]:
    from siftlm.serving.auth import RIGHTS

    memory, _, right = text.rpartition("=")
    if not memory or right not in RIGHTS:
        raise argparse.ArgumentTypeError(f"expected NAME=read or NAME=write, got {text!r}")
    return memory, right
