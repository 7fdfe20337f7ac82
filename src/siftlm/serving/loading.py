"""What is made of a model and memories before requests are taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from siftlm.controller import Controller
from siftlm.memory import Memory
from siftlm.serving.engine import ServingEngine
from siftlm.serving.vllm import Relay

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
