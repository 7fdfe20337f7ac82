"""``/v1/completions`` and ``/v1/chat/completions``: from a body to jobs, and from their events to a response."""

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
from siftlm.serving.events import EngineProtocol, Event, PromptRead
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import AccessCheck
from siftlm.serving.requests import ParsedRequest, RequestParser
from siftlm.serving.responses import JsonObject, ResponseBuilder, encode_json_in_parts
from siftlm.serving.schemas import CHAT_SCHEMA, COMPLETION_SCHEMA, openapi_body
from siftlm.serving.streaming import ClientDisconnected, stream_events

EventStream = AsyncGenerator[tuple[int, Event], None]
EVENT_STREAM_TYPE = "text/event-stream"
# Proxies must neither cache a stream nor buffer it.
NO_CACHE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
RESPONSE_SCHEMAS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream: true` in chunks that end with `data: [DONE]`",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            EVENT_STREAM_TYPE: {"schema": {"type": "string"}},
        },
    }
}


def routes(engine: EngineProtocol, parser: RequestParser, allowed: Callable[..., Caller]) -> APIRouter:
    """The router of both paths."""
    router, auth = APIRouter(tags=["openai"]), Depends(allowed)

    async def completions(request: Request, caller: Caller = auth) -> Response:
        """Continue one or several prompts, each by a model that was tuned for it."""
        return await respond(request, caller, parser.completion)

    async def chat(request: Request, caller: Caller = auth) -> Response:
        """Answer a conversation."""
        return await respond(request, caller, parser.chat)

    async def respond(request: Request, caller: Caller, parse: Callable[[Any, AccessCheck], ParsedRequest]) -> Response:
        parsed = await read_body(request, lambda body: parse(body, caller.reads), slow=True)
        request.state.mode = parsed.jobs[0].mode.name
        engine.count.read(sum(len(job.ids) for job in parsed.jobs))
        events = stream_events(engine, [replace(job, caller=caller.name) for job in parsed.jobs], request.receive)
        if parsed.stream:
            return await _streaming_response(parsed, events)
        return Response(await _full_response(parsed, events), media_type="application/json")

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


async def _full_response(parsed: ParsedRequest, events: EventStream) -> bytes:
    builder = ResponseBuilder(parsed)
    async with aclosing(events):
        async for index, event in events:
            builder.take(index, event)
    # With echo and logprobs these are tens of megabytes; in a thread, so that other requests are answered meanwhile.
    return await asyncio.to_thread(lambda: encode_json_in_parts(builder.whole()))


async def _streaming_response(parsed: ParsedRequest, events: EventStream) -> Response:
    """A stream, which starts at its first chunk: a failure before that still gets its own status."""
    chunks = _stream_lines(parsed, events)
    first = await anext(chunks)

    async def all_chunks() -> AsyncGenerator[bytes, None]:
        yield first
        async for chunk in chunks:
            yield chunk

    return StreamingResponse(all_chunks(), media_type=EVENT_STREAM_TYPE, headers=NO_CACHE_HEADERS)


async def _stream_lines(parsed: ParsedRequest, events: EventStream) -> AsyncGenerator[bytes, None]:
    builder, began = ResponseBuilder(parsed), False
    try:
        async with aclosing(events):
            async for index, event in events:
                if isinstance(event, PromptRead):  # the whole prompt, in each choice
                    lines = await asyncio.to_thread(_large_sse_lines, builder, index, event)
                else:
                    lines = [_sse_line(chunk) for chunk in builder.chunks(index, event)]
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
        yield _sse_line(error_parts(error)[1])  # the status has already been sent
        return
    for chunk in builder.last():
        yield _sse_line(chunk)
    yield b"data: [DONE]\n\n"


def _sse_line(content: JsonObject, encode: Callable[[JsonObject], bytes] = encode_json) -> bytes:
    return b"data: " + encode(content) + b"\n\n"


def _large_sse_lines(builder: ResponseBuilder, index: int, event: Event) -> list[bytes]:
    return [_sse_line(chunk, encode_json_in_parts) for chunk in builder.chunks(index, event)]
