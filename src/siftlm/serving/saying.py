"""What is read for a job, and what is said of it: tokens become text, stop texts end it, and events say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from siftlm.controller import Controller
from siftlm.controller.decoding import SampledToken
from siftlm.controller.generation import Detokenizer
from siftlm.controller.tokens import prefix_token_ids
from siftlm.serving import jobs
from siftlm.serving.telling import StopTexts

# Texts of single tokens that are remembered: with logprobs the same few thousand come again and again.
TOKEN_TEXT_CACHE_SIZE = 2**16


def prompt_with_context(controller: Controller, job: jobs.Job, context: Sequence[str]) -> tuple[int, ...]:
    """The prompt; behind texts that were selected as its context, the best that there is room for."""
    ids, most = job.ids, controller.context
    room = min(most // 2, most - job.sampling.max_tokens - len(ids))
    if not context or room < 1:
        return ids
    # A start of text stands before everything, and once.
    head = prefix_token_ids(controller.tokenizer)
    own = ids[len(head) :] if head and list(ids[: len(head)]) == head else ids
    return (*controller.context_of(context, room), *own)


def prompt_event(tokenizer: Any, job: jobs.Job, known: Sequence[SampledToken] = ()) -> jobs.PromptRead:
    """The prompt's own tokens; ``known``: what was read behind the first, which ends with them."""
    first, *others = job.ids
    told: Iterable[SampledToken] = known[len(known) - len(others) :] if known else map(SampledToken, others)
    spelling = Detokenizer(tokenizer)
    return jobs.PromptRead(
        tuple(_make_token(tokenizer, one, spelling.add(one.id)) for one in (SampledToken(first), *told))
    )


class ChoiceWriter:
    """One choice of a job, on its way out."""

    def __init__(self, tokenizer: Any, job: jobs.Job, choice: int, ends: Collection[int]) -> None:
        self.choice = choice
        self.made = 0
        """Tokens by now."""
        self.over = False
        self._tokenizer, self._ends, self._most = tokenizer, ends, job.sampling.max_tokens
        self._spelling, self._stop_texts = Detokenizer(tokenizer, job.ids), StopTexts(job.sampling.stop)

    def say(self, one: SampledToken) -> list[jobs.Event]:
        """What this token adds; with it the choice may be over."""
        self.made += 1
        ended = one.id in self._ends
        piece = "" if ended else self._spelling.add(one.id)
        last = ended or self.made >= self._most
        shown = self._stop_texts.add(piece + (self._spelling.rest() if last else ""))
        if last:
            shown += self._stop_texts.rest()
        # The end is a token, too, that says nothing: who asks how likely tokens are gets one for each that was made.
        told: list[jobs.Event] = [jobs.ChoiceDelta(self.choice, shown, (_make_token(self._tokenizer, one, piece),))]
        if last or self._stop_texts.stopped:
            told.append(self.end("stop" if ended or self._stop_texts.stopped else "length"))
        return told

    def break_off(self, reason: str) -> list[jobs.Event]:
        """No more tokens come: what was held back is said."""
        shown = self._stop_texts.add(self._spelling.rest()) + self._stop_texts.rest()
        return [*([jobs.ChoiceDelta(self.choice, shown, ())] if shown else []), self.end(reason)]

    def end(self, reason: str) -> jobs.ChoiceEnded:
        """It is over."""
        self.over = True
        return jobs.ChoiceEnded(self.choice, reason, self.made)


def _make_token(tokenizer: Any, one: SampledToken, text: str) -> jobs.Token:
    top = tuple((token, _token_text(tokenizer, token), logprob) for token, logprob in one.top)
    return jobs.Token(one.id, text, one.logprob, top)


@lru_cache(TOKEN_TEXT_CACHE_SIZE)
def _token_text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
