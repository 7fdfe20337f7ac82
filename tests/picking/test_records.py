"""The text of a record, in whatever form it is."""

from __future__ import annotations

import pytest

from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.records import record_text
from siftlm.types import Document


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("as it is", "as it is"),
        (Document("of a document", {"year": 1}), "of a document"),
        ({"text": "t", "messages": "not this"}, "t"),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n1 2\n3"),
        ({"instruction": "Add.", "input": "", "output": "3"}, "Add.\n3"),
        ({"instruction": "Add.", "output": "3"}, "Add.\n3"),
        ({"prompt": "p", "completion": "c", "chosen": "x"}, "p\nc"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "p\nc"),
        ({"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]}, "p\nc"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "q\na"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}]}, "q"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"content": "a"}]}, "a"),
        ({"question": "q", "answer": "a"}, "q\na"),
        ({"content": "c"}, "c"),
        ({"question": "q", "id": 7}, "q"),
    ],
)
def test_known_forms_are_read_without_a_word(record, text):
    assert record_text(record) == text


@pytest.mark.parametrize(
    ("record", "fields", "problem"),
    [
        ({"body": "b"}, None, "no text in a known form; name its fields with text= .* its fields are 'body'"),
        ({"text": 3}, None, "'text' is 3, not text or messages"),
        ({"text": ""}, None, "'text' is empty"),
        ({"text": " \n"}, None, "only white space"),
        ({"prompt": "", "completion": None}, None, r"'prompt \+ completion' is empty"),
        ({"a": "x"}, ["b"], "'b' is empty"),
        ({"text": "\ud800"}, None, "half of a surrogate pair"),
        (7, None, "a record is a text or an object with fields; this is 7"),
    ],
)
def test_what_has_no_text_is_described(record, fields, problem):
    with pytest.raises(UnusableRecord, match=problem):
        record_text(record, fields)


def test_named_fields_go_below_each_other_at_any_depth():
    assert record_text({"a": {"b": "x"}, "c": "y", "text": "z"}, ["c", "a.b"]) == "y\nx"
