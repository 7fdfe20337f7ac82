"""The FastAPI application. Read `create_app` first."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Container
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from siftlm.errors import InvalidInput
from siftlm.serving import metrics
from siftlm.serving.auth import ANONYMOUS_CALLER, ApiKeys, Caller
from siftlm.serving.error_responses import add_error_handlers, error_body, json_response
from siftlm.serving.errors import NotFound, NotReady
from siftlm.serving.events import EngineProtocol, Mode
from siftlm.serving.middleware import ASGIApp, GuardMiddleware, Message, Receive, Send
from siftlm.serving.modes import ModeParser
from siftlm.serving.requests import RequestParser
from siftlm.serving.routes import completions, documents, embeddings, selection, tokenizer
from siftlm.serving.schemas import DEFAULT_LIMITS, ERROR_SCHEMA, RequestLimits

API_DESCRIPTION = (
    "A language model that is fine-tuned for every request. The model's name says how: `NAME` is the base model, and "
    "`NAME:sift-50` is tuned on 50 texts that SIFT selects. Requests are OpenAI's, extended by the field `siftlm`."
)
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error in OpenAI's shape", "content": {"application/json": {"schema": ERROR_SCHEMA}}}
}


def create_app(
    engine: EngineProtocol,
    modes: ModeParser,
    *,
    keys: ApiKeys | None = None,
    limits: RequestLimits = DEFAULT_LIMITS,
    hosts: Container[str] | None = None,
) -> FastAPI:
    """The application around an engine.

    Args:
        engine: runs the jobs; its ``count`` counts the responses, and is shown at ``/metrics`` if it is for Prometheus.
        modes: parses the names of models.
        keys: the accepted API keys; None lets everybody do everything.
        limits: the largest requests to accept.
        hosts: accepted names of this server; None accepts any.
    """

    def allowed(authorization: str = Header("", include_in_schema=False)) -> Caller:
        return ANONYMOUS_CALLER if keys is None else keys.of(authorization)

    def count(scope: dict[str, Any], status: int) -> None:
        engine.count.answered(metrics.route_template(scope), status, scope.get("state", {}).get("mode"))

    app = FastAPI(
        title="siftlm",
        version=version("siftlm"),
        description=API_DESCRIPTION,
        responses=ERROR_RESPONSES,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,  # these pages would load scripts from other sites
        dependencies=[] if keys is None else [Depends(HTTPBearer(auto_error=False))],  # only for the API's description
    )
    app.add_middleware(GuardMiddleware, most=limits.body, count=count, hosts=hosts)
    add_error_handlers(app)
    parser = RequestParser(engine.controller, modes, limits)
    app.include_router(_health_routes(engine))
    app.include_router(_model_routes(modes, allowed, parser.context))
    app.include_router(completions.routes(engine, parser, allowed))
    app.include_router(embeddings.routes(engine, modes, allowed, limits))
    app.include_router(tokenizer.routes(parser, allowed))
    app.include_router(selection.routes(engine, modes, allowed, limits))
    app.include_router(documents.routes(engine, modes, allowed))
    if isinstance(engine.count, metrics.PrometheusMetrics):
        engine.count.watch(lambda: engine.state)
        app.include_router(metrics.routes(engine.count, allowed))
    app.include_router(page_routes())
    return app


def _health_routes(engine: EngineProtocol) -> APIRouter:
    """The probes of process managers, which need no API key."""
    router = APIRouter(tags=["life"])

    async def health() -> Response:
        """200 while the process is alive."""
        return json_response({"status": "alive"})

    async def ready() -> Response:
        """200 when requests are accepted; 503 while the model is loaded or the server shuts down."""
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
    """The list of models."""
    router, auth, created = APIRouter(tags=["openai"]), Depends(allowed), int(time.time())

    def model_json(name: str, mode: Mode) -> dict[str, Any]:
        plain = {"id": name, "object": "model", "created": created, "owned_by": "siftlm", "max_model_len": context}
        settings = modes.effective_settings(mode)
        return {**plain, "siftlm": settings} if settings else plain

    async def models(caller: Caller = auth) -> Response:
        """Common models and their settings; any other method, number and memory works as well."""
        names = modes.names([memory for memory in modes.memories if caller.may(memory, "read")])
        return json_response({"object": "list", "data": [model_json(name, modes.parse(name)) for name in names]})

    async def model(model: str, caller: Caller = auth) -> Response:
        """One model and its settings."""
        try:
            mode = modes.parse(model, None, caller.reads)
        except InvalidInput as error:
            raise NotFound(
                f"the model {model!r:.80} does not exist: {error.args[0]}", param="model", code="model_not_found"
            ) from error
        return json_response(model_json(model, mode))

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
# Only files of this server, no inline scripts or styles, no frames, and no strings turned into HTML.
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
# A file's address holds the hash of all files, so a cached copy is never out of date.
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@cache
def page_version() -> str:
    """A hash of all the page's files."""
    whole = hashlib.sha256()
    for name, content in sorted(_read_page_files().items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


@cache
def page_files() -> dict[str, bytes]:
    """The page's files by name; addresses in the index hold the `page_version`."""
    stored = _read_page_files()
    return {**stored, INDEX_FILE: stored[INDEX_FILE].replace(b"page/VERSION/", f"page/{page_version()}/".encode())}


@cache
def _read_page_files() -> dict[str, bytes]:
    folder = resources.files("siftlm.serving") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if _file_suffix(item.name) in CONTENT_TYPES}


def _file_suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def page_routes() -> APIRouter:
    """The router of ``/`` and ``/page/…``. All addresses are relative, so the page works behind a path prefix."""
    router = APIRouter(include_in_schema=False)
    files = page_files()
    tag = f'"{page_version()}"'
    index = {**SECURITY_HEADERS, "Cache-Control": "no-cache", "ETag": tag}

    async def page(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=index)
        return Response(files[INDEX_FILE], media_type=CONTENT_TYPES[".html"], headers=index)

    router.add_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    for name, content in files.items():
        if name != INDEX_FILE:
            router.add_route(
                f"/page/{page_version()}/{name}",
                _file_sender(name, content),
                methods=["GET", "HEAD"],
                include_in_schema=False,
            )
    return router


def _file_sender(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    headers = {**SECURITY_HEADERS, "Cache-Control": IMMUTABLE_CACHE_CONTROL}
    kind = CONTENT_TYPES[_file_suffix(name)]

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers=headers)

    return send


class SwappableApp:
    """Passes every request to ``app``, which may be replaced at any time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def loading_app(scope: Message, receive: Receive, send: Send) -> None:
    """The application while the model is being loaded: ``/health`` is 200, and anything else must be retried."""
    if scope["path"] != "/health" or scope["method"] != "GET":
        raise NotReady("the model is being loaded: retry in a few seconds")
    await json_response({"status": "alive"})(scope, receive, send)
