"""``/tokenizer_info``, ``/tokenize`` and ``/detokenize``, as in vLLM's API, for lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import json_response
from siftlm.serving.errors import BadRequest
from siftlm.serving.middleware import read_body
from siftlm.serving.requests import RequestParser
from siftlm.serving.schemas import (
    DETOKENIZE_SCHEMA,
    TOKENIZE_SCHEMA,
    check_items,
    check_texts,
    openapi_body,
    parse_fields,
)

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def routes(parser: RequestParser, allowed: Callable[..., Caller]) -> APIRouter:
    """The router of these paths."""
    router = APIRouter(tags=["tokens"], dependencies=[Depends(allowed)])

    async def tokenizer_info() -> Response:
        """Special tokens, and the chat template."""
        return json_response(_tokenizer_info(parser))

    async def tokenize(request: Request) -> Response:
        """A text, or a conversation, as token ids."""
        return json_response(await read_body(request, partial(_tokenize, parser), slow=True))

    async def detokenize(request: Request) -> Response:
        """Token ids as text, special tokens included."""
        return json_response(await read_body(request, partial(_detokenize, parser), slow=True))

    router.add_api_route("/tokenizer_info", tokenizer_info, methods=["GET"])
    for path, handle, schema in (
        ("/tokenize", tokenize, TOKENIZE_SCHEMA),
        ("/detokenize", detokenize, DETOKENIZE_SCHEMA),
    ):
        router.add_api_route(path, handle, methods=["POST"], openapi_extra={"requestBody": openapi_body(schema)})
    return router


def _tokenizer_info(parser: RequestParser) -> dict[str, Any]:
    tokenizer = parser.tokenizer
    info: dict[str, Any] = {"tokenizer_class": type(tokenizer).__name__, "model_max_length": parser.context}
    for name in SPECIAL_TOKENS:
        token = getattr(tokenizer, name, None)
        info[name] = None if token is None else str(token)
    template = getattr(tokenizer, "chat_template", None)
    info["chat_template"] = template.get("default") if isinstance(template, dict) else template
    return info


def _detokenize(parser: RequestParser, body: Any) -> dict[str, Any]:
    check_items(body, "tokens", parser.limits.ids, "token ids")
    ids = parse_fields(body, DETOKENIZE_SCHEMA)["tokens"]
    parser.check_tokens(ids, "tokens")
    return {"prompt": parser.text(ids)}


def _tokenize(parser: RequestParser, body: Any) -> dict[str, Any]:
    check_items(body, "messages", parser.limits.messages, "messages")
    fields = parse_fields(body, TOKENIZE_SCHEMA)
    if (fields["prompt"] is None) == (fields["messages"] is None):
        raise BadRequest("you must provide either prompt or messages", param="prompt")
    if fields["messages"] is not None:
        ids = list(parser.messages(fields["messages"]).ids)
    else:
        check_texts("prompt", [fields["prompt"]], parser.limits)
        ids = parser.tokens(fields["prompt"], special=fields["add_special_tokens"])
    pieces = parser.tokenizer.convert_ids_to_tokens(ids) if fields["return_token_strs"] else None
    return {"count": len(ids), "max_model_len": parser.context, "tokens": ids, "token_strs": pieces}
