"""``/v1/documents``: what is in a memory, what is added, what is taken back."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from siftlm.errors import Damaged, InvalidInput, Locked, Unwritable
from siftlm.extras import load
from siftlm.memory import Listed, Memory
from siftlm.serving.keys import Caller
from siftlm.serving.modes import Modes
from siftlm.serving.refusals import BadRequest, Occupied, Refused, Unknown

T = TypeVar("T")

MOST = 1000
"""Documents of one request."""
PATIENCE = 5.0
"""Seconds that a change waits for another process."""
QUEUE = 16
"""Changes that wait for one another in this process."""
LARGEST = 2**63 - 1

_log = logging.getLogger("siftlm.serving")


@dataclass
class NewDocument:
    """One to be added."""

    text: str
    id: str | None = None
    """To find and delete it by; one is made up where none is given."""
    meta: dict[str, Any] | None = None
    """Whatever a filter shall find it by."""
    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass
class NewDocuments:
    """The body of a request."""

    documents: list[NewDocument]
    memory: str | None = None
    """Its name; left out, the first one."""
    __pydantic_config__: ClassVar = {"extra": "forbid"}


class Turns:
    """Changes one after the other: a memory has one writer, and embedding takes the cores that answers need."""

    def __init__(self) -> None:
        self._turn, self._waiting = asyncio.Semaphore(1), 0

    async def take(self, work: Callable[[], T]) -> T:
        """Do the work in a thread, after all that came before it."""
        if self._waiting >= QUEUE:
            raise Occupied(f"{QUEUE} changes wait already; come back later")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(_said, work)
        finally:
            self._waiting -= 1


def routes(engine: Any, modes: Modes, allowed: Callable[..., Caller]) -> Any:
    """The router."""
    fastapi = load("fastapi", "serve")
    router = fastapi.APIRouter(tags=["siftlm"])
    who, turns = fastapi.Depends(allowed), Turns()
    which = fastapi.Query(None, description="The memory's name; left out, the first one.")

    def memory_of(name: str | None, caller: Caller, right: str) -> tuple[str, Memory]:
        found = name if name is not None else next(iter(modes.memories), "")
        caller.needs(found, right)
        if found not in engine.memories:
            raise Unknown(f"there is no memory {found!r:.60}", param="memory", code="memory_not_found")
        return found, engine.memories[found]

    async def listing(
        caller: Caller = who,
        memory: str | None = which,
        limit: int = fastapi.Query(20, ge=1, le=100),
        after: int = fastapi.Query(-1, ge=-1, le=LARGEST, description="``next`` of the answer before."),
    ) -> dict[str, Any]:
        """Documents in the order in which they came, each with how it begins."""
        name, own = memory_of(memory, caller, "read")
        found = await asyncio.to_thread(_said, lambda: own.documents(after, limit + 1))
        data, more = found[:limit], len(found) > limit
        return {
            "object": "list", "memory": name, "data": [_shown(one) for one in data], "has_more": more,
            "next": data[-1].number if more else None,
        }  # fmt: skip

    async def adding(new: NewDocuments, caller: Caller = who) -> dict[str, Any]:
        """Add all of them, or none."""
        name, own = memory_of(new.memory, caller, "write")
        if not 1 <= len(new.documents) <= MOST:
            raise BadRequest(f"documents must be 1 to {MOST:,}, got {len(new.documents):,}", param="documents")
        ids = [f"doc-{secrets.token_hex(12)}" if one.id is None else one.id for one in new.documents]
        texts, metas = [one.text for one in new.documents], [one.meta or {} for one in new.documents]
        added = await turns.take(lambda: own.add(texts, metas, ids=ids, wait=PATIENCE))
        return {
            "object": "documents.added", "memory": name, "ids": ids, "documents": added.documents,
            "passages": added.passages, "duplicates": added.duplicates, "near_duplicates": added.near_duplicates,
        }  # fmt: skip

    async def deleting(id: str, caller: Caller = who, memory: str | None = which) -> dict[str, Any]:  # noqa: A002
        """Delete the documents of this id: no search that begins later finds them."""
        name, own = memory_of(memory, caller, "write")
        deleted = await turns.take(lambda: own.delete({"@id": id}, wait=PATIENCE))
        if not deleted.documents:
            raise Unknown(f"the memory {name!r} has no document {id!r:.80}", param="id", code="document_not_found")
        return {
            "object": "document.deleted", "memory": name, "id": id, "deleted": True, "documents": deleted.documents,
            "passages": deleted.passages,
        }  # fmt: skip

    path = "/v1/documents"
    router.add_api_route(path, listing, methods=["GET"], summary="List documents")
    router.add_api_route(path, adding, methods=["POST"], summary="Add documents")
    # Ids are the callers' own, and may well be paths.
    router.add_api_route(f"{path}/{{id:path}}", deleting, methods=["DELETE"], summary="Delete a document")
    return router


def _shown(one: Listed) -> dict[str, Any]:
    return {
        "object": "document", "number": one.number, "id": one.id, "meta": dict(one.meta), "text": one.text,
        "passages": one.passages,
    }  # fmt: skip


def _said(work: Callable[[], T]) -> T:
    """The work, whose errors are said without telling where things are on this machine."""
    with _errors():
        return work()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except Locked as error:
        _log.warning("a change has to wait: %s", error)
        raise Occupied("another process writes to the memory; come back later") from error
    except (Damaged, Unwritable) as error:
        _log.error("%s", error)
        raise Refused("the memory cannot be read or written; the server's log says why", code="memory_fails") from error
    except InvalidInput as error:
        raise BadRequest(str(error), param="documents") from error
