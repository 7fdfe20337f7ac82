"""The engine's life cycle: opened and checked before the first request, and shut down gracefully."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from siftlm.controller import Controller
from siftlm.errors import SiftlmError
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving.scheduler import ServingEngine
from siftlm.serving.vllm_relay import Relay

# Seconds for clients to read that the server has shut down, before their connections are cut.
DISCONNECT_DELAY_SECONDS = 0.5
# Seconds beyond all of this after which uvicorn itself cuts the remaining connections.
UVICORN_MARGIN_SECONDS = 5
POLL_SECONDS = 0.05


class GracefulShutdown:
    """The shutdown of a uvicorn server.

    Args:
        server: a uvicorn server; two of its methods are replaced.
        grace: seconds to finish accepted requests in.
        on_end: called at each call of `end` with the seconds that are left.
    """

    def __init__(self, server: Any, grace: float, on_end: Callable[[float], None]) -> None:
        self._server, self._grace, self._on_end = server, grace, on_end
        self._until = math.inf
        self._handle, self._shutdown = server.handle_exit, server.shutdown
        server.handle_exit, server.shutdown = self.on_signal, self._shutdown_and_watch

    @property
    def requested(self) -> bool:
        """True once the server is to end."""
        return bool(self._server.should_exit)

    @property
    def left(self) -> float:
        """Seconds left for accepted requests."""
        return max(0.0, min(self._grace, self._until - time.monotonic()))

    def end(self, seconds: float | None = None) -> None:
        """Accept nothing more; accepted requests have this many seconds, or the grace. Any thread may call it."""
        self._until = min(self._until, time.monotonic() + (self._grace if seconds is None else seconds))
        self._server.should_exit = True
        self._on_end(self.left)

    def on_signal(self, number: int, frame: Any) -> None:
        """End at a signal; a second one leaves accepted requests no time."""
        first, has_time = not self.requested, self.left > 0
        # uvicorn's own forced exit sends clients no error, so it is left for when the shutdown here has failed.
        if first or not has_time:
            self._handle(number, frame)
        self.end(None if first else 0.0)

    async def _shutdown_and_watch(self, sockets: Any = None) -> None:
        watching = asyncio.ensure_future(self._cancel_when_due())
        try:
            await self._shutdown(sockets)
        finally:
            watching.cancel()

    async def _cancel_when_due(self) -> None:
        """At the deadline cancel all requests, which `GuardMiddleware` answers, then cut the remaining connections."""
        while self.left:
            await asyncio.sleep(min(POLL_SECONDS, self.left))
        self._cancel()
        await asyncio.sleep(DISCONNECT_DELAY_SECONDS)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(POLL_SECONDS)  # for the requests to notice
        self._cancel()

    def _cancel(self) -> None:
        for task in list(self._server.server_state.tasks):
            task.cancel()


CONTROLLER_SETTINGS = ("tokenizer", "engine", "rank", "alpha", "targets", "device", "dtype", "context")


class EngineLifecycle:
    """The engine, and the relay to vLLM if there is one. One thread opens them, and another may end them meanwhile."""

    def __init__(self) -> None:
        self._engine: ServingEngine | None = None
        self._relay: Relay | None = None

    def open(
        self,
        model: Any,
        memories: Mapping[str, Memory],
        *,
        capacity: Mapping[str, Any],
        relay: tuple[str, str | os.PathLike[str], int] | None = None,
        **settings: Any,
    ) -> ServingEngine | Relay:
        """Load the model, and return the engine to submit jobs to.

        Args:
            model: a model for `siftlm.controller.Controller`, or a controller.
            memories: the memories by name.
            capacity: ``slots``, ``queue``, ``cache`` and ``count`` of `ServingEngine`.
            relay: address, folder and number of adapters of a vLLM that decodes.
            **settings: of the controller and of `siftlm.LocalModel`.
        """
        own = {name: settings.pop(name) for name in CONTROLLER_SETTINGS if name in settings}
        controller = model if isinstance(model, Controller) else load_controller(model, own)
        self._engine = ServingEngine(controller, memories, **capacity, **settings)
        if relay is None:
            return self._engine
        url, folder, most = relay
        key = os.environ.get("VLLM_API_KEY") or None
        self._relay = Relay(self._engine, url, folder, key=key, most=most, queue=capacity["queue"])
        return self._relay

    def end(self, seconds: float) -> None:
        """Accept nothing more; accepted requests have this many seconds."""
        if self._engine is not None:
            self._engine.end(seconds)

    def close(self, seconds: float, timeout: float | None = None) -> bool:
        """End, and wait; False if the engine is still busy after ``timeout`` seconds.

        A step under way cannot be interrupted. With vLLM there is no timeout, so that its adapters are always unloaded.
        """
        last, relay, self._relay, self._engine = self._relay or self._engine, self._relay, None, None
        if last is None:
            return True
        if timeout is None or relay is not None:
            last.close(seconds)
            return True
        closing = threading.Thread(target=last.close, args=(seconds,), name="siftlm-closing", daemon=True)
        closing.start()
        closing.join(timeout)
        return not closing.is_alive()


def load_controller(model: Any, settings: Mapping[str, Any]) -> Controller:
    """A controller, loaded in a thread of its own, whose OpenMP threads end with it.

    Each thread that computes with torch keeps its own OpenMP threads. With those of the main thread beside the engine's
    there would be more of them than processors; OpenMP would then let them sleep between any two pieces of work, which
    makes the engine take half as long again.
    """

    def load() -> Controller:
        controller = Controller(model, **settings)
        _ = controller.engine  # creates the adapters now, in this thread
        return controller

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(load).result()


PROBE_PROMPT = "a prompt"
PRECOMPUTED_VECTORS_MESSAGE = (
    "its vectors were computed elsewhere, so prompts cannot be compared with them: serve a memory whose embedder "
    "siftlm can run, such as one built with siftlm index --embedder NAME"
)


def check_searchable(models: Mapping[str, LocalModel]) -> None:
    """Raise if a memory fails at a small search with the settings of requests; an empty memory passes."""
    for name, model in models.items():
        _probe(name, model)


def _probe(name: str, model: LocalModel) -> None:
    try:
        model.select(PROBE_PROMPT, 1, features=None)  # gradient features would take long
    except SiftlmError as error:
        known = getattr(model.memory, "manifest", None)
        why = PRECOMPUTED_VECTORS_MESSAGE if known is not None and known.embedder == "precomputed" else str(error)
        raise SiftlmError(f"the memory {name!r} cannot be searched: {why}") from error
