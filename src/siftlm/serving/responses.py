"""Responses: events become OpenAI's JSON, as one object or in chunks."""

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
# The log-likelihood that clients take for probability 0: JSON has no infinities.
MIN_LOGPROB = -9999.0


@dataclass
class _ChoiceState:
    """One choice so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    offset: int = 0
    """The start of the next token's text."""
    reason: str | None = None
    begun: bool = False
    """True once a stream has sent the role."""


@dataclass
class _PromptState:
    """One prompt so far."""

    generated: int = 0
    selected: Selected | None = None
    tuned: Tuned | None = None
    finished: Finished | None = None


class ResponseBuilder:
    """Builds the response to one request: call `take` with every event, or stream the `chunks` of every event."""

    def __init__(self, request: ParsedRequest) -> None:
        self._request = request
        kind = "chat.completion" if request.chat else "text_completion"
        self._head: JsonObject = {
            "id": f"{'chatcmpl' if request.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": f"{kind}.chunk" if request.chat and request.stream else kind,
            "created": int(time.time()),
            "model": request.model,
        }
        self._prompts = [_PromptState() for _ in request.jobs]
        self._choices = [_ChoiceState() for job in request.jobs for _ in range(job.choices)]
        self._top = request.jobs[0].sampling.top

    def take(self, index: int, event: Event) -> None:
        """Add an event of prompt ``index``."""
        self._record(index, event)
        for at, text, tokens in self._new_texts(index, event):
            self._choices[at].texts.append(text)
            self._choices[at].tokens.extend(tokens)
        if isinstance(event, ChoiceEnded):
            self._choices[self._choice_index(index, event.choice)].reason = event.reason

    def whole(self) -> JsonObject:
        """The complete response, after all events."""
        choices: list[JsonObject] = []
        for index, choice in enumerate(self._choices):
            text = "".join(choice.texts)
            content: JsonObject = {"text": text}
            if self._request.chat:
                content = {"message": {"role": "assistant", "content": text, "refusal": None}}
            logprobs = self._logprobs(choice, choice.tokens)
            choices.append({"index": index, **content, "logprobs": logprobs, "finish_reason": choice.reason})
        return {**self._head, "choices": choices, "usage": self._usage(), **self._siftlm_field()}

    def chunks(self, index: int, event: Event) -> Iterator[JsonObject]:
        """The chunks of a stream for one event of prompt ``index``."""
        self._record(index, event)
        if self._request.events and (details := _event_json(event)) is not None:
            yield self._chunk([], {"siftlm": {**details, "prompt": index}})
        for at, text, tokens in self._new_texts(index, event):
            logprobs = self._logprobs(self._choices[at], tokens)
            if text or logprobs is not None:
                yield self._piece(at, text, logprobs)
        if isinstance(event, ChoiceEnded):
            yield self._piece(self._choice_index(index, event.choice), "", None, reason=event.reason)

    def last(self) -> Iterator[JsonObject]:
        """The last chunks of a stream."""
        extras = self._siftlm_field()
        if self._request.usage:
            yield {**self._head, "choices": [], "usage": self._usage(), **extras}
        elif extras:
            yield self._chunk([], extras)

    # --- inside

    def _choice_index(self, index: int, choice: int) -> int:
        return sum(job.choices for job in self._request.jobs[:index]) + choice

    def _new_texts(self, index: int, event: Event) -> Iterator[tuple[int, str, Sequence[Token]]]:
        """(choice, text, tokens) that an event adds; an echo adds to every choice."""
        if isinstance(event, PromptRead) and self._request.jobs[index].echo:
            text = "".join(token.text for token in event.tokens)
            for choice in range(self._request.jobs[index].choices):
                yield self._choice_index(index, choice), text, event.tokens
        elif isinstance(event, ChoiceDelta):
            yield self._choice_index(index, event.choice), event.text, event.tokens

    def _record(self, index: int, event: Event) -> None:
        prompt = self._prompts[index]
        if isinstance(event, Selected):
            prompt.selected = event
        elif isinstance(event, Tuned):
            prompt.tuned = event
        elif isinstance(event, ChoiceEnded):
            prompt.generated += event.tokens
        elif isinstance(event, Finished):
            prompt.finished = event

    def _chunk(self, choices: list[JsonObject], more: JsonObject) -> JsonObject:
        usage: JsonObject = {"usage": None} if self._request.usage else {}
        return {**self._head, "choices": choices, **usage, **more}

    def _piece(self, index: int, text: str, logprobs: JsonObject | None, reason: str | None = None) -> JsonObject:
        if not self._request.chat:
            content: JsonObject = {"text": text}
        else:
            choice = self._choices[index]
            content = {"delta": {"content": text} if choice.begun else {"role": "assistant", "content": text}}
            if choice.begun and reason is not None:
                content = {"delta": {}}
            choice.begun = True
        return self._chunk([{"index": index, **content, "logprobs": logprobs, "finish_reason": reason}], {})

    def _logprobs(self, choice: _ChoiceState, tokens: Sequence[Token]) -> JsonObject | None:
        if self._top is None or (self._request.stream and not tokens):
            return None
        if self._request.chat:
            return {"content": [_chat_logprob(token, self._top) for token in tokens], "refusal": None}
        start = choice.offset
        choice.offset += sum(len(token.text) for token in tokens)
        return completion_logprobs(tokens, start)

    def _usage(self) -> JsonObject:
        read = sum(len(job.ids) for job in self._request.jobs)
        generated = sum(prompt.generated for prompt in self._prompts)
        return {"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated}

    def _siftlm_field(self) -> JsonObject:
        """The field ``siftlm``, if requested: an object, or a list of them for several prompts."""
        include = self._request.include
        if not include:
            return {}
        parts = []
        for job, prompt in zip(self._request.jobs, self._prompts, strict=True):
            one: JsonObject = {"mode": job.mode.name, "cached": prompt.selected is not None and prompt.selected.cached}
            if "selection" in include:
                one["selection"] = prompt.selected.found.to_dict() if prompt.selected else None
            if "steps" in include:
                one["trace"] = prompt.tuned.trace.to_dict() if prompt.tuned else None
            if "timings" in include:
                one["seconds"] = dict(prompt.finished.seconds) if prompt.finished else None
            parts.append(one)
        return {"siftlm": parts[0] if len(parts) == 1 else parts}


def completion_logprobs(tokens: Sequence[Token], start: int = 0) -> JsonObject:
    """The field ``logprobs`` of a completion; ``start`` is the offset of the first token's text.

    >>> completion_logprobs([Token(5, "a"), Token(7, "b", -1.5, ((6, "c", -0.5), (7, "b", -1.5)))])["top_logprobs"]
    [None, {'c': -0.5, 'b': -1.5}]
    """
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_logprob_or_none(token.logprob) for token in tokens],
        "top_logprobs": [_top_logprobs(token) for token in tokens],
        "text_offset": offsets[:-1],
    }


def _top_logprobs(token: Token) -> dict[str, float] | None:
    """Texts -> log-likelihoods. Tokens with the same text, such as halves of characters, are named by their ids."""
    if token.logprob is None:
        return None
    logprobs: dict[str, float] = {}
    for token_id, text, logprob in token.top or ((token.id, token.text, token.logprob),):
        logprobs[f"token_id:{token_id}" if text in logprobs else text] = finite_logprob(logprob)
    return logprobs


def _chat_logprob(token: Token, top: int) -> JsonObject:
    """A token in the field ``logprobs`` of a chat completion."""
    others = [_token_logprob(text, logprob) for _, text, logprob in token.top[:top]]
    return {**_token_logprob(token.text, token.logprob), "top_logprobs": others}


def _token_logprob(text: str, logprob: float | None) -> JsonObject:
    return {"token": text, "logprob": _logprob_or_none(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def _logprob_or_none(logprob: float | None) -> float | None:
    return None if logprob is None else finite_logprob(logprob)


def finite_logprob(logprob: float) -> float:
    """The number, or `MIN_LOGPROB` for what JSON cannot hold.

    >>> finite_logprob(-math.inf)
    -9999.0
    """
    return max(float(logprob), MIN_LOGPROB) if math.isfinite(logprob) else MIN_LOGPROB


def _event_json(event: Event) -> JsonObject | None:
    """An event in a stream with ``events``, such as the page's; None for those that it leaves out."""
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
"""Entries of a list that are encoded at once."""
MAX_SPLIT_DEPTH = 4
"""Levels that are split: response, choices, one choice, its log-likelihoods."""


def encode_json_in_parts(content: Any) -> bytes:
    """JSON as `siftlm.serving.error_responses.encode_json` writes it, in steps, so that other threads get their turn.

    >>> encode_json_in_parts({"a": [1, 2], "b": {}})
    b'{"a":[1,2],"b":{}}'
    """
    return b"".join(_json_parts(content, MAX_SPLIT_DEPTH))


def _json_parts(content: Any, depth: int) -> Iterator[bytes]:
    if isinstance(content, dict) and depth:
        yield b"{"
        for at, (name, value) in enumerate(content.items()):
            yield (b"," if at else b"") + encode_json(name) + b":"
            yield from _json_parts(value, depth - 1)
        yield b"}"
    elif isinstance(content, list) and depth and isinstance(next(iter(content), None), (dict, list)):
        yield b"["
        for at, value in enumerate(content):
            yield b"," if at else b""
            yield from _json_parts(value, depth - 1)
        yield b"]"
    elif isinstance(content, list) and len(content) > ITEMS_PER_PART:
        for start in range(0, len(content), ITEMS_PER_PART):
            yield (b"," if start else b"[") + encode_json(content[start : start + ITEMS_PER_PART])[1:-1]
        yield b"]"
    else:
        yield encode_json(content)
