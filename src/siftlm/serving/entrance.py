"""What uvicorn serves: while the model is being loaded there are answers already, and then there is the application."""

from __future__ import annotations

from siftlm.serving.failures import json_response
from siftlm.serving.guard import ASGIApp, Message, Receive, Send
from siftlm.serving.refusals import NotReady


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
