"""What may be picked, how ties are broken, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import sqrt
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection.numerics import BUDGET_SLACK, Ties
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
        self._slack = 0.0 if budget is None else BUDGET_SLACK * budget
        self._counts: dict[int, int] = {}
        self._source_counts: dict[int, int] = {}
        self._free = blocked is None or not blocked.any()
        self._size = size

    def choose(self, gains: FloatArray) -> int:
        """The index of the best allowed candidate, or ``NO_PICK``. Ties go to the smaller index (or name)."""
        # 1. The best by weighted gain among what is allowed.
        scores, forbidden = gains, None
        if not self._free or self._prior is not None or self._costs is not None:
            with np.errstate(over="ignore"):  # an enormous weight may make a score infinite: the best there is
                scores = gains.copy() if self._prior is None else gains * self._prior
                if self._costs is not None:
                    scores /= self._costs
            forbidden = self.forbidden()
            if forbidden is not None:
                scores[forbidden] = -np.inf
        best = int(scores.argmax())
        top = float(scores[best])
        if forbidden is not None and forbidden[best]:
            return NO_PICK
        if top != top:
            raise InvalidInput(f"the method's gain for candidate {best} is NaN")
        # 2. Most often nobody before the best comes near it, and nothing else matters.
        if top in (np.inf, -np.inf) or (best == 0 and self._names is None):
            return best
        if self._names is None:
            near = scores[:best] >= top - self._ties.loose * abs(top)
            if not near[near.argmax()]:
                return best
        # 3. The first of those that tie.
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
        used_up: list[int | BoolArray] = []
        if self._cap is not None:
            self._counts[index] = self._counts.get(index, 0) + 1
            if self._counts[index] >= self._cap:
                used_up.append(index)
        if self._sources is not None and self._source_cap is not None:
            source = int(self._sources[index])
            self._source_counts[source] = self._source_counts.get(source, 0) + 1
            if self._source_counts[source] >= self._source_cap:
                used_up.append(self._sources == source)
        if self.left is not None and self._costs is not None:
            self.left -= float(self._costs[index])
            self._free = False
        if used_up:
            blocked = np.zeros(self._size, dtype=np.bool_) if self._blocked is None else self._blocked
            for which in used_up:
                blocked[which] = True
            self._blocked, self._free = blocked, False

    def grow(self, names: IntArray, blocked: BoolArray) -> None:
        """There are more candidates: ``names`` (K,) of all of them, ``blocked`` (added,) of the new ones."""
        self._names = names
        if self._blocked is not None or blocked.any():
            before = np.zeros(self._size, np.bool_) if self._blocked is None else self._blocked
            self._blocked = np.concatenate([before, blocked])
            self._free = False
        self._size = len(names)

    @property
    def out_of_budget(self) -> bool:
        """Is the budget what ended the choice: is something allowed that would cost too much?"""
        if self.left is None or self._costs is None:
            return False
        open_ones = np.ones(self._size, np.bool_) if self._blocked is None else ~self._blocked
        return bool((open_ones & (self._costs > self.left + self._slack)).any())


@dataclass(frozen=True, eq=False, repr=False)
class Limits:
    """What may be picked, and how often; each field is the keyword of `siftlm.select` of the same name.

    >>> Limits(replacement=False, exclude=[3])
    Limits(replacement=False, exclude=[3])
    >>> Limits(exclude=[3]) == Limits(exclude=np.array([3]))
    True
    """

    replacement: bool | int | None = None
    """May a candidate be picked again? ``True``, ``False``, at most so many times, or as the method has it."""
    exclude: npt.ArrayLike | None = None
    """Indices (or a mask) of candidates that must not be picked."""
    sources: Sequence[object] | npt.NDArray[Any] | None = None
    """One label per candidate."""
    source_cap: int | None = None
    """At most so many picks share a label."""
    costs: npt.ArrayLike | None = None
    """One number > 0 per candidate, such as its tokens; gains are then compared per cost."""
    budget: float | None = None
    """The picks' costs add up to no more than this."""

    def __post_init__(self) -> None:
        if self.replacement is not None and not isinstance(self.replacement, (bool, np.bool_)):
            validation.whole_number("replacement", self.replacement, least=1)
        if self.budget is not None:
            if self.costs is None:
                raise Conflict(
                    f"{setting('budget')} needs {setting('costs')}: one number per candidate, such as its tokens"
                )
            validation.number("budget", self.budget, above=0)
        if (self.source_cap is None) != (self.sources is None):
            names = f"sources and {setting('source_cap')}"
            raise Conflict(f"{names} go together: labels, and how many picks may share one")
        if self.source_cap is not None:
            validation.whole_number("source_cap", self.source_cap, least=1)

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={value!r}' for name, value in self.specified().items())})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Limits):
            return NotImplemented
        mine, theirs = self.specified(), other.specified()
        same = mine.keys() == theirs.keys() and repr(mine.get("replacement")) == repr(theirs.get("replacement"))
        return same and all(np.array_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # it may hold arrays

    def specified(self) -> dict[str, Any]:
        """The fields that limit anything."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def cap(self, *, repeats: bool) -> int | None:
        """How often one candidate may be picked, ``None`` for no limit; ``repeats`` if there is no ``replacement``."""
        if self.replacement is None:
            return None if repeats else 1
        if isinstance(self.replacement, (bool, np.bool_)):
            return None if self.replacement else 1
        return int(self.replacement)


@dataclass(frozen=True)
class Stopping:
    """When to stop before n picks: three rules, each optional, checked before the work for the next pick is done.

    >>> Stopping(until=0.1)
    Stopping(adaptive=None, until=0.1, min_gain=None, at_least=1)
    """

    adaptive: float | None = None
    """α of the published rule: keep pick n only while σ_n ≤ 1 / (α n), with σ_n² the uncertainty left after it."""
    until: float | None = None
    """Stop when the uncertainty is at most this fraction of what it was before the first pick."""
    min_gain: float | None = None
    """Stop when the best pick would lower the uncertainty by less than this fraction of what is left."""
    at_least: int = 1
    """Picks that are kept whatever the rules say."""

    def __post_init__(self) -> None:
        if self.adaptive is not None:
            validation.number("adaptive", self.adaptive, above=0)
        if self.until is not None:
            validation.fraction("until", self.until)
        if self.min_gain is not None:
            validation.fraction("min_gain", self.min_gain)
        validation.whole_number("at_least", self.at_least, least=0)

    @property
    def active(self) -> bool:
        """Is any rule set?"""
        return self.adaptive is not None or self.until is not None or self.min_gain is not None

    def refuses(self, kept: int, before: float, after: float) -> str:
        """The rule that forbids keeping pick number ``kept + 1``, or an empty string."""
        if kept < self.at_least:
            return ""
        if self.adaptive is not None and sqrt(max(0.0, after)) > 1 / (self.adaptive * (kept + 1)):
            return "adaptive"
        if self.min_gain is not None and before - after < self.min_gain * before:
            return "min_gain"
        return ""

    def satisfied(self, kept: int, first: float, now: float) -> str:
        """The rule by which the picks so far are enough, or an empty string."""
        if self.until is not None and kept >= self.at_least and now <= self.until * first:
            return "until"
        return ""


NO_LIMITS, NO_STOPPING = Limits(), Stopping()
Rules = TypeVar("Rules", Limits, Stopping)


def rules_in(settings: dict[str, Any], ready: Rules | None, none: Rules) -> Rules:
    """``ready`` (or ``none``), completed by the keywords in ``settings`` that are its fields, which leave them."""
    kind = type(none)
    if ready is not None and not isinstance(ready, kind):
        raise InvalidInput(f"{setting(kind.__name__.lower())} must be {kind.__name__}(…), got {ready!r}")
    keywords = {}
    for name in [name for name in settings if name in kind.__dataclass_fields__]:
        default = kind.__dataclass_fields__[name].default
        if (value := settings.pop(name)) is not None or default is not None:
            keywords[name] = value
            if ready is not None and getattr(ready, name) is not default:
                raise Conflict(f"{setting(name)} is set twice: as a keyword, and in {ready!r}")
    return replace(ready or none, **keywords) if keywords else ready or none
