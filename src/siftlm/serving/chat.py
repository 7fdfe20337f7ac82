"""Messages of a conversation as one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftlm.controller.tokens import prefix_token_ids, start_token, text_token_ids
from siftlm.serving.refusals import BadRequest

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

    >>> unformatted([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Bergen?"}])
    'Be brief.\n\nUser: Where is Bergen?\n\nAssistant:'
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
