"""``siftlm serve`` and ``keys``: an OpenAI-compatible server that fine-tunes for every request, and its API keys."""

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
from siftlm.cli.tuning import controller_settings, device_errors
from siftlm.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from siftlm.memory import Memory

SERVE_EPILOG = """\
examples:
  siftlm serve --memory memory                            the API and a page at http://127.0.0.1:8000
  siftlm serve --memory docs=docs/ --memory wiki=wiki/    several memories; the first is the default
  siftlm keys add keys.json alice --memory docs=read
  siftlm serve --memory docs=docs/ --keys keys.json --host 0.0.0.0
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{"model": "siftlm-tiny:sift-20", "prompt": "def add(a, b):"}'

Any OpenAI client works with the base URL http://HOST:PORT/v1. The model's name selects the recipe:
  NAME                 the base model
  NAME:sift-50         fine-tuned on the 50 texts that SIFT selects for the prompt
  NAME:nn-50           fine-tuned on the 50 nearest neighbours
  NAME:context-10      ten texts in context, without tuning
  NAME:auto            fine-tuned on as many texts as are worth it
  NAME:sift-50@wiki    with texts of another memory
All requests share the model's weights, so each tunes a LoRA adapter: --engine auto is --engine lora here.

Larger models can be decoded by vLLM: this server tunes the adapters, and vLLM loads them from a shared folder. Start
vLLM
with the same model, with --max-lora-rank no lower than --rank, and with the folder at the same path:
  VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --port 8001 --enable-lora --max-lora-rank 16 \\
      --max-loras 8 --max-cpu-loras 32
  siftlm serve --model MODEL --memory memory --vllm http://127.0.0.1:8001 --vllm-folder DIR
The environment variable VLLM_API_KEY holds vLLM's key, if it needs one. This server loads the weights too, for
tuning.

Ctrl-C stops accepting requests and finishes the accepted ones; a second Ctrl-C answers them with 503 and exits.
"""
KEYS_EPILOG = """\
examples:
  siftlm keys add keys.json ann                           read access to every memory
  siftlm keys add keys.json loader --memory docs=write    may add to and delete from docs; no other memory
  siftlm keys add keys.json ben --memory docs=write --memory '*=read'
  siftlm keys list keys.json
  siftlm keys revoke keys.json ann                        effective at once, without a restart
  siftlm serve --memory docs=memory --keys keys.json --host 0.0.0.0

A key is printed once, when it is created: the file holds only its hash. Clients pass it like an OpenAI key, in
OPENAI_API_KEY, api_key= or the header Authorization: Bearer sift-…. To rotate a key, add one under a new name,
distribute it, and revoke the old one. Only its owner can read the file (mode 600).
"""

NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<folder>.+)")


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = flags.command(
        commands,
        "serve",
        run,
        "an OpenAI-compatible server that fine-tunes for every request, and a page to explore it",
        SERVE_EPILOG,
        usage="siftlm serve --memory [NAME=]FOLDER [options]",
    )
    memories = "a memory to select from; repeatable (default NAME: the folder's name)"
    queue = "length of the queue; further requests get 429 (default: 64)"
    adapters = "adapters that vLLM holds, its --max-cpu-loras (default: 32)"
    flags.declare(
        parser,
        repeated("--memory", "[NAME=]FOLDER", str, memories, required=True, dest="memories"),
        "network",
        Flag("--host", "H", str, "address to listen at (default: 127.0.0.1, for this machine only)", "127.0.0.1"),
        Flag("--port", "P", flags.whole(0, 65535), "port to listen at; 0: any free port (default: 8000)", 8000),
        Flag("--keys", "FILE", str, "API keys, made by siftlm keys; required if other machines can reach the host"),
        switch("--open", "serve without keys, even to other machines", setting="anybody"),
        "limits",
        Flag("--slots", "N", flags.whole(1), "prompts to tune for concurrently (default: 8)", 8),
        Flag("--queue", "N", flags.whole(1), queue, 64),
        Flag("--cache", "MIB", flags.whole(0), "cache of adapters for repeated requests, in MiB (default: 256)", 256),
        Flag("--seconds", "S", flags.above_zero, "time limit of a request, in seconds (default: 300)", 300.0),
        Flag("--grace", "S", flags.from_zero, "time for accepted requests at shutdown, in seconds (default: 30)", 30.0),
        "decoding by vLLM",
        Flag("--vllm", "URL", str, "URL of a vLLM server with the same model (see below)"),
        Flag("--vllm-folder", "DIR", str, "folder for adapters, shared with vLLM"),
        Flag("--vllm-adapters", "N", flags.whole(1), adapters, 32),
        "selection and tuning, unless a request overrides them",
        Flag("-n", "N", int, "number of texts (default: from the calibration, else 50)"),
        flags.NOISE,
        Flag("--rate", "R", float, "learning rate (default: by the model's size)"),
        flags.SETTING.described("any other setting of selection or tuning; repeatable"),
        "model",
        *flags.MODEL,
    )
    _add_keys(commands)


def _add_keys(commands: Any) -> None:
    parser = commands.add_parser(
        "keys",
        help="add, list and revoke the API keys of a server",
        description="Add, list and revoke the API keys of siftlm serve --keys FILE.",
        epilog=KEYS_EPILOG,
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    file = Flag("file", "FILE", str, "the file of keys")
    adding = flags.command(actions, "add", run_add_key, "create a key and print it, once")
    rights = "access to a memory; '*' stands for all others; repeatable (default: '*=read')"
    name = Flag("name", "NAME", str, "name of the key's owner, for the log")
    flags.declare(adding, file, name, repeated("--memory", "NAME=read|write", _right, rights))
    about = "list the keys: name, date and access"
    listing = flags.command(actions, "list", run_list_keys, about)
    flags.declare(listing, file, flags.JSON)
    revoking = flags.command(actions, "revoke", run_revoke_key, "revoke a key")
    flags.declare(revoking, file, Flag("name", "NAME", str, "name of the key's owner"))


# --- serve


def run(arguments: argparse.Namespace) -> int:
    """Open the memories, and serve until interrupted."""
    from siftlm.serving import serve

    if arguments.engine == "full":
        raise Conflict("--engine full: requests share the model's weights, so a server tunes adapters: --engine lora")
    atexit.register(gc.freeze)  # or the last garbage collection takes seconds on torch's objects
    memories = open_memories(arguments)
    settings = _request_defaults(arguments)
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
                on_ready=log,
                **settings,
                **{**controller_settings(arguments), "engine": "lora"},
            )
    finally:
        for memory in memories.values():
            memory.close()
    return 0


def _request_defaults(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of selection and tuning that hold where a request has none."""
    names = ("n", "noise", "rate")
    settings = flags.values_of(arguments, names)
    flags.add_sets(settings, arguments, names)
    own = {flag.python_name: f"; see {flag.option}" for flag in arguments.flags}
    for name, _ in arguments.sets:
        if name not in names and name in {*own, "memories", "on_ready"}:
            raise InvalidInput(
                f"--set {name}: not a setting of selection or tuning that a server can start with{own.get(name, '')}"
            )
    return settings


def open_memories(arguments: argparse.Namespace) -> dict[str, Memory]:
    """The memories of ``--memory`` by name."""
    from siftlm.memory import Memory

    memories: dict[str, Memory] = {}
    for word in arguments.memories:
        named = NAMED.fullmatch(word)
        folder = named["folder"] if named else word
        memory = Memory.open(folder, embedder=arguments.embedder)
        name = named["name"] if named else re.sub(r"[^A-Za-z0-9_.-]+", "-", memory.path.name).strip("-.") or "memory"
        if name in memories:
            raise Conflict(f"--memory {word}: another memory is already named {name!r}; use --memory NAME={folder}")
        memories[name] = memory
    return memories


def log(line: str) -> None:
    """Print a line on stderr."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


# --- keys


def run_add_key(arguments: argparse.Namespace) -> int:
    """Add a key. Only the key goes to stdout, so that it can be piped."""
    from siftlm.serving import auth

    key = auth.add_key(arguments.file, arguments.name, dict(arguments.memory) or {auth.ANY_MEMORY: "read"})
    print(key)
    note(f"this is the key of {arguments.name}; it cannot be shown again")
    return 0


def run_list_keys(arguments: argparse.Namespace) -> int:
    """Print a line for each key."""
    from siftlm.serving import auth

    listed = auth.list_keys(arguments.file)
    if arguments.json:
        print_json([{"name": key.name, "made": key.made, "memories": dict(key.memories)} for key in listed])
        return 0
    terminal = Terminal.of(sys.stdout)
    rows = table(header=False)
    for key in listed:
        rights = ", ".join(f"{memory}={right}" for memory, right in key.memories.items())
        rows.add_row(terminal.prose(key.name), terminal.prose(key.made), terminal.prose(rights))
    if listed:
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
