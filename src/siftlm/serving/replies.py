"""Events to OpenAI's JSON: collected into one answer, or chunk by chunk."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from siftlm.serving.jobs import Ended, Event, Finished, Learned, Read, Said, Selected, Stepped, Token
from siftlm.serving.reading import Asked

JSON = dict[str, Any]
# What clients take for a probability of nothing: JSON has no infinities.
NEVER = -9999.0


@dataclass
class _Choice:
    """What has been said of one choice so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    offset: int = 0
    """Where the next token's text begins."""
    reason: str | None = None
    begun: bool = False
    """In a stream: has it been said who speaks?"""


@dataclass
class _Prompt:
    """What has been said of one prompt so far."""

    made: int = 0
    selected: Selected | None = None
    learned: Learned | None = None
    finished: Finished | None = None


class Replies:
    """What is answered to one request: call `take` with every event, or stream the `chunks` of every event."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        kind = "chat.completion" if asked.chat else "text_completion"
        self._head: JSON = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": f"{kind}.chunk" if asked.chat and asked.stream else kind,
            "created": int(time.time()),
            "model": asked.model,
        }
        self._prompts = [_Prompt() for _ in asked.jobs]
        self._choices = [_Choice() for job in asked.jobs for _ in range(job.choices)]
        self._top = asked.jobs[0].sampling.top

    def take(self, place: int, event: Event) -> None:
        """Remember what came of prompt ``place``."""
        self._note(place, event)
        for index, text, tokens in self._said(place, event):
            self._choices[index].texts.append(text)
            self._choices[index].tokens.extend(tokens)
        if isinstance(event, Ended):
            self._choices[self._index(place, event.choice)].reason = event.reason

    def whole(self) -> JSON:
        """The answer, from all that was taken."""
        made: list[JSON] = []
        for index, choice in enumerate(self._choices):
            text = "".join(choice.texts)
            shown: JSON = {"text": text}
            if self._asked.chat:
                shown = {"message": {"role": "assistant", "content": text, "refusal": None}}
            logprobs = self._logprobs(choice, choice.tokens)
            made.append({"index": index, **shown, "logprobs": logprobs, "finish_reason": choice.reason})
        return {**self._head, "choices": made, "usage": self._usage(), **self._ours()}

    def chunks(self, place: int, event: Event) -> Iterator[JSON]:
        """What a stream says of an event."""
        self._note(place, event)
        if self._asked.events and (told := _told(event)) is not None:
            yield self._chunk([], {"siftlm": {**told, "prompt": place}})
        for index, text, tokens in self._said(place, event):
            logprobs = self._logprobs(self._choices[index], tokens)
            if text or logprobs is not None:
                yield self._piece(index, text, logprobs)
        if isinstance(event, Ended):
            yield self._piece(self._index(place, event.choice), "", None, reason=event.reason)

    def last(self) -> Iterator[JSON]:
        """What a stream ends with."""
        ours = self._ours()
        if self._asked.usage:
            yield {**self._head, "choices": [], "usage": self._usage(), **ours}
        elif ours:
            yield self._chunk([], ours)

    # --- inside

    def _index(self, place: int, choice: int) -> int:
        return sum(job.choices for job in self._asked.jobs[:place]) + choice

    def _said(self, place: int, event: Event) -> Iterator[tuple[int, str, Sequence[Token]]]:
        """(choice, text, tokens): an echo is said by each choice."""
        if isinstance(event, Read) and self._asked.jobs[place].echo:
            text = "".join(token.text for token in event.tokens)
            for choice in range(self._asked.jobs[place].choices):
                yield self._index(place, choice), text, event.tokens
        elif isinstance(event, Said):
            yield self._index(place, event.choice), event.text, event.tokens

    def _note(self, place: int, event: Event) -> None:
        prompt = self._prompts[place]
        if isinstance(event, Selected):
            prompt.selected = event
        elif isinstance(event, Learned):
            prompt.learned = event
        elif isinstance(event, Ended):
            prompt.made += event.tokens
        elif isinstance(event, Finished):
            prompt.finished = event

    def _chunk(self, choices: list[JSON], more: JSON) -> JSON:
        usage: JSON = {"usage": None} if self._asked.usage else {}
        return {**self._head, "choices": choices, **usage, **more}

    def _piece(self, index: int, text: str, logprobs: JSON | None, reason: str | None = None) -> JSON:
        if not self._asked.chat:
            shown: JSON = {"text": text}
        else:
            choice = self._choices[index]
            shown = {"delta": {"content": text} if choice.begun else {"role": "assistant", "content": text}}
            if choice.begun and reason is not None:
                shown = {"delta": {}}
            choice.begun = True
        return self._chunk([{"index": index, **shown, "logprobs": logprobs, "finish_reason": reason}], {})

    def _logprobs(self, choice: _Choice, tokens: Sequence[Token]) -> JSON | None:
        if self._top is None or (self._asked.stream and not tokens):
            return None
        if self._asked.chat:
            return {"content": [_with_top(token, self._top) for token in tokens], "refusal": None}
        start = choice.offset
        choice.offset += sum(len(token.text) for token in tokens)
        return in_columns(tokens, start)

    def _usage(self) -> JSON:
        read, made = sum(len(job.ids) for job in self._asked.jobs), sum(prompt.made for prompt in self._prompts)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _ours(self) -> JSON:
        """The field ``siftlm``, where the request asks for it: an object, or a list of them for several prompts."""
        tell = self._asked.tell
        if not tell:
            return {}
        told = []
        for job, prompt in zip(self._asked.jobs, self._prompts, strict=True):
            one: JSON = {"mode": job.mode.name, "cached": prompt.selected is not None and prompt.selected.cached}
            if "selection" in tell:
                one["selection"] = prompt.selected.found.to_dict() if prompt.selected else None
            if "steps" in tell:
                one["trace"] = prompt.learned.trace.to_dict() if prompt.learned else None
            if "timings" in tell:
                one["seconds"] = dict(prompt.finished.seconds) if prompt.finished else None
            told.append(one)
        return {"siftlm": told[0] if len(told) == 1 else told}


def in_columns(tokens: Sequence[Token], start: int = 0) -> JSON:
    """How likely tokens were, as completions say it; ``start`` is where their text begins.

    >>> in_columns([Token(5, "a"), Token(7, "b", -1.5, ((6, "c", -0.5), (7, "b", -1.5)))])["top_logprobs"]
    [None, {'c': -0.5, 'b': -1.5}]
    """
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_number(token.logprob) for token in tokens],
        "top_logprobs": [_by_text(token) for token in tokens],
        "text_offset": offsets[:-1],
    }


def _by_text(token: Token) -> dict[str, float] | None:
    """Texts -> log-likelihoods. Two tokens may look the same, such as halves of characters: then by their numbers."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for number, text, logprob in token.top or ((token.id, token.text, token.logprob),):
        found[f"token_id:{number}" if text in found else text] = finite(logprob)
    return found


def _with_top(token: Token, top: int) -> JSON:
    """A token as chats say it."""
    others = [_one(text, logprob) for _, text, logprob in token.top[:top]]
    return {**_one(token.text, token.logprob), "top_logprobs": others}


def _one(text: str, logprob: float | None) -> JSON:
    return {"token": text, "logprob": _number(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else finite(logprob)


def finite(logprob: float) -> float:
    """The number, or `NEVER` for what JSON cannot hold.

    >>> finite(-math.inf)
    -9999.0
    """
    return max(float(logprob), NEVER) if math.isfinite(logprob) else NEVER


def _told(event: Event) -> JSON | None:
    """An event for the page."""
    if isinstance(event, Selected):
        return {"event": "selected", "cached": event.cached, "found": event.found.to_dict()}
    if isinstance(event, Stepped):
        step = {name: getattr(event.step, name) for name in event.step.__dataclass_fields__}
        return {"event": "step", "taken": event.taken, "planned": event.planned, "step": step}
    if isinstance(event, Learned):
        return {"event": "learned", "trace": event.trace.to_dict()}
    if isinstance(event, Finished):
        return {"event": "finished", "seconds": dict(event.seconds)}
    return None
