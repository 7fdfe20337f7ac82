"""Large answers: the same as small ones, and others are answered meanwhile."""

from __future__ import annotations

import json
import math
import threading

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from serving.fakes import NAME, FakeEngine, app_of
from siftlm.controller import SampledToken, SamplingParams
from siftlm.serving import Job, Mode, ResponseBuilder, responses
from siftlm.serving.decoding import prompt_event
from siftlm.serving.error_responses import encode_json

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(ANYTHING)
def test_in_parts_it_is_the_same(content):
    many = {"many": [content] * 3, "content": content}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "ITEMS_PER_PART", 2)
        assert responses.encode_json_in_parts(many) == encode_json(many)


@pytest.mark.slow
@pytest.mark.parametrize("choices", [8, 70])
def test_no_part_is_long(monkeypatch, choices):
    parts = []
    monkeypatch.setattr(responses, "encode_json", lambda content: parts.append(encode_json(content)) or parts[-1])
    tokens = [{f"token {number}": -math.pi * number for number in range(20)}] * 300
    content = {"choices": [{"index": n, "logprobs": {"top_logprobs": tokens}} for n in range(choices)]}
    assert json.loads(responses.encode_json_in_parts(content)) == content
    assert max(map(len, parts)) < sum(map(len, parts)) / (4 * choices)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_with_an_echo_is_made_in_another_thread(monkeypatch, stream):
    threads = {}
    for name in ("_logprobs", "_piece", "whole"):
        own = getattr(ResponseBuilder, name)

        def noted(*args, name=name, own=own, **more):
            threads.setdefault(name, threading.current_thread().name)
            return own(*args, **more)

        monkeypatch.setattr(ResponseBuilder, name, noted)
    body = {"model": NAME, "prompt": "the time of the end", "max_tokens": 1, "echo": True, "logprobs": 3}
    assert TestClient(app_of(FakeEngine())).post("/v1/completions", json={**body, "stream": stream}).status_code == 200
    assert set(threads) == {"_logprobs", "_piece" if stream else "whole"}
    assert all(name.startswith("asyncio_") for name in threads.values())


def test_a_token_is_spelled_once():
    class Tokenizer:
        alone = 0

        def decode(self, ids, skip_special_tokens=False):
            self.alone += not skip_special_tokens
            return "".join(map(chr, ids))

    tokenizer, top = Tokenizer(), tuple((97 + n, -float(n)) for n in range(20))
    job = Job(tuple(range(97, 117)), "", Mode("base", None, {}), SamplingParams(top=20), echo=True)
    tokens = prompt_event(tokenizer, job, [SampledToken(one, -1.0, top) for one in job.ids[1:]]).tokens
    assert tokens[5].top[:2] == ((97, "a", -0.0), (98, "b", -1.0))
    assert tokenizer.alone == 20
