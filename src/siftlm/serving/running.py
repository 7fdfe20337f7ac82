"""Jobs to events: from the thread that owns the model to the loop that speaks HTTP."""

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
from siftlm.serving.jobs import Deliver, Event, Failed, Finished, Job
from siftlm.serving.refusals import TooLate

Made = TypeVar("Made")
Receive = Callable[[], Awaitable[Any]]
# The engine itself ends what is too late; should it hang, the client is told so many seconds later.
LATER = 2.0


class Ticket(Protocol):
    """A job that was accepted."""

    def cancel(self) -> None:
        """Nobody waits for it any more; harmless when it has finished."""


class Works(Protocol):
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

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        """Accept a job, or raise `Busy` or `Closing`."""

    def call(self, work: Callable[[], Made]) -> Future[Made]:
        """Run something on the model's thread."""

    @property
    def state(self) -> Any:
        """``ready``, ``closing`` and what `siftlm.serving.metrics` shows."""


class HungUp(Exception):
    """The client has gone."""


async def events(engine: Works, jobs: Sequence[Job], receive: Receive) -> AsyncGenerator[tuple[int, Event], None]:
    """What comes of the jobs, as (place, event), until all have finished.

    The first failure is raised. However it ends - a failure, a client that hangs up, a deadline, a caller that no
    longer listens - jobs that are still running are cancelled.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[tuple[int, Event] | HungUp] = asyncio.Queue()
    tickets: list[Ticket] = []

    def deliver(place: int, event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(told.put_nowait, (place, event))

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # At once, and not only when the answer is next written: a model that learns is silent for long.
        for ticket in tickets:
            ticket.cancel()
        told.put_nowait(HungUp())

    listening = asyncio.ensure_future(listen())
    try:
        for place, job in enumerate(jobs):
            tickets.append(engine.submit(job, partial(deliver, place)))
        left = len(jobs)
        while left:
            item = await _before(told.get(), jobs[0].deadline)
            if isinstance(item, HungUp):
                raise item
            if isinstance(item[1], Failed):
                raise item[1].error
            left -= isinstance(item[1], Finished)
            yield item
    finally:
        listening.cancel()
        for ticket in tickets:
            ticket.cancel()


async def _before(coming: Awaitable[Made], deadline: float | None) -> Made:
    try:
        return await asyncio.wait_for(coming, None if deadline is None else deadline + LATER - time.monotonic())
    except asyncio.TimeoutError as error:
        raise TooLate("the answer was not there in time") from error
