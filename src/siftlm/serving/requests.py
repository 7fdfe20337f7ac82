"""Requests: bodies and messages are parsed into jobs for the scheduler."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from siftlm.controller import Controller, SamplingParams
from siftlm.controller.tokens import prefix_token_ids, start_token, text_token_ids
from siftlm.errors import InvalidInput
from siftlm.serving.errors import BadRequest
from siftlm.serving.events import Job, Mode
from siftlm.serving.modes import AccessCheck, ModeParser, setting_error
from siftlm.serving.schemas import (
    CHAT_SCHEMA,
    COMPLETION_SCHEMA,
    NEUTRAL_VALUES,
    RequestLimits,
    check_items,
    check_texts,
    parse_fields,
)

# Fields of ``siftlm`` that shape the response; all others are settings of the model.
RESPONSE_OPTIONS = ("prompt", "return", "events")
# The smallest top_p: sampling from no probability at all means the most likely token.
MIN_TOP_P = 1e-9
# The smallest temperature: below it the most likely token is sampled anyway, and dividing logits by it overflows.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class ParsedRequest:
    """A parsed completion or chat request."""

    model: str
    """The model's name as the client wrote it."""
    jobs: tuple[Job, ...]
    """One job for each prompt."""
    chat: bool = False
    stream: bool = False
    usage: bool = False
    """Report the number of tokens at the end of a stream."""
    include: frozenset[str] = frozenset()
    """Parts of the field ``siftlm`` to return: ``selection``, ``steps``, ``timings``."""
    events: bool = False
    """Report the selection and every step in a stream."""


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt's token ids, and the text that passages are selected for."""

    ids: tuple[int, ...]
    query: str


class RequestParser:
    """Parses request bodies into jobs for one model. Its methods may take a while: call them in a thread."""

    def __init__(self, controller: Controller, modes: ModeParser, limits: RequestLimits) -> None:
        # A tokenizer holds the settings of its last call, so threads that share one disturb each other. This copy is
        # only used here, and always in the same way.
        self.tokenizer, self.context = copy.deepcopy(controller.tokenizer), controller.context
        text_token_ids(self.tokenizer, "a text")
        self._model = controller.model
        self._modes, self.limits = modes, limits

    def completion(self, body: Any, needs: AccessCheck = lambda *_: None) -> ParsedRequest:
        """A request to ``/v1/completions``; ``needs``: see `ModeParser.parse`."""
        check_items(body, "stop", self.limits.stops, "texts")
        self._check_prompts(body)
        fields = parse_fields(body, COMPLETION_SCHEMA)
        _refuse_unsupported(fields)
        if fields["best_of"] not in {None, fields["n"]}:
            raise BadRequest(
                "best_of is not supported: request n choices and pick one",
                param="best_of",
                code="unsupported_parameter",
            )
        prompts = self._prompts(fields["prompt"])
        return self._build(fields, prompts, fields["max_tokens"], fields["logprobs"], needs, echo=bool(fields["echo"]))

    def chat(self, body: Any, needs: AccessCheck = lambda *_: None) -> ParsedRequest:
        """A request to ``/v1/chat/completions``; ``needs``: see `ModeParser.parse`."""
        check_items(body, "messages", self.limits.messages, "messages")
        check_items(body, "stop", self.limits.stops, "texts")
        fields = parse_fields(body, CHAT_SCHEMA)
        _refuse_unsupported(fields)
        if fields["top_logprobs"] is not None and not fields["logprobs"]:
            raise BadRequest("top_logprobs requires logprobs: true", param="top_logprobs")
        read = self.messages(fields["messages"])
        most, top = fields["max_completion_tokens"], (fields["top_logprobs"] or 0) if fields["logprobs"] else None
        if most is None:
            most = fields["max_tokens"]
        if most is None:  # as many as fit
            room = self.limits.entries // (fields["n"] * _entries_per_token(top))
            most = max(1, min(self.context - len(read.ids), room))
        return self._build(fields, [ParsedPrompt(read.ids, read.query)], most, top, needs, stops=read.stops, chat=True)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """A conversation in the model's tokens."""
        self._check_length(sum(len(str(one.get("content") or "")) for one in messages), chat=True)
        return tokenize_messages(self.tokenizer, messages, self.vocabulary)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """A text's token ids; with ``special`` also the tokens that start every text."""
        return [
            *(prefix_token_ids(self.tokenizer) if special else ()),
            *text_token_ids(self.tokenizer, text, self.vocabulary),
        ]

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of token ids, with or without ``special`` tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def check_tokens(self, ids: Sequence[int], name: str) -> None:
        """Refuse token ids that the model does not have."""
        wrong = next((at for at, one in enumerate(ids) if one >= self.vocabulary), None)
        if wrong is not None:
            raise BadRequest(
                f"{name}[{wrong}] is {ids[wrong]}, but the model's token ids are 0 to {self.vocabulary - 1}",
                param=name,
                code="invalid_value",
            )

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens that both the model and the tokenizer have."""
        known = getattr(self._model.config, "vocab_size", None)
        return len(self.tokenizer) if known is None else min(int(known), len(self.tokenizer))

    # --- inside

    def _check_prompts(self, body: Any) -> None:
        """Check the number of prompts and of tokens, before the prompts themselves are checked."""
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, list) or not prompt:
            return
        if isinstance(prompt[0], int):
            self._check_room(len(prompt), 0, chat=False)
            return
        check_items(body, "prompt", self.limits.prompts, "prompts")
        self._check_room(max(len(one) if isinstance(one, list) else 0 for one in prompt), 0, chat=False)

    def _prompts(self, value: Any) -> list[ParsedPrompt]:
        several = isinstance(value, list) and not isinstance(value[0], int)
        prompts = value if several else [value]
        return [self._prompt(one, f"prompt[{at}]" if several else "prompt") for at, one in enumerate(prompts)]

    def _prompt(self, value: str | list[int], name: str) -> ParsedPrompt:
        if isinstance(value, str):
            self._check_length(len(value), chat=False)
            ids, query = self.tokens(value), value
        else:
            self.check_tokens(value, name)
            ids, query = value, self.text(value, special=False)
        return ParsedPrompt(tuple(ids or self._start(name)), query)

    def _start(self, name: str) -> list[int]:
        start = start_token(self.tokenizer)
        if start is None:
            raise BadRequest(f"{name} is empty, and the model has no start token", param="prompt")
        return [start]

    def _build(
        self,
        fields: Mapping[str, Any],
        prompts: Sequence[ParsedPrompt],
        most: int,
        top: int | None,
        needs: AccessCheck,
        *,
        stops: tuple[str, ...] = (),
        echo: bool = False,
        chat: bool = False,
    ) -> ParsedRequest:
        for prompt in prompts:
            self._check_room(len(prompt.ids), most, chat)
        self._check_answer(sum(most + len(one.ids) * echo for one in prompts), fields["n"], top, chat)
        extras = fields["siftlm"] or {}
        check_texts("siftlm.prompt", [extras.get("prompt") or ""], self.limits)
        mode = self._mode(fields["model"], extras, needs)
        deadline = time.monotonic() + self.limits.seconds
        jobs = []
        for prompt in prompts:
            query = prompt.query if extras.get("prompt") is None else extras["prompt"]
            if mode.memory is not None and not query.strip():
                raise BadRequest(
                    "the prompt is empty, so no texts can be selected for it: send one, or set siftlm.prompt",
                    param="messages" if chat else "prompt",
                )
            sampling = SamplingParams(
                most,
                _temperature(fields["temperature"]),
                max(fields["top_p"], MIN_TOP_P),
                (*self._stops(fields["stop"]), *stops),
                _seed(fields["seed"]),
                top,
            )
            jobs.append(Job(prompt.ids, query, mode, sampling, fields["n"], echo, deadline))
        stream, options = bool(fields["stream"]), fields["stream_options"] or {}
        return ParsedRequest(
            fields["model"],
            tuple(jobs),
            chat,
            stream,
            bool(options.get("include_usage")),
            frozenset(extras.get("return") or ()),
            bool(extras.get("events")),
        )

    def _mode(self, model: str, extras: Mapping[str, Any], needs: AccessCheck) -> Mode:
        settings = {name: value for name, value in extras.items() if name not in RESPONSE_OPTIONS and value is not None}
        try:
            return self._modes.parse(model, settings, needs)
        except InvalidInput as error:
            raise setting_error(error, settings, "siftlm" if extras else "model") from error
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise BadRequest("a setting in siftlm has a value of the wrong type", param="siftlm") from error

    def _stops(self, value: Any) -> tuple[str, ...]:
        return (value,) if isinstance(value, str) else tuple(value or ())

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def _check_length(self, characters: int, chat: bool) -> None:
        """Refuse a text that cannot fit, before its tokens are counted: millions of characters take many seconds."""
        if characters > self.context * self._longest:
            raise BadRequest(
                f"This model's maximum context length is {self.context} tokens, and your prompt has {characters} "
                "characters. Please reduce its length.",
                param="messages" if chat else "prompt",
                code="context_length_exceeded",
            )

    def _check_room(self, read: int, most: int, chat: bool) -> None:
        if read + most <= self.context:
            return
        if chat:
            message = (
                f"This model's maximum context length is {self.context} tokens. However, you requested {read + most} "
                f"tokens ({read} in the messages, {most} in the completion). Please reduce the length of the messages "
                "or completion."
            )
        else:
            message = (
                f"This model's maximum context length is {self.context} tokens, however you requested {read + most} "
                f"tokens ({read} in your prompt; {most} for the completion). Please reduce your prompt; or completion "
                "length."
            )
        raise BadRequest(message, param="messages" if chat else "prompt", code="context_length_exceeded")

    def _check_answer(self, tokens: int, choices: int, top: int | None, chat: bool) -> None:
        entries = tokens * choices * _entries_per_token(top)
        if entries > self.limits.entries:
            raise BadRequest(
                f"the answer could have {entries} entries ({tokens} tokens × n={choices} × "
                f"({'top_' if chat else ''}logprobs + 1)={_entries_per_token(top)}), and at most {self.limits.entries} "
                "are allowed: request fewer prompts, tokens, choices or logprobs",
                param="messages" if chat else "prompt",
                code="answer_too_large",
            )


def _entries_per_token(top: int | None) -> int:
    """The entries reported for a token: itself and the most likely ones."""
    return (top or 0) + 1


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL_VALUES.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            raise BadRequest(f"{name} is not supported by this server", param=name, code="unsupported_parameter")


def _temperature(value: float) -> float:
    """The temperature; 0 for one so low that the most likely token is always sampled."""
    return 0.0 if value < MIN_TEMPERATURE else float(value)


def _seed(value: int | None) -> int:
    """The seed, made non-negative; a random one by default."""
    return secrets.randbits(48) if value is None else value % 2**62


# The format of conversations for a model without a chat template; the answer must end before the user's next turn.
SPEAKER_PREFIXES = {"user": "User: ", "assistant": "Assistant: "}
ANSWER_PREFIX, NEXT_TURN_STOP = "Assistant:", "\n\nUser:"


@dataclass(frozen=True)
class Conversation:
    """A conversation in the model's tokens."""

    ids: tuple[int, ...]
    query: str
    """The user's messages."""
    stops: tuple[str, ...]
    """Strings that end the answer."""


def tokenize_messages(tokenizer: Any, messages: Sequence[Mapping[str, Any]], rows: int | None = None) -> Conversation:
    """Tokenize messages by the chat template, or without one as ``User: …``, a blank line, ``Assistant:``."""
    turns = [
        {"role": _template_role(one["role"]), "content": _message_text(one, at)} for at, one in enumerate(messages)
    ]
    query = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "user")
    stops: tuple[str, ...] = ()
    if getattr(tokenizer, "chat_template", None) is None:
        ids = [*prefix_token_ids(tokenizer), *text_token_ids(tokenizer, format_without_template(turns), rows)]
        stops = (NEXT_TURN_STOP,)
    else:  # a template writes the start token itself
        ids = text_token_ids(tokenizer, _apply_chat_template(tokenizer, turns), rows)
    start = start_token(tokenizer)
    return Conversation(tuple(ids or ([] if start is None else [start])), query, stops)


def format_without_template(turns: Sequence[Mapping[str, str]]) -> str:
    r"""A conversation for a model without a chat template.

    >>> format_without_template([{"role": "user", "content": "Where is Rome?"}])
    'User: Where is Rome?\n\nAssistant:'
    """
    texts = [SPEAKER_PREFIXES.get(turn["role"], "") + turn["content"] for turn in turns]
    return "\n\n".join([*texts, ANSWER_PREFIX])


def _apply_chat_template(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except Exception as error:
        raise BadRequest(
            f"the model's chat template does not accept these messages: {error!s:.200}", param="messages"
        ) from error


def _template_role(role: str) -> str:
    return "system" if role == "developer" else role  # OpenAI's newer name for it, which templates lack


def _message_text(message: Mapping[str, Any], at: int) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"messages[{at}].content[{number}] must be a part of type text: this model reads only text",
                param=f"messages[{at}].content[{number}]",
            )
    return "".join(part["text"] for part in content)
