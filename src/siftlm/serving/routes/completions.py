"""``/v1/completions`` and ``/v1/chat/completions``: a body, jobs, events, an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import encode_json, error_parts
from siftlm.serving.events import Event, PromptRead
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import AccessCheck
from siftlm.serving.requests import ParsedRequest, RequestParser
from siftlm.serving.responses import JsonObject, ResponseBuilder, encode_json_in_parts
from siftlm.serving.schemas import CHAT_SCHEMA, COMPLETION_SCHEMA, openapi_body
from siftlm.serving.streaming import ClientDisconnected, EngineProtocol, stream_events

EventStream = AsyncGenerator[tuple[int, Event], None]
EVENT_STREAM_TYPE = "text/event-stream"
# Proxies are not to keep an answer, nor hold it back until it is whole.
NO_CACHE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
RESPONSE_SCHEMAS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true in chunks, and `data: [DONE]` at the end",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            EVENT_STREAM_TYPE: {"schema": {"type": "string"}},
        },
    }
}


def routes(
    engine: EngineProtocol,
    reader: RequestParser,
    allowed: Callable[..., Caller],
    read: Callable[[int], None] = lambda _: None,
) -> APIRouter:
    """The router; ``read`` is told of every request how many tokens its prompts have."""
    router, who = APIRouter(tags=["openai"]), Depends(allowed)

    async def completions(request: Request, caller: Caller = who) -> Response:
        """Continue one prompt or several, each by a model that has learned for it."""
        return await answered(request, caller, reader.completion)

    async def chat(request: Request, caller: Caller = who) -> Response:
        """Answer a conversation."""
        return await answered(request, caller, reader.chat)

    async def answered(
        request: Request, caller: Caller, parse: Callable[[Any, AccessCheck], ParsedRequest]
    ) -> Response:
        asked = await read_body(request, lambda body: parse(body, caller.reads), slow=True)
        request.state.mode = asked.jobs[0].mode.name
        read(sum(len(job.ids) for job in asked.jobs))
        told = stream_events(engine, [replace(job, asker=caller.name) for job in asked.jobs], request.receive)
        if asked.stream:
            return await _streaming_response(asked, told)
        return Response(await _full_response(asked, told), media_type="application/json")

    for path, handle, schema in (
        ("completions", completions, COMPLETION_SCHEMA),
        ("chat/completions", chat, CHAT_SCHEMA),
    ):
        router.add_api_route(
            f"/v1/{path}",
            handle,
            methods=["POST"],
            responses=RESPONSE_SCHEMAS,
            openapi_extra={"requestBody": openapi_body(schema)},
        )
    return router


async def _full_response(asked: ParsedRequest, told: EventStream) -> bytes:
    replies = ResponseBuilder(asked)
    async with aclosing(told):
        async for place, event in told:
            replies.take(place, event)
    # With an echo and logprobs these are tens of megabytes, and others are to be answered meanwhile.
    return await asyncio.to_thread(lambda: encode_json_in_parts(replies.whole()))


async def _streaming_response(asked: ParsedRequest, told: EventStream) -> Response:
    """Once there is something to say: what fails before that has a status of its own."""
    chunks = _stream_lines(asked, told)
    first = await anext(chunks)

    async def all_of_them() -> AsyncGenerator[bytes, None]:
        yield first
        async for chunk in chunks:
            yield chunk

    return StreamingResponse(all_of_them(), media_type=EVENT_STREAM_TYPE, headers=NO_CACHE_HEADERS)


async def _stream_lines(asked: ParsedRequest, told: EventStream) -> AsyncGenerator[bytes, None]:
    replies, began = ResponseBuilder(asked), False
    try:
        async with aclosing(told):
            async for place, event in told:
                if isinstance(event, PromptRead):  # the whole prompt, in each choice
                    lines = await asyncio.to_thread(_large_sse_lines, replies, place, event)
                else:
                    lines = [_sse_line(chunk) for chunk in replies.chunks(place, event)]
                for line in lines:
                    began = True
                    yield line
    except ClientDisconnected:
        if not began:
            raise
        return
    except Exception as error:
        if not began:
            raise
        yield _sse_line(error_parts(error)[1])  # the status was sent long ago
        return
    for chunk in replies.last():
        yield _sse_line(chunk)
    yield b"data: [DONE]\n\n"


def _sse_line(content: JsonObject, json: Callable[[JsonObject], bytes] = encode_json) -> bytes:
    return b"data: " + json(content) + b"\n\n"


def _large_sse_lines(replies: ResponseBuilder, place: int, event: Event) -> list[bytes]:
    return [_sse_line(chunk, encode_json_in_parts) for chunk in replies.chunks(place, event)]
