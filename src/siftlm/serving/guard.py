"""What stands outside of all else: a body ends at its limit, no traceback leaves, and every answer is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from siftlm.serving.failures import answer, refusal
from siftlm.serving.refusals import BadRequest

Message = dict[str, Any]
Count = Callable[[Message, int], None]
"""Told of the scope of a request, and of the status that it was answered with."""


class TooLarge(BadRequest):
    """The body is larger than the limit."""

    status = 413
    code = "body_too_large"


class Application(Protocol):
    """As ASGI has it."""

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None: ...


class Guard:
    """Lets requests through to the application, and answers where that fails."""

    def __init__(self, app: Application, most: int, count: Count) -> None:
        self._app, self._most, self._count = app, most, count

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, status = 0, 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if self._said_length(scope) > self._most:
                raise self._too_large()
            await self._app(scope, limited, sending)
        except Exception as error:
            if status:  # what was begun can only be broken off
                raise
            said, body, headers = refusal(error)
            await answer(body, said, headers)(scope, receive, sending)
        finally:
            if status:
                self._count(scope, status)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body must be up to {self._most} bytes")

    @staticmethod
    def _said_length(scope: Message) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value[:20])
        return 0
