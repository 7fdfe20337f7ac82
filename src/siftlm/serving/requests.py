"""Requests: bodies and messages become jobs for the scheduler."""

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
from siftlm.serving.limits import RequestLimits, check_items, check_texts
from siftlm.serving.modes import AccessCheck, ModeParser
from siftlm.serving.schemas import CHAT_SCHEMA, COMPLETION_SCHEMA, NEUTRAL_VALUES, parse_fields

# Fields of ``siftlm`` that are about the answer; all others are settings of the model.
RESPONSE_OPTIONS = ("prompt", "return", "events")
# A draw among the likeliest tokens with no probability at all is the likeliest token.
MIN_TOP_P = 1e-9
# Below this the likeliest token is drawn all the same, and what the model says, divided by it, is no number any more.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class ParsedRequest:
    """A request for an answer."""

    model: str
    """As the client named it."""
    jobs: tuple[Job, ...]
    """One a prompt."""
    chat: bool = False
    stream: bool = False
    usage: bool = False
    """At the end of a stream, say how many tokens there were."""
    tell: frozenset[str] = frozenset()
    """Of ``selection``, ``steps`` and ``timings``."""
    events: bool = False
    """In a stream, say what is selected, and every step."""


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt as the model reads it, and as the memory does."""

    ids: tuple[int, ...]
    learn_for: str


class RequestParser:
    """Turns bodies into jobs for one model. Its methods may take a while: they belong into a thread."""

    def __init__(self, controller: Controller, modes: ModeParser, limits: RequestLimits) -> None:
        # A tokenizer is set up for every call, and calls that want it otherwise disturb each other. This one is ours,
        # and set up here once and for all.
        self.tokenizer, self.context = copy.deepcopy(controller.tokenizer), controller.context
        text_token_ids(self.tokenizer, "a text")
        self._model = controller.model
        self._modes, self.limits = modes, limits

    def completion(self, body: Any, needs: AccessCheck = lambda *_: None) -> ParsedRequest:
        """Of ``/v1/completions``; ``needs``: see `ModeParser.parse`."""
        check_items(body, "stop", self.limits.stops, "texts")
        self._check_prompts(body)
        given = parse_fields(body, COMPLETION_SCHEMA)
        _refuse_unsupported(given)
        if given["best_of"] not in {None, given["n"]}:
            raise BadRequest(
                "best_of is not supported; ask for n choices, and choose", param="best_of", code="unsupported_parameter"
            )
        prompts = self._prompts(given["prompt"])
        return self._asked(given, prompts, given["max_tokens"], given["logprobs"], needs, echo=bool(given["echo"]))

    def chat(self, body: Any, needs: AccessCheck = lambda *_: None) -> ParsedRequest:
        """Of ``/v1/chat/completions``; ``needs``: see `ModeParser.parse`."""
        check_items(body, "messages", self.limits.messages, "messages")
        check_items(body, "stop", self.limits.stops, "texts")
        given = parse_fields(body, CHAT_SCHEMA)
        _refuse_unsupported(given)
        if given["top_logprobs"] is not None and not given["logprobs"]:
            raise BadRequest("top_logprobs is only said with logprobs: true", param="top_logprobs")
        read = self.messages(given["messages"])
        most, top = given["max_completion_tokens"], (given["top_logprobs"] or 0) if given["logprobs"] else None
        if most is None:
            most = given["max_tokens"]
        if most is None:  # as much as there is room for
            room = self.limits.entries // (given["n"] * _entries_per_token(top))
            most = max(1, min(self.context - len(read.ids), room))
        return self._asked(
            given, [ParsedPrompt(read.ids, read.learn_for)], most, top, needs, stops=read.stops, chat=True
        )

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """A conversation as the model reads it."""
        self._check_length(sum(len(str(one.get("content") or "")) for one in messages), chat=True)
        return tokenize_messages(self.tokenizer, messages)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Of a text; with ``special`` also what stands before every text."""
        return [*(prefix_token_ids(self.tokenizer) if special else ()), *text_token_ids(self.tokenizer, text)]

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """That the tokens spell; ``special`` tokens as they are written."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def check_tokens(self, ids: Sequence[int], name: str) -> None:
        """Refuse tokens that the model does not have."""
        wrong = next((at for at, one in enumerate(ids) if one >= self.vocabulary), None)
        if wrong is not None:
            raise BadRequest(
                f"{name}[{wrong}] is {ids[wrong]}, and the model knows the tokens 0 to {self.vocabulary - 1}",
                param=name,
                code="invalid_value",
            )

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that are known to both model and tokenizer."""
        known = getattr(self._model.config, "vocab_size", None)
        return len(self.tokenizer) if known is None else min(int(known), len(self.tokenizer))

    # --- inside

    def _check_prompts(self, body: Any) -> None:
        """How many there are, and how many tokens, before each of them is looked at."""
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, list) or not prompt:
            return
        if isinstance(prompt[0], int):
            self._check_room(len(prompt), 0, chat=False)
            return
        check_items(body, "prompt", self.limits.prompts, "prompts")
        self._check_room(max(len(one) if isinstance(one, list) else 0 for one in prompt), 0, chat=False)

    def _prompts(self, given: Any) -> list[ParsedPrompt]:
        several = isinstance(given, list) and not isinstance(given[0], int)
        prompts = given if several else [given]
        return [self._prompt(one, f"prompt[{at}]" if several else "prompt") for at, one in enumerate(prompts)]

    def _prompt(self, given: str | list[int], name: str) -> ParsedPrompt:
        if isinstance(given, str):
            self._check_length(len(given), chat=False)
            ids, learn_for = self.tokens(given), given
        else:
            self.check_tokens(given, name)
            ids, learn_for = given, self.text(given, special=False)
        return ParsedPrompt(tuple(ids or self._start(name)), learn_for)

    def _start(self, name: str) -> list[int]:
        start = start_token(self.tokenizer)
        if start is None:
            raise BadRequest(f"{name} is empty, and the model has no token to begin with", param="prompt")
        return [start]

    def _asked(
        self,
        given: Mapping[str, Any],
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
        self._check_answer(sum(most + len(one.ids) * echo for one in prompts), given["n"], top, chat)
        ours = given["siftlm"] or {}
        check_texts("siftlm.prompt", [ours.get("prompt") or ""], self.limits)
        mode = self._mode(given["model"], ours, needs)
        deadline = time.monotonic() + self.limits.seconds
        jobs = []
        for prompt in prompts:
            learn_for = prompt.learn_for if ours.get("prompt") is None else ours["prompt"]
            if mode.memory is not None and not learn_for.strip():
                raise BadRequest(
                    "the prompt is empty, so there is nothing to learn for; siftlm.prompt may say what "
                    "else to learn for",
                    param="messages" if chat else "prompt",
                )
            sampling = SamplingParams(
                most,
                _temperature(given["temperature"]),
                max(given["top_p"], MIN_TOP_P),
                (*self._stops(given["stop"]), *stops),
                _seed(given["seed"]),
                top,
            )
            jobs.append(Job(prompt.ids, learn_for, mode, sampling, given["n"], echo, deadline))
        stream, options = bool(given["stream"]), given["stream_options"] or {}
        return ParsedRequest(
            given["model"],
            tuple(jobs),
            chat,
            stream,
            bool(options.get("include_usage")),
            frozenset(ours.get("return") or ()),
            bool(ours.get("events")),
        )

    def _mode(self, model: str, ours: Mapping[str, Any], needs: AccessCheck) -> Mode:
        settings = {name: value for name, value in ours.items() if name not in RESPONSE_OPTIONS and value is not None}
        try:
            return self._modes.parse(model, settings, needs)
        except InvalidInput as error:
            raise BadRequest(str(error), param="siftlm" if ours else "model", code="invalid_value") from error
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise BadRequest("a setting in siftlm has a value of the wrong kind", param="siftlm") from error

    def _stops(self, given: Any) -> tuple[str, ...]:
        return (given,) if isinstance(given, str) else tuple(given or ())

    @cached_property
    def _longest(self) -> int:
        """Characters that a token can spell."""
        return max(map(len, self.tokenizer.get_vocab()))

    def _check_length(self, characters: int, chat: bool) -> None:
        """Refuse at once what cannot fit: to count the tokens of millions of characters takes many seconds."""
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
                f"the answer could have {entries} entries ({tokens} tokens × n {choices} × "
                f"{'top_' if chat else ''}logprobs + 1 = {_entries_per_token(top)}), and up to {self.limits.entries} "
                "are said to one request: ask for fewer prompts, tokens, choices or logprobs",
                param="messages" if chat else "prompt",
                code="answer_too_large",
            )


def _entries_per_token(top: int | None) -> int:
    """What is said of a token: itself, and the likeliest ones."""
    return (top or 0) + 1


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL_VALUES.items():
        value = given.get(name)
        if value is not None and value not in neutral:
            raise BadRequest(f"{name} is not supported by this server", param=name, code="unsupported_parameter")


def _temperature(given: float) -> float:
    """The temperature; 0 for one so low that the likeliest token is drawn whatever happens."""
    return 0.0 if given < MIN_TEMPERATURE else float(given)


def _seed(given: int | None) -> int:
    """Not negative, whatever it was; a fresh one where nobody cares."""
    return secrets.randbits(48) if given is None else given % 2**62


# A model without a template of its own reads a conversation like this, and must not go on to write the user's part.
SPEAKER_PREFIXES = {"user": "User: ", "assistant": "Assistant: "}
ANSWER_PREFIX, NEXT_TURN_STOP = "Assistant:", "\n\nUser:"


@dataclass(frozen=True)
class Conversation:
    """A conversation as the model reads it."""

    ids: tuple[int, ...]
    learn_for: str
    """What the users said."""
    stops: tuple[str, ...]
    """Texts at which the answer is over."""


def tokenize_messages(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Read messages by the tokenizer's template, or where it has none as ``User: …``, blank line, ``Assistant:``."""
    turns = [
        {"role": _template_role(one["role"]), "content": _message_text(one, at)} for at, one in enumerate(messages)
    ]
    learn_for = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "user")
    stops: tuple[str, ...] = ()
    if getattr(tokenizer, "chat_template", None) is None:
        ids, stops = (
            [*prefix_token_ids(tokenizer), *text_token_ids(tokenizer, format_without_template(turns))],
            (NEXT_TURN_STOP,),
        )
    else:
        ids = text_token_ids(
            tokenizer, _apply_chat_template(tokenizer, turns)
        )  # a template writes the start token itself
    start = start_token(tokenizer)
    return Conversation(tuple(ids or ([] if start is None else [start])), learn_for, stops)


def format_without_template(turns: Sequence[Mapping[str, str]]) -> str:
    r"""A conversation for a model that knows no roles.

    >>> format_without_template([{"role": "user", "content": "Where is Rome?"}])
    'User: Where is Rome?\n\nAssistant:'
    """
    said = [SPEAKER_PREFIXES.get(turn["role"], "") + turn["content"] for turn in turns]
    return "\n\n".join([*said, ANSWER_PREFIX])


def _apply_chat_template(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except Exception as error:
        raise BadRequest(
            f"the chat template of the model does not take these messages: {error!s:.200}", param="messages"
        ) from error


def _template_role(role: str) -> str:
    return "system" if role == "developer" else role  # OpenAI's newer word for the same, which templates do not know


def _message_text(message: Mapping[str, Any], at: int) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"messages[{at}].content[{number}] must be a part of type text: this model reads nothing else",
                param=f"messages[{at}].content[{number}]",
            )
    return "".join(part["text"] for part in content)
