"""A collection of Qdrant in a memory's place: `QdrantStore`, for `siftlm.memory.Outside`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.extras import load
from siftlm.integrations.qdrant import vector_params
from siftlm.memory import Neighbours, Passage
from siftlm.memory.filters import All, Condition, Either, Expression, Not
from siftlm.types import IntArray, Vectors
from siftlm.validation import flag

# Distances whose scores are cosines, the second for vectors of unit length.
COSINE_DISTANCES = ("Cosine", "Dot")
RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class QdrantStore:
    """A `siftlm.memory.Store` over a collection whose points have integers as ids.

    Filters go to Qdrant; those that it cannot answer (parts of texts, the order of texts, ``@id``) are a `Conflict`.

    Args:
        client: a ``QdrantClient``.
        collection_name: the collection. Its distance is the cosine, or the product of vectors of unit length.
        using: the name of the vectors, where they have one.
        text: the field of a payload that holds the text.
        metadata: the field that holds the metadata; unless given, that is all the other fields.
        exact: compare every vector, even where there is an index.
    """

    def __init__(
        self,
        client: Any,
        collection_name: str,
        *,
        using: str | None = None,
        text: str = "text",
        metadata: str | None = None,
        exact: bool = False,
    ) -> None:
        self._models = load("qdrant_client.models", "qdrant")
        params = vector_params(client.get_collection(collection_name), using)
        if params is None:
            raise InvalidInput(f"collection {collection_name!r} has no vectors {setting('using', using)}")
        if params.distance not in COSINE_DISTANCES or getattr(params, "multivector_config", None) is not None:
            raise InvalidInput(
                f"collection {collection_name!r} must hold one vector a point, with a distance of "
                f"{' or '.join(COSINE_DISTANCES)}"
            )
        self.width, self.exact = int(params.size), flag("exact", exact)
        self._client, self._collection, self._using = client, collection_name, using
        self._text, self._metadata = text, metadata

    def nearest(self, queries: Vectors, k: int, where: Expression | None) -> list[Neighbours]:
        """The k best points for each query."""
        models = self._models
        rest = {
            "using": self._using,
            "limit": k,
            "params": models.SearchParams(exact=True) if self.exact else None,
            "filter": None if where is None else models.Filter(must=[self._condition(where)]),
        }
        requests = [models.QueryRequest(query=query, **rest) for query in queries.tolist()]
        answers = self._client.query_batch_points(self._collection, requests)
        found = [answer.points for answer in answers]
        return [Neighbours([one.id for one in some], [one.score for one in some]) for some in found]  # type: ignore[arg-type]

    def vectors(self, ids: IntArray) -> list[Any]:
        """The vectors of these points."""
        points = self._points(ids.tolist(), with_payload=False, with_vectors=[self._using] if self._using else True)
        return [one.vector.get(self._using or "") if isinstance(one.vector, dict) else one.vector for one in points]

    def passages(self, ids: Sequence[int], where: Expression | None) -> list[Passage]:  # noqa: ARG002
        """The text and the metadata of these points."""
        passages = []
        for point in self._points(list(ids), with_payload=True):
            payload = dict(point.payload or {})
            text = payload.pop(self._text, None)
            meta = payload if self._metadata is None else payload.get(self._metadata) or {}
            passages.append(Passage(text, meta, str(point.id)))  # `Outside` checks them
        return passages

    def _points(self, ids: list[int], **what: Any) -> list[Any]:
        found = {one.id: one for one in self._client.retrieve(self._collection, ids=ids, **what)}
        return [found[one] for one in ids if one in found]  # a database answers in its own order

    # --- filters

    def _condition(self, where: Expression) -> Any:
        """A filter as one of Qdrant's, which holds for the same points."""
        models = self._models
        if isinstance(where, All):
            return models.Filter(must=[self._condition(part) for part in where.parts])
        if isinstance(where, Either):
            return models.Filter(should=[self._condition(part) for part in where.parts])
        if isinstance(where, Not):
            return models.Filter(must_not=[self._condition(where.part)])
        if not isinstance(where, Condition) or not where.path:
            raise Conflict(f"Qdrant cannot filter by {where}")
        key = ".".join(_quoted(one, where) for one in ([self._metadata] if self._metadata else []) + [*where.path])
        if where.operator == "exists":
            return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
        values = where.value if isinstance(where.value, tuple) else (where.value,)
        if where.operator in ("=", "in"):
            return self._equals(key, values)
        if where.operator in ("!=", "not-in"):
            return models.Filter(must_not=[self._equals(key, values)])
        if where.operator in RANGES and not isinstance(where.value, str):
            return models.FieldCondition(key=key, range=models.Range(**{RANGES[where.operator]: where.value}))
        raise Conflict(f"Qdrant cannot filter by {where}")

    def _equals(self, key: str, values: Sequence[Any]) -> Any:
        """Does a field equal one of the values? Numbers are compared as such: 3 and 3.0 are the same."""
        models = self._models
        if not values:
            return models.HasIdCondition(has_id=[])
        return models.Filter(
            should=[
                models.FieldCondition(key=key, match=models.MatchValue(value=one))
                if isinstance(one, (bool, str))
                else models.FieldCondition(key=key, range=models.Range(gte=one, lte=one))
                for one in values
            ]
        )


def _quoted(key: str, where: Expression) -> str:
    if '"' in key:
        raise Conflict(f"Qdrant cannot filter by {where}")
    return key if PLAIN_KEY.fullmatch(key) else f'"{key}"'
