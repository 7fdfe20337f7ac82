"""The end of the server: what was accepted has a while, and who has no answer by then is told so."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

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
