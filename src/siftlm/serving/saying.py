"""What is read for a job, and what is said of it: tokens become text, stop texts end it, and events say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from siftlm.controller import Controller
from siftlm.controller.decoding import Drawn
from siftlm.controller.spelling import Spelling
from siftlm.controller.tokens import leading
from siftlm.serving import jobs
from siftlm.serving.telling import Telling

# Texts of single tokens that are remembered: with logprobs the same few thousand come again and again.
REMEMBERED = 2**16


def reads(controller: Controller, job: jobs.Job, context: Sequence[str]) -> tuple[int, ...]:
    """The prompt; behind texts that were selected as its context, the best that there is room for."""
    ids, most = job.ids, controller.context
    room = min(most // 2, most - job.sampling.max_tokens - len(ids))
    if not context or room < 1:
        return ids
    # A start of text stands before everything, and once.
    head = leading(controller.tokenizer)
    own = ids[len(head) :] if head and list(ids[: len(head)]) == head else ids
    return (*controller.context_of(context, room), *own)


def read(tokenizer: Any, job: jobs.Job, known: Sequence[Drawn] = ()) -> jobs.Read:
    """The prompt's own tokens; ``known``: what was read behind the first, which ends with them."""
    first, *others = job.ids
    told: Iterable[Drawn] = known[len(known) - len(others) :] if known else map(Drawn, others)
    spelling = Spelling(tokenizer)
    return jobs.Read(tuple(_token(tokenizer, one, spelling.add(one.id)) for one in (Drawn(first), *told)))


class Saying:
    """One choice of a job, on its way out."""

    def __init__(self, tokenizer: Any, job: jobs.Job, choice: int, ends: Collection[int]) -> None:
        self.choice = choice
        self.made = 0
        """Tokens by now."""
        self.over = False
        self._tokenizer, self._ends, self._most = tokenizer, ends, job.sampling.max_tokens
        self._spelling, self._telling = Spelling(tokenizer, job.ids), Telling(job.sampling.stop)

    def say(self, one: Drawn) -> list[jobs.Event]:
        """What this token adds; with it the choice may be over."""
        self.made += 1
        ended = one.id in self._ends
        piece = "" if ended else self._spelling.add(one.id)
        last = ended or self.made >= self._most
        shown = self._telling.add(piece + (self._spelling.rest() if last else ""))
        if last:
            shown += self._telling.rest()
        # The end is a token, too, that says nothing: who asks how likely tokens are gets one for each that was made.
        told: list[jobs.Event] = [jobs.Said(self.choice, shown, (_token(self._tokenizer, one, piece),))]
        if last or self._telling.stopped:
            told.append(self.end("stop" if ended or self._telling.stopped else "length"))
        return told

    def break_off(self, reason: str) -> list[jobs.Event]:
        """No more tokens come: what was held back is said."""
        shown = self._telling.add(self._spelling.rest()) + self._telling.rest()
        return [*([jobs.Said(self.choice, shown, ())] if shown else []), self.end(reason)]

    def end(self, reason: str) -> jobs.Ended:
        """It is over."""
        self.over = True
        return jobs.Ended(self.choice, reason, self.made)


def _token(tokenizer: Any, one: Drawn, text: str) -> jobs.Token:
    top = tuple((token, _alone(tokenizer, token), logprob) for token, logprob in one.top)
    return jobs.Token(one.id, text, one.logprob, top)


@lru_cache(REMEMBERED)
def _alone(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
