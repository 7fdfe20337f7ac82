"""Middleware: sizes, hosts and failures are checked before all else, and every response is counted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Container
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from siftlm.serving.error_responses import encode_json, error_parts, json_response
from siftlm.serving.errors import BadRequest, NotAllowed, ShuttingDown

if TYPE_CHECKING:
    from fastapi import Request

PORT_SUFFIX = re.compile(r":[0-9]+$")
EVENT_STREAM_PREFIX = b"text/event-stream"
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ResponseCallback = Callable[[Message, int], None]
"""Told of the scope of a request, and of the status that it was answered with."""


class BodyTooLarge(BadRequest):
    """The body is larger than the limit."""

    status = 413
    code = "body_too_large"


class ASGIApp(Protocol):
    """As ASGI has it."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None: ...


class GuardMiddleware:
    """Lets requests through to the application, and answers where that fails."""

    def __init__(self, app: ASGIApp, most: int, count: ResponseCallback, hosts: Container[str] | None = None) -> None:
        self._app, self._most, self._count, self._hosts = app, most, count, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, said = 0, ResponseTracker(send)

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
            await self._app(scope, limited, said)
        except asyncio.CancelledError:  # nothing but the end of the server does that
            await said.break_off(scope, receive)
        except Exception as error:
            if said.status:  # what was begun can only be broken off
                raise
            status, body, headers = error_parts(error)
            await json_response(body, status, headers)(scope, receive, said)
        finally:
            if said.status:
                self._count(scope, said.status)

    def _check_host(self, scope: Message) -> None:
        """A page of another site may let its own name lead to this machine; its browser then says that name."""
        if self._hosts is None:
            return
        said = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = said.rpartition(":")[0] if PORT_SUFFIX.search(said) else said
        if name.strip("[]").lower() not in self._hosts:
            raise NotAllowed(
                f"this server is asked as {said[:80]!r}, and listens without keys for this machine alone: ask it as "
                "localhost, or give it keys (siftlm serve --keys)",
                known=True,
            )

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body must be up to {self._most} bytes")

    @staticmethod
    def _declared_length(scope: Message) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value[:20])
        return 0


class ResponseTracker:
    """What was sent of one answer."""

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
        """Say that the server shuts down, in a way that fits what was said before."""
        status, body, headers = error_parts(ShuttingDown("the server has shut down before this request was done"))
        if not self.status:
            await json_response(body, status, headers)(scope, receive, self)
        elif self._events and self._begun and not self._done:
            await self({"type": "http.response.body", "body": b"data: " + encode_json(body) + b"\n\n"})
        elif not self._done:  # half a document: nothing fits, and the connection will be cut
            while (await receive())["type"] != "http.disconnect":
                pass


ParsedT = TypeVar("ParsedT")

LARGE_BODY_BYTES = 100_000
"""Bytes; what is larger is read in a thread, and others are answered meanwhile."""
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class UnsupportedMediaType(BadRequest):
    """The body says that it is something else than JSON."""

    status = 415
    code = "unsupported_media_type"


async def read_body(
    request: Request, read: Callable[[Any], ParsedT], *, slow: bool = False, kept: bool = False
) -> ParsedT:
    """What is read from the body of a request, or an error that says what is wrong with it.

    ``slow``: the reading itself takes a while, however short the body is. ``kept``: it is to be found again as it is.
    Only ``application/json`` is read: a page of another site can make a browser send anything else without asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    body = await request.body()
    if slow or len(body) > LARGE_BODY_BYTES:
        return await asyncio.to_thread(lambda: read(parse_json(body, kept=kept)))
    return read(parse_json(body, kept=kept))


def parse_json(body: bytes, *, kept: bool = False) -> Any:
    """JSON as Python has it, of texts that can be written in UTF-8. What is to be ``kept`` is refused if it cannot.

    >>> parse_json(b'{"n": 1}'), parse_json(b'"half a character: \\\\ud83d"')
    ({'n': 1}, 'half a character: ?')
    """
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if SURROGATE_ESCAPE.search(body):  # halves of characters can be written in JSON, and nowhere else
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "strict" if kept else "replace"))
    except UnicodeEncodeError as error:
        raise BadRequest(
            "a text has half of a character in it (a lone surrogate), which cannot be kept", code="invalid_value"
        ) from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.100}"
        raise BadRequest(f"the body is not JSON: {said}", code="invalid_json") from error
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
