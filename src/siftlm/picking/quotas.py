"""Quotas: how many picks, or how much of the budget, may come from one source."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.types import BoolArray, FloatArray, IntArray

Quota = Mapping[str, float | Mapping[str, float]]
"""A field -> the share or number that each of its values may have, or value -> share or number."""


@dataclass(frozen=True)
class SourceQuota:
    """The quota, checked: one number for every source, or numbers for some of them.

    A fraction is a share of the budget, or of n where there is no budget; a whole number counts picks.

    >>> SourceQuota.of({"source": {"wiki": 0.5, "web": 20}}).limit("wiki")
    0.5
    """

    field: str
    every: float | int | None
    some: Mapping[str, float | int]

    @classmethod
    def of(cls, quota: Any) -> SourceQuota:
        """The quota that a setting describes."""
        if not isinstance(quota, Mapping) or len(quota) != 1:
            example = "{'source': 0.3} or {'source': {'wiki': 0.3}}"
            raise InvalidInput(f"{setting('quota')} must name one field, such as {example}; got {quota!r:.80}")
        [(field, value)] = quota.items()
        field = validation.text_with_content("the field of quota", field)
        if isinstance(value, Mapping):
            return cls(field, None, {str(label): _limit(f"{field}={label}", one) for label, one in value.items()})
        return cls(field, _limit(field, value), {})

    def limit(self, source: str) -> float | int | None:
        """The share or number of a source; ``None`` for no limit."""
        return self.some.get(source, self.every)

    def to_dict(self) -> dict[str, Any]:
        """The quota for ``json.dumps``."""
        return {"field": self.field, "every": self.every, "some": dict(self.some)}


def _limit(name: str, value: Any) -> float | int:
    """A share from 0 to 1, or a number of picks."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return validation.whole_number(f"the quota of {name}", value, least=0)
    return validation.fraction(f"the quota of {name}", value)


class SourceLimits:
    """What each source may still have; forbids the candidates that would be too much."""

    def __init__(
        self,
        quota: SourceQuota,
        sources: Sequence[str],
        labels: IntArray,
        *,
        n: int | None,
        costs: FloatArray | None,
        budget: float | None,
    ) -> None:
        """``labels`` (K,) are indices of ``sources``."""
        self._labels, self._costs = labels, costs
        self.counts: dict[int, int] = {}
        """Label -> picks that it may still have."""
        self._costs_left: dict[int, float] = {}
        self._dearest: dict[int, list[int]] = {}
        """Label -> its candidates that it can still afford, the dearest last."""
        for at, source in enumerate(sources):
            limit = quota.limit(source)
            if isinstance(limit, int):
                self.counts[at] = limit
            elif limit is not None and budget is not None:
                self._costs_left[at] = limit * budget
            elif limit is not None and n is not None:
                self.counts[at] = int(limit * n + 1e-9)
        self._rank()

    def _rank(self) -> None:
        """Order the candidates of each source by their costs."""
        if not self._costs_left or self._costs is None:
            return
        order = np.lexsort((self._costs, self._labels))
        limited = np.array(list(self._costs_left))
        ends = np.searchsorted(self._labels[order], [limited, limited + 1])
        for label, low, high in zip(limited.tolist(), *ends.tolist(), strict=True):
            self._dearest[label] = order[low:high].tolist()

    def part(self, indices: IntArray) -> SourceLimits:
        """The same for these candidates alone, with picks of its own from now on."""
        view = copy.copy(self)
        view._labels, view._costs = self._labels[indices], None if self._costs is None else self._costs[indices]
        view.counts, view._costs_left, view._dearest = self.counts.copy(), self._costs_left.copy(), {}
        view._rank()
        return view

    def available(self, allowed: BoolArray) -> int:
        """How many of the allowed candidates may be picked as far as numbers of picks go."""
        held = np.bincount(self._labels[allowed], minlength=1)
        return sum(min(int(count), self.counts.get(at, int(count))) for at, count in enumerate(held))

    def forbidden(self) -> IntArray:
        """The candidates that are too much from the beginning."""
        nothing = [at for at, left in self.counts.items() if left <= 0]
        empty = np.flatnonzero(np.isin(self._labels, nothing))
        dear = [index for label in self._costs_left for index in self._too_dear(label)]
        return np.concatenate([empty, np.array(dear, dtype=np.int64)]).astype(np.int64)

    def record(self, index: int) -> IntArray:
        """Note a pick. Returns the candidates that it makes too much."""
        label = int(self._labels[index])
        if label in self.counts:
            self.counts[label] -= 1
            if self.counts[label] == 0:
                return np.flatnonzero(self._labels == label)
        if label in self._costs_left and self._costs is not None:
            self._costs_left[label] -= float(self._costs[index])
            return np.array(self._too_dear(label), dtype=np.int64)
        return np.zeros(0, dtype=np.int64)

    def _too_dear(self, label: int) -> list[int]:
        """The candidates of a source that cost more than it has left; each is returned once."""
        found, order, left = [], self._dearest[label], self._costs_left[label]
        while order and self._costs is not None and self._costs[order[-1]] > left * (1 + 1e-12):
            found.append(order.pop())
        return found
