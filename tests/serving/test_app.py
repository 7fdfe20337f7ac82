"""What the application answers, over HTTP, when nothing is wrong."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.fakes import CONTEXT, END, NAME, FakeEngine, Manners, app_of, likely
from siftlm.embedding import HashingEmbedder
from siftlm.serving import Caller, Metrics
from siftlm.serving.errors import NotAllowed

CALLERS = {"Bearer docs": Caller("d", {"docs": "read"}), "Bearer none": Caller("n", {})}


class Keys:
    """Two of them."""

    def of(self, header: str | None) -> Caller:
        if header not in CALLERS:
            raise NotAllowed("an API key is needed")
        return CALLERS[header]


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def client(engine):
    return TestClient(app_of(engine))


@pytest.fixture
def guarded(engine):
    return TestClient(app_of(engine, keys=Keys()))


def post(client: TestClient, path: str, key: str | None = None, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return client.post(path, json=body, headers=headers)


def stream_of(client: TestClient, path: str, **body: Any) -> list[Any]:
    answer = post(client, path, stream=True, **body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


# --- answers


def test_a_completion(client, engine):
    answer = post(client, "/v1/completions", model=NAME, prompt="the time of", max_tokens=2, user="me")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"] == "the time"
    assert engine.cancelled == []


def test_a_stream(client):
    chunks = stream_of(client, "/v1/completions", model=NAME, prompt="the time of", max_tokens=2)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["the", " time", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_of_nothing(client):
    [chunk] = stream_of(client, "/v1/completions", model=NAME, prompt="the time", max_tokens=0)
    assert chunk["choices"][0]["finish_reason"] == "length"


def test_a_chat(client, engine):
    body = {"model": f"{NAME}:sift-3", "messages": [{"role": "user", "content": "the time"}], "max_tokens": 4}
    answer = post(client, "/v1/chat/completions", **body).json()
    assert answer["choices"][0]["message"]["content"] == "User: the"
    chunks = stream_of(client, "/v1/chat/completions", **body, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "User: the"
    assert chunks[-1]["usage"] == answer["usage"]
    assert [job.query for job in engine.jobs] == ["the time", "the time"]


def test_prompts_together_are_as_alone(client):
    prompts = ["the time of", "in the end", "a b c d"]
    together = post(client, "/v1/completions", model=NAME, prompt=prompts, max_tokens=3, n=2).json()["choices"]
    alone = [
        choice["text"]
        for prompt in prompts
        for choice in post(client, "/v1/completions", model=NAME, prompt=prompt, max_tokens=3, n=2).json()["choices"]
    ]
    assert [choice["text"] for choice in together] == alone
    assert [choice["index"] for choice in together] == list(range(6))


def test_as_the_harness_scores():
    """What `local-completions` sends for a batch, and what it makes of the answer."""
    harness = pytest.importorskip("lm_eval.models.openai_completions").LocalCompletionsAPI
    never = 11
    client = TestClient(app_of(FakeEngine(Manners(never=frozenset({never})))))
    batch, contexts = [[5, 10, 503, 1000], [5, 10, 15, 500], [7, 8, never], [5, END]], [2, 1, 2, 1]
    answer = post(
        client,
        "/v1/completions",
        model=NAME,
        prompt=batch,
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    ).json()
    found = harness.parse_logprobs(answer, tokens=batch, ctxlens=contexts)
    assert found == [
        (likely(503, Manners()) + likely(1000, Manners()), False),
        (3 * -0.25, True),
        (-9999.0, False),
        (-0.25, True),
    ]


# --- models, and who may use them


def test_models(client):
    listed = client.get("/v1/models").json()
    names = [one["id"] for one in listed["data"]]
    assert (listed["object"], names[0]) == ("list", NAME)
    assert {f"{NAME}:sift-50", f"{NAME}:sift-50@wiki"} <= set(names)
    assert listed["data"][0].keys() >= {"id", "object", "created", "owned_by"}
    assert "siftlm" not in listed["data"][0]
    known = {one["id"]: one.get("siftlm", {}) for one in listed["data"]}[f"{NAME}:sift-50@wiki"]
    assert (known["memory"], known["method"], known["n"]) == ("wiki", "sift", 50)
    for name in (*names, f"{NAME}:sift-7@wiki"):
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    for name in ("other", f"{NAME}:magic", f"{NAME}:sift-50@other"):
        assert client.get(f"/v1/models/{name}").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{NAME}"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/tokenizer_info"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/v1/select"),
        ("GET", "/v1/documents"),
        ("POST", "/v1/documents"),
        ("DELETE", "/v1/documents/a"),
    ],
)
def test_a_key_is_needed(guarded, engine, method, path):
    answer = guarded.request(method, path, json={"model": NAME, "prompt": "a"} if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.jobs == []


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/"])
def test_or_not(guarded, path):
    assert guarded.get(path).status_code == 200


def test_who_may_learn_from_what(guarded, engine):
    def asks(key: str, model: str, **ours: Any) -> int:
        return post(guarded, "/v1/completions", key, model=model, prompt="a", siftlm=ours).status_code

    assert asks("docs", NAME) == asks("none", NAME) == 200
    assert asks("docs", f"{NAME}:sift-5") == 200
    assert asks("none", f"{NAME}:sift-5") == 403
    assert asks("docs", f"{NAME}:sift-5@wiki") == 403
    assert asks("docs", f"{NAME}:sift-5", memory="wiki") == 403
    assert {job.mode.memory for job in engine.jobs} == {None, "docs"}
    assert [job.caller for job in engine.jobs] == ["d", "n", "d"]
    assert guarded.get(f"/v1/models/{NAME}:sift-5@wiki", headers={"Authorization": "Bearer docs"}).status_code == 403
    names = guarded.get("/v1/models", headers={"Authorization": "Bearer docs"}).json()["data"]
    assert not any("wiki" in one["id"] for one in names)
    assert post(guarded, "/v1/embeddings", "docs", model="hashing", input="a").status_code == 200
    assert post(guarded, "/v1/embeddings", "none", model="hashing", input="a").status_code == 403


# --- vectors


def test_embeddings(client, engine):
    texts = [f"text {at}" for at in range(70)]
    answer = post(client, "/v1/embeddings", model="hashing", input=texts).json()
    vectors = np.array([one["embedding"] for one in answer["data"]])
    np.testing.assert_allclose(vectors, HashingEmbedder(width=16).embed(texts), rtol=1e-6)
    assert [one["index"] for one in answer["data"]] == list(range(70))
    assert answer["usage"]["prompt_tokens"] == 140
    assert engine.calls > 1, "others must get a turn in between"


@pytest.mark.parametrize("model", ["hashing", NAME, f"{NAME}:sift-50@wiki"])
def test_embeddings_in_base64(client, model):
    asked = {"model": model, "input": "a text"}
    plain = post(client, "/v1/embeddings", **asked).json()["data"][0]["embedding"]
    packed = post(client, "/v1/embeddings", **asked, encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist() == plain


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [1, 2]}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": "a", "dimensions": 8}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "other"}, 404, "model"),
        ({"input": "a", "siftlm": {"memory": "other"}}, 404, "siftlm.memory"),
    ],
)
def test_embeddings_of_what_cannot_be(client, body, status, param):
    answer = post(client, "/v1/embeddings", **{"model": "hashing", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert post(client, "/v1/embeddings", model="hashing", input="a", dimensions=16).status_code == 200


# --- tokens


def test_tokens_and_back(client):
    known = post(client, "/tokenize", prompt="the time → <|endoftext|>", return_token_strs=True).json()
    assert (known["count"], known["max_model_len"]) == (len(known["tokens"]), CONTEXT)
    assert known["tokens"][-1] == END
    assert len(known["token_strs"]) == known["count"]
    assert post(client, "/detokenize", tokens=known["tokens"]).json() == {"prompt": "the time → <|endoftext|>"}
    said = post(client, "/tokenize", messages=[{"role": "user", "content": "a"}]).json()["tokens"]
    assert post(client, "/detokenize", tokens=said).json() == {"prompt": "User: a\n\nAssistant:"}


def test_what_the_tokenizer_is(client):
    known = client.get("/tokenizer_info").json()
    assert (known["eos_token"], known["bos_token"], known["chat_template"]) == ("<|endoftext|>", "<|endoftext|>", None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 5}),
        ("/tokenize", {"prompt": "a", "messages": []}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [8192]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "a"}),
    ],
)
def test_no_tokens(client, path, body):
    assert post(client, path, **body).status_code == 400


# --- alive, ready, counted, described


def test_ready(client, engine):
    assert client.get("/ready").json() == {"status": "ready"}
    engine.ready = False
    assert (client.get("/ready").status_code, client.get("/health").status_code) == (503, 200)
    engine.ready, engine.closing = True, True
    assert client.get("/ready").json()["error"]["code"] == "shutting_down"
    assert client.get("/health").status_code == 200


def test_everything_is_counted():
    class Counts(Metrics):
        seen: list[Any] = []  # noqa: RUF012
        tokens = 0

        def answered(self, *what: Any) -> None:
            self.seen.append(what)

        def read(self, tokens: int) -> None:
            self.tokens += tokens

    count = Counts()
    client = TestClient(app_of(FakeEngine(count=count)))
    post(client, "/v1/completions", model=f"{NAME}:sift-3", prompt=[[1, 2], [3]])
    post(client, "/v1/completions", model="other", prompt="a")
    client.get(f"/v1/models/{NAME}")
    client.get("/nowhere/at/all")
    assert [what[1:] for what in count.seen] == [(200, "sift-3"), (404, None), (200, None), (404, None)]
    assert [what[0] for what in count.seen][:3] == ["/v1/completions", "/v1/completions", "/v1/models/{model:path}"]
    assert "nowhere" not in count.seen[3][0]
    assert count.tokens == 3


def test_the_description(client):
    described = client.get("/openapi.json").json()
    body = described["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "prompt"]
    assert {"temperature", "stop", "siftlm", "logprobs"} <= set(body["properties"])
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"], f"{method} {path} does not say what its errors are"
            assert "422" not in operation["responses"]
            assert operation.get("description"), f"{method} {path} says nothing"
    assert "HTTPBearer" in str(TestClient(app_of(FakeEngine(), keys=Keys())).get("/openapi.json").json())


# --- what a key may not know


@pytest.mark.parametrize("key", ["docs", "none"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": f"{NAME}:sift-5@MEMORY", "prompt": "a"}),
        ("/v1/completions", {"model": NAME, "prompt": "a", "siftlm": {"memory": "MEMORY", "n": 5}}),
        ("/v1/completions", {"model": NAME, "prompt": "a", "siftlm": {"memory": "MEMORY", "method": "magic"}}),
        ("/v1/completions", {"model": f"{NAME}:sift-5@MEMORY", "prompt": ""}),
        ("/v1/chat/completions", {"model": f"{NAME}:auto@MEMORY", "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/select", {"input": "a", "siftlm": {"memory": "MEMORY"}}),
        ("/v1/select", {"input": "a", "siftlm": {"memory": "MEMORY", "method": "magic"}}),
        ("/v1/embeddings", {"model": NAME, "input": "a", "siftlm": {"memory": "MEMORY"}}),
        ("/v1/embeddings", {"model": f"{NAME}:sift-5@MEMORY", "input": "a"}),
        ("/v1/embeddings", {"model": NAME, "input": "a", "dimensions": 7, "siftlm": {"memory": "MEMORY"}}),
        ("/v1/documents", {"documents": [{"text": "a"}], "memory": "MEMORY"}),
        ("/v1/documents?memory=MEMORY", None),
        (f"/v1/models/{NAME}:sift-5@MEMORY", None),
    ],
)
def test_whether_there_is_such_a_memory_is_not_told(guarded, key, path, body):
    """``wiki`` is there, ``else`` is not, and the keys have no right to either."""
    seen, headers = [], {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for memory in ("wiki", "else"):
        method, content = "GET" if body is None else "POST", json.dumps(body).replace("MEMORY", memory)
        answer = guarded.request(method, path.replace("MEMORY", memory), content=content, headers=headers)
        seen.append((answer.status_code, answer.text.replace(memory, "?")))
    assert seen[0] == seen[1]
    assert seen[0][0] == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": f"{NAME}:sift-5", "prompt": "a"}),
        ("/v1/select", {"input": "a"}),
        ("/v1/embeddings", {"model": NAME, "input": "a"}),
        ("/v1/embeddings", {"model": f"{NAME}:auto", "input": "a"}),
        ("/v1/documents", {"documents": [{"text": "a"}]}),
    ],
)
def test_what_the_default_memory_is_called_is_not_told(guarded, path, body):
    answer = post(guarded, path, "none", **body)
    assert answer.status_code == 403
    assert "docs" not in answer.text
    assert "the default memory" in answer.json()["error"]["message"]


def test_an_embedder_is_that_of_a_memory_that_may_be_read(guarded, engine):
    name = engine.memories["docs"].embedder.name
    engine.memories = dict(reversed(engine.memories.items()))
    assert post(guarded, "/v1/embeddings", "docs", model=name, input="a").status_code == 200
    assert "docs" not in post(guarded, "/v1/embeddings", "none", model=name, input="a").text
