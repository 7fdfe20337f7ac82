"""The guard of ``use="auto"``: what is held out for a prompt, and the use of its texts that predicts that best.

Tuning can harm: the texts may be unlike what follows the prompt, or the model may have known them too well to learn
anything from them. So a use of the texts first has to help with texts that were not used: the nearest passages that
were not selected, the second half of each after its first, as the prompt is to be continued. The prompt itself says
little: the texts were selected for it, and it is predicted better even where its continuation is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from siftlm.call import split_in_half
from siftlm.errors import InvalidInput
from siftlm.memory import Found, Searcher, SearchRequest
from siftlm.memory.request import nearest_request
from siftlm.types import UseChoice

if TYPE_CHECKING:
    from siftlm.flow import TunedModel

# Passages that are held out for a prompt, and characters of each: a look costs less than a step.
HELD_OUT_PASSAGES, MAX_HELD_OUT_CHARACTERS = 3, 400
# Of them those that are also predicted with the texts in context, which costs more than a step each.
CONTEXT_PASSAGES = 1
# The expected gain of the prompt's continuation is intercept + slope · gain of the held-out passages, in % of the base
# model's loss: passages are more like the texts than the continuation is. Calibration measures both for a memory.
UNCALIBRATED = (-3.0, 1.0)
# What texts in context must be expected to gain beyond that: they are judged by few passages.
CONTEXT_CAUTION_PERCENT = 3.0
# Learning and reading together is tried where reading alone is expected to gain this share of what learning does.
CONTEXT_SHARE = 0.5
# A later state is taken unless it is worse by more than this: steps help more often than a few passages can tell.
TOLERANCE_PERCENT = 2.0


@dataclass(eq=False)
class Guard:
    """What is held out for one prompt, and how well it was predicted."""

    pairs: tuple[tuple[str, str], ...]
    """(text, after) of each passage."""
    texts: tuple[str, ...]
    """The texts that may be put before the prompt."""
    line: tuple[float, float] = UNCALIBRATED
    """Intercept and slope of the expected gain over that of the passages."""
    base: tuple[float, ...] = ()
    """Nats of each passage by the base model; empty until they are measured."""
    estimates: dict[str, float] = field(default_factory=dict)
    """Use -> the expected loss of the prompt's continuation, in % of the base model's."""
    _watched: float = 100.0
    """What `observe` returned for the state that is kept."""
    _context_passages: float = 100.0
    """The estimate of ``weights`` by those passages alone that are predicted with context."""

    def observe(self, nats: Sequence[float]) -> float:
        """What to watch: the estimate for the model as it is now, by the nats of each passage; the base model's first.

        It falls with each state that is to be kept rather than the one before.
        """
        if not self.base:
            self.base = tuple(nats)
            return self._watched
        now = self._expected(nats)
        best = self.estimates.setdefault("weights", now)
        if not now < 100:
            self.estimates["weights"] = min(best, now)
        elif now <= best + TOLERANCE_PERCENT or best >= 100:
            self.estimates["weights"], self._context_passages = now, self._percent(nats[:CONTEXT_PASSAGES])
            self._watched = min(now, math.nextafter(self._watched, -math.inf))
            return self._watched
        return now

    def observe_context(self, use: str, nats: Sequence[float]) -> None:
        """Note the estimate for texts in context, of few passages: ``both`` is compared on these with ``weights``."""
        if use == "both":
            more = self.line[1] * (self._percent(nats) - self._context_passages)
            self.estimates[use] = self.estimates["weights"] + more + CONTEXT_CAUTION_PERCENT
        else:
            self.estimates[use] = self._expected(nats) + CONTEXT_CAUTION_PERCENT

    @property
    def may_need_both(self) -> bool:
        """Are learning and reading expected to help each, and reading not much less than learning?"""
        learned, read = (100 - self.estimates.get(use, 100.0) for use in ("weights", "context"))
        return learned > 0 and read > 0 and read >= CONTEXT_SHARE * learned

    def choice(self) -> UseChoice:
        """The use with the best estimate, the base model where none is expected to help."""
        best = min(self.estimates, key=lambda use: self.estimates[use], default="")
        use = best if best and self.estimates[best] < 100 else "none"
        return UseChoice(use, dict(self.estimates), len(self.pairs))

    def _expected(self, nats: Sequence[float]) -> float:
        """The expected loss of the continuation, in % of the base model's."""
        intercept, slope = self.line
        return 100 - intercept - slope * (100 - self._percent(nats))

    def _percent(self, nats: Sequence[float]) -> float:
        """The mean share of the base model's nats, without passages that it gives no likelihood or has by heart."""
        shares = [now / before for now, before in zip(nats, self.base, strict=False) if 0 < before < math.inf]
        percent = 100 * sum(shares) / len(shares) if shares else 100.0
        return math.inf if math.isnan(percent) else percent


def make_guards(
    memory: Searcher, request: SearchRequest, founds: Sequence[Found], line: tuple[float, float] | None = None
) -> list[Guard]:
    """A guard for each prompt of the request, with the nearest passages that were not selected for it."""
    guards = []
    nears = memory.run(nearest_request(request, request.n + 2 * HELD_OUT_PASSAGES))
    for found, near in zip(founds, nears, strict=True):
        # By text: a copy of what is learned would say that learning helps, whatever else is true.
        selected = set(found.texts)
        others = dict.fromkeys(hit.text for hit in near if hit.text not in selected)
        held_out = [pair for text in others if (pair := halves(text)) is not None]
        guards.append(Guard(tuple(held_out[:HELD_OUT_PASSAGES]), tuple(found.texts), line or UNCALIBRATED))
    return guards


def halves(text: str) -> tuple[str, str] | None:
    """The second half of a passage's beginning, and the first, which it follows; None for a single word.

    >>> halves("one two three four")
    (' four', 'one two three')
    """
    try:
        before, after = split_in_half(text[:MAX_HELD_OUT_CHARACTERS])
    except InvalidInput:
        return None
    return after, before


def observed(model: TunedModel, known: Mapping[int, Guard | None], owners: Sequence[int]) -> list[float]:
    """What to watch for these owners, whose models are as they are now; infinite where there is no guard.

    The first look is at the base model, alone and with the texts in context.
    """
    guards = {owner: guard for owner in owners if (guard := known.get(owner)) is not None}
    first = {owner: guard for owner, guard in guards.items() if not guard.base}
    nats = _nats(model, guards)
    values = {owner: guard.observe(nats[owner]) for owner, guard in guards.items()}
    for owner, one in _nats(model, first, context=True).items():
        first[owner].observe_context("context", one)
    return [values.get(owner, math.inf) for owner in owners]


def chosen(model: TunedModel, guards: Mapping[int, Guard]) -> dict[int, UseChoice]:
    """The choice for each owner, whose model is the tuned one; reading too is tried where reading alone helps."""
    both = {owner: guard for owner, guard in guards.items() if guard.may_need_both}
    for owner, one in _nats(model, both, context=True).items():
        both[owner].observe_context("both", one)
    return {owner: guard.choice() for owner, guard in guards.items()}


def _nats(model: TunedModel, guards: Mapping[int, Guard], *, context: bool = False) -> dict[int, list[float]]:
    """Owner -> nats of each of its passages, of few of them with the texts in context."""
    pairs, owners, texts = [], [], []
    for owner, guard in guards.items():
        for pair in guard.pairs[: CONTEXT_PASSAGES if context else None]:
            pairs.append(pair)
            owners.append(owner)
            texts.append(guard.texts if context else ())
    nats: dict[int, list[float]] = {owner: [] for owner in guards}
    if pairs:
        seen = model.likelihoods(pairs, owners=owners, texts=texts if context else None)
        for owner, one in zip(owners, seen, strict=True):
            nats[owner].append(one.nats)
    return nats
