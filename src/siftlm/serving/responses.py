"""Responses: events become OpenAI's JSON, whole or chunk by chunk."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from siftlm.serving.error_responses import encode_json
from siftlm.serving.events import ChoiceDelta, ChoiceEnded, Event, Finished, PromptRead, Selected, Stepped, Token, Tuned
from siftlm.serving.requests import ParsedRequest

JsonObject = dict[str, Any]
# What clients take for a probability of nothing: JSON has no infinities.
MIN_LOGPROB = -9999.0


@dataclass
class _ChoiceState:
    """What has been said of one choice so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    offset: int = 0
    """Where the next token's text begins."""
    reason: str | None = None
    begun: bool = False
    """In a stream: has it been said who speaks?"""


@dataclass
class _PromptState:
    """What has been said of one prompt so far."""

    made: int = 0
    selected: Selected | None = None
    learned: Tuned | None = None
    finished: Finished | None = None


class ResponseBuilder:
    """What is answered to one request: call `take` with every event, or stream the `chunks` of every event."""

    def __init__(self, asked: ParsedRequest) -> None:
        self._asked = asked
        kind = "chat.completion" if asked.chat else "text_completion"
        self._head: JsonObject = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": f"{kind}.chunk" if asked.chat and asked.stream else kind,
            "created": int(time.time()),
            "model": asked.model,
        }
        self._prompts = [_PromptState() for _ in asked.jobs]
        self._choices = [_ChoiceState() for job in asked.jobs for _ in range(job.choices)]
        self._top = asked.jobs[0].sampling.top

    def take(self, place: int, event: Event) -> None:
        """Remember what came of prompt ``place``."""
        self._note(place, event)
        for index, text, tokens in self._said(place, event):
            self._choices[index].texts.append(text)
            self._choices[index].tokens.extend(tokens)
        if isinstance(event, ChoiceEnded):
            self._choices[self._index(place, event.choice)].reason = event.reason

    def whole(self) -> JsonObject:
        """The answer, from all that was taken."""
        made: list[JsonObject] = []
        for index, choice in enumerate(self._choices):
            text = "".join(choice.texts)
            shown: JsonObject = {"text": text}
            if self._asked.chat:
                shown = {"message": {"role": "assistant", "content": text, "refusal": None}}
            logprobs = self._logprobs(choice, choice.tokens)
            made.append({"index": index, **shown, "logprobs": logprobs, "finish_reason": choice.reason})
        return {**self._head, "choices": made, "usage": self._usage(), **self._siftlm_field()}

    def chunks(self, place: int, event: Event) -> Iterator[JsonObject]:
        """What a stream says of an event."""
        self._note(place, event)
        if self._asked.events and (told := _event_json(event)) is not None:
            yield self._chunk([], {"siftlm": {**told, "prompt": place}})
        for index, text, tokens in self._said(place, event):
            logprobs = self._logprobs(self._choices[index], tokens)
            if text or logprobs is not None:
                yield self._piece(index, text, logprobs)
        if isinstance(event, ChoiceEnded):
            yield self._piece(self._index(place, event.choice), "", None, reason=event.reason)

    def last(self) -> Iterator[JsonObject]:
        """What a stream ends with."""
        ours = self._siftlm_field()
        if self._asked.usage:
            yield {**self._head, "choices": [], "usage": self._usage(), **ours}
        elif ours:
            yield self._chunk([], ours)

    # --- inside

    def _index(self, place: int, choice: int) -> int:
        return sum(job.choices for job in self._asked.jobs[:place]) + choice

    def _said(self, place: int, event: Event) -> Iterator[tuple[int, str, Sequence[Token]]]:
        """(choice, text, tokens): an echo is said by each choice."""
        if isinstance(event, PromptRead) and self._asked.jobs[place].echo:
            text = "".join(token.text for token in event.tokens)
            for choice in range(self._asked.jobs[place].choices):
                yield self._index(place, choice), text, event.tokens
        elif isinstance(event, ChoiceDelta):
            yield self._index(place, event.choice), event.text, event.tokens

    def _note(self, place: int, event: Event) -> None:
        prompt = self._prompts[place]
        if isinstance(event, Selected):
            prompt.selected = event
        elif isinstance(event, Tuned):
            prompt.learned = event
        elif isinstance(event, ChoiceEnded):
            prompt.made += event.tokens
        elif isinstance(event, Finished):
            prompt.finished = event

    def _chunk(self, choices: list[JsonObject], more: JsonObject) -> JsonObject:
        usage: JsonObject = {"usage": None} if self._asked.usage else {}
        return {**self._head, "choices": choices, **usage, **more}

    def _piece(self, index: int, text: str, logprobs: JsonObject | None, reason: str | None = None) -> JsonObject:
        if not self._asked.chat:
            shown: JsonObject = {"text": text}
        else:
            choice = self._choices[index]
            shown = {"delta": {"content": text} if choice.begun else {"role": "assistant", "content": text}}
            if choice.begun and reason is not None:
                shown = {"delta": {}}
            choice.begun = True
        return self._chunk([{"index": index, **shown, "logprobs": logprobs, "finish_reason": reason}], {})

    def _logprobs(self, choice: _ChoiceState, tokens: Sequence[Token]) -> JsonObject | None:
        if self._top is None or (self._asked.stream and not tokens):
            return None
        if self._asked.chat:
            return {"content": [_chat_logprob(token, self._top) for token in tokens], "refusal": None}
        start = choice.offset
        choice.offset += sum(len(token.text) for token in tokens)
        return completion_logprobs(tokens, start)

    def _usage(self) -> JsonObject:
        read, made = sum(len(job.ids) for job in self._asked.jobs), sum(prompt.made for prompt in self._prompts)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _siftlm_field(self) -> JsonObject:
        """The field ``siftlm``, where the request asks for it: an object, or a list of them for several prompts."""
        tell = self._asked.tell
        if not tell:
            return {}
        told = []
        for job, prompt in zip(self._asked.jobs, self._prompts, strict=True):
            one: JsonObject = {"mode": job.mode.name, "cached": prompt.selected is not None and prompt.selected.cached}
            if "selection" in tell:
                one["selection"] = prompt.selected.found.to_dict() if prompt.selected else None
            if "steps" in tell:
                one["trace"] = prompt.learned.trace.to_dict() if prompt.learned else None
            if "timings" in tell:
                one["seconds"] = dict(prompt.finished.seconds) if prompt.finished else None
            told.append(one)
        return {"siftlm": told[0] if len(told) == 1 else told}


def completion_logprobs(tokens: Sequence[Token], start: int = 0) -> JsonObject:
    """How likely tokens were, as completions say it; ``start`` is where their text begins.

    >>> completion_logprobs([Token(5, "a"), Token(7, "b", -1.5, ((6, "c", -0.5), (7, "b", -1.5)))])["top_logprobs"]
    [None, {'c': -0.5, 'b': -1.5}]
    """
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite_or_none(token.logprob) for token in tokens],
        "top_logprobs": [_top_logprobs(token) for token in tokens],
        "text_offset": offsets[:-1],
    }


def _top_logprobs(token: Token) -> dict[str, float] | None:
    """Texts -> log-likelihoods. Two tokens may look the same, such as halves of characters: then by their numbers."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for number, text, logprob in token.top or ((token.id, token.text, token.logprob),):
        found[f"token_id:{number}" if text in found else text] = finite_logprob(logprob)
    return found


def _chat_logprob(token: Token, top: int) -> JsonObject:
    """A token as chats say it."""
    others = [_token_logprob(text, logprob) for _, text, logprob in token.top[:top]]
    return {**_token_logprob(token.text, token.logprob), "top_logprobs": others}


def _token_logprob(text: str, logprob: float | None) -> JsonObject:
    return {"token": text, "logprob": _finite_or_none(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def _finite_or_none(logprob: float | None) -> float | None:
    return None if logprob is None else finite_logprob(logprob)


def finite_logprob(logprob: float) -> float:
    """The number, or `MIN_LOGPROB` for what JSON cannot hold.

    >>> finite_logprob(-math.inf)
    -9999.0
    """
    return max(float(logprob), MIN_LOGPROB) if math.isfinite(logprob) else MIN_LOGPROB


def _event_json(event: Event) -> JsonObject | None:
    """An event for the page."""
    if isinstance(event, Selected):
        return {"event": "selected", "cached": event.cached, "found": event.found.to_dict()}
    if isinstance(event, Stepped):
        step = {name: getattr(event.step, name) for name in event.step.__dataclass_fields__}
        return {"event": "step", "taken": event.taken, "planned": event.planned, "step": step}
    if isinstance(event, Tuned):
        return {"event": "learned", "trace": event.trace.to_dict()}
    if isinstance(event, Finished):
        return {"event": "finished", "seconds": dict(event.seconds)}
    return None


ITEMS_PER_PART = 64
"""Entries of a list."""
MAX_SPLIT_DEPTH = 4
"""Levels that are taken apart: answer, choices, one choice, its log-likelihoods."""


def encode_json_in_parts(content: Any) -> bytes:
    """As `siftlm.serving.error_responses.encode_json`, in many small steps.

    >>> encode_json_in_parts({"a": [1, 2], "b": {}})
    b'{"a":[1,2],"b":{}}'
    """
    return b"".join(_json_parts(content, MAX_SPLIT_DEPTH))


def _json_parts(content: Any, deep: int) -> Iterator[bytes]:
    if isinstance(content, dict) and deep:
        yield b"{"
        for at, (name, value) in enumerate(content.items()):
            yield (b"," if at else b"") + encode_json(name) + b":"
            yield from _json_parts(value, deep - 1)
        yield b"}"
    elif isinstance(content, list) and deep and isinstance(next(iter(content), None), (dict, list)):
        yield b"["
        for at, value in enumerate(content):
            yield b"," if at else b""
            yield from _json_parts(value, deep - 1)
        yield b"]"
    elif isinstance(content, list) and len(content) > ITEMS_PER_PART:
        for start in range(0, len(content), ITEMS_PER_PART):
            yield (b"," if start else b"[") + encode_json(content[start : start + ITEMS_PER_PART])[1:-1]
        yield b"]"
    else:
        yield encode_json(content)
