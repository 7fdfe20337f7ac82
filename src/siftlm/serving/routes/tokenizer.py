"""``/tokenizer_info``, ``/tokenize`` and ``/detokenize``, as vLLM has them and lm-evaluation-harness asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import json_response
from siftlm.serving.errors import BadRequest
from siftlm.serving.limits import check_items, check_texts
from siftlm.serving.middleware import read_body
from siftlm.serving.requests import RequestParser
from siftlm.serving.schemas import DETOKENIZE_SCHEMA, TOKENIZE_SCHEMA, openapi_body, parse_fields

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def routes(reader: RequestParser, allowed: Callable[..., Caller]) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["tokens"], dependencies=[Depends(allowed)])

    async def tokenizer_info() -> Response:
        """Special tokens, and the template of conversations."""
        return json_response(_tokenizer_info(reader))

    async def tokenize(request: Request) -> Response:
        """A text, or a conversation, as token ids."""
        return json_response(await read_body(request, partial(_tokenize, reader), slow=True))

    async def detokenize(request: Request) -> Response:
        """Token ids as text, with special tokens as they are written."""
        return json_response(await read_body(request, partial(_detokenize, reader), slow=True))

    router.add_api_route("/tokenizer_info", tokenizer_info, methods=["GET"])
    for path, handle, schema in (
        ("/tokenize", tokenize, TOKENIZE_SCHEMA),
        ("/detokenize", detokenize, DETOKENIZE_SCHEMA),
    ):
        router.add_api_route(path, handle, methods=["POST"], openapi_extra={"requestBody": openapi_body(schema)})
    return router


def _tokenizer_info(reader: RequestParser) -> dict[str, Any]:
    tokenizer = reader.tokenizer
    known: dict[str, Any] = {"tokenizer_class": type(tokenizer).__name__, "model_max_length": reader.context}
    for name in SPECIAL_TOKENS:
        token = getattr(tokenizer, name, None)
        known[name] = None if token is None else str(token)
    template = getattr(tokenizer, "chat_template", None)
    known["chat_template"] = template.get("default") if isinstance(template, dict) else template
    return known


def _detokenize(reader: RequestParser, body: Any) -> dict[str, Any]:
    check_items(body, "tokens", reader.limits.ids, "token ids")
    ids = parse_fields(body, DETOKENIZE_SCHEMA)["tokens"]
    reader.check_tokens(ids, "tokens")
    return {"prompt": reader.text(ids)}


def _tokenize(reader: RequestParser, body: Any) -> dict[str, Any]:
    check_items(body, "messages", reader.limits.messages, "messages")
    given = parse_fields(body, TOKENIZE_SCHEMA)
    if (given["prompt"] is None) == (given["messages"] is None):
        raise BadRequest("you must provide either prompt or messages", param="prompt")
    if given["messages"] is not None:
        ids = list(reader.messages(given["messages"]).ids)
    else:
        check_texts("prompt", [given["prompt"]], reader.limits)
        ids = reader.tokens(given["prompt"], special=given["add_special_tokens"])
    pieces = reader.tokenizer.convert_ids_to_tokens(ids) if given["return_token_strs"] else None
    return {"count": len(ids), "max_model_len": reader.context, "tokens": ids, "token_strs": pieces}
