"""Errors as OpenAI's clients know them. Whatever goes wrong inside is said in the log and nowhere else."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, StarletteHTTPException
from fastapi.responses import Response

from siftlm.errors import BadRecord, Damaged, InvalidInput, Locked, NotAMemory, SiftlmError, Unwritable
from siftlm.extras import load
from siftlm.serving.errors import MemoryLocked, ServingError
from siftlm.serving.streaming import ClientDisconnected

logger = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499  # as proxies log it; nobody reads it
# Of errors that are about values, these are not about the request's, and name folders.
MEMORY_ERRORS = (NotAMemory, BadRecord)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON, in which no number is infinite."""
    return Response(encode_json(content), status, headers, media_type="application/json")


def encode_json(content: Any) -> bytes:
    """As JSON, in UTF-8; what is no number becomes null.

    >>> encode_json({"gain": float("nan"), "n": 2})
    b'{"gain":null,"n":2}'
    """
    try:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_nonfinite_to_null(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def _nonfinite_to_null(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _nonfinite_to_null(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_nonfinite_to_null(value) for value in content]
    return content


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI has it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_parts(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body, headers) that answer an error."""
    if isinstance(error, ServingError):
        headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return error.status, error_body(str(error), error.type, error.code, error.param), headers
    if isinstance(error, Locked):
        logger.warning("a change has to wait: %s", error)
        return error_parts(MemoryLocked("the memory is being written by somebody else; try again soon"))
    if isinstance(error, (*MEMORY_ERRORS, Damaged, Unwritable)):
        logger.error("%s", error)
        said = "the memory cannot be read or written; the server's log says why"
        return 500, error_body(said, "server_error", "memory_fails"), {}
    if isinstance(error, InvalidInput):
        return 400, error_body(str(error), "invalid_request_error", "invalid_value"), {}
    logger.error("a request failed", exc_info=error)
    return 500, error_body("the server failed; its log says why", "server_error", "internal_error"), {}


def add_error_handlers(app: FastAPI) -> None:
    """Let every error leave in OpenAI's shape."""

    async def refused(_: Request, error: Exception) -> Response:
        status, body, headers = error_parts(error)
        return json_response(body, status, headers)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def not_served(request: Request, error: StarletteHTTPException) -> Response:
        status, path = error.status_code, request.url.path
        message = {
            404: f"there is nothing at {request.method} {path[:80]}",
            405: f"{path[:80]} does not take {request.method[:20]}",
        }.get(status, str(error.detail))
        code = {404: "not_found", 405: "method_not_allowed"}.get(status)
        kind = "invalid_request_error" if status < 500 else "server_error"
        return json_response(error_body(message, kind, code), status, dict(error.headers or {}))

    async def wrong(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = f"{param or 'the body'}: {first['msg']}"
        return json_response(error_body(message, "invalid_request_error", "invalid_value", param), 400)

    app.add_exception_handler(SiftlmError, refused)
    app.add_exception_handler(ClientDisconnected, gone)
    app.add_exception_handler(load("starlette.requests", "serve").ClientDisconnect, gone)  # before its body was there
    app.add_exception_handler(StarletteHTTPException, not_served)
    app.add_exception_handler(RequestValidationError, wrong)
