"""``/v1/documents``: what is in a memory, what is added, what is taken back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from siftlm.errors import InvalidInput
from siftlm.memory import Listed, Memory
from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import MEMORY_ERRORS, json_response
from siftlm.serving.errors import BadRequest, MemoryLocked, NotFound
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import ModeParser
from siftlm.serving.schemas import TEXT, Schema, openapi_body, parse_fields
from siftlm.serving.streaming import EngineProtocol

ResultT = TypeVar("ResultT")

MAX_DOCUMENTS = 1000
"""Documents of one request."""
LOCK_WAIT_SECONDS = 5.0
"""Seconds that a change waits for another process."""
MAX_WAITING_CHANGES = 16
"""Changes that wait for one another in this process."""
MAX_DOCUMENT_NUMBER = 2**63 - 1
MAX_ID_CHARACTERS = 1000
"""Characters of an id: it has to fit into the address that deletes it."""


DOCUMENT_SCHEMA: Schema = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {**TEXT, "minLength": 1},
        "id": {
            **TEXT,
            "maxLength": MAX_ID_CHARACTERS,
            "title": f"a string of up to {MAX_ID_CHARACTERS} characters to find and delete it by; left out, one is "
            "made up",
        },
        "meta": {"type": "object", "title": "an object of whatever a filter shall find it by"},
    },
    "additionalProperties": False,
}
ADD_DOCUMENTS_SCHEMA: Schema = {
    "type": "object",
    "required": ["documents"],
    "properties": {
        "documents": {
            "type": "array",
            "items": DOCUMENT_SCHEMA,
            "minItems": 1,
            "maxItems": MAX_DOCUMENTS,
            "title": f"a list of 1 to {MAX_DOCUMENTS} documents, each an object with a text",
        },
        "memory": {**TEXT, "title": "the name of a memory; left out, the first one"},
    },
}


class ChangeQueue:
    """Changes one after the other: a memory has one writer, and embedding takes the cores that answers need."""

    def __init__(self) -> None:
        self._turn, self._waiting = asyncio.Semaphore(1), 0

    async def take(self, work: Callable[[], ResultT]) -> ResultT:
        """Do the work in a thread, after all that came before it."""
        if self._waiting >= MAX_WAITING_CHANGES:
            raise MemoryLocked(f"{MAX_WAITING_CHANGES} changes wait already; come back later")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(_run_memory_call, work)
        finally:
            self._waiting -= 1


def routes(engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller]) -> APIRouter:
    """The router."""
    router, who, turns = APIRouter(tags=["siftlm"]), Depends(allowed), ChangeQueue()
    which = Query(None, description="The memory's name; left out, the first one.")

    def memory_of(name: str | None, caller: Caller, right: str) -> tuple[str, Memory]:
        found = name if name is not None else next(iter(modes.memories), "")
        caller.needs(found, right, named=name is not None)
        if found not in engine.memories:
            raise NotFound(f"there is no memory {found!r:.60}", param="memory", code="memory_not_found")
        return found, engine.memories[found]

    async def listing(
        caller: Caller = who,
        memory: str | None = which,
        limit: int = Query(20, ge=1, le=100),
        after: int = Query(-1, ge=-1, le=MAX_DOCUMENT_NUMBER, description="``next`` of the answer before."),
    ) -> Response:
        """Documents in the order in which they came, each with how it begins."""
        name, own = memory_of(memory, caller, "read")
        found = await asyncio.to_thread(_run_memory_call, lambda: own.documents(after, limit + 1))
        data, more = found[:limit], len(found) > limit
        return json_response(
            {
                "object": "list",
                "memory": name,
                "data": [_document_json(one) for one in data],
                "has_more": more,
                "next": data[-1].number if more else None,
            }
        )

    async def adding(request: Request, caller: Caller = who) -> Response:
        """Add all of them, or none."""
        memory, new = await read_body(request, _parse_documents, kept=True)
        name, own = memory_of(memory, caller, "write")
        ids = [f"doc-{secrets.token_hex(12)}" if one["id"] is None else one["id"] for one in new]
        texts, metas = [one["text"] for one in new], [one["meta"] or {} for one in new]
        added = await turns.take(lambda: own.add(texts, metas, ids=ids, wait=LOCK_WAIT_SECONDS))
        return json_response(
            {
                "object": "documents.added",
                "memory": name,
                "ids": ids,
                "documents": added.documents,
                "passages": added.passages,
                "duplicates": added.duplicates,
                "near_duplicates": added.near_duplicates,
            }
        )

    async def deleting(
        request: Request,
        id: str,  # noqa: A002
        caller: Caller = who,
        memory: str | None = which,
    ) -> Response:
        """Delete the documents of this id: no search that begins later finds them."""
        name, own = memory_of(memory, caller, "write")
        if request.scope["path"].endswith("\n"):  # which is not of the id, as routes are read
            raise NotFound("no document has an id with a line break", param="id", code="document_not_found")
        deleted = await turns.take(lambda: own.delete({"@id": id}, wait=LOCK_WAIT_SECONDS))
        if not deleted.documents:
            raise NotFound(f"the memory {name!r} has no document {id!r:.80}", param="id", code="document_not_found")
        return json_response(
            {
                "object": "document.deleted",
                "memory": name,
                "id": id,
                "deleted": True,
                "documents": deleted.documents,
                "passages": deleted.passages,
            }
        )

    async def deleting_by_number(
        caller: Caller = who,
        memory: str | None = which,
        number: int = Query(ge=0, le=MAX_DOCUMENT_NUMBER, description="Of the list of documents."),
    ) -> Response:
        """Delete one document by its number, which those without an id have as well."""
        name, own = memory_of(memory, caller, "write")
        deleted = await turns.take(lambda: own.delete(numbers=[number], wait=LOCK_WAIT_SECONDS))
        if not deleted.documents:
            raise NotFound(
                f"the memory {name!r} has no document number {number}", param="number", code="document_not_found"
            )
        return json_response(
            {
                "object": "document.deleted",
                "memory": name,
                "number": number,
                "deleted": True,
                "documents": deleted.documents,
                "passages": deleted.passages,
            }
        )

    path = "/v1/documents"
    router.add_api_route(path, listing, methods=["GET"])
    router.add_api_route(
        path, adding, methods=["POST"], openapi_extra={"requestBody": openapi_body(ADD_DOCUMENTS_SCHEMA)}
    )
    router.add_api_route(path, deleting_by_number, methods=["DELETE"])
    # Ids are the callers' own, and may well be paths.
    router.add_api_route(f"{path}/{{id:path}}", deleting, methods=["DELETE"])
    return router


def _parse_documents(body: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """(name of a memory, documents)."""
    given = parse_fields(body, ADD_DOCUMENTS_SCHEMA)
    return given["memory"], [_check_document(at, one) for at, one in enumerate(given["documents"])]


def _check_document(at: int, given: Mapping[str, Any]) -> dict[str, Any]:
    known = DOCUMENT_SCHEMA["properties"]
    for name in given:
        if name not in known:  # what was meant to be kept must not be lost in silence
            raise BadRequest(
                f"documents[{at}].{name:.40} is no field of a document; there are {', '.join(known)}",
                param=f"documents[{at}].{name:.40}",
            )
    try:
        found = parse_fields(given, DOCUMENT_SCHEMA)
    except BadRequest as error:
        raise BadRequest(
            f"documents[{at}]: {error}", param=f"documents[{at}].{error.param}", code=error.code
        ) from error
    for name, value in found.items():
        if _has_nul(value):  # nothing could search for it, or delete by it
            raise BadRequest(
                f"documents[{at}].{name} has a NUL (U+0000) in it, which no memory keeps: take it out",
                param=f"documents[{at}].{name}",
                code="invalid_value",
            )
    if "\n" in (found["id"] or ""):
        raise BadRequest(
            f"documents[{at}].id has a line break in it, and must be one line to be deleted by",
            param=f"documents[{at}].id",
            code="invalid_value",
        )
    return found


def _has_nul(value: Any) -> bool:
    """Somewhere in it, however deep."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str) and "\0" in one:
            return True
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
    return False


def _document_json(one: Listed) -> dict[str, Any]:
    return {
        "object": "document",
        "number": one.number,
        "id": one.id,
        "meta": dict(one.meta),
        "text": one.text,
        "passages": one.passages,
    }


def _run_memory_call(work: Callable[[], ResultT]) -> ResultT:
    """The work; where a value was wrong, it was one of the documents'."""
    try:
        return work()
    except MEMORY_ERRORS:  # which are about the memory, and name its folder
        raise
    except InvalidInput as error:
        raise BadRequest(str(error), param="documents") from error
