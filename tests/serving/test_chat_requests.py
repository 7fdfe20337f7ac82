"""Conversations become jobs."""

from __future__ import annotations

import pytest

from serving.fakes import CONTEXT, NAME
from serving.test_requests import READER, chat, reader
from siftlm.serving.errors import BadRequest


def test_a_model_without_a_template_reads_a_dialogue():
    asked = chat(
        ("system", "Be brief."), ("user", "One?"), ("assistant", "1."), ("user", "Two?"), stop="x", max_tokens=9
    )
    [job] = asked.jobs
    said = "Be brief.\n\nUser: One?\n\nAssistant: 1.\n\nUser: Two?\n\nAssistant:"
    assert READER.tokenizer.decode(job.ids) == said
    assert job.sampling.stop == ("x", "\n\nUser:")
    assert job.query == "One?\n\nTwo?"
    assert asked.chat


def test_a_model_with_a_template_reads_by_it():
    by = reader(chat_template="…")
    [job] = chat(
        ("developer", "Be brief."), ("user", [{"type": "text", "text": "One"}, {"type": "text", "text": "?"}]), by=by
    ).jobs
    assert by.tokenizer.decode(job.ids) == "[system]Be brief.[user]One?[assistant]"
    assert job.sampling.stop == ()
    assert job.query == "One?"


def test_messages_that_a_template_does_not_take():
    with pytest.raises(BadRequest, match="this template knows no tools") as caught:
        chat(("tool", "5"), by=reader(chat_template="…"))
    assert caught.value.param == "messages"


def test_an_answer_may_be_as_long_as_there_is_room():
    [job] = chat(("user", "One?")).jobs
    assert len(job.ids) + job.sampling.max_tokens == CONTEXT
    assert chat(("user", "a"), max_tokens=3).jobs[0].sampling.max_tokens == 3
    assert chat(("user", "a"), max_tokens=3, max_completion_tokens=4).jobs[0].sampling.max_tokens == 4
    with pytest.raises(BadRequest, match="reduce the length of the messages") as caught:
        chat(("user", "word " * CONTEXT))
    assert caught.value.code == "context_length_exceeded"


def test_how_likely_in_a_chat():
    assert chat(("user", "a")).jobs[0].sampling.top is None
    assert chat(("user", "a"), logprobs=True).jobs[0].sampling.top == 0
    assert chat(("user", "a"), logprobs=True, top_logprobs=5).jobs[0].sampling.top == 5
    with pytest.raises(BadRequest, match="requires logprobs"):
        chat(("user", "a"), top_logprobs=5)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": "king", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "user"}, 3], "messages[1]"),
        (None, "messages"),
    ],
)
def test_other_messages_are_refused(messages, param):
    with pytest.raises(BadRequest) as caught:
        READER.chat({"model": NAME, "messages": messages})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{}]},
        {"response_format": {"type": "json_object"}},
        {"functions": [1]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"function_call": {"name": "f"}},
        {"modalities": ["text", "audio"]},
        {"modalities": []},
        {"audio": {"voice": "alloy"}},
        {"top_k": 5},
        {"repetition_penalty": 1.2},
        {"min_p": 0.1},
    ],
)
def test_what_a_chat_cannot_do_is_said(field):
    with pytest.raises(BadRequest, match="not supported"):
        chat(("user", "a"), **field)
    chat(("user", "a"), tools=[], response_format={"type": "text"}, tool_choice="auto", modalities=["text"], top_k=-1)
    chat(("user", "a"), tools=None, tool_choice="none", function_call="auto", modalities=None, audio=None)
