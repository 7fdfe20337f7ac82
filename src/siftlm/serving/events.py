"""The engine as HTTP sees it: its interface, the jobs that go in, and the events that come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from siftlm.controller import Controller, SamplingParams
from siftlm.local import LocalModel
from siftlm.memory import Found, Memory
from siftlm.serving.adapters import AdapterSlot
from siftlm.types import Step, Trace

ResultT = TypeVar("ResultT")


# --- jobs


@dataclass(frozen=True)
class Mode:
    """How the model is tuned for a request."""

    name: str
    """As in the model's name: ``base``, ``sift-50``, ``nn-50``, ``context-10``, ``auto``."""
    memory: str | None
    """The name of the memory that texts are selected from; None for the base model."""
    settings: Mapping[str, Any]
    """Settings of `siftlm.LocalModel`: ``n``, ``method``, ``use``, ``rate``, …"""


@dataclass(frozen=True)
class Job:
    """One prompt to continue or to score."""

    ids: tuple[int, ...]
    """The prompt's token ids, special tokens included."""
    query: str
    """The text that passages are selected for."""
    mode: Mode
    sampling: SamplingParams = field(default_factory=SamplingParams)
    choices: int = 1
    echo: bool = False
    """Report the prompt's tokens as well, and with ``sampling.top`` their log-likelihoods."""
    deadline: float | None = None
    """The ``time.monotonic()`` at which the job is given up."""
    export: Callable[[Hashable], Path | None] | None = None
    """Called for a job that another server decodes: the folder to save its adapter to, or None if it is saved already.

    Equal keys stand for equal adapters. The engine's thread calls it, and never for the base model.
    """
    caller: str = ""
    """Owner of the job. Tuned adapters are shared within one caller only: a cache hit would reveal others' prompts."""


@dataclass(frozen=True)
class Token:
    """A token of a prompt or of a continuation."""

    id: int
    text: str
    """The token's share of the text: joined together, these are the whole text."""
    logprob: float | None = None
    """Natural logarithm; None unless requested, and for the first token of a prompt."""
    top: tuple[tuple[int, str, float], ...] = ()
    """(id, text, logprob) of the most likely tokens, best first, always with the most likely one and this one."""


# --- events, in the order in which they come. Every job ends with `Finished` or `Failed`, and nothing follows them.


@dataclass(frozen=True)
class Selected:
    """The texts were selected."""

    found: Found
    cached: bool = False
    """True if the tuned adapter was cached, so no `Stepped` follows."""


@dataclass(frozen=True)
class Stepped:
    """A gradient step was taken."""

    step: Step
    taken: int
    """Steps so far."""
    planned: int


@dataclass(frozen=True)
class Tuned:
    """The model is ready for this prompt."""

    trace: Trace
    """The tuning; its ``ended`` says how it ended."""
    context: tuple[str, ...] = ()
    """Texts to put before the prompt."""


@dataclass(frozen=True)
class PromptRead:
    """The prompt's tokens, for a job with ``echo``."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class ChoiceDelta:
    """The next part of one choice."""

    choice: int
    text: str
    """Text to show now; empty while it may turn out to be part of a stop string or half a character."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class ChoiceEnded:
    """One choice is complete."""

    choice: int
    reason: str
    """OpenAI's finish reason: ``stop`` (an end token or a stop string) or ``length``."""
    tokens: int
    """Tokens generated for it."""


@dataclass(frozen=True)
class Finished:
    """All choices are complete."""

    seconds: Mapping[str, float]
    """Time spent in ``queue``, ``select``, ``learn`` and ``generate``."""


@dataclass(frozen=True)
class Failed:
    """The job failed; no event follows."""

    error: Exception
    """A `siftlm.errors.SiftlmError` for a bad request or a missed deadline (`DeadlineExceeded`)."""


Event = Selected | Stepped | Tuned | PromptRead | ChoiceDelta | ChoiceEnded | Finished | Failed
EventCallback = Callable[[Event], None]
"""Called by the engine's thread: it must return at once and never raise."""


@dataclass(eq=False)
class ServedRequest:
    """A job on its way through the engine. Only the engine's thread touches it, except for ``cancelled``."""

    job: Job
    deliver: EventCallback
    slot: AdapterSlot | None = None
    """The slot of its adapter; None decodes with the base model."""
    context: tuple[str, ...] = ()
    """Texts to put before its prompt."""
    cancelled: bool = False
    failed: bool = False
    finished: bool = False
    clock: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """True if no more work is needed."""
        return self.cancelled or self.failed

    @property
    def owner(self) -> int:
        """The number of its adapter's slot; 0 for the base model."""
        return 0 if self.slot is None else self.slot.number

    def emit(self, event: Event) -> None:
        """Deliver an event. A listener that raises must not stop the engine."""
        if not self.over:
            with suppress(Exception):
                self.deliver(event)

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
        self.emit(Failed(error))
        self.failed = True

    def record_time(self, stage: str) -> None:
        """Add the time since the last call to this stage."""
        now = time.monotonic()
        self.clock[stage] = self.clock.get(stage, 0.0) + now - self.since
        self.since = now

    def finish(self) -> dict[str, float]:
        """End the request, and return the time spent in each stage."""
        self.record_time("generate")
        self.emit(Finished(dict(self.clock)))
        self.finished = True
        return self.clock


# --- the engine


@dataclass(frozen=True)
class Handle:
    """An accepted job."""

    cancel: Callable[[], None]
    """Stop working on it; does nothing once it has finished."""


@dataclass(frozen=True)
class EngineState:
    """The engine's load."""

    waiting: int
    tuning: int
    decoding: int
    """Choices being decoded; a request may have several."""
    slots: int
    cached: int
    cached_bytes: int
    ready: bool
    closing: bool


class Metrics:
    """What a server counts. This class counts nothing; `siftlm.serving.metrics.PrometheusMetrics` does."""

    def answered(self, route: str | None, status: int, mode: str | None = None) -> None:
        """A request was answered; ``route`` is the template that matched, never the path itself."""

    def read(self, tokens: int) -> None:
        """A prompt was read."""

    def finished(self, mode: str, seconds: Mapping[str, float]) -> None:
        """A request has finished; ``seconds`` by stage."""

    def refused(self) -> None:
        """The queue was full."""

    def cache(self, hit: bool) -> None:
        """An adapter was looked up in the cache."""

    def tuned(self, steps: int, tokens: int) -> None:
        """A prompt's tuning has ended."""

    def generated(self, tokens: int) -> None:
        """Tokens were generated."""


class EngineProtocol(Protocol):
    """The interface of `siftlm.serving.scheduler.ServingEngine` and `siftlm.serving.vllm_relay.Relay`."""

    @property
    def controller(self) -> Controller:
        """The model."""

    @property
    def memories(self) -> Mapping[str, Memory]:
        """The memories by name; the first is the default."""

    @property
    def models(self) -> Mapping[str, LocalModel]:
        """One local model for each memory."""

    @property
    def count(self) -> Metrics:
        """The counters of this server."""

    @property
    def state(self) -> EngineState:
        """The current load."""

    def submit(self, job: Job, deliver: EventCallback) -> Handle:
        """Accept a job, or raise `QueueFull` or `ShuttingDown`."""

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Run a function on the model's thread."""
