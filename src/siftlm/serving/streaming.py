"""Events and results on their way from the engine's thread to the event loop that answers HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from siftlm.serving.errors import DeadlineExceeded
from siftlm.serving.events import EngineProtocol, Event, Failed, Finished, Handle, Job, ResultT

Receive = Callable[[], Awaitable[Any]]
# The engine itself ends jobs that are late. Should it hang, the client gets an error this many seconds later.
DEADLINE_MARGIN_SECONDS = 2.0


class ClientDisconnected(Exception):
    """The client has closed its connection."""


async def stream_events(
    engine: EngineProtocol, jobs: Sequence[Job], receive: Receive
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several jobs, as (index of the job, event), until all have finished.

    The first failure is raised. Jobs that are still running at the end are cancelled, whatever ended the stream: a
    failure, a client that disconnects, a deadline, or a caller that stops iterating.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[int, Event] | ClientDisconnected] = asyncio.Queue()
    handles: list[Handle] = []

    def deliver(index: int, event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, (index, event))

    async def cancel_on_disconnect() -> None:
        await disconnected(receive)
        # Cancel at once: tuning sends nothing for a long time, so the next write would come too late.
        for handle in handles:
            handle.cancel()
        queue.put_nowait(ClientDisconnected())

    watching = asyncio.ensure_future(cancel_on_disconnect())
    try:
        for index, job in enumerate(jobs):
            handles.append(engine.submit(job, partial(deliver, index)))
        left = len(jobs)
        while left:
            item = await _wait_until(queue.get(), jobs[0].deadline)
            if isinstance(item, ClientDisconnected):
                raise item
            if isinstance(item[1], Failed):
                raise item[1].error
            left -= isinstance(item[1], Finished)
            yield item
    finally:
        watching.cancel()
        for handle in handles:
            handle.cancel()


async def _wait_until(result: Awaitable[ResultT], deadline: float | None) -> ResultT:
    try:
        return await asyncio.wait_for(result, _seconds_left(deadline))
    except asyncio.TimeoutError as error:
        raise DeadlineExceeded("the server did not answer in time") from error


async def call_engine(
    engine: EngineProtocol, work: Callable[[], ResultT], receive: Receive | None = None, deadline: float | None = None
) -> ResultT:
    """The result of a function that runs on the model's thread.

    If the client disconnects, the deadline passes or the caller is cancelled while the function still waits for its
    turn, it is not run at all.
    """
    result = asyncio.wrap_future(engine.call(work))
    futures: set[asyncio.Future[Any]] = {result}
    if receive is not None:
        futures.add(asyncio.ensure_future(disconnected(receive)))
    try:
        done, _ = await asyncio.wait(futures, timeout=_seconds_left(deadline), return_when=asyncio.FIRST_COMPLETED)
        if result in done:
            return result.result()
        if done:
            raise ClientDisconnected
        raise DeadlineExceeded("the server did not answer in time")
    finally:
        for future in futures:
            future.cancel()


def _seconds_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline + DEADLINE_MARGIN_SECONDS - time.monotonic())


async def disconnected(receive: Receive) -> None:
    """Return once the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
