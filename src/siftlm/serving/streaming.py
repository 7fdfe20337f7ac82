"""Events stream from the engine's thread to the event loop that speaks HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

from siftlm.controller import Controller
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving.errors import DeadlineExceeded
from siftlm.serving.events import Event, EventCallback, Failed, Finished, Job

ResultT = TypeVar("ResultT")
Receive = Callable[[], Awaitable[Any]]
# The engine itself ends what is too late; should it hang, the client is told so many seconds later.
DEADLINE_MARGIN_SECONDS = 2.0


class Handle(Protocol):
    """A job that was accepted."""

    def cancel(self) -> None:
        """Nobody waits for it any more; harmless when it has finished."""


class EngineProtocol(Protocol):
    """What HTTP needs of the engine."""

    @property
    def controller(self) -> Controller:
        """The model."""

    @property
    def memories(self) -> Mapping[str, Memory]:
        """By name; the first is the default."""

    @property
    def models(self) -> Mapping[str, LocalModel]:
        """One a memory."""

    def submit(self, job: Job, deliver: EventCallback) -> Handle:
        """Accept a job, or raise `Busy` or `Closing`."""

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Run something on the model's thread."""

    @property
    def state(self) -> Any:
        """``ready``, ``closing`` and what `siftlm.serving.metrics` shows."""


class ClientDisconnected(Exception):
    """The client has gone."""


async def stream_events(
    engine: EngineProtocol, jobs: Sequence[Job], receive: Receive
) -> AsyncGenerator[tuple[int, Event], None]:
    """What comes of the jobs, as (place, event), until all have finished.

    The first failure is raised. However it ends - a failure, a client that hangs up, a deadline, a caller that no
    longer listens - jobs that are still running are cancelled.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[tuple[int, Event] | ClientDisconnected] = asyncio.Queue()
    tickets: list[Handle] = []

    def deliver(place: int, event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(told.put_nowait, (place, event))

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # At once, and not only when the answer is next written: a model that learns is silent for long.
        for ticket in tickets:
            ticket.cancel()
        told.put_nowait(ClientDisconnected())

    listening = asyncio.ensure_future(listen())
    try:
        for place, job in enumerate(jobs):
            tickets.append(engine.submit(job, partial(deliver, place)))
        left = len(jobs)
        while left:
            item = await _wait_until(told.get(), jobs[0].deadline)
            if isinstance(item, ClientDisconnected):
                raise item
            if isinstance(item[1], Failed):
                raise item[1].error
            left -= isinstance(item[1], Finished)
            yield item
    finally:
        listening.cancel()
        for ticket in tickets:
            ticket.cancel()


async def _wait_until(coming: Awaitable[ResultT], deadline: float | None) -> ResultT:
    try:
        return await asyncio.wait_for(
            coming, None if deadline is None else deadline + DEADLINE_MARGIN_SECONDS - time.monotonic()
        )
    except asyncio.TimeoutError as error:
        raise DeadlineExceeded("the answer was not there in time") from error


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
