"""Messages of a conversation as one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftlm.controller.tokens import leading, plain, start_token
from siftlm.serving.refusals import BadRequest

# A model without a template of its own reads a conversation like this, and must not go on to write the user's part.
SPEAKERS = {"user": "User: ", "assistant": "Assistant: "}
ANSWER, NEXT = "Assistant:", "\n\nUser:"


@dataclass(frozen=True)
class Conversation:
    """A conversation as the model reads it."""

    ids: tuple[int, ...]
    learn_for: str
    """What the users said."""
    stops: tuple[str, ...]
    """Texts at which the answer is over."""


def conversation(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Read messages by the tokenizer's template, or where it has none as ``User: …``, blank line, ``Assistant:``."""
    turns = [{"role": _role(one["role"]), "content": _text(one, at)} for at, one in enumerate(messages)]
    learn_for = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "user")
    stops: tuple[str, ...] = ()
    if getattr(tokenizer, "chat_template", None) is None:
        ids, stops = [*leading(tokenizer), *plain(tokenizer, unformatted(turns))], (NEXT,)
    else:
        ids = plain(tokenizer, _formatted(tokenizer, turns))  # a template writes the start token itself
    start = start_token(tokenizer)
    return Conversation(tuple(ids or ([] if start is None else [start])), learn_for, stops)


def unformatted(turns: Sequence[Mapping[str, str]]) -> str:
    r"""A conversation for a model that knows no roles.

    >>> unformatted([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Bergen?"}])
    'Be brief.\n\nUser: Where is Bergen?\n\nAssistant:'
    """
    said = [SPEAKERS.get(turn["role"], "") + turn["content"] for turn in turns]
    return "\n\n".join([*said, ANSWER])


def _formatted(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except Exception as error:
        raise BadRequest(
            f"the chat template of the model does not take these messages: {error!s:.200}", param="messages"
        ) from error


def _role(role: str) -> str:
    return "system" if role == "developer" else role  # OpenAI's newer word for the same, which templates do not know


def _text(message: Mapping[str, Any], at: int) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"messages[{at}].content[{number}] must be a part of type text: this model reads nothing else",
                param=f"messages[{at}].content[{number}]",
            )  # fmt: skip
    return "".join(part["text"] for part in content)
