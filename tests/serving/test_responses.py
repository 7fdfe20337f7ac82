"""Events become OpenAI's JSON, whole and in chunks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from serving.fakes import END, LIKELIEST, NAME, FakeEngine, Manners, events_of, likely
from siftlm.serving import ModeParser, ParsedRequest, RequestLimits, RequestParser, ResponseBuilder, Token
from siftlm.serving.events import Event
from siftlm.serving.responses import MIN_LOGPROB, completion_logprobs

ENGINE = FakeEngine()
READER = RequestParser(ENGINE.controller, ModeParser(NAME, ENGINE.models), RequestLimits())
TOKENIZER = ENGINE.controller.tokenizer
TEXT = "The age of Ada is 30."


def asked(**body: Any) -> ParsedRequest:
    return READER.completion({"model": NAME, "prompt": TEXT, "max_tokens": 40, **body})


def asked_chat(**body: Any) -> ParsedRequest:
    return READER.chat({"model": NAME, "messages": [{"role": "user", "content": "One two"}], **body})


def events(of: ParsedRequest, manners: Manners | None = None) -> list[tuple[int, Event]]:
    """Of all jobs, in turns: so they come when prompts are worked on together."""
    streams = [
        [(place, event) for event in events_of(TOKENIZER, job, manners or Manners())]
        for place, job in enumerate(of.jobs)
    ]
    longest = max(map(len, streams))
    return [stream[at] for at in range(longest) for stream in streams if at < len(stream)]


def whole(of: ParsedRequest, manners: Manners | None = None) -> dict[str, Any]:
    replies = ResponseBuilder(of)
    for place, event in events(of, manners):
        replies.take(place, event)
    return replies.whole()


def chunks(of: ParsedRequest) -> list[dict[str, Any]]:
    replies = ResponseBuilder(of)
    return [chunk for place, event in events(of) for chunk in replies.chunks(place, event)] + list(replies.last())


# --- whole


def test_a_completion():
    answer = whole(asked())
    assert (answer["object"], answer["model"]) == ("text_completion", NAME)
    assert answer["id"].startswith("cmpl-")
    [choice] = answer["choices"]
    assert choice == {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    made = len(asked().jobs[0].ids) + 1
    assert answer["usage"] == {"prompt_tokens": made - 1, "completion_tokens": made, "total_tokens": 2 * made - 1}
    assert "siftlm" not in answer


def test_choices_of_several_prompts_are_in_order():
    answer = whole(asked(prompt=["the time of", "in the end"], n=2, max_tokens=2))
    assert [(one["index"], one["text"]) for one in answer["choices"]] == [
        (0, "the time"),
        (1, " time of"),
        (2, "in the"),
        (3, " the end"),
    ]
    assert {one["finish_reason"] for one in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 8


def test_an_echo_stands_before_every_choice():
    answer = whole(asked(prompt="the time", echo=True, n=2, max_tokens=1))
    assert [one["text"] for one in answer["choices"]] == ["the timethe", "the time time"]


def test_a_stop_text_is_not_said():
    [choice] = whole(asked(stop=" Ada"))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("The age of", "stop")


def test_a_chat():
    answer = whole(asked_chat(max_tokens=4))
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "User: One", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)


# --- how likely


def harness(answer: dict[str, Any], ctxlen: int) -> tuple[float, bool]:
    """As lm-evaluation-harness reads it."""
    known = answer["choices"][0]["logprobs"]
    own, top = known["token_logprobs"][ctxlen:-1], known["top_logprobs"][ctxlen:-1]
    return sum(own), all(one == max(others.values()) for one, others in zip(own, top, strict=True))


@pytest.mark.parametrize("made", [0, 1])
def test_as_the_harness_asks(made):
    ids = [5, 10, 503, 1000, 1006]
    answer = whole(asked(prompt=ids, echo=True, logprobs=1, max_tokens=made, temperature=0))
    known = answer["choices"][0]["logprobs"]
    assert {name: len(column) for name, column in known.items()} == dict.fromkeys(
        ("tokens", "token_logprobs", "top_logprobs", "text_offset"), len(ids) + made
    )
    assert known["token_logprobs"][0] is None
    assert known["top_logprobs"][0] is None
    expected = [likely(one, Manners()) for one in ids[1:]]
    assert known["token_logprobs"][1 : len(ids)] == expected
    if made:
        assert harness(answer, 3) == (sum(expected[2:]), False)
        assert harness(answer, len(ids)) == (0, True)


def test_the_likeliest_is_greedy_by_the_same_number():
    answer = whole(asked(prompt=[5, 10, 1000, LIKELIEST], echo=True, logprobs=1, max_tokens=1))
    assert harness(answer, 1) == (3 * -0.25, True)


def test_what_cannot_be_is_a_number():
    answer = whole(asked(prompt=[5, 11, 12], echo=True, logprobs=1, max_tokens=1), Manners(never=frozenset({11})))
    known = answer["choices"][0]["logprobs"]
    assert known["token_logprobs"][1] == MIN_LOGPROB == -9999
    assert min(known["top_logprobs"][1].values()) == MIN_LOGPROB
    json.dumps(answer, allow_nan=False)


def test_the_end_of_a_text_is_an_entry():
    """Else the harness, which leaves out the last entry, would lose the last token that it asked for."""
    answer = whole(asked(prompt=[END, END], echo=True, logprobs=1, max_tokens=1))
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 3
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_offsets_are_places_in_the_text():
    [choice] = whole(asked(echo=True, logprobs=2, max_tokens=3, prompt="Ada → Bö"))["choices"]
    known = choice["logprobs"]
    for token, start in zip(known["tokens"], known["text_offset"], strict=True):
        assert choice["text"][start : start + len(token)] == token
    assert known["text_offset"][-1] + len(known["tokens"][-1]) == len(choice["text"])


def test_tokens_that_look_the_same_stay_apart():
    half = Token(7, "", -3.0, ((6, "�", -0.5), (7, "�", -3.0)))
    [top] = completion_logprobs([half])["top_logprobs"]
    assert top == {"�": -0.5, "token_id:7": -3.0}


def test_only_the_token_itself():
    known = whole(asked(prompt="Ada Brook", logprobs=0, max_tokens=2))["choices"][0]["logprobs"]
    assert [list(one) for one in known["top_logprobs"]] == [[token] for token in known["tokens"]]


@pytest.mark.parametrize("top", [0, 1, 2])
def test_how_likely_in_a_chat(top):
    answer = whole(asked_chat(logprobs=True, top_logprobs=top, max_tokens=2))
    first = answer["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "U"
    assert bytes(first["bytes"]) == b"U"
    assert len(first["top_logprobs"]) == min(top, 2)
    if top:
        assert first["top_logprobs"][0]["logprob"] == max(one["logprob"] for one in first["top_logprobs"])


def test_a_logarithm_without_end_is_cut_off():
    assert completion_logprobs([Token(1, "a", -math.inf)])["top_logprobs"] == [{"a": MIN_LOGPROB}]


# --- in chunks


@pytest.mark.parametrize("body", [{}, {"echo": True, "n": 2}, {"prompt": ["a b", "c d"], "n": 2}, {"stop": " Ada"}])
def test_chunks_together_are_the_whole(body):
    said: dict[int, str] = {}
    ended: dict[int, str] = {}
    for chunk in chunks(asked(stream=True, **body)):
        assert chunk["object"] == "text_completion"
        for choice in chunk["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                ended[choice["index"]] = choice["finish_reason"]
    expected = whole(asked(**body))["choices"]
    assert said == {one["index"]: one["text"] for one in expected}
    assert ended == {one["index"]: one["finish_reason"] for one in expected}


def test_how_likely_in_chunks():
    body = {"echo": True, "logprobs": 3, "max_tokens": 4}
    joined: dict[str, list[Any]] = {}
    for chunk in chunks(asked(stream=True, **body)):
        for name, column in (chunk["choices"][0]["logprobs"] or {}).items():
            joined.setdefault(name, []).extend(column)
    assert joined == whole(asked(**body))["choices"][0]["logprobs"]


def test_chunks_of_a_chat():
    [first, *more, last] = chunks(asked_chat(stream=True, max_tokens=4))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "U"}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in more] == ["ser", ":", " One"]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert "usage" not in last
    assert len({chunk["id"] for chunk in (first, *more, last)}) == 1


def test_a_chat_that_says_nothing():
    [only] = chunks(asked_chat(stream=True, stop="U"))
    assert only["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert only["choices"][0]["finish_reason"] == "stop"


def test_usage_comes_last_where_it_is_asked_for():
    *others, last = chunks(asked(stream=True, stream_options={"include_usage": True}))
    assert {chunk["usage"] for chunk in others} == {None}
    assert last["choices"] == []
    assert last["usage"] == whole(asked())["usage"]


# --- what is ours

LEARNING = {"model": f"{NAME}:sift-2", "max_tokens": 1}


def test_what_was_learned_is_told_where_it_is_asked_for():
    ours = whole(asked(**LEARNING, siftlm={"return": ["selection", "steps", "timings"]}))["siftlm"]
    assert (ours["mode"], ours["cached"]) == ("sift-2", False)
    assert ours["selection"]["hits"][0]["text"] == f"about {TEXT}"
    assert [step["loss"] for step in ours["trace"]["steps"]] == [3.0, 2.0]
    assert set(ours["seconds"]) == {"queue", "select", "learn", "generate"}
    assert "siftlm" not in whole(asked(**LEARNING))
    assert set(whole(asked(**LEARNING, siftlm={"return": ["timings"]}))["siftlm"]) == {"mode", "cached", "seconds"}


def test_of_several_prompts_each():
    ours = whole(asked(**LEARNING, prompt=["Ada", "Ben"], siftlm={"return": ["selection"]}))["siftlm"]
    assert [one["selection"]["hits"][0]["text"] for one in ours] == ["about Ada", "about Ben"]


def test_events_are_told_as_they_come():
    told_events = [
        chunk["siftlm"]
        for chunk in chunks(asked(**LEARNING, stream=True, siftlm={"events": True}))
        if not chunk["choices"]
    ]
    assert [one["event"] for one in told_events] == ["selected", "step", "step", "learned", "finished"]
    assert told_events[0]["found"]["considered"] == 10
    assert (told_events[2]["taken"], told_events[2]["planned"], told_events[2]["step"]["loss"]) == (2, 2, 2.0)
    assert told_events[3]["trace"]["ended"] == "done"
    assert all(chunk["choices"] for chunk in chunks(asked(**LEARNING, stream=True)))


def test_a_stream_tells_at_its_end():
    *_, last = chunks(asked(**LEARNING, stream=True, siftlm={"return": ["steps"]}))
    assert (last["choices"], last["siftlm"]["trace"]["kept"]) == ([], 2)
