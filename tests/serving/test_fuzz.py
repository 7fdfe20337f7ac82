"""Whatever the description allows, and whatever it does not: an answer or an error of the client's, never of ours."""

from __future__ import annotations

import json
import random
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from controller import tiny
from effort import examples
from siftlm.controller import Controller
from siftlm.memory import Memory
from siftlm.serving import ModeParser, PrometheusMetrics, RequestLimits, ServingEngine, background_server, create_app

httpx = pytest.importorskip("httpx")

BODY = {
    "model": "LlamaForCausalLM:sift-2",
    "prompt": "the cat",
    "max_tokens": 2,
    "n": 1,
    "temperature": 1,
    "top_p": 0.5,
    "stop": ["x"],
    "seed": 1,
    "echo": True,
    "logprobs": 1,
    "stream": False,
    "siftlm": {"k": 5, "return": ["selection"]},
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("fuzz") / "docs") as made:
        made.add([f"the {what} {does}" for what in ("cat", "dog") for does in ("sees", "eats", "runs")])
        yield made


@pytest.fixture(scope="module")
def app(memory):
    controller = Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)
    engine = ServingEngine(controller, {"docs": memory}, slots=2, count=PrometheusMetrics())
    yield create_app(engine, ModeParser(controller.name, engine.models), limits=RequestLimits(seconds=20))
    engine.close()


@pytest.mark.slow
def test_no_request_is_too_much(app):
    """Requests that follow the description, and such that do not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schemathesis = pytest.importorskip("schemathesis")
    described = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [one.ok() for one in described.get_all_operations()]
    assert {"/v1/completions", "/v1/documents", "/v1/select", "/tokenize"} <= {one.path for one in operations}
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def answered(case):
                answer = case.call()
                assert answer.status_code < 500 or answer.status_code in {503, 504}, (case.body, answer.text)
                if answer.status_code >= 400:
                    error = json.loads(answer.content)["error"]
                    assert set(error) == {"message", "type", "param", "code"}
                    assert "Traceback" not in error["message"]

            try:
                answered()
            except Unsatisfiable:
                assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing there that could be wrong


@pytest.fixture(scope="module")
def client(memory):
    with (
        background_server(tiny.model("llama"), {"docs": memory}, tokenizer=tiny.tokenizer(), rank=2) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def broken(body: bytes, lot: random.Random) -> bytes:
    """Bytes changed, left out, doubled."""
    parts = bytearray(body)
    for _ in range(lot.randint(1, 6)):
        at = lot.randrange(len(parts) + 1)
        match lot.randrange(4):
            case 0:
                parts[at:at] = bytes([lot.randrange(256)])
            case 1:
                del parts[at : at + lot.randrange(1, 9)]
            case 2:
                parts[at:at] = parts[at : at + 20]
            case _:
                parts[at : at + 1] = b"\x00"
    return bytes(parts)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), path=st.sampled_from(["completions", "chat/completions", "select", "documents"]))
def test_fuzzed_bodies_never_end_the_process(client, seed, path):
    body = broken(json.dumps(BODY).encode(), random.Random(seed))
    answer = client.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, (body, answer.text)
    assert client.get("/ready").status_code == 200
