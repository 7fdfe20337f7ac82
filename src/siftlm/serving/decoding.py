"""Decoding: prompts are continued token by token, and stop strings end them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from siftlm.controller import (
    BatchDecoder,
    Controller,
    DecodingRow,
    Detokenizer,
    SampledToken,
    StopStrings,
    eos_token_ids,
)
from siftlm.controller.tokens import prefix_token_ids
from siftlm.serving import events
from siftlm.serving.metrics import Metrics
from siftlm.serving.task import ServedRequest


@dataclass(eq=False)
class Choice:
    """One choice of one task."""

    task: ServedRequest
    row: DecodingRow
    saying: ChoiceWriter


class DecodeQueue:
    """Only the engine's thread uses it."""

    def __init__(self, controller: Controller, decoding: BatchDecoder, count: Metrics) -> None:
        self._controller, self._decoding, self._count = controller, decoding, count
        self._ends = set(eos_token_ids(controller))
        self._choices: dict[int, Choice] = {}

    def __len__(self) -> int:
        return len(self._choices)

    def tasks(self) -> list[ServedRequest]:
        """All who are speaking."""
        return list({id(voice.task): voice.task for voice in self._choices.values()}.values())

    def join(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        """They begin to speak; those who have said everything already."""
        new = [voice for task in tasks for voice in self._make_choices(task)]
        self._choices.update((id(voice.row), voice) for voice in new)
        # Where nothing is to be said of what is read, it need not be read.
        drawn = self._decoding.join([voice.row for voice in new if voice.row.sampling.max_tokens or voice.row.echo])
        for voice in new:
            if voice.task.job.echo and voice.saying.choice == 0:
                voice.task.tell(prompt_event(self._controller.tokenizer, voice.task.job, voice.row.read))
            if not voice.row.sampling.max_tokens:
                voice.task.tell(voice.saying.end("length"))
                del self._choices[id(voice.row)]
        return self._emit_tokens(drawn, tasks)

    def step(self) -> list[ServedRequest]:
        """One token more of each; those who have said everything."""
        return self._emit_tokens(self._decoding.step(), self.tasks())

    def leave(self, task: ServedRequest) -> None:
        """Nobody listens."""
        gone = [voice for voice in self._choices.values() if voice.task is task]
        self._decoding.leave([voice.row for voice in gone])
        for voice in gone:
            del self._choices[id(voice.row)]

    # --- inside

    def _make_choices(self, task: ServedRequest) -> list[Choice]:
        job, how = task.job, task.job.sampling
        ids = prompt_with_context(self._controller, job, task.context)
        rows = [
            DecodingRow(
                ids,
                task.owner,
                replace(how, seed=how.seed + choice),
                echo=job.echo and how.top is not None and choice == 0,
            )
            for choice in range(job.choices)
        ]
        spelled = self._controller.tokenizer
        return [Choice(task, row, ChoiceWriter(spelled, job, at, self._ends)) for at, row in enumerate(rows)]

    def _emit_tokens(
        self, drawn: Sequence[tuple[DecodingRow, SampledToken]], tasks: Sequence[ServedRequest]
    ) -> list[ServedRequest]:
        over = []
        for row, one in drawn:
            voice = self._choices[id(row)]
            for event in voice.saying.say(one):
                voice.task.tell(event)
            if voice.saying.over:
                over.append(row)
                del self._choices[id(row)]
        self._decoding.leave([row for row in over if not row.complete])
        self._count.made(len(drawn))
        speaking = {id(voice.task) for voice in self._choices.values()}
        return [task for task in tasks if id(task) not in speaking]


# Texts of single tokens that are remembered: with logprobs the same few thousand come again and again.
TOKEN_TEXT_CACHE_SIZE = 2**16


def prompt_with_context(controller: Controller, job: events.Job, context: Sequence[str]) -> tuple[int, ...]:
    """The prompt; behind texts that were selected as its context, the best that there is room for."""
    ids, most = job.ids, controller.context
    room = min(most // 2, most - job.sampling.max_tokens - len(ids))
    if not context or room < 1:
        return ids
    # A start of text stands before everything, and once.
    head = prefix_token_ids(controller.tokenizer)
    own = ids[len(head) :] if head and list(ids[: len(head)]) == head else ids
    return (*controller.context_of(context, room), *own)


def prompt_event(tokenizer: Any, job: events.Job, known: Sequence[SampledToken] = ()) -> events.PromptRead:
    """The prompt's own tokens; ``known``: what was read behind the first, which ends with them."""
    first, *others = job.ids
    told: Iterable[SampledToken] = known[len(known) - len(others) :] if known else map(SampledToken, others)
    spelling = Detokenizer(tokenizer)
    return events.PromptRead(
        tuple(_make_token(tokenizer, one, spelling.add(one.id)) for one in (SampledToken(first), *told))
    )


class ChoiceWriter:
    """One choice of a job, on its way out."""

    def __init__(self, tokenizer: Any, job: events.Job, choice: int, ends: Collection[int]) -> None:
        self.choice = choice
        self.made = 0
        """Tokens by now."""
        self.over = False
        self._tokenizer, self._ends, self._most = tokenizer, ends, job.sampling.max_tokens
        self._spelling, self._stop_texts = Detokenizer(tokenizer, job.ids), StopStrings(job.sampling.stop)

    def say(self, one: SampledToken) -> list[events.Event]:
        """What this token adds; with it the choice may be over."""
        self.made += 1
        ended = one.id in self._ends
        piece = "" if ended else self._spelling.add(one.id)
        last = ended or self.made >= self._most
        shown = self._stop_texts.add(piece + (self._spelling.flush() if last else ""))
        if last:
            shown += self._stop_texts.flush()
        # The end is a token, too, that says nothing: who asks how likely tokens are gets one for each that was made.
        told: list[events.Event] = [events.ChoiceDelta(self.choice, shown, (_make_token(self._tokenizer, one, piece),))]
        if last or self._stop_texts.stopped:
            told.append(self.end("stop" if ended or self._stop_texts.stopped else "length"))
        return told

    def break_off(self, reason: str) -> list[events.Event]:
        """No more tokens come: what was held back is said."""
        shown = self._stop_texts.add(self._spelling.flush()) + self._stop_texts.flush()
        return [*([events.ChoiceDelta(self.choice, shown, ())] if shown else []), self.end(reason)]

    def end(self, reason: str) -> events.ChoiceEnded:
        """It is over."""
        self.over = True
        return events.ChoiceEnded(self.choice, reason, self.made)


def _make_token(tokenizer: Any, one: SampledToken, text: str) -> events.Token:
    top = tuple((token, _token_text(tokenizer, token), logprob) for token, logprob in one.top)
    return events.Token(one.id, text, one.logprob, top)


@lru_cache(TOKEN_TEXT_CACHE_SIZE)
def _token_text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
