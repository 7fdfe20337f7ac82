"""Records as a model is asked them: what comes before the answer, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftlm.errors import InvalidInput, setting
from siftlm.memory.reading.fields import UnusableRecord, look_up
from siftlm.picking.exports import PAIRS, ROLES, Message, example_of
from siftlm.picking.output import as_mapping
from siftlm.picking.records import field_text, form_of, record_text

# Forms that ask and have no place for an answer.
QUESTIONS = {("prompt",), ("question",)}


@dataclass(frozen=True)
class Exchange:
    """A record: a question and its answer, or a text alone."""

    text: str
    """All of it."""
    messages: tuple[Message, ...] = ()
    """What comes before the answer, as a dialogue."""
    prompt: str = ""
    """The same as a text that the answer continues."""
    answer: str | None = None
    """``None`` for a text that nobody asked for; empty where the answer is missing."""

    @property
    def question(self) -> str:
        """What comes before the answer, without white space around it."""
        return self.prompt.strip()


def exchange_of(record: Any, source: str, fields: Sequence[str] | None = None, answer: str | None = None) -> Exchange:
    """The question and the answer of a record; ``answer`` names the field of the answer among ``fields``.

    >>> exchange_of({"question": "1 + 1?", "answer": "2"}, "a:1").answer
    '2'
    >>> exchange_of({"messages": [{"role": "user", "content": "Tea?"}]}, "a:2").answer
    ''
    >>> exchange_of("Tea is brewed hot.", "a:3").answer is None
    True
    """
    text = record_text(record, fields)
    if answer is not None:
        plain = as_mapping(record)
        asked = [field_text(look_up(plain, name, None), name) for name in fields or () if name != answer]
        return _asked(text, "\n".join(part for part in asked if part), field_text(look_up(plain, answer, None), answer))
    try:
        example = example_of(record, source, fields)
    except InvalidInput as error:
        raise UnusableRecord(str(error).removeprefix(f"{source}: cannot be exported: ")) from error
    if example.form == "completion":
        return Exchange(text, tuple(example.messages[:-1]), example.prompt, example.completion)
    if example.form == "text":
        alone = isinstance(record, Mapping) and fields is None and form_of(record) in QUESTIONS
        return _asked(text, text, "") if alone else Exchange(text)
    if example.chosen is not None:
        return _dialogue(text, example.messages, str(example.chosen["content"]))
    last = _last_answer(example.messages if example.form == "messages" else example.messages[-1:])
    if last is None:
        return _dialogue(text, example.messages, "")
    at = last if example.form == "messages" else len(example.messages) - 1
    return _dialogue(text, example.messages[:at], str(example.messages[at]["content"]))


def _last_answer(messages: Sequence[Any]) -> int | None:
    """Where the last message of the assistant is."""
    roles = [str(one.get("role", one.get("from", ""))).lower() for one in messages]
    return max((at for at, role in enumerate(roles) if ROLES.get(role, role) == "assistant"), default=None)


def _asked(text: str, question: str, answer: str) -> Exchange:
    return _dialogue(text, [{"role": "user", "content": question}], answer)


def _dialogue(text: str, messages: Sequence[Message], answer: str) -> Exchange:
    prompt = "\n".join(content for one in messages if (content := str(one["content"])))
    return Exchange(text, tuple(messages), f"{prompt}\n" if prompt else "", answer)


def with_answer(record: Any, answer: str, field: str | None = None) -> dict[str, Any]:
    """The record with another answer in the place of its own.

    >>> with_answer({"question": "1 + 1?", "answer": "3", "id": 7}, "2")
    {'question': '1 + 1?', 'answer': '2', 'id': 7}
    """
    plain = as_mapping(record)
    if field is not None:
        if "." in field and field not in plain:
            raise InvalidInput(f"{setting('answer', field)} lies inside another field, where no answer can be replaced")
        return {**plain, field: answer}
    known = form_of(plain)
    if known in (("messages",), ("conversations",)):
        return {**plain, known[0]: _with_last(plain[known[0]], answer)}
    if known in PAIRS or known in (("prompt", "completion"), ("prompt", "chosen")):
        value = plain[known[-1]]
        return {**plain, known[-1]: answer if isinstance(value, str) else _with_last(value, answer)}
    raise InvalidInput("the record has no answer that could be replaced")


def _with_last(messages: Any, answer: str) -> Any:
    """Messages, or one message, with another content of the last answer."""
    if isinstance(messages, Mapping):
        name = "value" if "value" in messages and "content" not in messages else "content"
        return {**messages, name: answer}
    at = _last_answer(messages)
    at = len(messages) - 1 if at is None else at
    return [*messages[:at], _with_last(messages[at], answer), *messages[at + 1 :]]
