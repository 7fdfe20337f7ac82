"""A running vLLM decodes: prompts are tuned here and continued there, through the adapters they learned."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from siftlm.controller import SampledToken, eos_token_ids
from siftlm.serving import events
from siftlm.serving import events as jobs
from siftlm.serving.decoding import ChoiceWriter, prompt_event, prompt_with_context
from siftlm.serving.errors import BadGateway, QueueFull, ShuttingDown
from siftlm.serving.scheduler import DEFAULT_RETRY_SECONDS, EngineState, ServingEngine
from siftlm.serving.vllm_client import (
    AdapterFolder,
    CallAborted,
    StoredAdapter,
    VllmCall,
    VllmClient,
    VllmError,
    drawn_tokens,
)
from siftlm.validation import whole_number

if TYPE_CHECKING:
    pass

ResultT = TypeVar("ResultT")


class Relay:
    """An engine whose prompts are continued by vLLM.

    Args:
        engine: where they learn; its model's weights must be those that vLLM serves.
        url: of vLLM's server.
        folder: where adapters are written; vLLM must see it at the same path.
        key: that vLLM asks for.
        most: adapters that vLLM keeps at once, as its ``--max-cpu-loras``.
        streams: choices that are continued at once; vLLM itself orders them.
        queue: requests that may wait for that; one more is refused.
        patience: seconds that vLLM may be silent.
    """

    def __init__(
        self,
        engine: ServingEngine,
        url: str,
        folder: str | os.PathLike[str],
        *,
        key: str | None = None,
        most: int = 32,
        streams: int = 64,
        queue: int = 64,
        patience: float = 120.0,
    ) -> None:
        whole_number("most", most)
        whole_number("streams", streams)
        self.engine, self.controller, self.count = engine, engine.controller, engine.count
        self.memories, self.models = engine.memories, engine.models
        self.client = VllmClient(url, key, patience=patience)
        served = self.client.served(self.controller.name)
        self.base = served.name
        reach = self.controller.context
        if served.context is not None and served.context < reach:
            raise BadGateway(
                f"vLLM reads {served.context} tokens at once, and this server offers {reach}: start vLLM with "
                f"--max-model-len {reach}, or this server with --context-tokens {served.context}"
            )
        rank = int(engine.call(lambda: self.controller.engine.describe()["r"]).result())
        self.client.check_runtime_adapters(rank)
        self.shelf = AdapterFolder(self.client, folder, most=most, rank=rank)
        # A tokenizer sets itself up for every call, and the engine's thread uses its own.
        self.tokenizer = copy.deepcopy(self.controller.tokenizer)
        self.ends = eos_token_ids(self.controller)
        self.pool = ThreadPoolExecutor(streams, thread_name_prefix="siftlm-vllm")
        self._streams, self._room = streams, streams + queue
        self._changed = threading.Condition()
        self._handed: set[RelayedRequest] = set()

    def submit(self, job: events.Job, deliver: events.EventCallback) -> RelayHandle:
        """As `ServingEngine.submit`; events come from several threads, one after another."""
        if len(self._handed) >= self._room:
            self.count.refused()
            raise QueueFull(
                f"{self._room} requests are with vLLM already: ask again in {DEFAULT_RETRY_SECONDS} s",
                retry_after=DEFAULT_RETRY_SECONDS,
            )
        relayed = RelayedRequest(self, job, deliver)
        here = replace(job, sampling=replace(job.sampling, max_tokens=0), choices=1, echo=False, export=relayed.export)
        return RelayHandle(self.engine.submit(here, relayed.heard).cancel, relayed)

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """As `ServingEngine.call`."""
        return self.engine.call(work)

    @property
    def state(self) -> EngineState:
        """As `ServingEngine.state`; who waits for vLLM waits, and who is with it speaks."""
        with self._changed:
            own, handed = self.engine.state, list(self._handed)
        speaking = sum(relayed.speaking for relayed in handed)
        return replace(own, waiting=own.waiting + sum(not one.speaking for one in handed), speaking=speaking)

    def close(self, grace: float = 30.0) -> None:
        """As `ServingEngine.close`; vLLM forgets the adapters, and their folders go."""
        until = time.monotonic() + grace
        self.engine.close(grace)
        with self._changed:
            self._changed.wait_for(lambda: not self._handed, max(0.0, until - time.monotonic()))
            left = list(self._handed)
        for relayed in left:
            relayed.fail(ShuttingDown("the server has shut down before this request was done"))
        self.pool.shutdown()
        self.shelf.clear()

    # --- for `RelayedRequest`

    def take(self, relayed: RelayedRequest) -> None:
        """It has learned, and is not done."""
        with self._changed:
            self._handed.add(relayed)

    def drop(self, relayed: RelayedRequest) -> None:
        """It is done."""
        with self._changed:
            self._handed.discard(relayed)
            self._changed.notify_all()


class RelayHandle:
    """What somebody who has submitted a job holds in the hand."""

    def __init__(self, forget: Callable[[], None], relayed: RelayedRequest) -> None:
        self._forget, self._relayed = forget, relayed

    def cancel(self) -> None:
        """Nobody waits for it any more; harmless when it has finished."""
        self._relayed.leave()
        self._forget()


class RelayedRequest:
    """One job: `heard` from the engine until it has learned, then `_begin`, and `_speak` for each choice."""

    def __init__(self, relay: Relay, job: jobs.Job, deliver: jobs.EventCallback) -> None:
        self._relay, self._job, self._deliver = relay, job, deliver
        self._lock = threading.RLock()
        self._over = False
        self._adapter: StoredAdapter | None = None
        self._calls: set[VllmCall] = set()
        self._left = job.choices
        self._ids: tuple[int, ...] = job.ids
        self._seconds: dict[str, float] = {}
        self._since = 0.0

    @property
    def speaking(self) -> int:
        """Choices that vLLM is asked for."""
        return len(self._calls)

    # --- the engine's thread

    def export(self, key: Hashable) -> Path | None:
        """Where the adapter goes, if it is not there yet."""
        with self._lock:
            if self._over:
                return None
            self._adapter = self._relay.shelf.hold(key)
            return None if self._adapter.folder.exists() else self._adapter.folder

    def heard(self, event: jobs.Event) -> None:
        """What the engine says."""
        if isinstance(event, jobs.Failed):
            self.fail(event.error)
        elif isinstance(event, (jobs.Selected, jobs.Stepped, jobs.Tuned)):
            self._tell(event)
            if isinstance(event, jobs.Tuned):
                self._guarded(partial(self._put_before, event.context))
        elif isinstance(event, jobs.Finished):
            self._seconds, self._since = dict(event.seconds), time.monotonic()
            with self._lock:
                if not self._over:
                    self._relay.take(self)
            self._later(self._begin)

    def _put_before(self, context: tuple[str, ...]) -> None:
        self._ids = prompt_with_context(self._relay.controller, self._job, context)

    # --- threads of the pool

    def _begin(self) -> None:
        if self._adapter is not None:
            self._relay.shelf.load(self._adapter)
        job = self._job
        if self._measured:  # how likely the prompt was is told before anything is said behind it
            self._generate(0)
            return
        if job.echo:
            self._tell(prompt_event(self._relay.tokenizer, job))
        for choice in range(job.choices):
            self._later(partial(self._generate, choice))

    @property
    def _measured(self) -> bool:
        """Is it to be said how likely the prompt was?"""
        return self._job.echo and self._job.sampling.top is not None

    def _generate(self, choice: int) -> None:
        job, relay, echo = self._job, self._relay, self._measured and choice == 0
        saying = ChoiceWriter(relay.tokenizer, job, choice, relay.ends)
        if job.sampling.max_tokens or echo:
            with closing(self._drawn(choice, echo=echo)) as drawn:
                tokens = self._behind_prompt(drawn) if echo else drawn
                if job.sampling.max_tokens:
                    self._write_choice(saying, tokens)
                else:
                    next(tokens, None)
        if not saying.over:
            self._tell(saying.end("length"))
        self._done()

    def _behind_prompt(self, drawn: Iterator[SampledToken | str]) -> Iterator[SampledToken | str]:
        """vLLM says all that it reads, also the texts before the prompt; it is told, and the other choices begin."""
        known = [one for one in islice(drawn, len(self._ids)) if isinstance(one, SampledToken)]
        if len(known) < len(self._ids):
            raise BadGateway("vLLM does not say how likely the tokens of the prompt are (echo with logprobs)")
        self._tell(prompt_event(self._relay.tokenizer, self._job, known[1:]))
        for choice in range(1, self._job.choices):
            self._later(partial(self._generate, choice))
        yield from drawn

    def _write_choice(self, saying: ChoiceWriter, tokens: Iterator[SampledToken | str]) -> None:
        for one in tokens:
            if isinstance(one, str):  # by a stop text that we write otherwise
                self._tell(*saying.break_off(one))
            else:
                self._relay.count.made(1)
                self._tell(*saying.say(one))
            if saying.over:
                return
        raise BadGateway("vLLM ended before the answer was complete")

    def _drawn(self, choice: int, *, echo: bool) -> Generator[SampledToken | str]:
        """Tokens as they come, and why there are no more: ``stop`` or ``length``."""
        adapter, until = self._adapter, self._job.deadline
        for again in (False, True):
            call = self._relay.client.call("/v1/completions", until)
            with self._lock:
                if self._over:
                    raise CallAborted
                self._calls.add(call)
            try:
                call.send(self._body(choice, echo=echo))
                for chunk in call.events():
                    yield from drawn_tokens(chunk, measured=self._job.sampling.top is not None)
                return
            except VllmError as error:
                if again or adapter is None or error.status != 404 or not error.spoken:
                    raise BadGateway(f"vLLM did not continue the prompt: {error.message}") from error
            finally:
                with self._lock:
                    self._calls.discard(call)
                call.close()
            self._relay.shelf.load(adapter, again=True)  # it has begun anew since

    def _body(self, choice: int, *, echo: bool) -> Mapping[str, Any]:
        how, adapter = self._job.sampling, self._adapter
        return {
            "model": self._relay.base if adapter is None else adapter.name,
            "prompt": list(self._ids),
            "max_tokens": how.max_tokens,
            "n": 1,
            "stream": True,
            "echo": echo,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": (how.seed + choice) % 2**63,
            # The model's own generation_config.json is not to add to what was asked for.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": list(how.stop),
            "stop_token_ids": list(self._relay.ends),
            # Tokens come by their numbers only where logprobs are asked for.
            "logprobs": 0 if how.top is None else max(1, how.top),
            "return_tokens_as_token_ids": True,
        }

    # --- any thread

    def fail(self, error: Exception) -> None:
        """The last that is heard of it."""
        with self._lock:
            self._tell(jobs.Failed(error))
            self.leave()

    def leave(self) -> None:
        """Nothing more is said, and nobody works for it."""
        with self._lock:
            if self._over:
                return
            self._over = True
            calls = list(self._calls)
            if self._adapter is not None:
                self._relay.shelf.release(self._adapter)
        for call in calls:
            call.break_off()
        self._relay.drop(self)

    def _done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left or self._over:
                return
            self._seconds["generate"] = self._seconds.get("generate", 0.0) + time.monotonic() - self._since
            self._relay.count.finished(self._job.mode.name, self._seconds)
            self._tell(jobs.Finished(self._seconds))
            self.leave()

    def _tell(self, *events: jobs.Event) -> None:
        with self._lock:
            for event in events:
                if not self._over:
                    with suppress(Exception):  # a listener that fails is not to end the others
                        self._deliver(event)

    def _later(self, work: Callable[[], None]) -> None:
        with self._lock:
            if not self._over:
                self._guarded(partial(self._relay.pool.submit, self._guarded, work))

    def _guarded(self, work: Callable[[], Any]) -> None:
        """Whatever goes wrong is told to who asked."""
        try:
            work()
        except CallAborted:
            pass
        except Exception as error:  # noqa: BLE001 (one request's failure is not another's)
            self.fail(error)
