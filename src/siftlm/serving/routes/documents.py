"""``/v1/documents``: listing, adding and deleting the documents of a memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from siftlm.errors import InvalidInput
from siftlm.memory import Listed, Memory
from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import MEMORY_ERRORS, json_response
from siftlm.serving.errors import BadRequest, MemoryLocked, NotFound
from siftlm.serving.events import EngineProtocol, ResultT
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import ModeParser
from siftlm.serving.schemas import TEXT, Schema, openapi_body, parse_fields

MAX_DOCUMENTS = 1000
"""Documents in one request."""
LOCK_WAIT_SECONDS = 5.0
"""Seconds that a change waits for another process."""
MAX_WAITING_CHANGES = 16
"""Changes that may wait for their turn in this process."""
MAX_DOCUMENT_NUMBER = 2**63 - 1
MAX_ID_CHARACTERS = 1000
"""Characters of an id, which must fit into a URL."""


DOCUMENT_SCHEMA: Schema = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {**TEXT, "minLength": 1},
        "id": {
            **TEXT,
            "maxLength": MAX_ID_CHARACTERS,
            "title": f"a string of at most {MAX_ID_CHARACTERS} characters to find and delete it by; new by default",
        },
        "meta": {"type": "object", "title": "an object of values to filter by"},
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
        "memory": {**TEXT, "title": "the name of a memory; by default the first one"},
    },
}


class ChangeQueue:
    """Makes one change at a time: a memory has one writer, and embedding competes with answers for the processors."""

    def __init__(self) -> None:
        self._turn, self._waiting = asyncio.Semaphore(1), 0

    async def take(self, work: Callable[[], ResultT]) -> ResultT:
        """Run a change in a thread, after all changes before it."""
        if self._waiting >= MAX_WAITING_CHANGES:
            raise MemoryLocked(f"{MAX_WAITING_CHANGES} changes are already waiting: retry later")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(_run_memory_call, work)
        finally:
            self._waiting -= 1


def routes(engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller]) -> APIRouter:
    """The router of ``/v1/documents``."""
    router, auth, changes = APIRouter(tags=["siftlm"]), Depends(allowed), ChangeQueue()
    which = Query(None, description="The memory's name; by default the first one.")

    def memory_of(name: str | None, caller: Caller, right: str) -> tuple[str, Memory]:
        memory = name if name is not None else next(iter(modes.memories), "")
        caller.needs(memory, right, named=name is not None)
        if memory not in engine.memories:
            raise NotFound(f"there is no memory {memory!r:.60}", param="memory", code="memory_not_found")
        return memory, engine.memories[memory]

    async def list_documents(
        caller: Caller = auth,
        memory: str | None = which,
        limit: int = Query(20, ge=1, le=100),
        after: int = Query(-1, ge=-1, le=MAX_DOCUMENT_NUMBER, description="``next`` of the previous page."),
    ) -> Response:
        """Documents in the order in which they were added, each with the beginning of its text."""
        name, own = memory_of(memory, caller, "read")
        documents = await asyncio.to_thread(_run_memory_call, lambda: own.documents(after, limit + 1))
        data, more = documents[:limit], len(documents) > limit
        return json_response(
            {
                "object": "list",
                "memory": name,
                "data": [_document_json(one) for one in data],
                "has_more": more,
                "next": data[-1].number if more else None,
            }
        )

    async def add_documents(request: Request, caller: Caller = auth) -> Response:
        """Add all of the documents, or none."""
        memory, new = await read_body(request, _parse_documents, strict=True)
        name, own = memory_of(memory, caller, "write")
        ids = [f"doc-{secrets.token_hex(12)}" if one["id"] is None else one["id"] for one in new]
        texts, metas = [one["text"] for one in new], [one["meta"] or {} for one in new]
        added = await changes.take(lambda: own.add(texts, metas, ids=ids, wait=LOCK_WAIT_SECONDS))
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

    async def delete_by_id(
        request: Request,
        id: str,  # noqa: A002
        caller: Caller = auth,
        memory: str | None = which,
    ) -> Response:
        """Delete the documents with this id: later searches do not find them."""
        name, own = memory_of(memory, caller, "write")
        if request.scope["path"].endswith("\n"):  # which routing leaves out of the id
            raise NotFound("no document's id contains a line break", param="id", code="document_not_found")
        deleted = await changes.take(lambda: own.delete({"@id": id}, wait=LOCK_WAIT_SECONDS))
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

    async def delete_by_number(
        caller: Caller = auth,
        memory: str | None = which,
        number: int = Query(ge=0, le=MAX_DOCUMENT_NUMBER, description="The document's number, as listed."),
    ) -> Response:
        """Delete one document by its number, which documents without an id have as well."""
        name, own = memory_of(memory, caller, "write")
        deleted = await changes.take(lambda: own.delete(numbers=[number], wait=LOCK_WAIT_SECONDS))
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
    router.add_api_route(path, list_documents, methods=["GET"])
    router.add_api_route(
        path, add_documents, methods=["POST"], openapi_extra={"requestBody": openapi_body(ADD_DOCUMENTS_SCHEMA)}
    )
    router.add_api_route(path, delete_by_number, methods=["DELETE"])
    # Callers choose the ids, which may contain slashes.
    router.add_api_route(f"{path}/{{id:path}}", delete_by_id, methods=["DELETE"])
    return router


def _parse_documents(body: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """The body to add documents: (name of a memory, documents)."""
    fields = parse_fields(body, ADD_DOCUMENTS_SCHEMA)
    return fields["memory"], [_check_document(at, one) for at, one in enumerate(fields["documents"])]


def _check_document(at: int, document: Mapping[str, Any]) -> dict[str, Any]:
    known = DOCUMENT_SCHEMA["properties"]
    for name in document:
        if name not in known:  # data must not be dropped silently
            raise BadRequest(
                f"documents[{at}].{name:.40} is not a field of a document; available are {', '.join(known)}",
                param=f"documents[{at}].{name:.40}",
            )
    try:
        fields = parse_fields(document, DOCUMENT_SCHEMA)
    except BadRequest as error:
        raise BadRequest(
            f"documents[{at}]: {error}", param=f"documents[{at}].{error.param}", code=error.code
        ) from error
    for name, value in fields.items():
        if _has_nul(value):  # SQLite could neither search for it nor delete by it
            raise BadRequest(
                f"documents[{at}].{name} contains a NUL character (U+0000), which a memory cannot store: remove it",
                param=f"documents[{at}].{name}",
                code="invalid_value",
            )
    if "\n" in (fields["id"] or ""):
        raise BadRequest(
            f"documents[{at}].id contains a line break: an id must be one line",
            param=f"documents[{at}].id",
            code="invalid_value",
        )
    return fields


def _has_nul(value: Any) -> bool:
    """True if a text anywhere inside the value contains a NUL."""
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
    """Run a call to a memory; an invalid value is reported as one of the documents."""
    try:
        return work()
    except MEMORY_ERRORS:  # about the memory itself, and not for clients
        raise
    except InvalidInput as error:
        raise BadRequest.caused_by(error, param="documents") from error
