"""``/v1/embeddings``: vectors of texts by the embedder of a memory."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from siftlm.embedding.protocol import Embedder
from siftlm.memory.vectors import unit_rows
from siftlm.serving.auth import Caller
from siftlm.serving.errors import BadRequest, NotFound
from siftlm.serving.limits import RequestLimits, check_items, check_texts
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import ModeParser
from siftlm.serving.responses import encode_json_in_parts
from siftlm.serving.schemas import EMBEDDINGS_SCHEMA, openapi_body, parse_fields
from siftlm.serving.streaming import EngineProtocol, call_engine
from siftlm.types import Vectors

# Texts that are embedded without a pause: the model's thread has others to serve.
EMBED_BATCH_TEXTS = 32


def routes(
    engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller], limits: RequestLimits
) -> APIRouter:
    """The router."""
    router, who = APIRouter(tags=["openai"]), Depends(allowed)

    async def embeddings(request: Request, caller: Caller = who) -> Response:
        """Vectors by a memory's embedder, of unit length as OpenAI's are."""
        given, texts = await read_body(request, partial(_parse_body, limits))
        name = _find_memory(engine, modes, given["model"], (given["siftlm"] or {}).get("memory"), caller)
        embedder = engine.memories[name].embedder
        if given["dimensions"] not in {None, embedder.width}:
            raise BadRequest(f"the vectors of {embedder.name} have {embedder.width} dimensions", param="dimensions")
        deadline, vectors, read = time.monotonic() + limits.seconds, [], 0
        for start in range(0, len(texts), EMBED_BATCH_TEXTS):
            part = texts[start : start + EMBED_BATCH_TEXTS]
            made, tokens = await call_engine(engine, partial(_embed, embedder, part), request.receive, deadline)
            vectors += list(made)
            read += tokens
        return Response(await asyncio.to_thread(_response_json, given, vectors, read), media_type="application/json")

    router.add_api_route(
        "/v1/embeddings", embeddings, methods=["POST"], openapi_extra={"requestBody": openapi_body(EMBEDDINGS_SCHEMA)}
    )
    return router


def _parse_body(limits: RequestLimits, body: Any) -> tuple[dict[str, Any], list[str]]:
    """(fields, texts)."""
    check_items(body, "input", limits.inputs, "texts")
    given = parse_fields(body, EMBEDDINGS_SCHEMA)
    texts = [given["input"]] if isinstance(given["input"], str) else given["input"]
    check_texts("input", texts, limits)
    return given, texts


def _find_memory(engine: EngineProtocol, modes: ModeParser, model: str, asked: str | None, caller: Caller) -> str:
    """Whose embedder it is: that of the memory that is named, of the model's, or of the embedder's own name."""
    if asked is None:
        made_by = [name for name in modes.memories if engine.memories[name].embedder.name == model]
        asked = next((name for name in made_by if caller.may(name, "read")), None)
        if asked is None and made_by:
            caller.reads(made_by[0], False)
    if asked is None:
        asked = modes.parse(model, None, caller.reads).memory
    found = next(iter(modes.memories), "") if asked is None else asked
    caller.reads(found, asked is not None)
    if found not in engine.memories:
        raise NotFound(f"there is no memory {found!r:.60}", param="siftlm.memory", code="memory_not_found")
    return found


def _embed(embedder: Embedder, texts: Sequence[str]) -> tuple[Vectors, int]:
    """(vectors, how many tokens were read)."""
    most = embedder.max_tokens
    lengths = [len(one) if most is None else min(len(one), most) for one in embedder.tokens(texts)]
    # Of unit length, as OpenAI's are and as the memory compares them.
    return np.nan_to_num(unit_rows(np.asarray(embedder.embed(texts), dtype=np.float32))), sum(lengths)


def _response_json(given: Mapping[str, Any], vectors: Sequence[Any], read: int) -> bytes:
    shape = _base64 if given["encoding_format"] == "base64" else _floats
    data = [{"object": "embedding", "index": at, "embedding": shape(one)} for at, one in enumerate(vectors)]
    usage = {"prompt_tokens": read, "total_tokens": read}
    return encode_json_in_parts({"object": "list", "data": data, "model": given["model"], "usage": usage})


def _floats(vector: Any) -> list[float]:
    return [float(number) for number in vector]


def _base64(vector: Any) -> str:
    """As OpenAI's client asks for them: float32, the least byte first."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
