"""Open a model, serve it until somebody says it is enough, and end tidily."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siftlm.controller import Controller
from siftlm.errors import Conflict, InvalidInput, SiftlmError
from siftlm.extras import load
from siftlm.memory import Memory
from siftlm.serving.engine import MIB, Engine
from siftlm.serving.modes import Modes
from siftlm.serving.vllm import Relay

# Seconds that HTTP has to say that the time is up, when it is.
LATER = 3
OF_CONTROLLER = ("tokenizer", "engine", "rank", "alpha", "targets", "device", "dtype", "context")


def serve(
    model: Any,
    memories: Mapping[str, Memory],
    *,
    said: Callable[[str], None] | None = None,
    **how: Any,
) -> None:
    """Serve until Ctrl-C or SIGTERM; what was accepted by then is finished.

    Args:
        model, memories, **how: see `opened`.
        said: told where it listens.
    """
    with opened(model, memories, **how) as (server, listening, url):
        if said is not None:
            said(f"siftlm: {url}  (Ctrl-C ends)")
        with told_to_end():
            server.run(sockets=[listening])


@contextmanager
def told_to_end() -> Iterator[None]:
    """uvicorn raises the signal that has ended it once more, which would end us before everything is tidy."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def served(model: Any, memories: Mapping[str, Memory], *, port: int = 0, **how: Any) -> Iterator[str]:
    """A server in this process, beside whatever else it does: its address. It ends with the block.

    Args:
        model, memories, port, **how: see `opened`; any free port unless one is named.
    """
    with opened(model, memories, port=port, **how) as (server, listening, url):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="siftlm-http", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield url
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def opened(
    model: Any,
    memories: Mapping[str, Memory],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str | os.PathLike[str] | None = None,
    anybody: bool = False,
    slots: int = 8,
    queue: int = 64,
    cache: int = 256 * MIB,
    seconds: float = 300.0,
    grace: float = 30.0,
    vllm: str | None = None,
    vllm_folder: str | os.PathLike[str] | None = None,
    vllm_adapters: int = 32,
    **settings: Any,
) -> Iterator[tuple[Any, socket.socket, str]]:
    """A server that is ready to run, the socket it is to listen at, and its address.

    Args:
        model: as for `siftlm.controller.Controller`, or one, with LoRA.
        memories: by name; the first is the default.
        host, port: where to listen.
        keys: the file of who may ask; see `siftlm.serving.keys`.
        anybody: listen without keys where others can reach the host.
        slots, queue, cache: see `siftlm.serving.engine.Engine`.
        seconds: that a request may take.
        grace: seconds that accepted requests have at the end.
        vllm: the address of a vLLM that continues the prompts; here they only learn. It is asked with the key in the
            environment variable ``VLLM_API_KEY``, where vLLM itself looks for it.
        vllm_folder: where adapters are handed over to it.
        vllm_adapters: that it keeps at once.
        **settings: of the controller and of `siftlm.LocalModel`.
    """
    uvicorn = load("uvicorn", "serve")
    load("fastapi", "serve")
    from siftlm.serving.app import create_app
    from siftlm.serving.keys import Keys
    from siftlm.serving.limits import Limits
    from siftlm.serving.metrics import Counts

    if keys is None and not anybody and not loopback(host):
        raise Conflict(
            f"--host {host} can be reached by others: say who may ask with --keys FILE (siftlm keys add FILE NAME), or "
            f"let anybody ask with --open"
        )
    if (vllm is None) != (vllm_folder is None):
        raise Conflict("--vllm URL and --vllm-folder DIR belong together: vLLM reads the adapters from that folder")
    known = None if keys is None else Keys.read(Path(keys))
    count = Counts()
    settings = {"engine": "lora", **settings}
    with bound(host, port) as listening:
        own = {name: settings.pop(name) for name in OF_CONTROLLER if name in settings}
        controller = model if isinstance(model, Controller) else loaded(model, own)
        learns = Engine(controller, memories, slots=slots, queue=queue, cache=cache, count=count, **settings)
        engine: Engine | Relay = learns
        try:
            if vllm is not None and vllm_folder is not None:
                key = os.environ.get("VLLM_API_KEY") or None
                engine = Relay(learns, vllm, vllm_folder, key=key, most=vllm_adapters, queue=queue)
            modes = Modes(controller.name, engine.models)
            # Without keys, what a browser of this machine is made to ask by a page of another site must be refused.
            alone = {"localhost", "127.0.0.1", "::1", host} if known is None and loopback(host) else None
            limits = Limits(seconds=seconds, prompts=min(Limits.prompts, queue))
            app = create_app(engine, modes, keys=known, limits=limits, count=count, hosts=alone)
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, ws="none", timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, round(grace)) + LATER,
            )  # fmt: skip
            yield _ending(uvicorn.Server(config), learns, grace), listening, address(host, listening.getsockname()[1])
        finally:
            engine.close(grace)


def loaded(model: Any, settings: Mapping[str, Any]) -> Controller:
    """Made in a thread that ends then, and takes its helpers along.

    Each thread that computes with torch keeps helpers of its own. Were those of the main thread there beside the
    engine's, OpenMP would have more of them than processors and let them sleep between any two pieces of work, and the
    engine would take half as long again.
    """

    def made() -> Controller:
        controller = Controller(model, **settings)
        _ = controller.engine  # adapters are made now, and here
        return controller

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(made).result()


def _ending(server: Any, engine: Engine, grace: float) -> Any:
    """The server, whose engine knows of a signal at once, and at the end of the grace says so to who waits."""
    handle = server.handle_exit

    def told(number: int, frame: Any) -> None:
        engine.end(0.0 if server.should_exit else grace)  # the second signal is meant
        handle(number, frame)

    server.handle_exit = told
    return server


def bound(host: str, port: int) -> socket.socket:
    """Before the model is loaded: a port that is taken is said at once."""
    if not 0 <= port < 2**16:
        raise InvalidInput(f"port must be a whole number from 0 to 65535, got {port!r}")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise SiftlmError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
    return made


def loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, port: int) -> str:
    """As a browser wants it.

    >>> address("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
