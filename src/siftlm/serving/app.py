"""The server as an application: who is asked for what. Read `create_app` first."""

from __future__ import annotations

import time
from collections.abc import Container
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from siftlm.errors import InvalidInput
from siftlm.serving import answering, documents, metrics, page, selecting, vectors, vocabulary
from siftlm.serving.failures import add_failures, answer, worded
from siftlm.serving.guard import Guard
from siftlm.serving.jobs import Mode
from siftlm.serving.keys import ANYBODY, Caller, Keys
from siftlm.serving.limits import Limits
from siftlm.serving.modes import Modes
from siftlm.serving.reading import Reader
from siftlm.serving.refusals import Unknown
from siftlm.serving.running import Works
from siftlm.serving.schemas import ERROR

LIMITS = Limits()
ABOUT = (
    "A language model that learns for every request. The name of the model says how: `NAME` is the model as it is, "
    "`NAME:sift-50` learns from 50 texts that SIFT selects. Requests are OpenAI's; what is ours is under `siftlm`."
)
FAILURE: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error, as OpenAI has it", "content": {"application/json": {"schema": ERROR}}}
}


def create_app(
    engine: Works,
    modes: Modes,
    *,
    keys: Keys | None = None,
    limits: Limits = LIMITS,
    count: metrics.Counts | None = None,
    hosts: Container[str] | None = None,
) -> FastAPI:
    """The application.

    Args:
        engine: works off the jobs.
        modes: reads names of models.
        keys: of those who may ask; None: everybody may do everything.
        limits: what one request may ask for.
        count: told of everything, and shown at ``/metrics``; the one that the engine tells, too.
        hosts: names that it may be asked by; None: any.
    """

    def allowed(authorization: str = Header("", include_in_schema=False)) -> Caller:
        return ANYBODY if keys is None else keys.of(authorization)

    def answered(scope: dict[str, Any], status: int) -> None:
        if count is not None:
            count.answered(metrics.route_of(scope), status, scope.get("state", {}).get("mode"))

    app = FastAPI(
        title="siftlm", version=version("siftlm"), description=ABOUT, responses=FAILURE, redirect_slashes=False,
        docs_url=None, redoc_url=None,  # they would load scripts from elsewhere
        dependencies=[] if keys is None else [Depends(HTTPBearer(auto_error=False))],  # for the description alone
    )  # fmt: skip
    app.add_middleware(Guard, most=limits.body, count=answered, hosts=hosts)
    add_failures(app)
    reader = Reader(engine.controller, modes, limits)
    app.include_router(_life(engine))
    app.include_router(_models(modes, allowed, reader.context))
    app.include_router(
        answering.routes(engine, reader, allowed) if count is None
        else answering.routes(engine, reader, allowed, count.read)
    )  # fmt: skip
    app.include_router(vectors.routes(engine, modes, allowed, limits))
    app.include_router(vocabulary.routes(reader, allowed))
    app.include_router(selecting.routes(engine, modes, allowed, limits))
    app.include_router(documents.routes(engine, modes, allowed))
    if count is not None:
        count.watch(lambda: engine.state)
        app.include_router(metrics.routes(count, allowed))
    app.include_router(page.routes())
    return app


def _life(engine: Works) -> APIRouter:
    """What whoever looks after the server asks, without a key."""
    router = APIRouter(tags=["life"])

    async def health() -> Response:
        """Is the process alive?"""
        return answer({"status": "alive"})

    async def ready() -> Response:
        """Are requests taken? 503 while the model is loaded, and while the server shuts down."""
        state = engine.state
        if state.closing:
            return answer(worded("the server is shutting down", "server_error", "shutting_down"), 503)
        if not state.ready:
            return answer(worded("the model is being loaded", "server_error", "not_ready"), 503)
        return answer({"status": "ready"})

    router.add_api_route("/health", health, methods=["GET"])
    router.add_api_route("/ready", ready, methods=["GET"])
    return router


def _models(modes: Modes, allowed: Any, context: int) -> APIRouter:
    router, who, born = APIRouter(tags=["openai"]), Depends(allowed), int(time.time())

    def shown(name: str, mode: Mode) -> dict[str, Any]:
        plain = {"id": name, "object": "model", "created": born, "owned_by": "siftlm", "max_model_len": context}
        settings = modes.goes_by(mode)
        return {**plain, "siftlm": settings} if settings else plain

    async def models(caller: Caller = who) -> Response:
        """The models that are worth listing, and what each goes by; any other method, number and memory works too."""
        names = modes.names([memory for memory in modes.memories if caller.may(memory, "read")])
        return answer({"object": "list", "data": [shown(name, modes.parse(name)) for name in names]})

    async def model(model: str, caller: Caller = who) -> Response:
        """One of them."""
        try:
            mode = modes.parse(model, None, caller.reads)
        except InvalidInput as error:
            raise Unknown(f"the model {model!r:.80} does not exist: {error}", param="model",
                          code="model_not_found") from error  # fmt: skip
        return answer(shown(model, mode))

    router.add_api_route("/v1/models", models, methods=["GET"])
    router.add_api_route("/v1/models/{model:path}", model, methods=["GET"])
    return router
