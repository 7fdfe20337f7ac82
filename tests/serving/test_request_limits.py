"""Lists and texts that are too long are refused before anybody looks at what is in them."""

from __future__ import annotations

import json
import threading

import pytest
from fastapi.testclient import TestClient

from serving.fakes import CONTEXT, NAME, FakeEngine, app_of
from serving.test_requests import READER, reader
from siftlm.serving import RequestLimits, middleware, schemas
from siftlm.serving.errors import BadRequest

SMALL = RequestLimits(text=100, texts=150, ids=10, messages=3)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client():
    return TestClient(app_of(FakeEngine(), limits=SMALL))


class Unread(list):
    """Nobody has to look at each of its items."""

    def __iter__(self):
        raise AssertionError("each item is looked at")


MANY = Unread([5] * 10_000)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": MANY}, "prompt", "context_length_exceeded"),
        ({"prompt": [[5], MANY]}, "prompt", "context_length_exceeded"),
        ({"prompt": Unread(["a"] * 65)}, "prompt", "too_many_items"),
        ({"prompt": Unread([[5]] * 65)}, "prompt", "too_many_items"),
        ({"prompt": "a", "stop": Unread(["a"] * 17)}, "stop", "too_many_items"),
    ],
)
def test_completions(body, param, code):
    with pytest.raises(BadRequest) as caught:
        READER.completion({"model": NAME, **body})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_chats():
    turn = {"role": "user", "content": "hi"}
    small = reader(limits=SMALL)
    assert small.chat({"model": NAME, "messages": [turn] * 3})
    with pytest.raises(BadRequest, match="messages must have at most 3 messages, got 4"):
        small.chat({"model": NAME, "messages": Unread([turn] * 4)})


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("/tokenize", {"prompt": "a" * 101}, "prompt", "at most 100 characters, got 101"),
        ("/tokenize", {"messages": [{"role": "user"}] * 4}, "messages", "at most 3 messages, got 4"),
        ("/detokenize", {"tokens": [5] * 11}, "tokens", "at most 10 token ids, got 11"),
        ("/v1/select", {"input": "a" * 101}, "input", "at most 100 characters, got 101"),
        ("/v1/embeddings", {"model": NAME, "input": "a" * 101}, "input", "at most 100 characters, got 101"),
        ("/v1/embeddings", {"model": NAME, "input": ["a" * 76] * 2}, "input", "150 characters in total, got 152"),
        ("/v1/embeddings", {"model": NAME, "input": ["a"] * 2049}, "input", "at most 2048 texts, got 2049"),
        (
            "/v1/completions",
            {"model": NAME, "prompt": "a", "siftlm": {"prompt": "a" * 101}},
            "siftlm.prompt",
            "at most 100 characters, got 101",
        ),
    ],
)
def test_what_is_too_long_is_said(client, path, body, param, said):
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert said in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a" * 100}),
        ("/detokenize", {"tokens": [5] * 10}),
        ("/v1/embeddings", {"model": NAME, "input": ["a" * 75] * 2}),
        ("/v1/completions", {"model": NAME, "prompt": [5] * (CONTEXT - 16)}),
    ],
)
def test_what_just_fits_is_taken(client, path, body):
    assert client.post(path, json=body).status_code == 200


@pytest.mark.parametrize(("size", "aside"), [(1, False), (middleware.LARGE_BODY_BYTES, True)])
@pytest.mark.parametrize("path", ["/v1/select", "/v1/embeddings", "/v1/documents"])
def test_large_bodies_are_read_in_a_thread(client, monkeypatch, path, size, aside):
    seen, own = [], schemas.parse_fields

    def noted(body, schema):
        seen.append(threading.current_thread().name)
        return own(body, schema)

    for name in ("selection", "embeddings", "documents"):
        monkeypatch.setattr(f"siftlm.serving.routes.{name}.parse_fields", noted)
    body = json.dumps({"model": NAME, "input": [], "documents": [], "user": "x" * size})
    assert client.post(path, content=body, headers=JSON).status_code == 400
    assert [name.startswith("asyncio_") for name in seen] == [aside]
