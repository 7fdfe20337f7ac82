"""``siftlm serve``: an OpenAI-compatible server whose model learns for every request."""

from __future__ import annotations

import argparse
import atexit
import gc
import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from siftlm.cli import local, settings

if TYPE_CHECKING:
    from siftlm.memory import Memory

EPILOG = """\
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
  NAME:context-10      not: ten texts are put before the prompt
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
NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<folder>.+)")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        usage="siftlm serve --memory [NAME=]FOLDER [options]",
        help="an OpenAI-compatible server that learns for every request, and a page that shows why",
        description="Serve a model that learns from a memory for every request and forgets, behind the OpenAI API.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--memory",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        dest="memories",
        help="what to learn from; may be repeated (without NAME: the folder's own)",
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen at (default: 127.0.0.1, this machine alone)"
    )
    where.add_argument(
        "--port", type=_whole(0, 65535), default=8000, metavar="P", help="(default: 8000; 0 takes a free one)"
    )
    where.add_argument(
        "--keys", metavar="FILE", help="who may ask: see siftlm keys; required where others can reach the host"
    )
    where.add_argument("--open", action="store_true", help="let anybody who reaches the host ask, without a key")
    room = parser.add_argument_group("how much")
    room.add_argument("--slots", type=_whole(1), default=8, metavar="N", help="prompts that learn at once (default: 8)")
    room.add_argument(
        "--queue",
        type=_whole(1),
        default=64,
        metavar="N",
        help="requests that may wait; one more is told to come again (default: 64)",
    )
    room.add_argument(
        "--cache",
        type=_whole(0),
        default=256,
        metavar="MIB",
        help="for adapters of requests that may come again (default: 256)",
    )
    room.add_argument(
        "--seconds",
        type=_seconds(above=True),
        default=300.0,
        metavar="S",
        help="give up on a request after so long (default: 300)",
    )
    room.add_argument(
        "--grace",
        type=_seconds(),
        default=30.0,
        metavar="S",
        help="at the end, time for what was accepted (default: 30)",
    )
    other = parser.add_argument_group("another server speaks")
    other.add_argument("--vllm", metavar="URL", help="a vLLM that serves the same model: see below")
    other.add_argument("--vllm-folder", metavar="DIR", help="where adapters are handed over; vLLM must see it too")
    other.add_argument(
        "--vllm-adapters",
        type=_whole(1),
        default=32,
        metavar="N",
        help="adapters that it keeps at once, its --max-cpu-loras (default: 32)",
    )
    how = parser.add_argument_group("how to learn, unless a request says otherwise")
    how.add_argument("-n", type=int, metavar="N", help="texts (default: by the calibration, else 50)")
    how.add_argument("--noise", type=float, metavar="λ", help="small asks for variety (default: 1)")
    how.add_argument("--rate", type=float, metavar="R", help="learning rate (default: by the model's size)")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        dest="sets",
        help="any other setting of the search or of tuning; may be repeated",
    )
    local.add_model(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Open everything, serve, and leave everything tidy."""
    from siftlm.serving.server import serve

    atexit.register(gc.freeze)  # or Python, at its end, looks for seconds through all that torch has made
    memories = opened(arguments)
    try:
        wanted = {"n": arguments.n, "noise": arguments.noise, "rate": arguments.rate, **dict(arguments.sets)}
        with local.explained():
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
                said=said,
                **{name: value for name, value in wanted.items() if value is not None},
                **{**local.of_model(arguments), "engine": "lora"},
            )
    finally:
        for memory in memories.values():
            memory.close()
    return 0


def opened(arguments: argparse.Namespace) -> dict[str, Memory]:
    """The memories by name."""
    from siftlm.errors import Conflict
    from siftlm.memory import Memory

    if arguments.engine == "full":
        raise Conflict("--engine full: requests share the model's weights, so a server tunes adapters: --engine lora")
    found: dict[str, Memory] = {}
    for given in arguments.memories:
        named = NAMED.fullmatch(given)
        folder = named["folder"] if named else given
        memory = Memory.open(folder, embedder=arguments.embedder)
        name = named["name"] if named else re.sub(r"[^A-Za-z0-9_.-]+", "-", memory.path.name).strip("-.") or "memory"
        if name in found:
            raise Conflict(f"--memory {given}: another one is called {name!r} already; say --memory NAME={folder}")
        found[name] = memory
    return found


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number; for argparse."""

    def read(given: str) -> int:
        found = int(given) if re.fullmatch(r"-?[0-9]{1,12}", given) else None
        if found is None or found < least or (most is not None and found > most):
            raise argparse.ArgumentTypeError(
                f"{given!r:.40} is no whole number from {least} " + ("on" if most is None else f"to {most}")
            )
        return found

    return read


def _seconds(*, above: bool = False) -> Callable[[str], float]:
    """A finite number, not negative; for argparse."""

    def read(given: str) -> float:
        try:
            found = float(given)
        except ValueError:
            found = math.nan
        if not (found > 0 if above else found >= 0) or math.isinf(found):
            raise argparse.ArgumentTypeError(f"{given!r:.40} is no number {'above 0' if above else 'from 0 on'}")
        return found

    return read


def said(line: str) -> None:
    """What a person at the terminal should know."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)
