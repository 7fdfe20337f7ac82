"""``/v1/completions`` and ``/v1/chat/completions``: a body, jobs, events, an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from siftlm.serving.bodies import body_of
from siftlm.serving.failures import encoded, refusal
from siftlm.serving.jobs import Event, Read
from siftlm.serving.keys import Caller
from siftlm.serving.large import in_parts
from siftlm.serving.modes import Needs
from siftlm.serving.reading import Asked, Reader
from siftlm.serving.replies import JSON, Replies
from siftlm.serving.running import HungUp, Works, events
from siftlm.serving.schemas import CHAT, COMPLETION, shown

Told = AsyncGenerator[tuple[int, Event], None]
EVENTS = "text/event-stream"
# Proxies are not to keep an answer, nor hold it back until it is whole.
UNKEPT = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true in chunks, and `data: [DONE]` at the end",
        "content": {"application/json": {"schema": {"type": "object"}}, EVENTS: {"schema": {"type": "string"}}},
    }
}


def routes(
    engine: Works, reader: Reader, allowed: Callable[..., Caller], read: Callable[[int], None] = lambda _: None
) -> APIRouter:
    """The router; ``read`` is told of every request how many tokens its prompts have."""
    router, who = APIRouter(tags=["openai"]), Depends(allowed)

    async def completions(request: Request, caller: Caller = who) -> Response:
        """Continue one prompt or several, each by a model that has learned for it."""
        return await answered(request, caller, reader.completion)

    async def chat(request: Request, caller: Caller = who) -> Response:
        """Answer a conversation."""
        return await answered(request, caller, reader.chat)

    async def answered(request: Request, caller: Caller, parse: Callable[[Any, Needs], Asked]) -> Response:
        asked = await body_of(request, lambda body: parse(body, caller.reads), slow=True)
        request.state.mode = asked.jobs[0].mode.name
        read(sum(len(job.ids) for job in asked.jobs))
        told = events(engine, [replace(job, asker=caller.name) for job in asked.jobs], request.receive)
        if asked.stream:
            return await _streamed(asked, told)
        return Response(await _whole(asked, told), media_type="application/json")

    for path, handle, schema in (("completions", completions, COMPLETION), ("chat/completions", chat, CHAT)):
        router.add_api_route(
            f"/v1/{path}", handle, methods=["POST"], responses=ANSWERS, openapi_extra={"requestBody": shown(schema)}
        )
    return router


async def _whole(asked: Asked, told: Told) -> bytes:
    replies = Replies(asked)
    async with aclosing(told):
        async for place, event in told:
            replies.take(place, event)
    # With an echo and logprobs these are tens of megabytes, and others are to be answered meanwhile.
    return await asyncio.to_thread(lambda: in_parts(replies.whole()))


async def _streamed(asked: Asked, told: Told) -> Response:
    """Once there is something to say: what fails before that has a status of its own."""
    chunks = _chunks(asked, told)
    first = await anext(chunks)

    async def all_of_them() -> AsyncGenerator[bytes, None]:
        yield first
        async for chunk in chunks:
            yield chunk

    return StreamingResponse(all_of_them(), media_type=EVENTS, headers=UNKEPT)


async def _chunks(asked: Asked, told: Told) -> AsyncGenerator[bytes, None]:
    replies, began = Replies(asked), False
    try:
        async with aclosing(told):
            async for place, event in told:
                if isinstance(event, Read):  # the whole prompt, in each choice
                    lines = await asyncio.to_thread(_long_lines, replies, place, event)
                else:
                    lines = [_line(chunk) for chunk in replies.chunks(place, event)]
                for line in lines:
                    began = True
                    yield line
    except HungUp:
        if not began:
            raise
        return
    except Exception as error:
        if not began:
            raise
        yield _line(refusal(error)[1])  # the status was sent long ago
        return
    for chunk in replies.last():
        yield _line(chunk)
    yield b"data: [DONE]\n\n"


def _line(content: JSON, json: Callable[[JSON], bytes] = encoded) -> bytes:
    return b"data: " + json(content) + b"\n\n"


def _long_lines(replies: Replies, place: int, event: Event) -> list[bytes]:
    return [_line(chunk, in_parts) for chunk in replies.chunks(place, event)]
