"""``/v1/embeddings``: vectors of texts, from the embedder of a memory."""

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
from siftlm.serving.events import EngineProtocol
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import ModeParser
from siftlm.serving.responses import encode_json_in_parts
from siftlm.serving.schemas import (
    EMBEDDINGS_SCHEMA,
    RequestLimits,
    check_items,
    check_texts,
    openapi_body,
    parse_fields,
)
from siftlm.serving.streaming import call_engine
from siftlm.types import Vectors

# Texts to embed in one call: the model's thread has other requests to serve.
EMBED_BATCH_TEXTS = 32


def routes(
    engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller], limits: RequestLimits
) -> APIRouter:
    """The router of ``/v1/embeddings``."""
    router, auth = APIRouter(tags=["openai"]), Depends(allowed)

    async def embeddings(request: Request, caller: Caller = auth) -> Response:
        """Vectors from a memory's embedder, of unit length like OpenAI's."""
        fields, texts = await read_body(request, partial(_parse_body, limits))
        name = _find_memory(engine, modes, fields["model"], (fields["siftlm"] or {}).get("memory"), caller)
        embedder = engine.memories[name].embedder
        if fields["dimensions"] not in {None, embedder.width}:
            raise BadRequest(f"the vectors of {embedder.name} have {embedder.width} dimensions", param="dimensions")
        deadline, vectors, read = time.monotonic() + limits.seconds, [], 0
        for start in range(0, len(texts), EMBED_BATCH_TEXTS):
            batch = texts[start : start + EMBED_BATCH_TEXTS]
            embedded, tokens = await call_engine(engine, partial(_embed, embedder, batch), request.receive, deadline)
            vectors += list(embedded)
            read += tokens
        return Response(await asyncio.to_thread(_response_json, fields, vectors, read), media_type="application/json")

    router.add_api_route(
        "/v1/embeddings", embeddings, methods=["POST"], openapi_extra={"requestBody": openapi_body(EMBEDDINGS_SCHEMA)}
    )
    return router


def _parse_body(limits: RequestLimits, body: Any) -> tuple[dict[str, Any], list[str]]:
    """The parsed body: (fields, texts)."""
    check_items(body, "input", limits.inputs, "texts")
    fields = parse_fields(body, EMBEDDINGS_SCHEMA)
    texts = [fields["input"]] if isinstance(fields["input"], str) else fields["input"]
    check_texts("input", texts, limits)
    return fields, texts


def _find_memory(engine: EngineProtocol, modes: ModeParser, model: str, named: str | None, caller: Caller) -> str:
    """The memory whose embedder to use: the one named, one whose embedder is ``model``, or that of the model's name."""
    if named is None:
        matches = [name for name in modes.memories if engine.memories[name].embedder.name == model]
        named = next((name for name in matches if caller.may(name, "read")), None)
        if named is None and matches:
            caller.reads(matches[0], False)
    if named is None:
        named = modes.parse(model, None, caller.reads).memory
    memory = next(iter(modes.memories), "") if named is None else named
    caller.reads(memory, named is not None)
    if memory not in engine.memories:
        raise NotFound(f"there is no memory {memory!r:.60}", param="siftlm.memory", code="memory_not_found")
    return memory


def _embed(embedder: Embedder, texts: Sequence[str]) -> tuple[Vectors, int]:
    """The texts' unit vectors, as the memory compares them, and the number of tokens read."""
    most = embedder.max_tokens
    lengths = [len(one) if most is None else min(len(one), most) for one in embedder.tokens(texts)]
    return np.nan_to_num(unit_rows(np.asarray(embedder.embed(texts), dtype=np.float32))), sum(lengths)


def _response_json(fields: Mapping[str, Any], vectors: Sequence[Any], read: int) -> bytes:
    encode = _base64 if fields["encoding_format"] == "base64" else _floats
    data = [{"object": "embedding", "index": at, "embedding": encode(one)} for at, one in enumerate(vectors)]
    usage = {"prompt_tokens": read, "total_tokens": read}
    return encode_json_in_parts({"object": "list", "data": data, "model": fields["model"], "usage": usage})


def _floats(vector: Any) -> list[float]:
    return [float(number) for number in vector]


def _base64(vector: Any) -> str:
    """The format that OpenAI's client requests: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
