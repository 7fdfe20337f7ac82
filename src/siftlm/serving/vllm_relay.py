"""A running vLLM decodes: prompts are tuned here and continued there, with the adapters that were tuned."""

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
from typing import Any

from siftlm.controller import SampledToken, eos_token_ids
from siftlm.errors import setting
from siftlm.serving.decoding import ChoiceWriter, prompt_event, prompt_with_context
from siftlm.serving.errors import BadGateway, QueueFull, ShuttingDown
from siftlm.serving.events import (
    EngineState,
    Event,
    EventCallback,
    Failed,
    Finished,
    Handle,
    Job,
    ResultT,
    Selected,
    Stepped,
    Tuned,
)
from siftlm.serving.scheduler import DEFAULT_RETRY_SECONDS, ServingEngine
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


class Relay:
    """An engine that tunes prompts itself and lets vLLM continue them.

    Args:
        engine: tunes the prompts; its model's weights must be those that vLLM serves.
        url: the address of the vLLM server.
        folder: where to save adapters; vLLM must see it at the same path.
        key: the API key of vLLM.
        most: adapters that vLLM keeps at once, its ``--max-cpu-loras``.
        streams: choices to continue at once; vLLM itself schedules them.
        queue: requests that may wait for that; one more is refused.
        timeout: seconds without data from vLLM after which a request fails.
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
        timeout: float = 120.0,
    ) -> None:
        whole_number("most", most)
        whole_number("streams", streams)
        self.engine, self.controller, self.count = engine, engine.controller, engine.count
        self.memories, self.models = engine.memories, engine.models
        self.client = VllmClient(url, key, timeout=timeout)
        served = self.client.served_model(self.controller.name)
        self.base = served.name
        context = self.controller.context
        if served.context is not None and served.context < context:
            raise BadGateway(
                f"vLLM reads {served.context} tokens at most, and this server offers {context}: start vLLM with "
                f"--max-model-len {context}, or this server with {setting('context', served.context)}"
            )
        rank = int(engine.call(lambda: self.controller.engine.description["r"]).result())
        self.client.check_runtime_adapters(rank)
        self.adapter_folder = AdapterFolder(self.client, folder, most=most, rank=rank)
        # A tokenizer holds the settings of its last call, and the engine's thread uses its own.
        self.tokenizer = copy.deepcopy(self.controller.tokenizer)
        self.ends = eos_token_ids(self.controller)
        self.pool = ThreadPoolExecutor(streams, thread_name_prefix="siftlm-vllm")
        self._streams, self._most_requests = streams, streams + queue
        self._changed = threading.Condition()
        self._requests: set[RelayedRequest] = set()

    def submit(self, job: Job, deliver: EventCallback) -> Handle:
        """Accept a job as `ServingEngine.submit` does; its events come from several threads, one at a time."""
        if len(self._requests) >= self._most_requests:
            self.count.refused()
            raise QueueFull(
                f"{self._most_requests} requests are already waiting for vLLM: retry in {DEFAULT_RETRY_SECONDS} s",
                retry_after=DEFAULT_RETRY_SECONDS,
            )
        relayed = RelayedRequest(self, job, deliver)
        tuning = replace(
            job, sampling=replace(job.sampling, max_tokens=0), choices=1, echo=False, export=relayed.export
        )
        handle = self.engine.submit(tuning, relayed.on_event)

        def cancel() -> None:
            relayed.leave()
            handle.cancel()

        return Handle(cancel)

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Run a function as `ServingEngine.call` does."""
        return self.engine.call(work)

    @property
    def state(self) -> EngineState:
        """The load of both: requests wait for the engine or for vLLM, and are decoded by vLLM."""
        with self._changed:
            own, relayed = self.engine.state, list(self._requests)
        decoding = sum(request.decoding for request in relayed)
        return replace(own, waiting=own.waiting + sum(not request.decoding for request in relayed), decoding=decoding)

    def close(self, grace: float = 30.0) -> None:
        """Close as `ServingEngine.close` does; then unload the adapters from vLLM, and delete them."""
        deadline = time.monotonic() + grace
        self.engine.close(grace)
        with self._changed:
            self._changed.wait_for(lambda: not self._requests, max(0.0, deadline - time.monotonic()))
            left = list(self._requests)
        for relayed in left:
            relayed.fail(ShuttingDown("the server has shut down before this request was done"))
        self.pool.shutdown()
        self.adapter_folder.clear()

    # --- for `RelayedRequest`

    def take(self, relayed: RelayedRequest) -> None:
        """Add a request that is tuned and not yet decoded."""
        with self._changed:
            self._requests.add(relayed)

    def drop(self, relayed: RelayedRequest) -> None:
        """Remove a request that is done."""
        with self._changed:
            self._requests.discard(relayed)
            self._changed.notify_all()


class RelayedRequest:
    """One job: `on_event` is called by the engine until it is tuned, then `_begin`, and `_generate` for each choice."""

    def __init__(self, relay: Relay, job: Job, deliver: EventCallback) -> None:
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
    def decoding(self) -> int:
        """Choices that vLLM is decoding."""
        return len(self._calls)

    # --- the engine's thread

    def export(self, key: Hashable) -> Path | None:
        """The folder to save the adapter to; None if it is saved already."""
        with self._lock:
            if self._over:
                return None
            self._adapter = self._relay.adapter_folder.hold(key)
            return None if self._adapter.folder.exists() else self._adapter.folder

    def on_event(self, event: Event) -> None:
        """Handle an event of the engine."""
        if isinstance(event, Failed):
            self.fail(event.error)
        elif isinstance(event, (Selected, Stepped, Tuned)):
            self._emit(event)
            if isinstance(event, Tuned):
                self._guarded(partial(self._put_before, event.context))
        elif isinstance(event, Finished):
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
            self._relay.adapter_folder.load(self._adapter)
        job = self._job
        if self._measured:  # the prompt's log-likelihoods come before any continuation
            self._generate(0)
            return
        if job.echo:
            self._emit(prompt_event(self._relay.tokenizer, job))
        for choice in range(job.choices):
            self._later(partial(self._generate, choice))

    @property
    def _measured(self) -> bool:
        """True if the prompt's log-likelihoods are requested."""
        return self._job.echo and self._job.sampling.top is not None

    def _generate(self, choice: int) -> None:
        job, relay, echo = self._job, self._relay, self._measured and choice == 0
        writer = ChoiceWriter(relay.tokenizer, job, choice, relay.ends)
        if job.sampling.max_tokens or echo:
            with closing(self._drawn(choice, echo=echo)) as drawn:
                tokens = self._after_prompt(drawn) if echo else drawn
                if job.sampling.max_tokens:
                    self._write_choice(writer, tokens)
                else:
                    next(tokens, None)
        if not writer.over:
            self._emit(writer.end("length"))
        self._done()

    def _after_prompt(self, drawn: Iterator[SampledToken | str]) -> Iterator[SampledToken | str]:
        """The tokens after the prompt. The prompt's, with the texts before it, come first; then other choices start."""
        known = [one for one in islice(drawn, len(self._ids)) if isinstance(one, SampledToken)]
        if len(known) < len(self._ids):
            raise BadGateway("vLLM does not return the prompt's log-likelihoods (echo with logprobs)")
        self._emit(prompt_event(self._relay.tokenizer, self._job, known[1:]))
        for choice in range(1, self._job.choices):
            self._later(partial(self._generate, choice))
        yield from drawn

    def _write_choice(self, writer: ChoiceWriter, tokens: Iterator[SampledToken | str]) -> None:
        for one in tokens:
            if isinstance(one, str):  # ended by a stop string that this tokenizer spells differently
                self._emit(*writer.break_off(one))
            else:
                self._relay.count.generated(1)
                self._emit(*writer.write(one))
            if writer.over:
                return
        raise BadGateway("vLLM ended before the completion was complete")

    def _drawn(self, choice: int, *, echo: bool) -> Generator[SampledToken | str]:
        """Tokens as they come, and at the end the finish reason: ``stop`` or ``length``."""
        adapter, deadline = self._adapter, self._job.deadline
        for again in (False, True):
            call = self._relay.client.call("/v1/completions", deadline)
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
                if again or adapter is None or error.status != 404 or not error.from_vllm:
                    raise BadGateway(f"vLLM did not continue the prompt: {error.message}") from error
            finally:
                with self._lock:
                    self._calls.discard(call)
                call.close()
            self._relay.adapter_folder.load(adapter, again=True)  # vLLM has been restarted since

    def _body(self, choice: int, *, echo: bool) -> Mapping[str, Any]:
        sampling, adapter = self._job.sampling, self._adapter
        return {
            "model": self._relay.base if adapter is None else adapter.name,
            "prompt": list(self._ids),
            "max_tokens": sampling.max_tokens,
            "n": 1,
            "stream": True,
            "echo": echo,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": (sampling.seed + choice) % 2**63,
            # Otherwise the model's generation_config.json would set these.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": list(sampling.stop),
            "stop_token_ids": list(self._relay.ends),
            # vLLM returns token ids only together with logprobs.
            "logprobs": 0 if sampling.top is None else max(1, sampling.top),
            "return_tokens_as_token_ids": True,
        }

    # --- any thread

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
        with self._lock:
            self._emit(Failed(error))
            self.leave()

    def leave(self) -> None:
        """Stop all work on the request, and emit nothing more."""
        with self._lock:
            if self._over:
                return
            self._over = True
            calls = list(self._calls)
            if self._adapter is not None:
                self._relay.adapter_folder.release(self._adapter)
        for call in calls:
            call.abort()
        self._relay.drop(self)

    def _done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left or self._over:
                return
            self._seconds["generate"] = self._seconds.get("generate", 0.0) + time.monotonic() - self._since
            self._relay.count.finished(self._job.mode.name, self._seconds)
            self._emit(Finished(self._seconds))
            self.leave()

    def _emit(self, *events: Event) -> None:
        with self._lock:
            for event in events:
                if not self._over:
                    with suppress(Exception):  # a listener that raises must not stop the others
                        self._deliver(event)

    def _later(self, work: Callable[[], None]) -> None:
        with self._lock:
            if not self._over:
                self._guarded(partial(self._relay.pool.submit, self._guarded, work))

    def _guarded(self, work: Callable[[], Any]) -> None:
        """Run a function; an error fails this request."""
        try:
            work()
        except CallAborted:
            pass
        except Exception as error:  # noqa: BLE001 (it fails this request alone)
            self.fail(error)
