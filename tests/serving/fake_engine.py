"""An engine without a language model: its thread, its memories, and models that only select."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Header
from fastapi.testclient import TestClient

from siftlm.memory import Memory
from siftlm.recipes import default_method
from siftlm.serving import Caller, ModeParser
from siftlm.serving.error_responses import add_error_handlers
from siftlm.serving.errors import NotAllowed

CALLERS = {
    "writer": Caller("writer", {"docs": "write"}),
    "reader": Caller("reader", {"docs": "read"}),
    "all": Caller("all", {"*": "write"}),
}


class FakeModel:
    """The part of `siftlm.LocalModel` that a selection uses."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def settings(self, **changes: Any) -> dict[str, Any]:
        self.memory.check(**self._of_search(changes))
        return {"n": 50, **changes}

    def select(self, prompt: str, **settings: Any) -> Any:
        return self.memory.search(prompt, **self._of_search(settings))

    def _of_search(self, settings: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in settings.items() if name != "use"}
        return {"method": default_method(settings), **own}


class FakeEngine:
    """The part of `siftlm.serving.ServingEngine` that these routes use."""

    def __init__(self, memories: Mapping[str, Memory]) -> None:
        self.memories = dict(memories)
        self.models = {name: FakeModel(memory) for name, memory in memories.items()}
        self._thread = ThreadPoolExecutor(1)
        self.calls = 0

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        self.calls += 1
        return self._thread.submit(work)

    @property
    def state(self) -> Any:
        return SimpleNamespace(
            waiting=3, tuning=2, decoding=1, slots=8, cached=4, cached_bytes=4096, ready=True, closing=False
        )

    def close(self, grace: float = 0.0) -> None:
        self._thread.shutdown()


def allowed(authorization: str = Header("")) -> Caller:
    """The caller named in the header."""
    caller = CALLERS.get(authorization.removeprefix("Bearer "))
    if caller is None:
        raise NotAllowed("an API key is needed")
    return caller


def client(engine: FakeEngine, *routes: Callable[..., Any], as_: str = "all") -> TestClient:
    """A client of an app with these routes, whose errors have the server's shape."""
    app = FastAPI()
    modes = ModeParser("siftlm-tiny", engine.models)
    for made in routes:
        app.include_router(made(engine, modes, allowed))

    add_error_handlers(app)
    return TestClient(app, headers={"Authorization": f"Bearer {as_}"})
