"""The scheduler: the one thread that owns the model. Read `ServingEngine._turn` first: admit, tune, decode."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from siftlm.controller import BatchTuner, Controller, stackable_layers
from siftlm.errors import InvalidInput
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving.adapters import AdapterCache, AdapterSlots
from siftlm.serving.decoding import DecodeQueue
from siftlm.serving.errors import DeadlineExceeded, QueueFull, ShuttingDown
from siftlm.serving.events import EventCallback, Job
from siftlm.serving.metrics import Metrics, NoMetrics
from siftlm.serving.task import ServedRequest
from siftlm.serving.tuning import TuningQueue
from siftlm.validation import whole_number

ResultT = TypeVar("ResultT")
logger = logging.getLogger(__name__)

MIB = 2**20
# Rows that speak at once, for each prompt that may learn: those of the base model cost no adapter.
ROWS_PER_SLOT = 4
# Seconds after which somebody who was refused may come again, until we know how long a request takes.
DEFAULT_RETRY_SECONDS = 5
# Seconds without work after which memory is given back to the system.
IDLE_TRIM_SECONDS = 2.0


@dataclass(frozen=True)
class EngineState:
    """How busy the engine is."""

    waiting: int
    learning: int
    speaking: int
    """Choices, of which a request may have several."""
    slots: int
    cached: int
    cached_bytes: int
    ready: bool
    closing: bool


class RequestHandle:
    """What somebody who has submitted a job holds in the hand."""

    def __init__(self, task: ServedRequest, wake: Callable[[], None]) -> None:
        self._task, self._wake = task, wake

    def cancel(self) -> None:
        """Nobody waits for it any more; harmless when it has finished."""
        self._task.cancelled = True
        self._wake()


class ServingEngine:
    """A model that learns for many requests at once.

    Args:
        controller: with LoRA (``engine="lora"``): requests share its weights, and each has an adapter of its own.
        memories: by name; the first is the default.
        slots: prompts that may learn at once.
        queue: requests that may wait; one more is refused.
        cache: bytes of adapters that are kept for requests to come.
        count: told of everything that happens.
        **settings: of `siftlm.LocalModel`, unless a request says otherwise.
    """

    def __init__(
        self,
        controller: Controller,
        memories: Mapping[str, Memory],
        *,
        slots: int = 8,
        queue: int = 64,
        cache: int = 256 * MIB,
        count: Metrics | None = None,
        **settings: Any,
    ) -> None:
        if not controller.adapters:
            raise InvalidInput("a server needs adapters, for requests share the weights: Controller(…, engine='lora')")
        stackable_layers(controller.engine)
        whole_number("slots", slots)
        whole_number("queue", queue)
        self.controller, self.memories = controller, dict(memories)
        self.models = {name: LocalModel(controller, memory, **settings) for name, memory in memories.items()}
        self.count: Metrics = count or NoMetrics()
        self._slots, self._queue = slots, queue
        self._remembering = AdapterCache(whole_number("cache", cache, least=0))
        self._waiting: deque[ServedRequest] = deque()
        self._inside: list[ServedRequest] = []  # admitted, and not done
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ready, self._closing, self._until = False, False, float("inf")
        self._tidy = True  # has memory been given back since something was asked?
        self._mean_seconds = 0.0  # seconds that a request takes
        self._busy: tuple[int, int] = (0, 0)
        self._thread = threading.Thread(target=self._run, name="siftlm-engine", daemon=True)
        self._thread.start()

    # --- from any thread

    def submit(self, job: Job, deliver: EventCallback) -> RequestHandle:
        """Take a job in, or raise `QueueFull` or `ShuttingDown`. The engine's thread hands events to ``deliver``."""
        task = ServedRequest(job, deliver)
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down: ask again in a moment, or ask another")
            if len(self._waiting) >= self._queue:
                self.count.refused()
                again = (
                    max(1, round(self._mean_seconds * len(self._waiting) / self._slots))
                    if self._mean_seconds
                    else DEFAULT_RETRY_SECONDS
                )
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting already: ask again in {again} s", retry_after=again
                )
            self._waiting.append(task)
            self._tidy = False
            self._changed.notify()
        return RequestHandle(task, self._wake)

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Run something between two steps, with the base model; it must be quick."""
        future: Future[ResultT] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 (it belongs to the caller)
                future.set_exception(error)

        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down")
            if len(self._calls) >= self._queue:
                self.count.refused()
                raise QueueFull(f"{len(self._calls)} requests are waiting already: ask again soon", retry_after=1)
            self._calls.append(run)
            self._tidy = False
            self._changed.notify()
        return future

    @property
    def state(self) -> EngineState:
        """At this moment."""
        learning, speaking = self._busy
        return EngineState(
            len(self._waiting),
            learning,
            speaking,
            self._slots,
            len(self._remembering),
            self._remembering.bytes,
            self._ready,
            self._closing,
        )

    def end(self, grace: float = 30.0) -> None:
        """Take nothing more in; what was accepted has ``grace`` seconds, or what an earlier call left it."""
        with self._changed:
            self._closing, self._until = True, min(self._until, time.monotonic() + grace)
            self._changed.notify()

    def close(self, grace: float = 30.0) -> None:
        """`end`, and wait for it."""
        self.end(grace)
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # --- the engine's thread

    def _run(self) -> None:
        try:
            with self.controller.tuning_many(self._slots + 1) as many:
                self._begin(many)
                self._ready = True
                while self._turn(many):
                    pass
        except Exception:
            logger.exception("the engine has ended")
        finally:
            self._ready = False
            self._end()

    def _begin(self, many: BatchTuner) -> None:
        self._places = AdapterSlots(self._slots)
        self._learning = TuningQueue(self, many, self._places, self._remembering)
        self._decoding = DecodeQueue(self.controller, many.decoder(), self.count)

    def _turn(self, many: BatchTuner) -> bool:
        """One round of everything; False when it is time to end."""
        self._call_one()
        try:
            self._sweep()
            began = time.monotonic()
            ready = self._learning.admit(self._admitted()) + self._learning.round()
            self._finish(self._decoding.join(self._still_wanted(ready)))
            # Who speaks gets as much time as who learns: a step of learning may take as long as many tokens.
            until = 2 * time.monotonic() - began
            while len(self._decoding):
                self._finish(self._decoding.step())
                if time.monotonic() >= until:
                    break
        except Exception as error:  # noqa: BLE001 (the requests that it met end with it; the server goes on)
            self._fail_all(error)
            self._begin(many)
        self._inside = [task for task in self._inside if not (task.over or task.finished)]
        self._busy = len(self._learning), len(self._decoding)
        return self._rest()

    def _rest(self) -> bool:
        """Wait while there is nothing to do; False when it is time to end."""
        with self._changed:
            if any(self._busy) or self._calls or self._waiting:
                return True
            if self._closing:
                return False
            woken = self._changed.wait(None if self._tidy else IDLE_TRIM_SECONDS)
            rested = not (woken or self._tidy or self._calls or self._waiting)
            self._tidy = self._tidy or rested
        if rested:
            trim_memory()
        return True

    def _call_one(self) -> bool:
        """One a turn: those who learn and speak wait for no more than that."""
        with self._changed:
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            call()
        return call is not None

    def _admitted(self) -> list[ServedRequest]:
        """Those who wait and for whom there is room, in their order; the base model's need no place to learn."""
        found: list[ServedRequest] = []
        rows = ROWS_PER_SLOT * self._slots - len(self._decoding) - self._learning.rows
        places = self._places.free
        with self._changed:
            for task in list(self._waiting):
                if task.job.choices > rows and (found or len(self._decoding) or len(self._learning)):
                    break
                needs = 0 if task.job.mode.memory is None else 1
                if needs > places:
                    continue
                places -= needs
                rows -= task.job.choices
                self._waiting.remove(task)
                found.append(task)
        self._inside += found
        return found

    def _still_wanted(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        for task in tasks:
            if task.over:
                self._places.leave(task.place)
        return [task for task in tasks if not task.over]

    def _finish(self, tasks: Sequence[ServedRequest]) -> None:
        """Let go of those who have said everything."""
        for task in tasks:
            self._places.leave(task.place)
            took = task.finish()
            if task.job.export is None:  # else it goes on elsewhere
                self.count.finished(task.job.mode.name, took)
            whole = sum(took.values())
            self._mean_seconds = 0.8 * self._mean_seconds + 0.2 * whole if self._mean_seconds else whole

    def _sweep(self) -> None:
        """Those who have hung up, or whose time is up, are not worked for any more."""
        now = time.monotonic()
        if now > self._until:
            raise ShuttingDown("the server has shut down before this request was done")
        with self._changed:
            waiting = [task for task in self._waiting if self._over(task, now)]
            for task in waiting:
                self._waiting.remove(task)
        for task in self._learning.tasks():
            if self._over(task, now):
                self._learning.leave(task)
        for task in self._decoding.tasks():
            if self._over(task, now):
                self._decoding.leave(task)
                self._places.leave(task.place)

    def _over(self, task: ServedRequest, now: float) -> bool:
        if task.cancelled:
            task.failed = True
        elif task.job.deadline is not None and now > task.job.deadline:
            task.fail(DeadlineExceeded("the time of this request was up before its answer was there"))
        return task.over

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            waiting = list(self._waiting) if isinstance(error, ShuttingDown) else []
            for task in waiting:
                self._waiting.remove(task)
        # Also those who stood between learning and speaking when it happened.
        for task in [*waiting, *self._inside]:
            if not task.finished:
                task.fail(error)

    def _end(self) -> None:
        with self._changed:
            self._closing = True  # whatever ended the thread
            left, self._waiting = list(self._waiting), deque()
        for task in left:
            task.fail(ShuttingDown("the server has shut down"))
        while self._call_one():
            pass


def trim_memory() -> bool:
    """What the C library keeps between blocks in use, where it is glibc; it keeps as much as it ever needed otherwise.

    A tenth of a second, so for quiet moments. Was there any?
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(trim(ctypes.c_size_t(0)))
