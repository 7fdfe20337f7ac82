"""The body of a request as JSON, whatever was sent."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from siftlm.serving.refusals import BadRequest

if TYPE_CHECKING:
    from fastapi import Request

ParsedT = TypeVar("ParsedT")

LARGE_BODY_BYTES = 100_000
"""Bytes; what is larger is read in a thread, and others are answered meanwhile."""
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class UnsupportedMediaType(BadRequest):
    """The body says that it is something else than JSON."""

    status = 415
    code = "unsupported_media_type"


async def read_body(
    request: Request, read: Callable[[Any], ParsedT], *, slow: bool = False, kept: bool = False
) -> ParsedT:
    """What is read from the body of a request, or an error that says what is wrong with it.

    ``slow``: the reading itself takes a while, however short the body is. ``kept``: it is to be found again as it is.
    Only ``application/json`` is read: a page of another site can make a browser send anything else without asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    body = await request.body()
    if slow or len(body) > LARGE_BODY_BYTES:
        return await asyncio.to_thread(lambda: read(parse_json(body, kept=kept)))
    return read(parse_json(body, kept=kept))


def parse_json(body: bytes, *, kept: bool = False) -> Any:
    """JSON as Python has it, of texts that can be written in UTF-8. What is to be ``kept`` is refused if it cannot.

    >>> parsed(b'{"n": 1}'), parsed(b'"half a character: \\\\ud83d"')
    ({'n': 1}, 'half a character: ?')
    """
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if SURROGATE_ESCAPE.search(body):  # halves of characters can be written in JSON, and nowhere else
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "strict" if kept else "replace"))
    except UnicodeEncodeError as error:
        raise BadRequest(
            "a text has half of a character in it (a lone surrogate), which cannot be kept", code="invalid_value"
        ) from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.100}"
        raise BadRequest(f"the body is not JSON: {said}", code="invalid_json") from error
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
