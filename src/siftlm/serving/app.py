"""The FastAPI application. Read `create_app` first."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Container
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from siftlm import extras
from siftlm.errors import InvalidInput
from siftlm.serving import metrics
from siftlm.serving.auth import ANONYMOUS_CALLER, ApiKeys, Caller
from siftlm.serving.error_responses import add_error_handlers, error_body, json_response
from siftlm.serving.errors import NotFound, NotReady
from siftlm.serving.events import Mode
from siftlm.serving.limits import RequestLimits
from siftlm.serving.middleware import ASGIApp, GuardMiddleware, Message, Receive, Send
from siftlm.serving.modes import ModeParser
from siftlm.serving.requests import RequestParser
from siftlm.serving.routes import completions, documents, embeddings, selection, tokenizer
from siftlm.serving.schemas import ERROR_SCHEMA
from siftlm.serving.streaming import EngineProtocol

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
        completions.routes(engine, reader, allowed)
        if count is None
        else completions.routes(engine, reader, allowed, count.read)
    )
    app.include_router(embeddings.routes(engine, modes, allowed, limits))
    app.include_router(tokenizer.routes(reader, allowed))
    app.include_router(selection.routes(engine, modes, allowed, limits))
    app.include_router(documents.routes(engine, modes, allowed))
    if count is not None:
        count.watch(lambda: engine.state)
        app.include_router(metrics.routes(count, allowed))
    app.include_router(page_routes())
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


CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX_FILE = "index.html"
# Nothing but our own files, no script or style inside the page, no frame around it, and no string turned into HTML.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# The address of a file holds the hash of all of them, so what was fetched once stays right for ever.
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@cache
def page_version() -> str:
    """It changes with any of the files."""
    whole = hashlib.sha256()
    for name, content in sorted(_read_page_files().items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


@cache
def page_files() -> dict[str, bytes]:
    """What is sent, by name: in the index every address holds the `page_version`."""
    stored = _read_page_files()
    return {**stored, INDEX_FILE: stored[INDEX_FILE].replace(b"page/VERSION/", f"page/{page_version()}/".encode())}


@cache
def _read_page_files() -> dict[str, bytes]:
    folder = resources.files("siftlm.serving") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if _file_suffix(item.name) in CONTENT_TYPES}


def _file_suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def page_routes() -> Any:
    """A FastAPI router for ``/`` and ``/page/…``; all addresses are relative, so a prefix before it does no harm."""
    fastapi = extras.load("fastapi", "serve")
    router = fastapi.APIRouter(include_in_schema=False)
    held = page_files()
    tag = f'"{page_version()}"'
    index = {**SECURITY_HEADERS, "Cache-Control": "no-cache", "ETag": tag}

    async def page(request: Any) -> Any:
        if tag in request.headers.get("if-none-match", ""):
            return fastapi.Response(status_code=304, headers=index)
        return fastapi.Response(held[INDEX_FILE], media_type=CONTENT_TYPES[".html"], headers=index)

    router.add_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    for name, content in held.items():
        if name != INDEX_FILE:
            router.add_route(
                f"/page/{page_version()}/{name}",
                _file_sender(fastapi, name, content),
                methods=["GET", "HEAD"],
                include_in_schema=False,
            )
    return router


def _file_sender(fastapi: Any, name: str, content: bytes) -> Any:
    headers = {**SECURITY_HEADERS, "Cache-Control": IMMUTABLE_CACHE_CONTROL}
    kind = CONTENT_TYPES[_file_suffix(name)]

    async def send(_: Any) -> Any:
        return fastapi.Response(content, media_type=kind, headers=headers)

    return send


class SwappableApp:
    """Every request goes to ``app``, which may be exchanged at any time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def loading_app(scope: Message, receive: Receive, send: Send) -> None:
    """``/health`` is 200, for a process that loads is alive; anything else has to come again."""
    if scope["path"] != "/health" or scope["method"] != "GET":
        raise NotReady("the model is being loaded: ask again in a few seconds")
    await json_response({"status": "alive"})(scope, receive, send)
