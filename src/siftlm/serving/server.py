"""The server: listen, load a model, serve it until a signal arrives, and shut down gracefully. Read `serve` first."""

from __future__ import annotations

import copy
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from siftlm.errors import Conflict, SiftlmError, setting
from siftlm.memory import Memory
from siftlm.network import bind_socket, capture_signals, is_loopback, refuse_open_host, server_url
from siftlm.serving.app import SwappableApp, create_app, loading_app
from siftlm.serving.auth import ApiKeys
from siftlm.serving.errors import ShuttingDown
from siftlm.serving.lifecycle import (
    DISCONNECT_DELAY_SECONDS,
    UVICORN_MARGIN_SECONDS,
    EngineLifecycle,
    GracefulShutdown,
    check_searchable,
)
from siftlm.serving.metrics import PrometheusMetrics, route_template
from siftlm.serving.middleware import GuardMiddleware
from siftlm.serving.modes import ModeParser
from siftlm.serving.scheduler import MIB
from siftlm.serving.schemas import RequestLimits

# Seconds to wait for a thread that is about to end.
THREAD_EXIT_SECONDS = 0.2


@dataclass(frozen=True)
class ServerHandle:
    """A server that has its port, and has yet to be run and loaded."""

    url: str
    run: Callable[[], None]
    """Answers requests until the server shuts down."""
    load: Callable[[], bool]
    """Loads the model, in another thread; True once requests are accepted, False if the server shuts down first."""
    shutdown: GracefulShutdown
    close: Callable[[float], bool]
    """Waits this many seconds for the engine; False if it is still busy. The end of the block waits without a limit."""


def serve(
    model: Any, memories: Mapping[str, Memory], *, on_ready: Callable[[str], None] | None = None, **settings: Any
) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the requests accepted by then.

    Neither loading a model nor a gradient step can be interrupted. If one of them is all that still runs at the end,
    the whole process exits at once, with status 0.

    Args:
        model, memories, **settings: see `open_server`.
        on_ready: called with a line that says where the server listens, once requests are accepted.
    """
    failed: list[BaseException] = []
    with open_server(model, memories, **settings) as server, capture_signals(server.shutdown.on_signal):

        def load() -> None:
            try:
                if server.load() and on_ready is not None:
                    on_ready(f"siftlm: {server.url}  (Ctrl-C ends)")
            except BaseException as error:  # noqa: BLE001 (raised below, in the calling thread)
                failed.append(error)
                server.shutdown.end(0.0)

        loading = threading.Thread(target=load, name="siftlm-loading", daemon=True)
        loading.start()
        server.run()
        loading.join(THREAD_EXIT_SECONDS)
        if failed:
            raise failed[0]
        if loading.is_alive() or not server.close(THREAD_EXIT_SECONDS):
            _exit_process()


def _exit_process() -> None:
    """Exit at once: at its end Python would wait for the thread that still computes, or crash it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)


@contextmanager
def background_server(model: Any, memories: Mapping[str, Memory], *, port: int = 0, **settings: Any) -> Iterator[str]:
    """The address of a server in a thread of this process, which ends with the block.

    Args:
        model, memories, port, **settings: see `open_server`; any free port by default.
    """
    with open_server(model, memories, port=port, **settings) as server:
        thread = threading.Thread(target=server.run, name="siftlm-http", daemon=True)
        thread.start()
        try:
            if not server.load():
                raise SiftlmError("the server ended before it was ready; the log says why")
            yield server.url
        finally:
            server.shutdown.end()
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
    """Open a server, which has its port and has yet to be run and loaded.

    Args:
        model: a model for `siftlm.controller.Controller`, or a controller with LoRA.
        memories: the memories by name; the first is the default.
        host, port: where to listen.
        keys: the file of API keys; see `siftlm.serving.auth`.
        anybody: allow a host that others can reach without API keys.
        slots, queue, cache: see `siftlm.serving.scheduler.ServingEngine`.
        seconds: the time limit of a request.
        grace: seconds to finish accepted requests in at shutdown.
        vllm: the address of a vLLM that decodes; this server then only tunes. Its key is read from the environment
            variable ``VLLM_API_KEY``, which vLLM itself reads.
        vllm_folder: the folder through which vLLM gets the adapters.
        vllm_adapters: adapters that vLLM keeps at once.
        **settings: of the controller and of `siftlm.LocalModel`.
    """
    refuse_open_host(host, keyed=keys is not None, anybody=anybody)
    if (vllm is None) != (vllm_folder is None):
        raise Conflict(
            f"{setting('vllm')} and {setting('vllm_folder')} must be set together: vLLM reads adapters from that folder"
        )
    api_keys = None if keys is None else ApiKeys.read(Path(keys))
    count = PrometheusMetrics()
    settings = {"engine": "lora", **settings}
    # Without API keys, requests that a page of another site makes this machine's browser send must be refused.
    hosts = {"localhost", "127.0.0.1", "::1", host} if api_keys is None and is_loopback(host) else None
    limits = RequestLimits(seconds=seconds, prompts=min(RequestLimits.prompts, queue))
    relay = None if vllm is None or vllm_folder is None else (vllm, vllm_folder, vllm_adapters)
    capacity = {"slots": slots, "queue": queue, "cache": cache, "count": count}
    lifecycle = EngineLifecycle()
    front = SwappableApp(
        GuardMiddleware(
            loading_app, limits.body, lambda scope, status: count.answered(route_template(scope), status, None), hosts
        )
    )
    server = uvicorn.Server(
        uvicorn.Config(
            front,
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
    shutdown = GracefulShutdown(server, grace, lifecycle.end)

    def open_engine() -> bool:
        engine = lifecycle.open(model, memories, relay=relay, capacity=capacity, **settings)
        check_searchable(engine.models)
        modes = ModeParser(engine.controller.name, engine.models)
        app = create_app(engine, modes, keys=api_keys, limits=limits, hosts=hosts)
        while not (engine.state.ready and server.started):
            if shutdown.requested or engine.state.closing:
                raise ShuttingDown("the engine ended before it was ready; the log says why")
            time.sleep(0.01)
        front.app = app
        return True

    def load() -> bool:
        try:
            return open_engine()
        except Exception:
            if shutdown.requested:  # nobody waits for it any more, and the shutdown may be why it failed
                return False
            raise

    with bind_socket(host, port) as listening:

        def run() -> None:
            try:
                server.run(sockets=[listening])
            finally:
                server.should_exit = True

        def close(timeout: float | None = None) -> bool:
            return lifecycle.close(shutdown.left, timeout)

        try:
            yield ServerHandle(server_url(host, listening.getsockname()[1]), run, load, shutdown, close)
        finally:
            close()


# uvicorn logs these for every request that asks for WebSocket, with advice to install what the server does not need.
NOISE_PREFIXES = ("Unsupported upgrade request.", "No supported WebSocket library detected.")


def is_worth_logging(record: logging.LogRecord) -> bool:
    """False for warnings that the operator of the server can do nothing about."""
    return not record.getMessage().startswith(NOISE_PREFIXES)


def log_config() -> dict[str, Any]:
    """uvicorn's own log configuration, with `is_worth_logging` as a filter."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"siftlm": {"()": lambda: is_worth_logging}}
    config["handlers"]["default"]["filters"] = ["siftlm"]
    return config
