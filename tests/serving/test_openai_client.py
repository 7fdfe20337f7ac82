"""Clients that nobody has changed: the package ``openai``, and what lm-evaluation-harness asks a tokenizer for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.fakes import CONTEXT, END, NAME, FakeEngine, Manners, app_of, served, until
from siftlm.embedding import HashingEmbedder
from siftlm.serving import Caller
from siftlm.serving.errors import NotAllowed

pytestmark = pytest.mark.slow

KEY = "sift-key"
ENGINE = FakeEngine()


class Keys:
    """One of them."""

    def of(self, header: str | None) -> Caller:
        if header != f"Bearer {KEY}":
            raise NotAllowed("an API key is needed")
        return Caller("me", {"docs": "read"})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(app_of(ENGINE, keys=Keys())) as found:
        yield found


@pytest.fixture(scope="module")
def openai() -> Any:
    return pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(openai, address) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def manners() -> Manners:
    ENGINE.manners = Manners()
    return ENGINE.manners


def test_completions(client):
    answer = client.completions.create(
        model=NAME, prompt="the time of the end", max_tokens=3, temperature=0, seed=5, stop=["of"], n=2, logprobs=1
    )
    assert [choice.text for choice in answer.choices] == ["the time ", " time "]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.tokens == ["the", " time", " of"]
    assert answer.choices[0].logprobs.text_offset == [0, 3, 8]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (ENGINE.jobs[-1].sampling.seed, ENGINE.jobs[-1].sampling.temperature) == (5, 0)


def test_completions_of_several_prompts(client):
    for prompt in (["the time", "in the end"], [[5, 6], [7, 8]]):
        assert len(client.completions.create(model=NAME, prompt=prompt, echo=True, max_tokens=1).choices) == 2


def test_streamed_completions(client):
    chunks = list(
        client.completions.create(
            model=NAME, prompt="the time of the end", max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "the time of"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 3)


def test_chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the time"}]
    answer = client.chat.completions.create(
        model=NAME, messages=messages, max_completion_tokens=3, logprobs=True, top_logprobs=2
    )
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    assert choice.logprobs.content[0].top_logprobs[0].logprob == -0.25
    said = ""
    with client.chat.completions.create(model=NAME, messages=messages, max_tokens=3, stream=True) as stream:
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said == choice.message.content


def test_the_helper_for_streams(client):
    with client.chat.completions.stream(model=NAME, messages=[{"role": "user", "content": "the time"}]) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content.startswith("User: the time")
    assert answer.choices[0].finish_reason == "stop"


def test_what_is_ours(client):
    asked = {"method": "sift", "n": 2, "return": ["selection", "steps"]}
    answer = client.completions.create(model=NAME, prompt="the time", max_tokens=1, extra_body={"siftlm": asked})
    ours = answer.model_extra["siftlm"]
    assert (ours["mode"], len(ours["selection"]["hits"]), ours["trace"]["ended"]) == ("sift-2", 2, "done")
    events = [
        chunk.model_extra["siftlm"]["event"]
        for chunk in client.completions.create(
            model=f"{NAME}:sift-2", prompt="the time", stream=True, extra_body={"siftlm": {"events": True}}
        )
        if not chunk.choices
    ]
    assert events == ["selected", "step", "step", "learned", "finished"]


def test_embeddings(client):
    answer = client.embeddings.create(model="hashing", input=["the time", "in the end"])  # it asks for base64
    expected = HashingEmbedder(width=16).embed(["the time", "in the end"])
    np.testing.assert_array_equal(np.array([one.embedding for one in answer.data], dtype=np.float32), expected)
    plain = client.embeddings.create(model="hashing", input="the time", encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, expected[0], rtol=1e-6)


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert names[0] == NAME
    assert client.models.retrieve(f"{NAME}:sift-7").id == f"{NAME}:sift-7"


def test_errors(openai, client, manners):
    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        client.completions.create(model=NAME, prompt="a", max_tokens=CONTEXT)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.PermissionDeniedError):
        client.completions.create(model=f"{NAME}:sift-2@wiki", prompt="a")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    manners.room = 0
    with pytest.raises(openai.RateLimitError) as busy:
        client.completions.create(model=NAME, prompt="a")
    assert busy.value.response.headers["retry-after"] == "7"


def test_an_error_in_the_middle_of_a_stream(openai, client, manners):
    manners.fail, manners.fail_after = ValueError("/home/secret"), 1
    stream = client.completions.create(model=NAME, prompt="the time", stream=True)
    assert next(stream).choices[0].text == "the"
    with pytest.raises(openai.APIError, match="the server failed"):
        next(stream)


def test_a_stream_that_is_left(client, manners):
    manners.pause, before = 0.02, len(ENGINE.cancelled)
    stream = client.completions.create(model=NAME, prompt="the time of the end", max_tokens=40, stream=True)
    next(stream)
    stream.close()
    until(lambda: len(ENGINE.cancelled) == before + 1)


# --- lm-evaluation-harness


def test_the_harness_finds_its_tokenizer(address):
    utils = pytest.importorskip("lm_eval.utils")
    url = f"{address}/v1/completions"
    assert utils.check_remote_tokenizer_support(url, auth_token=KEY)
    assert not utils.check_remote_tokenizer_support(url, auth_token="wrong", max_retries=1)
    remote = utils.RemoteTokenizer(url, auth_token=KEY)
    try:
        assert (remote.eos_token_id, remote.bos_token_id, remote.eos_token) == (END, END, "<|endoftext|>")
        text = "the time → of <|endoftext|> 7"
        assert remote.encode(text) == ENGINE.controller.tokenizer(text)["input_ids"]
        assert remote.batch_decode([remote.encode(text)]) == [text]
    finally:
        remote.session.close()


def test_the_harness_scores_and_continues(address, monkeypatch):
    pytest.importorskip("tenacity")  # of lm-eval[api]
    models = pytest.importorskip("lm_eval.models.openai_completions")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = models.LocalCompletionsAPI(
        model=NAME,
        base_url=f"{address}/v1/completions",
        auth_token=KEY,
        max_length=CONTEXT,
        batch_size=3,
        max_retries=1,
    )
    try:
        assert model.tokenizer_backend == "remote"
        asked = [((f"c{at}", "x"), [5, 10 + at], [15, 500 + 5 * at]) for at in range(4)]
        found = model._loglikelihood_tokens(asked)
        assert found == [(-0.5, True)] * 4
        from lm_eval.api.instance import Instance

        wanted = [("the time of the end", {"until": ["of"], "max_gen_toks": 5})]
        request = Instance("generate_until", {}, wanted[0], 0)
        assert model.generate_until([request]) == ["the time "]
    finally:
        model.tokenizer.session.close()
