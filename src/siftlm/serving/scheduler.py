"""The scheduler: the one thread that owns the model. Read `ServingEngine._turn` first: admit, tune, decode."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from siftlm.controller import BatchTuner, Controller, stackable_layers
from siftlm.errors import InvalidInput, setting
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving.adapters import AdapterCache, AdapterSlots
from siftlm.serving.decoding import DecodeQueue
from siftlm.serving.errors import DeadlineExceeded, QueueFull, ShuttingDown
from siftlm.serving.events import EngineState, EventCallback, Handle, Job, Metrics, ResultT, ServedRequest
from siftlm.serving.tuning import TuningQueue
from siftlm.validation import whole_number

logger = logging.getLogger(__name__)

MIB = 2**20
# Choices decoded at once, for each prompt that may be tuned at once: the base model's need no adapter.
ROWS_PER_SLOT = 4
# The Retry-After of a full queue, until the duration of requests is known.
DEFAULT_RETRY_SECONDS = 5
# Seconds without work before free memory is returned to the system.
IDLE_TRIM_SECONDS = 2.0


class ServingEngine:
    """One model that is tuned for many requests at once.

    Args:
        controller: a model with LoRA (``engine="lora"``): requests share its weights, and each has its own adapter.
        memories: the memories by name; the first is the default.
        slots: prompts that may be tuned at once.
        queue: requests that may wait; one more is refused.
        cache: bytes of adapters to keep for later requests.
        count: the counters of this server.
        **settings: defaults for `siftlm.LocalModel`, which a request may override.
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
            raise InvalidInput(
                f"requests share the model's weights, so a server tunes adapters: pass {setting('engine', 'lora')}"
            )
        stackable_layers(controller.engine)
        whole_number("slots", slots)
        whole_number("queue", queue)
        self.controller, self.memories = controller, dict(memories)
        self.models = {name: LocalModel(controller, memory, **settings) for name, memory in memories.items()}
        self.count = count or Metrics()
        self._slots, self._queue = slots, queue
        self._adapter_cache = AdapterCache(whole_number("cache", cache, least=0))
        self._waiting: deque[ServedRequest] = deque()
        self._inside: list[ServedRequest] = []  # admitted and unfinished
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ready, self._closing, self._until = False, False, float("inf")
        self._trimmed = True  # no work since memory was last returned to the system
        self._mean_seconds = 0.0  # duration of a request, a moving average
        self._busy: tuple[int, int] = (0, 0)
        self._thread = threading.Thread(target=self._run, name="siftlm-engine", daemon=True)
        self._thread.start()

    # --- from any thread

    def submit(self, job: Job, deliver: EventCallback) -> Handle:
        """Accept a job, or raise `QueueFull` or `ShuttingDown`. The engine's thread calls ``deliver``."""
        task = ServedRequest(job, deliver)
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down: retry later, or use another server")
            if len(self._waiting) >= self._queue:
                self.count.refused()
                again = (
                    max(1, round(self._mean_seconds * len(self._waiting) / self._slots))
                    if self._mean_seconds
                    else DEFAULT_RETRY_SECONDS
                )
                raise QueueFull(
                    f"{len(self._waiting)} requests are already waiting: retry in {again} s", retry_after=again
                )
            self._waiting.append(task)
            self._trimmed = False
            self._changed.notify()
        return Handle(partial(self._cancel, task))

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Run a quick function between two steps, with the base model in place."""
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
                raise QueueFull(f"{len(self._calls)} requests are already waiting: retry soon", retry_after=1)
            self._calls.append(run)
            self._trimmed = False
            self._changed.notify()
        return future

    @property
    def state(self) -> EngineState:
        """The current load."""
        tuning, decoding = self._busy
        return EngineState(
            len(self._waiting),
            tuning,
            decoding,
            self._slots,
            len(self._adapter_cache),
            self._adapter_cache.bytes,
            self._ready,
            self._closing,
        )

    def end(self, grace: float = 30.0) -> None:
        """Accept nothing more. Accepted requests have ``grace`` seconds, or what is left of an earlier call's grace."""
        with self._changed:
            self._closing, self._until = True, min(self._until, time.monotonic() + grace)
            self._changed.notify()

    def close(self, grace: float = 30.0) -> None:
        """End as `end` does, and wait."""
        self.end(grace)
        self._thread.join()

    def _cancel(self, task: ServedRequest) -> None:
        task.cancelled = True
        with self._changed:
            self._changed.notify()

    # --- the engine's thread

    def _run(self) -> None:
        try:
            with self.controller.tuning_many(self._slots + 1) as tuner:
                self._begin(tuner)
                self._ready = True
                while self._turn(tuner):
                    pass
        except Exception:
            logger.exception("the engine has stopped")
        finally:
            self._ready = False
            self._end()

    def _begin(self, tuner: BatchTuner) -> None:
        self._adapter_slots = AdapterSlots(self._slots)
        self._tuning = TuningQueue(self, tuner, self._adapter_slots, self._adapter_cache)
        self._decoding = DecodeQueue(self.controller, tuner.decoder(), self.count)

    def _turn(self, tuner: BatchTuner) -> bool:
        """One round: admit, tune, decode. False when it is time to end."""
        self._call_one()
        try:
            self._sweep()
            began = time.monotonic()
            ready = self._tuning.admit(self._admit()) + self._tuning.round()
            self._finish(self._decoding.join(self._without_cancelled(ready)))
            # Decoding gets as much time as tuning: one gradient step may take as long as many tokens.
            until = 2 * time.monotonic() - began
            while len(self._decoding):
                self._finish(self._decoding.step())
                if time.monotonic() >= until:
                    break
        except Exception as error:  # noqa: BLE001 (it fails the requests under way; the server goes on)
            self._fail_all(error)
            self._begin(tuner)
        self._inside = [task for task in self._inside if not (task.over or task.finished)]
        self._busy = len(self._tuning), len(self._decoding)
        return self._wait()

    def _wait(self) -> bool:
        """Wait for work; False when it is time to end."""
        with self._changed:
            if any(self._busy) or self._calls or self._waiting:
                return True
            if self._closing:
                return False
            woken = self._changed.wait(None if self._trimmed else IDLE_TRIM_SECONDS)
            idle = not (woken or self._trimmed or self._calls or self._waiting)
            self._trimmed = self._trimmed or idle
        if idle:
            trim_memory()
        return True

    def _call_one(self) -> bool:
        """Run one call; one a turn, so that tuning and decoding are not held up for longer."""
        with self._changed:
            call = self._calls.popleft() if self._calls else None
        if call is not None:
            call()
        return call is not None

    def _admit(self) -> list[ServedRequest]:
        """Waiting requests for which there is room, in order. Requests for the base model need no slot."""
        admitted: list[ServedRequest] = []
        rows = ROWS_PER_SLOT * self._slots - len(self._decoding) - self._tuning.rows
        free = self._adapter_slots.free
        with self._changed:
            for task in list(self._waiting):
                if task.job.choices > rows and (admitted or len(self._decoding) or len(self._tuning)):
                    break
                needs = 0 if task.job.mode.memory is None else 1
                if needs > free:
                    continue
                free -= needs
                rows -= task.job.choices
                self._waiting.remove(task)
                admitted.append(task)
        self._inside += admitted
        return admitted

    def _without_cancelled(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        for task in tasks:
            if task.over:
                self._adapter_slots.leave(task.slot)
        return [task for task in tasks if not task.over]

    def _finish(self, tasks: Sequence[ServedRequest]) -> None:
        """Finish requests whose choices are all complete."""
        for task in tasks:
            self._adapter_slots.leave(task.slot)
            seconds = task.finish()
            if task.job.export is None:  # otherwise it is decoded elsewhere
                self.count.finished(task.job.mode.name, seconds)
            whole = sum(seconds.values())
            self._mean_seconds = 0.8 * self._mean_seconds + 0.2 * whole if self._mean_seconds else whole

    def _sweep(self) -> None:
        """Drop cancelled requests and those past their deadline."""
        now = time.monotonic()
        if now > self._until:
            raise ShuttingDown("the server has shut down before this request was done")
        with self._changed:
            waiting = [task for task in self._waiting if self._is_over(task, now)]
            for task in waiting:
                self._waiting.remove(task)
        for task in self._tuning.tasks():
            if self._is_over(task, now):
                self._tuning.leave(task)
        for task in self._decoding.tasks():
            if self._is_over(task, now):
                self._decoding.leave(task)
                self._adapter_slots.leave(task.slot)

    def _is_over(self, task: ServedRequest, now: float) -> bool:
        if task.cancelled:
            task.failed = True
        elif task.job.deadline is not None and now > task.job.deadline:
            task.fail(DeadlineExceeded("the request was not finished before its deadline"))
        return task.over

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            waiting = list(self._waiting) if isinstance(error, ShuttingDown) else []
            for task in waiting:
                self._waiting.remove(task)
        # Including requests between tuning and decoding.
        for task in [*waiting, *self._inside]:
            if not task.finished:
                task.fail(error)

    def _end(self) -> None:
        with self._changed:
            self._closing = True  # whatever stopped the thread
            left, self._waiting = list(self._waiting), deque()
        for task in left:
            task.fail(ShuttingDown("the server has shut down"))
        while self._call_one():
            pass


def trim_memory() -> bool:
    """Return free heap memory to the system, and whether there was any.

    Only glibc can; by itself it keeps as much as was ever in use. The call takes a tenth of a second.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(trim(ctypes.c_size_t(0)))
