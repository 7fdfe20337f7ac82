"""A running vLLM speaks for the engine: here prompts learn, there they are continued, through the adapter they learned.

For who asks, `Relay` is an engine. `siftlm.serving.relayed.RelayedRequest` is one job's way through both.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from siftlm.controller.generation import eos_token_ids
from siftlm.serving import jobs
from siftlm.serving.engine import DEFAULT_RETRY_SECONDS, EngineState, ServingEngine
from siftlm.serving.refusals import BadGateway, QueueFull, ShuttingDown
from siftlm.serving.relayed import RelayedRequest
from siftlm.serving.shelf import AdapterFolder
from siftlm.serving.vllm_client import VllmClient
from siftlm.validation import whole_number

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

    def submit(self, job: jobs.Job, deliver: jobs.EventCallback) -> RelayHandle:
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
