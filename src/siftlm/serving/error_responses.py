"""Errors in OpenAI's shape. The details of an internal failure are logged and never sent."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, StarletteHTTPException
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from siftlm.errors import BadRecord, Damaged, InvalidInput, Locked, NotAMemory, SiftlmError, Unwritable
from siftlm.serving.errors import MemoryLocked, ServingError, spell_as_json
from siftlm.serving.streaming import ClientDisconnected
from siftlm.types import json_number

logger = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499  # the status that proxies log; the client is gone
# Errors about values that are not the request's: they name folders of the server.
MEMORY_ERRORS = (NotAMemory, BadRecord)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with a JSON body; see `encode_json`."""
    return Response(encode_json(content), status, headers, media_type="application/json")


def encode_json(content: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null.

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
        return json_number(content)
    if isinstance(content, dict):
        return {name: _nonfinite_to_null(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_nonfinite_to_null(value) for value in content]
    return content


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_parts(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The response to an error: (status, body, headers)."""
    message, param = "", None
    if isinstance(error, SiftlmError):
        message, param = error.spelled(spell_as_json), next(iter(error.settings), None)
    if isinstance(error, ServingError):
        param = param if error.param is None else error.param
        headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return error.status, error_body(message, error.type, error.code, param), headers
    if isinstance(error, Locked):
        logger.warning("a change must wait: %s", error)
        return error_parts(MemoryLocked("another process is writing to the memory: retry soon"))
    if isinstance(error, (*MEMORY_ERRORS, Damaged, Unwritable)):
        logger.error("%s", error)
        message = "the memory cannot be read or written; the server's log says why"
        return 500, error_body(message, "server_error", "memory_fails"), {}
    if isinstance(error, InvalidInput):
        return 400, error_body(message, "invalid_request_error", "invalid_value", param), {}
    logger.error("a request failed", exc_info=error)
    return 500, error_body("the server failed; its log says why", "server_error", "internal_error"), {}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def siftlm_error(_: Request, error: Exception) -> Response:
        status, body, headers = error_parts(error)
        return json_response(body, status, headers)

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def no_route(request: Request, error: StarletteHTTPException) -> Response:
        status, path = error.status_code, request.url.path
        message = {
            404: f"there is nothing at {request.method} {path[:80]}",
            405: f"{path[:80]} does not take {request.method[:20]}",
        }.get(status, str(error.detail))
        code = {404: "not_found", 405: "method_not_allowed"}.get(status)
        kind = "invalid_request_error" if status < 500 else "server_error"
        return json_response(error_body(message, kind, code), status, dict(error.headers or {}))

    async def invalid_parameters(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = f"{param or 'the body'}: {first['msg']}"
        return json_response(error_body(message, "invalid_request_error", "invalid_value", param), 400)

    app.add_exception_handler(SiftlmError, siftlm_error)
    app.add_exception_handler(ClientDisconnected, client_gone)
    app.add_exception_handler(ClientDisconnect, client_gone)  # before its body was complete
    app.add_exception_handler(StarletteHTTPException, no_route)
    app.add_exception_handler(RequestValidationError, invalid_parameters)
