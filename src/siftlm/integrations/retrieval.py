"""What adapters share besides the ranking: a memory's passages as documents, and checks of settings before a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.integrations.ranking import METADATA_KEY, Ranking, check_settings, memory_settings, ranking_of
from siftlm.memory import Hit
from siftlm.memory.request import Query
from siftlm.memory.searcher import Searcher
from siftlm.validation import whole_number


@dataclass(frozen=True, eq=False)
class RetrievedPassage:
    """A passage of a memory, with what a document of a framework needs."""

    hit: Hit
    id: str
    """The id of its document, with the part where a document has several; ``row-7`` where it has none."""
    metadata: dict[str, Any]
    """The metadata of its document; under `METADATA_KEY` its figures, the verdict on all, and its row."""


def check_memory_search(memory: object, n: int, settings: Mapping[str, Any], *, count: str) -> Searcher:
    """The memory, or what `search_memory` would raise for it and these settings, whatever the query is.

    Args:
        memory: a `siftlm.Memory`, or a `siftlm.memory.Outside`.
        n: how many passages at most; ``count`` is what the adapter calls it.
        settings: arguments of `Memory.search`.
    """
    if not isinstance(memory, Searcher):
        raise InvalidInput(f"{setting('memory')} must be a siftlm.Memory, got {type(memory).__name__}")
    _check_count("search_kwargs", n, settings, count)
    memory.check(n, **memory_settings(settings.get("method", "sift"), settings))
    return memory


def check_selection(n: int, settings: Mapping[str, Any], *, count: str) -> None:
    """Raise what `ranking.rank` would raise for these settings, whatever the query and the candidates are."""
    _check_count("select_kwargs", n, settings, count)
    check_settings(**settings)


def search_memory(
    memory: Searcher, query: Query, n: int, settings: Mapping[str, Any]
) -> tuple[list[RetrievedPassage], Ranking]:
    """The passages that SIFT picks from a memory, most informative first, and their ranking."""
    filled = memory_settings(settings.get("method", "sift"), settings)
    found = memory.search(query, n, **filled)
    ranking = ranking_of(found, filled)
    passages = [
        RetrievedPassage(
            hit=hit, id=_passage_id(hit), metadata={**hit.meta, METADATA_KEY: {**ranking.metadata(at), "row": hit.row}}
        )
        for at, hit in enumerate(found)
    ]
    return passages, ranking


def _check_count(name: str, n: int, settings: Mapping[str, Any], count: str) -> None:
    if not isinstance(settings, Mapping):
        raise InvalidInput(f"{setting(name)} must be a dict of settings, got {type(settings).__name__}")
    if "n" in settings:
        raise Conflict(f"{setting('n')} does not belong into {setting(name)}: pass {setting(count)}")
    whole_number(count, n)


def _passage_id(hit: Hit) -> str:
    if hit.id is None:
        return f"row-{hit.row}"
    return hit.id if hit.parts == 1 else f"{hit.id}-{hit.part}"
