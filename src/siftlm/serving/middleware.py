"""Middleware: checks the host and the body's size, answers failures, and counts every response."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Container
from typing import Any, Protocol

from fastapi import Request

from siftlm.serving.error_responses import encode_json, error_parts, json_response
from siftlm.serving.errors import BadRequest, NotAllowed, ShuttingDown
from siftlm.serving.events import ResultT
from siftlm.serving.streaming import disconnected

PORT_SUFFIX = re.compile(r":[0-9]+$")
EVENT_STREAM_PREFIX = b"text/event-stream"
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ResponseCallback = Callable[[Message, int], None]
"""Called with a request's scope and the status of its response."""


class BodyTooLarge(BadRequest):
    """The body is larger than the limit."""

    status = 413
    code = "body_too_large"


class ASGIApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None: ...


class GuardMiddleware:
    """Passes requests on to the application, and answers those that fail.

    Args:
        app: the application.
        most: bytes that a body may have.
        count: called with every response.
        hosts: accepted names of this server; None accepts any.
    """

    def __init__(self, app: ASGIApp, most: int, count: ResponseCallback, hosts: Container[str] | None = None) -> None:
        self._app, self._most, self._count, self._hosts = app, most, count, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, response = 0, ResponseTracker(send)

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        try:
            self._check_host(scope)
            if self._declared_length(scope) > self._most:
                raise self._too_large()
            await self._app(scope, limited, response)
        except asyncio.CancelledError:  # only the server's shutdown cancels requests
            await response.break_off(scope, receive)
        except Exception as error:
            if response.status:  # a response that has begun can only be cut off
                raise
            status, body, headers = error_parts(error)
            await json_response(body, status, headers)(scope, receive, response)
        finally:
            if response.status:
                self._count(scope, response.status)

    def _check_host(self, scope: Message) -> None:
        """Refuse other host names: a page of another site could point its own name at this machine (DNS rebinding)."""
        if self._hosts is None:
            return
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = host.rpartition(":")[0] if PORT_SUFFIX.search(host) else host
        if name.strip("[]").lower() not in self._hosts:
            raise NotAllowed(
                f"the host {host[:80]!r} is not accepted: without API keys the server serves this machine alone; use "
                "the host localhost, or start it with siftlm serve --keys",
                known=True,
            )

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body must have at most {self._most} bytes")

    @staticmethod
    def _declared_length(scope: Message) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value[:20])
        return 0


class ResponseTracker:
    """Sends one response, and knows how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._begun, self._done, self._events = False, False, False

    async def __call__(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        await self._send(message)
        if message["type"] == "http.response.start":
            self._begun = True
            self._events = any(
                name.lower() == b"content-type" and value.startswith(EVENT_STREAM_PREFIX)
                for name, value in message.get("headers", ())
            )
        else:
            self._done = not message.get("more_body", False)

    async def break_off(self, scope: Message, receive: Receive) -> None:
        """Report the shutdown, in a form that fits what was already sent."""
        status, body, headers = error_parts(ShuttingDown("the server has shut down before this request was done"))
        if not self.status:
            await json_response(body, status, headers)(scope, receive, self)
        elif self._events and self._begun and not self._done:
            await self({"type": "http.response.body", "body": b"data: " + encode_json(body) + b"\n\n"})
        elif not self._done:  # half a document: no error fits, and the connection will be cut
            await disconnected(receive)


LARGE_BODY_BYTES = 100_000
"""Larger bodies are parsed in a thread, so that other requests are answered meanwhile."""
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class UnsupportedMediaType(BadRequest):
    """The request's Content-Type is not JSON."""

    status = 415
    code = "unsupported_media_type"


async def read_body(
    request: Request, parse: Callable[[Any], ResultT], *, slow: bool = False, strict: bool = False
) -> ResultT:
    """A request's body, parsed from JSON and then by ``parse``; a `BadRequest` says what is wrong with it.

    ``slow``: ``parse`` takes a while even for a short body. ``strict``: see `parse_json`. Only ``application/json`` is
    accepted: a page of another site can make a browser send any other type without a preflight request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    body = await request.body()
    if slow or len(body) > LARGE_BODY_BYTES:
        return await asyncio.to_thread(lambda: parse(parse_json(body, strict=strict)))
    return parse(parse_json(body, strict=strict))


def parse_json(body: bytes, *, strict: bool = False) -> Any:
    """Parsed JSON, whose texts can all be encoded in UTF-8.

    Half a character (a lone surrogate) becomes ``?``; with ``strict`` it is refused.

    >>> parse_json(b'{"n": 1}'), parse_json(b'"half a character: \\\\ud83d"')
    ({'n': 1}, 'half a character: ?')
    """
    try:
        content = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if SURROGATE_ESCAPE.search(body):  # JSON can hold half a character, and UTF-8 cannot
            text = json.dumps(content, ensure_ascii=False)
            content = json.loads(text.encode("utf-8", "strict" if strict else "replace"))
    except UnicodeEncodeError as error:
        raise BadRequest(
            "a text contains half a character (a lone surrogate), which cannot be stored", code="invalid_value"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.100}"
        raise BadRequest(f"the body is not JSON: {reason}", code="invalid_json") from error
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
