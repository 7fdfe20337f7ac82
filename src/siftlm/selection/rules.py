"""What may be picked, how ties are broken, and when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.numerics import BUDGET_SLACK, Ties
from siftlm.settings import Settings
from siftlm.types import BoolArray, FloatArray, IntArray

NO_PICK = -1
STOPPING_RULES = ("adaptive", "until", "min_gain", "min_growth")


class MoreLimits(Protocol):
    """Limits beyond those of `Limits`."""

    def record(self, index: int) -> IntArray:
        """Note a pick. Returns the candidates that it makes too much, each of them at least once."""

    def part(self, indices: IntArray) -> MoreLimits:
        """The same for these candidates alone, with picks of its own from now on."""


@dataclass(eq=False, kw_only=True)
class PickRules:
    """The limits of one selection; knows what has been picked so far."""

    size: int = field(kw_only=False)
    cap: int | None
    """How often one candidate may be picked."""
    blocked: BoolArray | None = None
    """(size,) what may not be picked any more, whatever the budget; None while everything may."""
    sources: IntArray | None = None
    source_cap: int | None = None
    prior: FloatArray | None = None
    costs: FloatArray | None = None
    budget: float | None = None
    ties: Ties
    more: MoreLimits | None = None
    names: IntArray | None = None
    """(size,) the candidates' names, which decide between equal ones; None for their indices."""
    spent: float = field(default=0.0, init=False)
    counts: Counter[int] = field(default_factory=Counter, init=False)
    source_counts: Counter[int] = field(default_factory=Counter, init=False)

    def choose(self, gains: FloatArray) -> int:
        """The index of the best allowed candidate, or ``NO_PICK``. Ties go to the smaller index (or name)."""
        # 1. The best by weighted gain among what is allowed.
        weighted = self.prior is not None or self.costs is not None
        scores, forbidden = self.scores(gains) if weighted else gains, self.forbidden()
        if forbidden is not None:
            scores = np.where(forbidden, -np.inf, scores)
        best = int(scores.argmax())
        top = float(scores[best])
        if forbidden is not None and forbidden[best]:
            return NO_PICK
        if top != top:
            raise InvalidInput(f"the method's gain for candidate {best} is NaN")
        # 2. Most often nobody before the best comes near it, and nothing else matters.
        if top in (np.inf, -np.inf) or (best == 0 and self.names is None):
            return best
        if self.names is None:
            near = scores[:best] >= top - self.ties.loose * abs(top)
            if not near[near.argmax()]:
                return best
        # 3. The first of those that tie.
        equal = self.ties.equals(scores, best)
        for weight in (self.prior, self.costs):
            if weight is not None:  # equal texts with different weights are not equal
                close = scores[equal] >= top - self.ties.tie * abs(top)
                equal = equal[close | (weight[equal] == weight[best])]
        return int(equal[0] if self.names is None else equal[self.names[equal].argmin()])

    def scores(self, gains: FloatArray) -> FloatArray:
        """(K,) what is compared: the gains times the prior and per cost."""
        if self.prior is None and self.costs is None:
            return gains
        with np.errstate(over="ignore"):  # an enormous weight may make a score infinite: the best there is
            scores = gains.copy() if self.prior is None else gains * self.prior
            if self.costs is not None:
                scores /= self.costs
        return scores

    def forbidden(self) -> BoolArray | None:
        """(K,) what may not be picked now; ``None`` when everything may."""
        mask = self.blocked
        if self.budget is not None and self.costs is not None:
            dear = self.costs > self.budget * (1 + BUDGET_SLACK) - self.spent
            mask = dear if mask is None else mask | dear
        return mask

    def record(self, index: int) -> None:
        """Note a pick and what it uses up."""
        used_up: list[int | BoolArray | IntArray] = []
        if self.cap is not None:
            self.counts[index] += 1
            if self.counts[index] >= self.cap:
                used_up.append(index)
        if self.sources is not None and self.source_cap is not None:
            source = int(self.sources[index])
            self.source_counts[source] += 1
            if self.source_counts[source] >= self.source_cap:
                used_up.append(self.sources == source)
        if self.costs is not None:
            self.spent += float(self.costs[index])
        if self.more is not None and len(too_much := self.more.record(index)):
            used_up.append(too_much)
        if used_up:
            blocked = np.zeros(self.size, dtype=np.bool_) if self.blocked is None else self.blocked
            for which in used_up:
                blocked[which] = True
            self.blocked = blocked

    def block(self, which: BoolArray) -> None:
        """``which`` (size,) may not be picked any more."""
        self.blocked = which.copy() if self.blocked is None else self.blocked | which

    def part(self, indices: IntArray) -> PickRules:
        """The same for these candidates alone, which are in rising order, with picks of its own from now on."""
        own: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[indices]
            for name in ("blocked", "sources", "prior", "costs", "names")
        }
        more, same = None if self.more is None else self.more.part(indices), self.ties.same
        ties = replace(self.ties, same=lambda index, others: same(int(indices[index]), indices[others]))
        part = replace(self, size=len(indices), ties=ties, more=more, **own)
        part.spent, part.source_counts = self.spent, self.source_counts.copy()
        if self.cap is not None and self.cap > 1:
            part.counts = Counter({at: self.counts[index] for at, index in enumerate(indices.tolist())})
        return part

    def grow(self, names: IntArray, blocked: BoolArray) -> None:
        """There are more candidates: ``names`` (K,) of all of them, ``blocked`` (added,) of the new ones."""
        self.names = names
        if self.blocked is not None or blocked.any():
            before = np.zeros(self.size, np.bool_) if self.blocked is None else self.blocked
            self.blocked = np.concatenate([before, blocked])
        self.size = len(names)

    @property
    def out_of_budget(self) -> bool:
        """Is the budget what ended the choice: is something allowed that would cost too much?"""
        if self.budget is None or self.costs is None:
            return False
        open_ones = np.ones(self.size, np.bool_) if self.blocked is None else ~self.blocked
        return bool((open_ones & (self.costs > self.budget * (1 + BUDGET_SLACK) - self.spent)).any())


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Limits(Settings):
    """What may be picked, and how often; each field is the keyword of `siftlm.select` of the same name.

    >>> Limits(replacement=False, exclude=[3])
    Limits(replacement=False, exclude=[3])
    >>> Limits(exclude=[3]) == Limits(exclude=np.array([3])) == Limits.from_dict({"exclude": [3]})
    True
    """

    kind: ClassVar[str] = "limit"

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
        super().__post_init__()
        if self.replacement is not None and not isinstance(self.replacement, bool):
            validation.whole_number("replacement", self.replacement, least=1)
        if self.budget is not None:
            if self.costs is None:
                raise Conflict(
                    f"{setting('budget')} needs {setting('costs')}: one number per candidate, such as its tokens"
                )
            validation.number("budget", self.budget, above=0)
        if (self.source_cap is None) != (self.sources is None):
            names = f"{setting('sources')} and {setting('source_cap')}"
            raise Conflict(f"{names} go together: labels, and how many picks may share one")
        if self.source_cap is not None:
            validation.whole_number("source_cap", self.source_cap, least=1)
            labels: Any = self.sources
            if (
                isinstance(labels, (str, bytes, Mapping))
                or not hasattr(labels, "__len__")
                or getattr(labels, "ndim", 1) != 1
            ):
                raise InvalidInput(
                    f"{setting('sources')} must be a list of labels, one per candidate, got {labels!r:.60}"
                )
        if self.exclude is not None:
            checks.index_array("exclude", self.exclude)
        if self.costs is not None and checks.as_array("costs", self.costs).ndim != 1:
            raise InvalidInput(f"{setting('costs')} must have one number per candidate, got {self.costs!r:.60}")

    def specified(self) -> dict[str, Any]:
        """The fields that limit anything."""
        return self.chosen()

    @property
    def between_picks(self) -> bool:
        """Do sources or costs limit anything? What may still be picked then depends on more than how often it was."""
        return self.sources is not None or self.costs is not None

    def cap(self, *, repeats: bool) -> int | None:
        """How often one candidate may be picked, ``None`` for no limit; ``repeats`` if there is no ``replacement``."""
        if self.replacement is None:
            return None if repeats else 1
        if isinstance(self.replacement, bool):
            return None if self.replacement else 1
        return self.replacement


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Stopping(Settings):
    """When to stop before n picks: four rules, each optional, checked before the work for the next pick is done.

    >>> Stopping(until=0.1)
    Stopping(until=0.1)
    """

    kind: ClassVar[str] = "stopping rule"

    adaptive: float | None = None
    """α of the published rule: keep pick n only while σ_n ≤ 1 / (α n), with σ_n² the uncertainty left after it."""
    until: float | None = None
    """Stop when the uncertainty is at most this fraction of what it was before the first pick."""
    min_gain: float | None = None
    """Stop when the best pick would lower the uncertainty by less than this fraction of what is left."""
    min_growth: float | None = None
    """Stop when the best pick would lower the uncertainty by less than this fraction of what the picks before it, and
    known items, lowered it by: when one more adds less than, say, 3 % to what they tell."""
    at_least: int = 1
    """Picks that are kept whatever the rules say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptive is not None:
            validation.number("adaptive", self.adaptive, above=0)
        if self.until is not None:
            validation.fraction("until", self.until)
        if self.min_gain is not None:
            validation.fraction("min_gain", self.min_gain)
        if self.min_growth is not None:
            validation.fraction("min_growth", self.min_growth)
        validation.whole_number("at_least", self.at_least, least=0)

    @property
    def active(self) -> bool:
        """Is any rule set?"""
        return self is not NO_STOPPING and bool(self.specified())

    def specified(self) -> list[str]:
        """The names of the rules that are set."""
        return [name for name in STOPPING_RULES if getattr(self, name) is not None]

    def refuses(self, kept: int, start: float, before: float, after: float) -> str:
        """The rule that forbids keeping pick number ``kept + 1``, or an empty string.

        Args:
            kept: how many picks there are.
            start: the uncertainty before anything was picked or known.
            before, after: the uncertainty without and with the pick.
        """
        if kept < self.at_least:
            return ""
        if self.adaptive is not None and sqrt(max(0.0, after)) > 1 / (self.adaptive * (kept + 1)):
            return "adaptive"
        if self.min_gain is not None and before - after < self.min_gain * before:
            return "min_gain"
        if self.min_growth is not None and before - after < self.min_growth * (start - before):
            return "min_growth"
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
    chosen = none if ready is None else kind.checked(kind.__name__.lower(), ready)
    keywords = {}
    for name in [name for name in settings if name in kind.__dataclass_fields__]:
        default = kind.__dataclass_fields__[name].default
        if (value := settings.pop(name)) is not None or default is not None:
            keywords[name] = value
            if ready is not None and getattr(ready, name) is not default:
                raise Conflict(f"{setting(name)} is set twice: as a keyword, and in {ready!r}")
    return chosen.with_(keywords) if keywords else chosen
