"""What the application answers when something is wrong: OpenAI's shape, and nothing of the inside."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from serving.fakes import NAME, FakeEngine, Manners, app_of
from siftlm.errors import BadRecord, Damaged, InvalidInput, Locked, NotAMemory, Unwritable, setting
from siftlm.serving import RequestLimits, streaming
from siftlm.serving.errors import DeadlineExceeded

JSON = {"Content-Type": "application/json"}
BODY = {"model": NAME, "prompt": "the time of the end", "max_tokens": 4}
SECRET = "/var/lib/somebody/secret.py"


def client(manners: Manners | None = None, **settings: Any) -> TestClient:
    return TestClient(app_of(FakeEngine(manners or Manners()), **settings))


USUAL = client()
"""For what changes nothing in it."""


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    return error


# --- what is asked for


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("POST", "/v1/completions/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/documents?limit=many", 400, "invalid_value"),
    ],
)
def test_what_is_not_there(method, path, status, code):
    answer = USUAL.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b"null", b"[]", b'"a"', b"1"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"])
def test_bodies_that_are_none(path, content):
    answer = USUAL.post(path, content=content, headers=JSON)
    assert answer.status_code == 400
    error_of(answer)


def test_bodies_of_another_kind():
    """A form is what pages of other sites can send to this server without asking it."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = USUAL.post("/v1/completions", content=json.dumps(BODY), headers={"Content-Type": kind})
        assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert USUAL.post("/v1/completions", content=json.dumps(BODY), headers=headers).status_code == 200


def test_what_is_wrong_is_named():
    error = error_of(USUAL.post("/v1/completions", json={**BODY, "temperature": "hot"}))
    assert error == {
        "message": 'temperature must be a number from 0 to 2, got "hot"',
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_value",
    }
    error = error_of(USUAL.post("/v1/completions", json={**BODY, "max_tokens": 64}))
    assert error["code"] == "context_length_exceeded"
    answer = USUAL.post("/v1/completions", json={**BODY, "model": "gpt"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


def test_halves_of_characters():
    text = '{"model": "siftlm-tiny", "prompt": "a \\ud83d b", "max_tokens": 9, "user": "\\uDE00"}'
    engine = FakeEngine()
    answer = TestClient(app_of(engine)).post("/v1/completions", content=text, headers=JSON)
    assert answer.json()["choices"][0]["text"] == "a ? b"
    assert engine.jobs[0].query == "a ? b", "a memory could not take it"
    answer = USUAL.post("/v1/completions", content=text.replace("siftlm-tiny", "\\ud83d"), headers=JSON)
    assert answer.status_code == 404


# --- how much


def test_a_body_ends_at_its_limit():
    small = client(limits=RequestLimits(body=1000))
    fits, large = json.dumps(BODY).ljust(1000).encode(), json.dumps(BODY).ljust(1001).encode()
    assert small.post("/v1/completions", content=fits, headers=JSON).status_code == 200
    in_parts = (large[at : at + 100] for at in range(0, len(large), 100))
    for content in (large, in_parts):
        answer = small.post("/v1/completions", content=content, headers=JSON)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


def test_a_full_queue():
    engine = FakeEngine(Manners(pause=5, room=3))
    full = TestClient(app_of(engine))
    answer = full.post("/v1/completions", json={**BODY, "prompt": ["a b", "c d", "e f", "g h"]})
    assert (answer.status_code, error_of(answer)["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "7"
    assert engine.cancelled == engine.jobs, "all prompts, or none"
    assert len(engine.jobs) == 3


def test_a_server_that_closes():
    engine = FakeEngine(closing=True)
    answer = TestClient(app_of(engine)).post("/v1/completions", json={**BODY, "stream": True})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "shutting_down")


def test_a_deadline():
    late = client(Manners(pause=0.05), limits=RequestLimits(seconds=0.1))
    answer = late.post("/v1/completions", json=BODY)
    assert (answer.status_code, error_of(answer)["type"]) == (504, "timeout_error")


def test_an_engine_that_hangs(monkeypatch):
    monkeypatch.setattr(streaming, "DEADLINE_MARGIN_SECONDS", 0.0)
    engine = FakeEngine(Manners(pause=0.5))
    answer = TestClient(app_of(engine, limits=RequestLimits(seconds=0.1))).post("/v1/completions", json=BODY)
    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")
    assert engine.cancelled == engine.jobs


# --- what fails inside


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError(SECRET), 500, "its log says why"),
        (NotAMemory(SECRET), 500, "the server's log says why"),
        (Damaged(SECRET), 500, "the server's log says why"),
        (Locked(SECRET), 503, "another process is writing"),
        (InvalidInput("the prompt is odd"), 400, "the prompt is odd"),
        (DeadlineExceeded("its time was up"), 504, "its time was up"),
    ],
)
def test_what_fails_before_anything_was_said(error, status, said, stream, caplog):
    caplog.set_level(logging.CRITICAL, logger="siftlm.serving.error_responses")
    answer = client(Manners(fail=error)).post("/v1/completions", json={**BODY, "stream": stream})
    assert answer.status_code == status
    assert said in error_of(answer)["message"]


def test_settings_are_spelled_as_fields_and_the_first_is_the_param():
    wrong = InvalidInput(f"{setting('n')} is more than there are: pass {setting('replacement', True)}")
    error = error_of(client(Manners(fail=wrong)).post("/v1/completions", json=BODY))
    assert error["message"] == 'n is more than there are: pass "replacement": true'
    assert error["param"] == "n"


@pytest.mark.parametrize("kind", [NotAMemory, BadRecord, Damaged, Unwritable])
def test_a_memory_that_fails_is_one_line_in_the_log(kind, caplog):
    answer = client(Manners(fail=kind(SECRET))).post("/v1/completions", json=BODY)
    assert (answer.status_code, error_of(answer)["code"]) == (500, "memory_fails")
    assert SECRET not in answer.text
    assert caplog.messages == [SECRET]
    assert "Traceback" not in caplog.text


def test_what_nobody_has_foreseen(caplog):
    answer = client(Manners(broken=True)).post("/v1/completions", json=BODY)
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert SECRET in caplog.text, "whoever runs the server must be able to find out"


def test_what_fails_in_the_middle_of_a_stream():
    answer = client(Manners(fail=DeadlineExceeded("its time was up"), fail_after=2)).post(
        "/v1/completions", json={**BODY, "stream": True}
    )
    *said, last = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert answer.status_code == 200
    assert [chunk["choices"][0]["text"] for chunk in said] == ["the", " time"]
    assert last["error"]["code"] == "deadline_exceeded"


def test_one_failure_ends_all_prompts():
    engine = FakeEngine(Manners(pause=0.01, fail=DeadlineExceeded("late"), fail_after=1))
    answer = TestClient(app_of(engine)).post("/v1/completions", json={**BODY, "prompt": ["a", "b c d e f g", "h i j"]})
    assert answer.status_code == 504


@pytest.mark.parametrize("name", ["bücher", "%FF", "%ED%A0%BD", "a%00b", "../../etc/passwd", "x" * 5000])
def test_names_that_are_none(name):
    for path in (f"/v1/models/{name}", f"/{name}"):
        answer = USUAL.get(path)
        assert answer.status_code == 404
        error_of(answer)


# --- anything at all

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    "model",
    "prompt",
    "messages",
    "input",
    "tokens",
    "max_tokens",
    "n",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "logprobs",
    "echo",
    "siftlm",
    "temperature",
    "top_p",
    "add_special_tokens",
    "dimensions",
    "encoding_format",
]
PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"]


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4))
def test_no_body_makes_the_server_fail(path, body):
    usual = {"model": NAME, "prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a", "tokens": [1]}
    if path == "/tokenize":
        usual.pop("messages")
    answer = USUAL.post(path, json={**usual, "max_tokens": 2, **body})
    assert answer.status_code < 500
    if answer.status_code != 200:
        error_of(answer)


@settings(max_examples=examples(15))
@given(st.sampled_from(PATHS), st.binary(max_size=20))
def test_no_bytes_make_the_server_fail(path, content):
    assert 400 <= USUAL.post(path, content=content, headers=JSON).status_code < 500
