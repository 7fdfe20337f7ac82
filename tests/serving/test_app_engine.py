"""The application with the real engine, and a model of a few thousand weights."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from controller import tiny
from siftlm.controller import Controller, SampledToken, SamplingParams
from siftlm.controller.tokens import text_token_ids
from siftlm.memory import Memory
from siftlm.serving import Job, Mode, ModeParser, ServingEngine, create_app
from siftlm.serving.decoding import ChoiceWriter

pytestmark = pytest.mark.slow

TEXTS = [f"{animal} {verb} the moon" for animal in ("cat", "dog", "cow") for verb in ("eats", "sees", "fears")]
PROMPT = "the cat eats"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("memories") / "docs") as memory:
        memory.add(TEXTS)
        controller = Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2, precision="float32")
        made = ServingEngine(controller, {"docs": memory}, slots=2, queue=8)
        yield made
        made.close(grace=20)


@pytest.fixture(scope="module")
def asks(engine):
    modes = ModeParser("tiny", engine.models)
    client = TestClient(create_app(engine, modes))

    def ask(**body):
        answer = client.post("/v1/completions", json={"model": "tiny", "temperature": 0, "max_tokens": 1, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def test_it_says_what_the_model_alone_says(engine, asks):
    [choice] = asks(prompt=PROMPT, max_tokens=6)["choices"]
    alone = Controller(tiny.model("llama"), tiny.tokenizer()).generate(PROMPT, max_new_tokens=6)
    assert choice["text"] == alone.text


@pytest.mark.parametrize("model", ["tiny", "tiny:sift-3", "tiny:context-2"])
def test_every_token_of_a_prompt_has_an_entry(engine, asks, model):
    ids = text_token_ids(engine.controller.tokenizer, PROMPT)
    for prompt in (ids, ids[:1], ids[:2]):
        known = asks(model=model, prompt=prompt, echo=True, logprobs=1)["choices"][0]["logprobs"]
        assert {len(column) for column in known.values()} == {len(prompt) + 1}
        assert known["token_logprobs"][0] is None
        for own, top in zip(known["token_logprobs"][1:], known["top_logprobs"][1:], strict=True):
            assert own in top.values()
        assert known["token_logprobs"][-1] == max(known["top_logprobs"][-1].values())


def test_the_harness_gets_the_likelihoods_of_the_model(engine, asks):
    ids = text_token_ids(engine.controller.tokenizer, "the cat eats the moon")
    known = asks(prompt=[ids, ids[:4]], echo=True, logprobs=1)["choices"][0]["logprobs"]
    alone = Controller(tiny.model("llama"), tiny.tokenizer())
    nats = alone.likelihoods([("the cat eats the moon", "")])[0].nats
    # The model alone begins with its start token, so it also scores the first token of the text.
    with_start = asks(prompt=[[0, *ids]], echo=True, logprobs=1)["choices"][0]["logprobs"]["token_logprobs"][1:-1]
    assert -sum(with_start) == pytest.approx(nats, rel=1e-5)
    assert len(known["token_logprobs"]) == len(ids) + 1


def test_the_end_of_a_text_is_a_token_that_was_made(engine):
    """The harness leaves out the last entry, for it is not of the prompt: where it is missing, another one goes."""
    job = Job((5,), "", Mode("base", None, {}), SamplingParams(max_tokens=1, top=1))
    said, ended = ChoiceWriter(engine.controller.tokenizer, job, 0, {0}).write(SampledToken(0, -0.5, ((0, -0.5),)))
    assert [(token.id, token.text, token.logprob) for token in said.tokens] == [(0, "", -0.5)]
    assert (ended.reason, ended.tokens) == ("stop", 1)


def test_it_learns_and_tells(asks):
    ours = asks(model="tiny:sift-3", prompt=PROMPT, siftlm={"return": ["selection", "steps", "timings"]})["siftlm"]
    assert len(ours["selection"]["hits"]) == len(ours["trace"]["steps"]) == 3
    assert {hit["text"] for hit in ours["selection"]["hits"]} <= set(TEXTS)
    again = asks(model="tiny:sift-3", prompt=PROMPT, siftlm={"return": ["steps"]})["siftlm"]
    assert again["cached"]
