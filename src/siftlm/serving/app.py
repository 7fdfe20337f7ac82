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
from siftlm.serving.failures import add_error_handlers, error_body, json_response
from siftlm.serving.guard import GuardMiddleware
from siftlm.serving.jobs import Mode
from siftlm.serving.keys import ANONYMOUS_CALLER, ApiKeys, Caller
from siftlm.serving.limits import RequestLimits
from siftlm.serving.modes import ModeParser
from siftlm.serving.reading import RequestParser
from siftlm.serving.refusals import NotFound
from siftlm.serving.running import EngineProtocol
from siftlm.serving.schemas import ERROR_SCHEMA

DEFAULT_LIMITS = RequestLimits()
API_DESCRIPTION = (
    "A language model that learns for every request. The name of the model says how: `NAME` is the model as it is, "
    "`NAME:sift-50` learns from 50 texts that SIFT selects. Requests are OpenAI's; what is ours is under `siftlm`."
)
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error, as OpenAI has it", "content": {"application/json": {"schema": ERROR_SCHEMA}}}
}


def create_app(
    engine: EngineProtocol,
    modes: ModeParser,
    *,
    keys: ApiKeys | None = None,
    limits: RequestLimits = DEFAULT_LIMITS,
    count: metrics.PrometheusMetrics | None = None,
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
        return ANONYMOUS_CALLER if keys is None else keys.of(authorization)

    def answered(scope: dict[str, Any], status: int) -> None:
        if count is not None:
            count.answered(metrics.route_template(scope), status, scope.get("state", {}).get("mode"))

    app = FastAPI(
        title="siftlm",
        version=version("siftlm"),
        description=API_DESCRIPTION,
        responses=ERROR_RESPONSES,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,  # they would load scripts from elsewhere
        dependencies=[] if keys is None else [Depends(HTTPBearer(auto_error=False))],  # for the description alone
    )
    app.add_middleware(GuardMiddleware, most=limits.body, count=answered, hosts=hosts)
    add_error_handlers(app)
    reader = RequestParser(engine.controller, modes, limits)
    app.include_router(_health_routes(engine))
    app.include_router(_model_routes(modes, allowed, reader.context))
    app.include_router(
        answering.routes(engine, reader, allowed)
        if count is None
        else answering.routes(engine, reader, allowed, count.read)
    )
    app.include_router(vectors.routes(engine, modes, allowed, limits))
    app.include_router(vocabulary.routes(reader, allowed))
    app.include_router(selecting.routes(engine, modes, allowed, limits))
    app.include_router(documents.routes(engine, modes, allowed))
    if count is not None:
        count.watch(lambda: engine.state)
        app.include_router(metrics.routes(count, allowed))
    app.include_router(page.page_routes())
    return app


def _health_routes(engine: EngineProtocol) -> APIRouter:
    """What whoever looks after the server asks, without a key."""
    router = APIRouter(tags=["life"])

    async def health() -> Response:
        """Is the process alive?"""
        return json_response({"status": "alive"})

    async def ready() -> Response:
        """Are requests taken? 503 while the model is loaded, and while the server shuts down."""
        state = engine.state
        if state.closing:
            return json_response(error_body("the server is shutting down", "server_error", "shutting_down"), 503)
        if not state.ready:
            return json_response(error_body("the model is being loaded", "server_error", "not_ready"), 503)
        return json_response({"status": "ready"})

    router.add_api_route("/health", health, methods=["GET"])
    router.add_api_route("/ready", ready, methods=["GET"])
    return router


def _model_routes(modes: ModeParser, allowed: Any, context: int) -> APIRouter:
    router, who, born = APIRouter(tags=["openai"]), Depends(allowed), int(time.time())

    def shown(name: str, mode: Mode) -> dict[str, Any]:
        plain = {"id": name, "object": "model", "created": born, "owned_by": "siftlm", "max_model_len": context}
        settings = modes.effective_settings(mode)
        return {**plain, "siftlm": settings} if settings else plain

    async def models(caller: Caller = who) -> Response:
        """The models that are worth listing, and what each goes by; any other method, number and memory works too."""
        names = modes.names([memory for memory in modes.memories if caller.may(memory, "read")])
        return json_response({"object": "list", "data": [shown(name, modes.parse(name)) for name in names]})

    async def model(model: str, caller: Caller = who) -> Response:
        """One of them."""
        try:
            mode = modes.parse(model, None, caller.reads)
        except InvalidInput as error:
            raise NotFound(
                f"the model {model!r:.80} does not exist: {error}", param="model", code="model_not_found"
            ) from error
        return json_response(shown(model, mode))

    router.add_api_route("/v1/models", models, methods=["GET"])
    router.add_api_route("/v1/models/{model:path}", model, methods=["GET"])
    return router
