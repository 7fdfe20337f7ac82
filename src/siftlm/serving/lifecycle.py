"""The engine's life: opened and checked before the first request, and shut down gracefully."""

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

# Seconds that clients have to read that the server has shut down, before their connections are cut.
DISCONNECT_DELAY_SECONDS = 0.5
# Seconds beyond all of this after which uvicorn itself cuts off what is still there.
UVICORN_MARGIN_SECONDS = 5
POLL_SECONDS = 0.05


class GracefulShutdown:
    """How a server of uvicorn ends.

    Args:
        server: of uvicorn; two of its methods are replaced.
        grace: seconds that accepted requests have.
        told: called at each call of `end` with the seconds that are left.
    """

    def __init__(self, server: Any, grace: float, told: Callable[[float], None]) -> None:
        self._server, self._grace, self._on_end = server, grace, told
        self._until = math.inf
        self._handle, self._shutdown = server.handle_exit, server.shutdown
        server.handle_exit, server.shutdown = self.signalled, self._shutdown_and_watch

    @property
    def asked(self) -> bool:
        """Has somebody said that it is to end?"""
        return bool(self._server.should_exit)

    @property
    def left(self) -> float:
        """Seconds that accepted requests have."""
        return max(0.0, min(self._grace, self._until - time.monotonic()))

    def end(self, seconds: float | None = None) -> None:
        """Take nothing more in; what was accepted has so many seconds, or the grace. From any thread."""
        self._until = min(self._until, time.monotonic() + (self._grace if seconds is None else seconds))
        self._server.should_exit = True
        self._on_end(self.left)

    def signalled(self, number: int, frame: Any) -> None:
        """The same for a signal; the second one leaves no time."""
        first, ending = not self.asked, self.left > 0
        # Who is cut off by uvicorn's own haste is told nothing: that is for when ours does not help.
        if first or not ending:
            self._handle(number, frame)
        self.end(None if first else 0.0)

    async def _shutdown_and_watch(self, sockets: Any = None) -> None:
        watching = asyncio.ensure_future(self._cancel_when_due())
        try:
            await self._shutdown(sockets)
        finally:
            watching.cancel()

    async def _cancel_when_due(self) -> None:
        """Once it is time each request is cancelled, which `Guard` answers, and who does not read that is cut off."""
        while self.left:
            await asyncio.sleep(min(POLL_SECONDS, self.left))
        self._cancel()
        await asyncio.sleep(DISCONNECT_DELAY_SECONDS)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(POLL_SECONDS)  # they hear of it
        self._cancel()

    def _cancel(self) -> None:
        for task in list(self._server.server_state.tasks):
            task.cancel()


CONTROLLER_SETTINGS = ("tokenizer", "engine", "rank", "alpha", "targets", "device", "dtype", "context")


class EngineLifecycle:
    """The engine, and what hands over to another server; one thread makes them, another may end them meanwhile."""

    def __init__(self) -> None:
        self._engine: ServingEngine | None = None
        self._relay: Relay | None = None

    def open(
        self,
        model: Any,
        memories: Mapping[str, Memory],
        *,
        room: Mapping[str, Any],
        relay: tuple[str, str | os.PathLike[str], int] | None = None,
        **settings: Any,
    ) -> ServingEngine | Relay:
        """What is to be asked.

        Args:
            model: as for `siftlm.controller.Controller`, or one.
            memories: by name.
            room: of `ServingEngine`: ``slots``, ``queue``, ``cache``, ``count``.
            relay: address, folder and number of adapters of a vLLM that continues the prompts.
            **settings: of the controller and of `siftlm.LocalModel`.
        """
        own = {name: settings.pop(name) for name in CONTROLLER_SETTINGS if name in settings}
        controller = model if isinstance(model, Controller) else load_controller(model, own)
        self._engine = ServingEngine(controller, memories, **room, **settings)
        if relay is None:
            return self._engine
        url, folder, most = relay
        key = os.environ.get("VLLM_API_KEY") or None
        self._relay = Relay(self._engine, url, folder, key=key, most=most, queue=room["queue"])
        return self._relay

    def end(self, seconds: float) -> None:
        """Take nothing more in; what was accepted has so many seconds."""
        if self._engine is not None:
            self._engine.end(seconds)

    def close(self, seconds: float, patience: float | None = None) -> bool:
        """`end`, and wait for it.

        ``patience``: wait no more than so many seconds for an engine that is amid a step, which cannot be interrupted.
        False: that was not enough. What a vLLM was given is taken back in any case.
        """
        last, relay, self._relay, self._engine = self._relay or self._engine, self._relay, None, None
        if last is None:
            return True
        if patience is None or relay is not None:
            last.close(seconds)
            return True
        closing = threading.Thread(target=last.close, args=(seconds,), name="siftlm-closing", daemon=True)
        closing.start()
        closing.join(patience)
        return not closing.is_alive()


def load_controller(model: Any, settings: Mapping[str, Any]) -> Controller:
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


PROBE_PROMPT = "a prompt"
PRECOMPUTED_VECTORS_MESSAGE = (
    "its vectors were made elsewhere, so a prompt cannot be compared with them: serve a memory whose embedder siftlm "
    "can run, made with siftlm index --embedder NAME"
)


def check_searchable(models: Mapping[str, LocalModel]) -> None:
    """Raise where a memory cannot answer a small search in the way that requests go by; an empty one can."""
    for name, model in models.items():
        _probe(name, model)


def _probe(name: str, model: LocalModel) -> None:
    try:
        model.select(PROBE_PROMPT, 1, features=None)  # features of the model itself take long
    except SiftlmError as error:
        known = getattr(model.memory, "manifest", None)
        why = PRECOMPUTED_VECTORS_MESSAGE if known is not None and known.embedder == "precomputed" else str(error)
        raise SiftlmError(f"the memory {name!r} can answer nothing: {why}") from error
