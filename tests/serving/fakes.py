"""An engine without a language model, with the interface of `siftlm.serving.ServingEngine`: it repeats the prompt.

The tokenizer is that of siftlm-tiny. A token's log-likelihood follows from its id, so that tests can predict it.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn
from tokenizers import Tokenizer

from siftlm.controller import StopStrings
from siftlm.embedding import HashingEmbedder
from siftlm.errors import UnknownName
from siftlm.extras import bundled_model
from siftlm.memory import Found, Hit
from siftlm.serving import Handle, Job, Metrics, ModeParser, Token, create_app
from siftlm.serving.errors import DeadlineExceeded, QueueFull, ShuttingDown
from siftlm.serving.events import (
    ChoiceDelta,
    ChoiceEnded,
    Event,
    EventCallback,
    Failed,
    Finished,
    PromptRead,
    Selected,
    Stepped,
    Tuned,
)
from siftlm.types import Selection, Step, Trace

NAME, CONTEXT, END = "siftlm-tiny", 64, 0
LIKELIEST = 500
"""The most likely token everywhere; others whose ids are divisible by 5 are just as likely."""


class FakeTokenizer:
    """The part of a transformers tokenizer that is used, fifty times as fast."""

    bos_token_id = eos_token_id = END
    bos_token = eos_token = pad_token = "<|endoftext|>"
    unk_token = None

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template
        self._inner = _tokenizer()

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._inner.encode(text, add_special_tokens=add_special_tokens).ids}

    def __len__(self) -> int:
        return self._inner.get_vocab_size()

    def __deepcopy__(self, _: Any) -> FakeTokenizer:
        return self  # nothing in it ever changes

    def get_vocab(self) -> dict[str, int]:
        return self._inner.get_vocab()

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._inner.id_to_token(one) for one in ids]

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        if any(one["role"] == "tool" for one in messages):
            raise ValueError("this template knows no tools")
        return "".join(f"[{one['role']}]{one['content']}" for one in messages) + "[assistant]"


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_model() / "tokenizer.json"))


@dataclass
class Manners:
    """The engine's behaviour, which tests change."""

    pause: float = 0.0
    """Seconds before each token."""
    never: frozenset[int] = frozenset()
    """Tokens of probability 0."""
    fail: Exception | None = None
    """Raised after ``fail_after`` tokens."""
    fail_after: int = 0
    room: int = 100
    """Jobs that may run at once; one more finds the queue full."""
    broken: bool = False
    """True if `submit` raises an unexpected error."""


class FakeModel:
    """The part of `siftlm.LocalModel` that parsing a request uses."""

    def settings(self, **changes: Any) -> dict[str, Any]:
        method = changes.get("method", "sift")
        if method not in {"sift", "nearest"}:
            raise UnknownName("method", method, ("nearest", "sift"))
        return {"n": 50, **changes}


@dataclass
class FakeEngine:
    """The engine's interface."""

    manners: Manners = field(default_factory=Manners)
    names: tuple[str, ...] = ("docs", "wiki")
    chat_template: str | None = None
    jobs: list[Job] = field(default_factory=list)
    """Accepted jobs."""
    cancelled: list[Job] = field(default_factory=list)
    """Jobs that were cancelled before they had finished."""
    ready: bool = True
    closing: bool = False
    count: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.controller: Any = SimpleNamespace(
            name=NAME,
            tokenizer=FakeTokenizer(self.chat_template),
            context=CONTEXT,
            fingerprint="f" * 16,
            model=SimpleNamespace(config=SimpleNamespace(vocab_size=8192)),
        )
        self.memories: Mapping[str, Any] = {
            name: SimpleNamespace(embedder=HashingEmbedder(width=16)) for name in self.names
        }
        self.models: Mapping[str, Any] = {name: FakeModel() for name in self.names}
        self.calls = 0
        self._thread = ThreadPoolExecutor(1)
        self._running, self._lock = 0, threading.Lock()

    def submit(self, job: Job, deliver: EventCallback) -> Handle:
        if self.manners.broken:
            raise RuntimeError("/var/lib/somebody/secret.py has failed")
        if self.closing:
            raise ShuttingDown("the server is shutting down")
        if self._running >= self.manners.room:
            raise QueueFull("the queue is full", retry_after=7)
        with self._lock:
            self._running += 1
        self.jobs.append(job)
        running = RunningJob(self, job)
        threading.Thread(target=self._work, args=(job, deliver, running), daemon=True).start()
        return Handle(running.cancel)

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        self.calls += 1
        return self._thread.submit(work)

    @property
    def state(self) -> Any:
        return SimpleNamespace(
            waiting=0,
            tuning=0,
            decoding=self._running,
            slots=8,
            cached=0,
            cached_bytes=0,
            ready=self.ready,
            closing=self.closing,
        )

    def close(self, grace: float = 30.0) -> None:
        self.closing = True
        self._thread.shutdown()

    def _work(self, job: Job, deliver: EventCallback, running: RunningJob) -> None:
        try:
            for event in events_of(self.controller.tokenizer, job, self.manners):
                if running.cancelled:
                    return
                running.finished = isinstance(event, Finished)
                deliver(event)
        except Exception as error:  # noqa: BLE001 - as the engine does it
            deliver(Failed(error))
        finally:
            running.finished = True
            with self._lock:
                self._running -= 1


@dataclass
class RunningJob:
    """A job that was accepted."""

    engine: FakeEngine
    job: Job
    cancelled: bool = False
    finished: bool = False

    def cancel(self) -> None:
        if not self.finished and not self.cancelled:
            self.cancelled = True
            self.engine.cancelled.append(self.job)


def events_of(tokenizer: Any, job: Job, manners: Manners) -> Iterator[Event]:
    """The events of a job."""
    if job.mode.memory is not None:
        yield from _learning(job)
    if job.echo:
        yield PromptRead(tokens_of(tokenizer, job.ids, job.sampling.top, manners, first=True))
    made = 0
    echoed = [one for one in job.ids if one != END]
    for choice in range(job.choices):
        ids = [*echoed[choice:], END][: job.sampling.max_tokens]
        stops, reason, count = StopStrings(job.sampling.stop), "length", 0
        for token in tokens_of(tokenizer, ids, job.sampling.top, manners):
            time.sleep(manners.pause)
            if job.deadline is not None and time.monotonic() > job.deadline:
                raise DeadlineExceeded("its time was up")
            if manners.fail is not None and made == manners.fail_after:
                raise manners.fail
            ended = token.id == END
            token = replace(token, text="") if ended else token
            made, count = made + 1, count + 1
            shown = stops.add(token.text)
            yield ChoiceDelta(choice, shown + stops.flush() if ended or count == len(ids) else shown, (token,))
            if ended or stops.stopped:
                reason = "stop"
                break
        yield ChoiceEnded(choice, reason, count)
    yield Finished({"queue": 0.0, "select": 0.0, "learn": 0.0, "generate": 0.001 * made})


def _learning(job: Job) -> Iterator[Event]:
    hits = tuple(Hit(f"about {job.query}", {}, 0.5, 0.25, 0.75 - 0.25 * at, at) for at in range(2))
    selection = Selection(np.array([0, 1]), np.array([0.25, 0.25]), np.array([1.0, 0.75, math.nan]), "n", "sift", 0.1)
    yield Selected(Found(hits, selection, 10, {"search": 0.001}))
    steps = tuple(Step(at, 3.0 - at, 20, 1.0, 1e-3) for at in range(2))
    yield from (Stepped(step, at, 2) for at, step in enumerate(steps, start=1))
    yield Tuned(Trace(steps, "done", 2))


def tokens_of(
    tokenizer: Any, ids: Sequence[int], top: int | None, manners: Manners, first: bool = False
) -> tuple[Token, ...]:
    """Tokens with their texts and log-likelihoods; the first token of a prompt (``first``) has none."""
    found = []
    for at, one in enumerate(ids):
        text = tokenizer.decode(ids[: at + 1])[len(tokenizer.decode(ids[:at])) :]
        if top is None or (first and at == 0):
            found.append(Token(one, text))
            continue
        logprob, best = likely(one, manners), likely(LIKELIEST, manners)
        known = [(one, tokenizer.decode([one]), logprob)]
        if one != LIKELIEST and top:
            known.append((LIKELIEST, tokenizer.decode([LIKELIEST]), best))
        found.append(Token(one, text, logprob, tuple(sorted(known, key=lambda each: -each[2]))))
    return tuple(found)


def likely(token: int, manners: Manners) -> float:
    """The log-likelihood of a token, at any position."""
    return -math.inf if token in manners.never else -0.25 - (token % 5) / 3


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of a real server of the app, which runs in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until another thread has done something."""
    last = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > last:
            raise AssertionError("it did not happen in time")
        time.sleep(0.002)


def app_of(engine: FakeEngine, **settings: Any) -> Any:
    """The application around an engine."""
    return create_app(engine, ModeParser(NAME, engine.models), **settings)
