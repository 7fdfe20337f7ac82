"""The chosen records as TRL, LLaMA-Factory and Axolotl read them: a file of data, and its configuration.

Records become one of four forms, each the same for all of them:

    text          {"text": …}                          to be continued, as in pre-training
    completion    {"prompt": …, "completion": …}       plain text and its continuation
    pair          a question and its answer
    messages      {"messages": [{"role": …, "content": …}, …]}
    preference    {"messages": …, "chosen": …, "rejected": …}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory import durability
from siftlm.memory.reading.fields import UnusableRecord, look_up, value_kind
from siftlm.picking.output import as_mapping, json_line
from siftlm.picking.records import field_text, form_of
from siftlm.validation import choice, text_with_content

Message = dict[str, Any]
# How ShareGPT and others call the roles of OpenAI's form.
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "observation": "tool"}
KNOWN_ROLES = ("system", "user", "assistant", "tool")
# Fields of a question, of its continuation, and of its answer.
PAIRS = {("instruction", "input", "output"), ("question", "answer")}
DEFAULT_NAME = "siftlm_picks"


@dataclass(frozen=True)
class Example:
    """A record to train on, in one of the forms."""

    form: str
    source: str
    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: Sequence[Message] = field(default_factory=list)
    chosen: Message | None = None
    rejected: Message | None = None


def example_of(record: Any, source: str, fields: Sequence[str] | None) -> Example:
    """The record in the form that its fields show; with ``fields``, those are its text.

    >>> example_of({"question": "1 + 1?", "answer": "2"}, "a:1", None).messages
    [{'role': 'user', 'content': '1 + 1?'}, {'role': 'assistant', 'content': '2'}]
    """
    plain = as_mapping(record)
    try:
        known = form_of(plain) if fields is None else tuple(fields)
        if known in (("messages",), ("conversations",)):
            return Example("messages", source, messages=_messages(plain[known[0]], plain))
        if known == ("prompt", "chosen") and "rejected" in plain:
            chosen, rejected = (_answer(plain[name], name) for name in ("chosen", "rejected"))
            return Example(
                "preference", source, messages=_asked(plain["prompt"], plain), chosen=chosen, rejected=rejected
            )
        if known == ("prompt", "completion"):
            if isinstance(plain["prompt"], str) and isinstance(plain["completion"], str):
                pair = [*_asked(plain["prompt"], plain), _message("assistant", plain["completion"])]
                return Example(
                    "completion", source, prompt=plain["prompt"], completion=plain["completion"], messages=pair
                )
            both = [*_asked(plain["prompt"], plain), *_messages(plain["completion"], {})]
            return Example("pair", source, messages=both)
        if known in PAIRS:
            *asked, answer = known
            question = "\n".join(text for name in asked if (text := field_text(plain.get(name), name)))
            system = plain.get("system")
            before = [_message("system", system)] if isinstance(system, str) and system else []
            answered = _message("assistant", field_text(plain.get(answer), answer))
            return Example("pair", source, messages=[*before, _message("user", question), answered])
        parts = [field_text(look_up(plain, name, None), name) for name in known]
        return Example("text", source, text="\n".join(part for part in parts if part))
    except UnusableRecord as error:
        raise InvalidInput(f"{source}: cannot be exported: {error}") from error


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _messages(value: Any, record: Mapping[str, Any]) -> list[Message]:
    """The messages of a conversation, in OpenAI's form; a field ``system`` of the record comes first."""
    if not isinstance(value, (list, tuple)) or not value:
        raise UnusableRecord(f"a conversation is a list of messages, and this is {value_kind(value)}")
    messages = []
    for one in value:
        if not isinstance(one, Mapping):
            raise UnusableRecord(f"a message has a role and a content, and this is {value_kind(one)}")
        role = str(one.get("role", one.get("from", ""))).lower()
        role = ROLES.get(role, role)
        if role not in KNOWN_ROLES:
            raise UnusableRecord(f"a message has the role {role!r}; known are {', '.join((*KNOWN_ROLES, *ROLES))}")
        messages.append(_message(role, field_text(one, "messages")))
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, _message("system", system))
    return messages


def _asked(prompt: Any, record: Mapping[str, Any]) -> list[Message]:
    """A prompt as messages."""
    return _messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, record)


def _answer(value: Any, name: str) -> Message:
    """The answer of preference data: a text, a message, or the last of several messages."""
    if isinstance(value, str):
        return _message("assistant", value)
    answer = _messages([value] if isinstance(value, Mapping) else value, {})[-1]
    if answer["role"] != "assistant":
        raise UnusableRecord(f"{name!r} ends with a message of the {answer['role']}")
    return answer


def common_form(examples: Sequence[Example]) -> str:
    """The form that all of them can have."""
    forms = {one.form for one in examples}
    if len(forms) == 1:
        return forms.pop()
    alone = forms & {"text", "preference"}
    if not alone:
        return "pair" if "messages" not in forms else "messages"
    first = next(one for one in examples if one.form in alone)
    other = next(one for one in examples if one.form != first.form)
    raise Conflict(
        f"one file holds records of one form: {first.source} is {first.form} and {other.source} is {other.form}; "
        "pick from each pool alone"
    )


# --- one function for each library: rows, and the configuration as files


def _trl_row(example: Example, form: str) -> dict[str, Any]:
    if form == "text":
        return {"text": example.text}
    if form == "completion":
        return {"prompt": example.prompt, "completion": example.completion}
    if form == "pair":
        return {"prompt": list(example.messages[:-1]), "completion": list(example.messages[-1:])}
    if form == "preference":
        return {"prompt": list(example.messages), "chosen": [example.chosen], "rejected": [example.rejected]}
    return {"messages": list(example.messages)}


def _chat_row(example: Example, form: str) -> dict[str, Any]:
    """The row that LLaMA-Factory and Axolotl share."""
    if form == "text":
        return {"text": example.text}
    answers = {"chosen": example.chosen, "rejected": example.rejected} if form == "preference" else {}
    return {"messages": list(example.messages), **answers}


def _llama_factory_files(folder: Path, name: str, form: str) -> dict[str, str]:
    """``dataset_info.json`` with an entry for the data; other entries stay."""
    file = folder / "dataset_info.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise InvalidInput(f"{file}: is not JSON: {error}") from error
    if not isinstance(known, dict):
        raise InvalidInput(f"{file}: is not a JSON object of data sets")
    entry: dict[str, Any] = {"file_name": f"{name}.jsonl"}
    if form == "text":
        entry["columns"] = {"prompt": "text"}
    else:
        columns = {"messages": "messages"}
        if form == "preference":
            entry["ranking"] = True
            columns |= {"chosen": "chosen", "rejected": "rejected"}
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        tags |= {"system_tag": "system", "observation_tag": "tool"}
        entry |= {"formatting": "sharegpt", "columns": columns, "tags": tags}
    return {file.name: json.dumps({**known, name: entry}, indent=2, ensure_ascii=False) + "\n"}


def _axolotl_files(folder: Path, name: str, form: str) -> dict[str, str]:
    """The part of a configuration that names the data."""
    lines = ["datasets:", f"  - path: {json.dumps(str(folder / f'{name}.jsonl'))}", "    ds_type: json"]
    if form == "text":
        lines += ["    type: completion", "    field: text"]
    elif form == "preference":
        lines = [
            "rl: dpo",
            *lines,
            "    split: train",
            "    type: chat_template.default",
            "    field_messages: messages",
        ]
        lines += ["    field_chosen: chosen", "    field_rejected: rejected"]
    else:
        lines += ["    type: chat_template", "    field_messages: messages"]
    if form != "text":
        lines += ["    message_property_mappings:", "      role: role", "      content: content"]
    return {f"{name}.yaml": "\n".join(lines) + "\n"}


def _no_files(_folder: Path, _name: str, _form: str) -> dict[str, str]:
    """TRL recognizes the form by its columns."""
    return {}


Row = Callable[[Example, str], dict[str, Any]]
Files = Callable[[Path, str, str], dict[str, str]]
LIBRARIES: Mapping[str, tuple[Row, Files]] = {
    "trl": (_trl_row, _no_files),
    "llama-factory": (_chat_row, _llama_factory_files),
    "axolotl": (_chat_row, _axolotl_files),
}


def export(
    records: Sequence[Any],
    sources: Sequence[str],
    library: str,
    into: str | os.PathLike[str],
    *,
    name: str = DEFAULT_NAME,
    fields: Sequence[str] | None = None,
) -> list[Path]:
    """Write the records for a library; see `siftlm.picking.Picks.export`."""
    row_of, files_of = LIBRARIES[choice("library", library, LIBRARIES)]
    name, folder = text_with_content("name", name), Path(into)
    if Path(name).name != name:
        raise InvalidInput(f"{setting('name', name)} must be a file's name without folders")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{setting('into', str(into))} is a file, and the data and its configuration need a folder")
    examples = [example_of(record, source, fields) for record, source in zip(records, sources, strict=True)]
    form = common_form(examples)
    lines = [json_line(row_of(one, form), one.source) for one in examples]
    contents = {f"{name}.jsonl": "".join(lines), **files_of(folder, name, form)}
    with durability.translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            durability.atomic_replace(folder / file, content.encode())
    return [folder / file for file in contents]
