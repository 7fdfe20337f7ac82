"""SIFT over Qdrant: `query_points` in the place of the client's own.

    points = client.query_points("docs", query=vector, limit=10).points           # before
    points = query_points(client, "docs", query=vector, limit=10).points          # after

Vectors come with the hits, and filters go to Qdrant. `query_points_async` takes an ``AsyncQdrantClient``. A collection
in a memory's place: `siftlm.integrations.qdrant_store`.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput, setting
from siftlm.integrations.ranking import DEFAULT_FETCH, DEFAULT_N, Ranking, rank, with_costs
from siftlm.integrations.retrieval import check_selection
from siftlm.selection import checks
from siftlm.validation import flag, whole_number

if TYPE_CHECKING:
    from qdrant_client.models import ScoredPoint


@dataclass(frozen=True, eq=False)
class PickedPoints:
    """The points that SIFT picked, most informative first."""

    points: list[ScoredPoint]
    """As Qdrant returned them: ids, payloads and scores."""
    ranking: Ranking
    """The figures of each, in the same order, and the verdict on all."""


def query_points(
    client: Any,
    collection_name: str,
    query: npt.ArrayLike,
    limit: int = DEFAULT_N,
    *,
    fetch: int | None = None,
    using: str | None = None,
    with_vectors: bool = False,
    select_kwargs: Mapping[str, Any] | None = None,
    **search: Any,
) -> PickedPoints:
    """The points nearest to the query that together tell most about it, and why there are no more.

    Args:
        client: a ``QdrantClient``.
        collection_name: the collection.
        query: a vector (d,), or several (m, d), such as those of sub-questions. Where the collection holds
            multivectors, several are one multivector, such as a question's tokens; a point then counts by the mean of
            its own.
        limit: at most so many points.
        fetch: pick from so many nearest points of each vector; 50, or ``limit`` where that is more.
        using: the name of the vectors, where they have one.
        with_vectors: return the points with the vectors by which they were compared.
        select_kwargs: settings of `siftlm.integrations.ranking.rank`, such as ``{"until": 0.2}``; ``costs`` may be a
            function of a payload.
        **search: as for the client's own ``query_points``: ``query_filter``, ``search_params``, ``with_payload``,
            ``prefetch``, ``score_threshold``, … A point that several vectors find has its score with the first.
    """
    request = _Request(query, limit, fetch, using, with_vectors, select_kwargs or {})
    together = request.many and _holds_multivectors(client.get_collection(collection_name), using)
    return request.picked([client.query_points(collection_name, **one, **search) for one in request.searches(together)])


async def query_points_async(
    client: Any,
    collection_name: str,
    query: npt.ArrayLike,
    limit: int = DEFAULT_N,
    *,
    fetch: int | None = None,
    using: str | None = None,
    with_vectors: bool = False,
    select_kwargs: Mapping[str, Any] | None = None,
    **search: Any,
) -> PickedPoints:
    """`query_points`, with an ``AsyncQdrantClient``."""
    request = _Request(query, limit, fetch, using, with_vectors, select_kwargs or {})
    together = request.many and _holds_multivectors(await client.get_collection(collection_name), using)
    searches = request.searches(together)
    return request.picked(await gather(*(client.query_points(collection_name, **one, **search) for one in searches)))


def vector_params(collection: Any, using: str | None) -> Any:
    """The settings of a collection's vectors with this name; None where it has none."""
    vectors = collection.config.params.vectors
    if isinstance(vectors, Mapping):
        return vectors.get(using or "")
    return None if using else vectors


@dataclass(frozen=True, eq=False)
class _Request:
    """A checked query: what to ask of Qdrant, and what to make of its answers."""

    query: npt.ArrayLike
    limit: int
    fetch: int | None
    using: str | None
    with_vectors: bool
    settings: Mapping[str, Any]
    targets: checks.RealArray = field(init=False)

    def __post_init__(self) -> None:
        # What a function of a payload costs is only known when there are points.
        costs = {"costs": len} if callable(self.settings.get("costs")) else {}
        check_selection(self.limit, {**self.settings, **costs}, count="limit")
        flag("with_vectors", self.with_vectors)
        if self.fetch is not None and whole_number("fetch", self.fetch) < self.limit:
            raise InvalidInput(f"{setting('fetch', self.fetch)} must be at least {setting('limit', self.limit)}")
        if isinstance(self.query, (str, Number, UUID)):
            raise InvalidInput(
                f"{setting('query')} must hold vectors, got {self.query!r:.60}: SIFT compares by vectors, so "
                "pass those of the point or text"
            )
        object.__setattr__(self, "targets", checks.matrix("query", self.query))

    @property
    def many(self) -> bool:
        """Are there several vectors, or one as the only row of several?"""
        return np.ndim(self.query) > 1

    def searches(self, together: bool) -> list[dict[str, Any]]:
        """The arguments of each search: one search for a multivector, else one for each vector."""
        rest = {
            "using": self.using,
            "limit": self.fetch or max(self.limit, DEFAULT_FETCH),
            "with_vectors": [self.using] if self.using else True,
        }
        rows = self.targets.tolist()
        return [{"query": one, **rest} for one in ([rows] if together else rows)]

    def picked(self, answers: Sequence[Any]) -> PickedPoints:
        """What SIFT picks from the points that the searches found, each counted once."""
        found: dict[Any, Any] = {}
        for answer in answers:
            for point in answer.points:
                found.setdefault(point.id, point)
        points = list(found.values())
        settings: Any = self.settings
        payloads: Any = [one.payload or {} for one in points]
        vectors = [_vector(one, self.using) for one in points]
        ranking = rank(self.targets, vectors, self.limit, **with_costs(settings, payloads))
        hidden = {} if self.with_vectors else {"vector": None}
        return PickedPoints([points[at].model_copy(update=hidden) for at in ranking.indices], ranking)


def _holds_multivectors(collection: Any, using: str | None) -> bool:
    return getattr(vector_params(collection, using), "multivector_config", None) is not None


def _vector(point: Any, using: str | None) -> npt.NDArray[Any]:
    """The vector of a point; of a multivector, the mean."""
    vector = point.vector.get(using or "") if isinstance(point.vector, Mapping) else point.vector
    if vector is None:
        raise InvalidInput(f"point {point.id} has no vector {setting('using', using)} by which to compare it")
    array = np.asarray(vector)
    return array if array.ndim == 1 else array.mean(axis=0)
