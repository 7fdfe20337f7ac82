"""Listen, load a model, serve it until a signal comes, and end tidily. Read `serve` first."""

from __future__ import annotations

import copy
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftlm.errors import Conflict, SiftlmError
from siftlm.extras import load
from siftlm.memory import Memory
from siftlm.serving.errors import ShuttingDown
from siftlm.serving.lifecycle import (
    DISCONNECT_DELAY_SECONDS,
    UVICORN_MARGIN_SECONDS,
    EngineLifecycle,
    GracefulShutdown,
    check_searchable,
)
from siftlm.serving.modes import ModeParser
from siftlm.serving.scheduler import MIB
from siftlm.validation import whole_number

# Connections that wait to be taken; as uvicorn has it.
LISTEN_BACKLOG = 2048
# Seconds for a thread that has nothing more to do.
THREAD_EXIT_SECONDS = 0.2


@dataclass(frozen=True)
class ServerHandle:
    """A server that listens as soon as it runs."""

    url: str
    run: Callable[[], None]
    """Answer requests, until it is to end."""
    load: Callable[[], bool]
    """Load the model meanwhile, from another thread; True once requests are taken, False if it is to end before."""
    ending: GracefulShutdown
    close: Callable[[float], bool]
    """Wait so many seconds for the engine; False if it still computes what nobody waits for. The block's end waits."""


def serve(model: Any, memories: Mapping[str, Memory], *, said: Callable[[str], None] | None = None, **how: Any) -> None:
    """Serve until Ctrl-C or SIGTERM; what was accepted by then is finished.

    Neither loading a model nor a step of learning can be interrupted. If one of them is all that is still under way at
    the end, the whole process ends then and there, with status 0.

    Args:
        model, memories, **how: see `open_server`.
        said: told where it listens, once requests are taken.
    """
    failed: list[BaseException] = []
    with open_server(model, memories, **how) as server, capture_signals(server.ending.signalled):

        def load() -> None:
            try:
                if server.load() and said is not None:
                    said(f"siftlm: {server.url}  (Ctrl-C ends)")
            except BaseException as error:  # noqa: BLE001 (raised below, by the thread that was asked to serve)
                failed.append(error)
                server.ending.end(0.0)

        loading = threading.Thread(target=load, name="siftlm-loading", daemon=True)
        loading.start()
        server.run()
        loading.join(THREAD_EXIT_SECONDS)
        if failed:
            raise failed[0]
        if loading.is_alive() or not server.close(THREAD_EXIT_SECONDS):
            _exit_process()


def _exit_process() -> None:
    """Python would wait for the thread that computes, or pull the ground from under it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)


@contextmanager
def capture_signals(signalled: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals that come before or after uvicorn listens to them are meant for us, too.

    And uvicorn raises those that have ended it once more, which would end us before everything is tidy.
    """
    before = {number: signal.signal(number, signalled) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def background_server(model: Any, memories: Mapping[str, Memory], *, port: int = 0, **how: Any) -> Iterator[str]:
    """A server in this process, beside whatever else it does: its address. It ends with the block.

    Args:
        model, memories, port, **how: see `open_server`; any free port unless one is named.
    """
    with open_server(model, memories, port=port, **how) as server:
        thread = threading.Thread(target=server.run, name="siftlm-http", daemon=True)
        thread.start()
        try:
            if not server.load():
                raise SiftlmError("the server has ended before it was ready; the log says why")
            yield server.url
        finally:
            server.ending.end()
            thread.join()


@contextmanager
def open_server(
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
) -> Iterator[ServerHandle]:
    """A server that has its port, and is to be run and loaded.

    Args:
        model: as for `siftlm.controller.Controller`, or one, with LoRA.
        memories: by name; the first is the default.
        host, port: where to listen.
        keys: the file of who may ask; see `siftlm.serving.auth`.
        anybody: listen without keys where others can reach the host.
        slots, queue, cache: see `siftlm.serving.scheduler.ServingEngine`.
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
    from siftlm.serving.app import SwappableApp, create_app, loading_app
    from siftlm.serving.auth import ApiKeys
    from siftlm.serving.limits import RequestLimits
    from siftlm.serving.metrics import PrometheusMetrics, route_template
    from siftlm.serving.middleware import GuardMiddleware

    if keys is None and not anybody and not is_loopback(host):
        raise Conflict(
            f"--host {host} can be reached by others: say who may ask with --keys FILE (siftlm keys add FILE NAME), or "
            f"let anybody ask with --open"
        )
    if (vllm is None) != (vllm_folder is None):
        raise Conflict("--vllm URL and --vllm-folder DIR belong together: vLLM reads the adapters from that folder")
    known = None if keys is None else ApiKeys.read(Path(keys))
    count = PrometheusMetrics()
    settings = {"engine": "lora", **settings}
    # Without keys, what a browser of this machine is made to ask by a page of another site must be refused.
    hosts = {"localhost", "127.0.0.1", "::1", host} if known is None and is_loopback(host) else None
    limits = RequestLimits(seconds=seconds, prompts=min(RequestLimits.prompts, queue))
    relay = None if vllm is None or vllm_folder is None else (vllm, vllm_folder, vllm_adapters)
    room = {"slots": slots, "queue": queue, "cache": cache, "count": count}
    made = EngineLifecycle()
    entrance = SwappableApp(
        GuardMiddleware(
            loading_app, limits.body, lambda scope, status: count.answered(route_template(scope), status, None), hosts
        )
    )
    server = uvicorn.Server(
        uvicorn.Config(
            entrance,
            interface="asgi3",
            lifespan="off",
            log_level="warning",
            access_log=False,
            ws="none",
            log_config=log_config(),
            timeout_keep_alive=30,
            timeout_graceful_shutdown=math.ceil(grace + DISCONNECT_DELAY_SECONDS + UVICORN_MARGIN_SECONDS),
        )
    )
    ending = GracefulShutdown(server, grace, made.end)

    def opening() -> bool:
        engine = made.open(model, memories, relay=relay, room=room, **settings)
        check_searchable(engine.models)
        modes = ModeParser(engine.controller.name, engine.models)
        app = create_app(engine, modes, keys=known, limits=limits, count=count, hosts=hosts)
        while not (engine.state.ready and server.started):
            if ending.asked or engine.state.closing:
                raise ShuttingDown("the engine has ended before it was ready; the log says why")
            time.sleep(0.01)
        entrance.app = app
        return True

    def loading() -> bool:
        try:
            return opening()
        except Exception:
            if ending.asked:  # nobody waits for it any more, and that may be why it failed
                return False
            raise

    with bind_socket(host, port) as listening:

        def run() -> None:
            try:
                server.run(sockets=[listening])
            finally:
                server.should_exit = True

        def close(patience: float | None = None) -> bool:
            return made.close(ending.left, patience)

        try:
            yield ServerHandle(server_url(host, listening.getsockname()[1]), run, loading, ending, close)
        finally:
            close()


def bind_socket(host: str, port: int) -> socket.socket:
    """Listening, before the model is loaded: a port that is taken is said at once, and who comes early waits."""
    whole_number("port", port, least=0, most=2**16 - 1)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
            made.listen(LISTEN_BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise SiftlmError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
    return made


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_url(host: str, port: int) -> str:
    """As a browser wants it.

    >>> server_url("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


# Said of every request that would rather speak WebSocket, together with advice to install what nobody here needs.
NOISE_PREFIXES = ("Unsupported upgrade request.", "No supported WebSocket library detected.")


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Is it about something that whoever runs the server could do something about?"""
    return not record.getMessage().startswith(NOISE_PREFIXES)


def log_config() -> dict[str, Any]:
    """For ``uvicorn.Config``: its own, with that filter before its handler."""
    config: dict[str, Any] = copy.deepcopy(load("uvicorn.config", "serve").LOGGING_CONFIG)
    config["filters"] = {"siftlm": {"()": lambda: is_worth_logging}}
    config["handlers"]["default"]["filters"] = ["siftlm"]
    return config
