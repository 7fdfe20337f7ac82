"""What may be picked, and how gains are weighed before the best one is taken.

Caps, exclusions, sources and the budget take candidates out; the prior and the costs change the order. All
of them work on the array of gains that any method produces, so each works with every method.
"""

from __future__ import annotations

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection.ties import Ties
from siftlm.types import BoolArray, FloatArray, IntArray

NO_PICK = -1


class PickRules:
    """The limits of one selection; knows what has been picked so far."""

    def __init__(
        self,
        size: int,
        *,
        cap: int | None,
        blocked: BoolArray | None = None,
        sources: IntArray | None = None,
        source_cap: int | None = None,
        prior: FloatArray | None = None,
        costs: FloatArray | None = None,
        budget: float | None = None,
        ties: Ties,
        names: IntArray | None = None,
    ) -> None:
        self._cap, self._ties, self._names = cap, ties, names
        self._blocked = blocked
        self._sources, self._source_cap = sources, source_cap
        self._prior, self._costs = prior, costs
        self.left = budget
        # Costs such as 0.1 do not add up exactly in binary; a budget is not broken by that.
        self._slack = 0.0 if budget is None else 1e-12 * budget
        self._counts: dict[int, int] = {}
        self._source_counts: dict[int, int] = {}
        self._free = True
        if blocked is not None:
            self._free = not blocked.any()
        self._size = size

    def choose(self, gains: FloatArray) -> int:
        """The index of the best allowed candidate, or ``NO_PICK``. Ties go to the smaller index (or name)."""
        if self._free and self._prior is None and self._costs is None:
            return self._first_best(gains)
        with np.errstate(over="ignore"):  # an enormous weight may make a score infinite: the best there is
            scores = gains.copy() if self._prior is None else gains * self._prior
            if self._costs is not None:
                scores /= self._costs
        forbidden = self.forbidden()
        if forbidden is not None:
            scores[forbidden] = -np.inf
        best = self._first_best(scores)
        return NO_PICK if forbidden is not None and forbidden[best] else best

    def _first_best(self, scores: FloatArray) -> int:
        best = int(scores.argmax())
        top = float(scores[best])
        if top != top:
            raise InvalidInput(f"the method's gain for candidate {best} is NaN")
        if top in (np.inf, -np.inf) or (best == 0 and self._names is None):
            return best
        # Most often nobody before the best comes near it, and nothing else needs to be asked.
        if self._names is None:
            near = scores[:best] >= top - self._ties.loose * abs(top)
            if not near[near.argmax()]:
                return best
        equal = self._ties.equals(scores, best)
        for weight in (self._prior, self._costs):
            if weight is not None:  # equal texts with different weights are not equal
                close = scores[equal] >= top - self._ties.tie * abs(top)
                equal = equal[close | (weight[equal] == weight[best])]
        return int(equal[0] if self._names is None else equal[self._names[equal].argmin()])

    def forbidden(self) -> BoolArray | None:
        """(K,) what may not be picked now; ``None`` when everything may."""
        mask = self._blocked
        if self.left is not None and self._costs is not None:
            dear = self._costs > self.left + self._slack
            mask = dear if mask is None else mask | dear
        return mask

    def record(self, index: int) -> None:
        """Note a pick and what it uses up."""
        if self._cap is not None:
            self._counts[index] = self._counts.get(index, 0) + 1
            if self._counts[index] >= self._cap:
                self._block(index)
        if self._sources is not None and self._source_cap is not None:
            source = int(self._sources[index])
            self._source_counts[source] = self._source_counts.get(source, 0) + 1
            if self._source_counts[source] >= self._source_cap:
                self._block(self._sources == source)
        if self.left is not None and self._costs is not None:
            self.left -= float(self._costs[index])
            self._free = False

    def grow(self, names: IntArray, blocked: BoolArray) -> None:
        """There are more candidates: ``names`` (K,) of all of them, ``blocked`` (added,) of the new ones."""
        self._names = names
        if self._blocked is not None or blocked.any():
            before = np.zeros(self._size, np.bool_) if self._blocked is None else self._blocked
            self._blocked = np.concatenate([before, blocked])
            self._free = False
        self._size = len(names)

    def _block(self, which: int | BoolArray) -> None:
        if self._blocked is None:
            self._blocked = np.zeros(self._size, dtype=np.bool_)
        self._blocked[which] = True
        self._free = False

    @property
    def out_of_budget(self) -> bool:
        """Is the budget what ended the choice: is something allowed that would cost too much?"""
        if self.left is None or self._costs is None:
            return False
        open_ones = np.ones(self._size, np.bool_) if self._blocked is None else ~self._blocked
        return bool((open_ones & (self._costs > self.left + self._slack)).any())
