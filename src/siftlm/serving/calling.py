"""Work on the model's thread that is not a job: for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from siftlm.serving.refusals import DeadlineExceeded
from siftlm.serving.running import DEADLINE_MARGIN_SECONDS, ClientDisconnected, EngineProtocol, Receive, ResultT


async def call_engine(
    engine: EngineProtocol, work: Callable[[], ResultT], receive: Receive | None = None, deadline: float | None = None
) -> ResultT:
    """What the work returns on the model's thread.

    Where it still waits for its turn when the client hangs up, its time is up or the caller no longer listens, it is
    not done at all.
    """
    coming = asyncio.wrap_future(engine.call(work))
    waited_for: set[asyncio.Future[Any]] = {coming}
    if receive is not None:
        waited_for.add(asyncio.ensure_future(_disconnected(receive)))
    left = None if deadline is None else max(0.0, deadline + DEADLINE_MARGIN_SECONDS - time.monotonic())
    try:
        done, _ = await asyncio.wait(waited_for, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if coming in done:
            return coming.result()
        if done:
            raise ClientDisconnected
        raise DeadlineExceeded("the answer was not there in time")
    finally:
        for future in waited_for:
            future.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
