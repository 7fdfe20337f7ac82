"""Whatever a body holds, it is read into jobs or refused, and nothing else is raised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from serving.fakes import CONTEXT, NAME
from serving.test_requests import LEARNING, READER
from siftlm.serving.errors import BadRequest, ServingError
from siftlm.serving.middleware import parse_json
from siftlm.serving.schemas import CHAT_SCHEMA, COMPLETION_SCHEMA

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, 1e300, -1, 0, 1, 2**63])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def bodies(schema: Any) -> Any:
    names = sorted(schema["properties"])
    return st.dictionaries(st.sampled_from(names), ANYTHING, max_size=4)


OURS = st.dictionaries(
    st.sampled_from(["method", "memory", "n", "k", "noise", "use", "prompt", "return", "events", "where", "x"]),
    ANYTHING,
)


@settings(max_examples=examples(25))
@given(bodies(COMPLETION_SCHEMA), OURS)
def test_no_completion_is_read_into_anything_but_jobs_or_a_refusal(body, ours):
    _read(READER.completion, {"model": LEARNING, "prompt": "a", "siftlm": ours, **body})


@settings(max_examples=examples(25))
@given(bodies(CHAT_SCHEMA), OURS)
def test_no_chat_is_read_into_anything_but_jobs_or_a_refusal(body, ours):
    _read(READER.chat, {"model": NAME, "messages": [{"role": "user", "content": "a"}], "siftlm": ours, **body})


def _read(read: Any, body: dict[str, Any]) -> None:
    try:
        asked = read(body)
    except ServingError:
        return
    for job in asked.jobs:
        assert len(job.ids) + job.sampling.max_tokens <= CONTEXT
        assert 0 < job.sampling.top_p <= 1
        assert job.sampling.seed >= 0


@pytest.mark.parametrize("body", ["", "{", "nul", '{"a": NaN}', "[" * 100_000, '{"a": 1e999}x', "1" * 5000])
def test_what_is_no_json(body):
    with pytest.raises(BadRequest, match="the body is not JSON") as caught:
        parse_json(body.encode())
    assert len(str(caught.value)) < 200


def test_what_is_no_utf8():
    with pytest.raises(BadRequest, match="the body is not JSON"):
        parse_json(b'"\xff"')


@settings(max_examples=examples(30))
@given(ANYTHING)
def test_only_objects_are_bodies(body):
    if not isinstance(body, dict):
        with pytest.raises(BadRequest, match="must be a JSON object"):
            READER.completion(body)
