"""Decoding: prompts are continued token by token until an end token, a stop string or the limit."""

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
from siftlm.serving.events import (
    ChoiceDelta,
    ChoiceEnded,
    Event,
    Job,
    Metrics,
    PromptRead,
    ServedRequest,
    Token,
)


@dataclass(eq=False)
class Choice:
    """One choice of a request, as it is decoded."""

    task: ServedRequest
    row: DecodingRow
    writer: ChoiceWriter


class DecodeQueue:
    """The choices that are being decoded. Only the engine's thread uses it."""

    def __init__(self, controller: Controller, decoding: BatchDecoder, count: Metrics) -> None:
        self._controller, self._decoding, self._count = controller, decoding, count
        self._ends = set(eos_token_ids(controller))
        self._choices: dict[int, Choice] = {}

    def __len__(self) -> int:
        return len(self._choices)

    def tasks(self) -> list[ServedRequest]:
        """All requests that are being decoded."""
        return list({id(choice.task): choice.task for choice in self._choices.values()}.values())

    def join(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        """Start decoding new requests, and return those that are complete at once."""
        new = [choice for task in tasks for choice in self._make_choices(task)]
        self._choices.update((id(choice.row), choice) for choice in new)
        # A prompt need not be read if nothing is generated or reported.
        drawn = self._decoding.join([choice.row for choice in new if choice.row.sampling.max_tokens or choice.row.echo])
        for choice in new:
            if choice.task.job.echo and choice.writer.choice == 0:
                choice.task.emit(prompt_event(self._controller.tokenizer, choice.task.job, choice.row.read))
            if not choice.row.sampling.max_tokens:
                choice.task.emit(choice.writer.end("length"))
                del self._choices[id(choice.row)]
        return self._emit_tokens(drawn, tasks)

    def step(self) -> list[ServedRequest]:
        """Generate one more token for each choice, and return the requests that are complete."""
        return self._emit_tokens(self._decoding.step(), self.tasks())

    def leave(self, task: ServedRequest) -> None:
        """Stop decoding a request."""
        gone = [choice for choice in self._choices.values() if choice.task is task]
        self._decoding.leave([choice.row for choice in gone])
        for choice in gone:
            del self._choices[id(choice.row)]

    # --- inside

    def _make_choices(self, task: ServedRequest) -> list[Choice]:
        job, sampling = task.job, task.job.sampling
        ids = prompt_with_context(self._controller, job, task.context)
        rows = [
            DecodingRow(
                ids,
                task.owner,
                replace(sampling, seed=sampling.seed + choice),
                echo=job.echo and sampling.top is not None and choice == 0,
            )
            for choice in range(job.choices)
        ]
        tokenizer = self._controller.tokenizer
        return [Choice(task, row, ChoiceWriter(tokenizer, job, at, self._ends)) for at, row in enumerate(rows)]

    def _emit_tokens(
        self, drawn: Sequence[tuple[DecodingRow, SampledToken]], tasks: Sequence[ServedRequest]
    ) -> list[ServedRequest]:
        ended = []
        for row, one in drawn:
            choice = self._choices[id(row)]
            for event in choice.writer.write(one):
                choice.task.emit(event)
            if choice.writer.over:
                ended.append(row)
                del self._choices[id(row)]
        self._decoding.leave([row for row in ended if not row.complete])
        self._count.generated(len(drawn))
        unfinished = {id(choice.task) for choice in self._choices.values()}
        return [task for task in tasks if id(task) not in unfinished]


# Texts of single tokens to cache: with logprobs the same few thousand recur.
TOKEN_TEXT_CACHE_SIZE = 2**16


def prompt_with_context(controller: Controller, job: Job, context: Sequence[str]) -> tuple[int, ...]:
    """The prompt's token ids, preceded by as many of the texts selected as its context as there is room for."""
    ids, most = job.ids, controller.context
    room = min(most // 2, most - job.sampling.max_tokens - len(ids))
    if not context or room < 1:
        return ids
    # The start token comes first, and only once.
    head = prefix_token_ids(controller.tokenizer)
    own = ids[len(head) :] if head and list(ids[: len(head)]) == head else ids
    return (*controller.context_of(context, room), *own)


def prompt_event(tokenizer: Any, job: Job, known: Sequence[SampledToken] = ()) -> PromptRead:
    """The event with the prompt's own tokens.

    ``known``: all tokens that were read after the first, with their log-likelihoods; the prompt's are the last of them.
    """
    first, *others = job.ids
    rest: Iterable[SampledToken] = known[len(known) - len(others) :] if known else map(SampledToken, others)
    detokenizer = Detokenizer(tokenizer)
    return PromptRead(
        tuple(_make_token(tokenizer, one, detokenizer.add(one.id)) for one in (SampledToken(first), *rest))
    )


class ChoiceWriter:
    """Turns the tokens of one choice into events."""

    def __init__(self, tokenizer: Any, job: Job, choice: int, ends: Collection[int]) -> None:
        self.choice = choice
        self.generated = 0
        """Tokens so far."""
        self.over = False
        self._tokenizer, self._ends, self._most = tokenizer, ends, job.sampling.max_tokens
        self._detokenizer, self._stop_texts = Detokenizer(tokenizer, job.ids), StopStrings(job.sampling.stop)

    def write(self, one: SampledToken) -> list[Event]:
        """The events of one more token, which may end the choice."""
        self.generated += 1
        ended = one.id in self._ends
        piece = "" if ended else self._detokenizer.add(one.id)
        last = ended or self.generated >= self._most
        shown = self._stop_texts.add(piece + (self._detokenizer.flush() if last else ""))
        if last:
            shown += self._stop_texts.flush()
        # The end token is reported as well, with an empty text: logprobs list every token that was generated.
        events: list[Event] = [ChoiceDelta(self.choice, shown, (_make_token(self._tokenizer, one, piece),))]
        if last or self._stop_texts.stopped:
            events.append(self.end("stop" if ended or self._stop_texts.stopped else "length"))
        return events

    def break_off(self, reason: str) -> list[Event]:
        """The events that end a choice early, with the text held back so far."""
        shown = self._stop_texts.add(self._detokenizer.flush()) + self._stop_texts.flush()
        return [*([ChoiceDelta(self.choice, shown, ())] if shown else []), self.end(reason)]

    def end(self, reason: str) -> ChoiceEnded:
        """The event that ends the choice."""
        self.over = True
        return ChoiceEnded(self.choice, reason, self.generated)


def _make_token(tokenizer: Any, one: SampledToken, text: str) -> Token:
    top = tuple((token, _token_text(tokenizer, token), logprob) for token, logprob in one.top)
    return Token(one.id, text, one.logprob, top)


@lru_cache(TOKEN_TEXT_CACHE_SIZE)
def _token_text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
