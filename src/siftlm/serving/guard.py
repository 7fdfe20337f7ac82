"""What stands outside of all else: names, sizes and failures are looked at here, and every answer is counted."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Container
from typing import Any, Protocol

from siftlm.serving.failures import answer, refusal
from siftlm.serving.refusals import BadRequest, NotAllowed

PORT = re.compile(r":[0-9]+$")
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

    def __init__(self, app: Application, most: int, count: Count, hosts: Container[str] | None = None) -> None:
        self._app, self._most, self._count, self._hosts = app, most, count, hosts

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
            self._check_host(scope)
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

    def _check_host(self, scope: Message) -> None:
        """A page of another site may let its own name lead to this machine; its browser then says that name."""
        if self._hosts is None:
            return
        said = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = said.rpartition(":")[0] if PORT.search(said) else said
        if name.strip("[]").lower() not in self._hosts:
            raise NotAllowed(
                f"this server is asked as {said[:80]!r}, and listens without keys for this machine alone: ask it as "
                "localhost, or give it keys (siftlm serve --keys)", known=True,
            )  # fmt: skip

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body must be up to {self._most} bytes")

    @staticmethod
    def _said_length(scope: Message) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value[:20])
        return 0
