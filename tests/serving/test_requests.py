"""Bodies become jobs, and whatever is wrong with a body is said by the name of the field."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from serving.fakes import CONTEXT, END, NAME, FakeEngine
from siftlm.controller.tokens import text_token_ids
from siftlm.serving import ModeParser, RequestLimits, RequestParser, requests
from siftlm.serving.errors import BadRequest
from siftlm.serving.schemas import COMPLETION_SCHEMA

LEARNING = f"{NAME}:sift-5"


def reader(chat_template: str | None = None, limits: RequestLimits | None = None) -> RequestParser:
    engine = FakeEngine(chat_template=chat_template)
    return RequestParser(engine.controller, ModeParser(NAME, engine.models), limits or RequestLimits())


READER = reader()


def completion(**body: Any) -> Any:
    return READER.completion({"model": NAME, "prompt": "one two", **body})


def chat(*messages: Any, by: RequestParser = READER, **body: Any) -> Any:
    turns = [{"role": role, "content": content} for role, content in messages]
    return by.chat({"model": NAME, "messages": turns, **body})


def wrong(body: dict[str, Any], read: Any = completion) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(**body)
    return caught.value


# --- prompts


def test_a_string_is_read_by_the_tokenizer():
    [job] = completion(prompt="The age of Ada").jobs
    assert list(job.ids) == text_token_ids(READER.tokenizer, "The age of Ada")
    assert job.query == "The age of Ada"


def test_a_tokenizer_that_begins_every_text_begins_prompts():
    leads = reader()
    inner = leads.tokenizer
    leads.tokenizer = type(
        "Leads",
        (),
        {
            "bos_token_id": END,
            "eos_token_id": END,
            "decode": inner.decode,
            "get_vocab": inner.get_vocab,
            "__len__": lambda _: 8192,
            "__call__": lambda _, text, add_special_tokens=True, verbose=True: {
                "input_ids": [*([END] if add_special_tokens else []), *text_token_ids(inner, text)]
            },
        },
    )()
    for prompt, ids in (
        ("one", [END, *text_token_ids(inner, "one")]),
        (text_token_ids(inner, "one"), text_token_ids(inner, "one")),
    ):
        [job] = leads.completion({"model": NAME, "prompt": prompt}).jobs
        assert list(job.ids) == ids


def test_four_forms_of_prompts():
    ids = text_token_ids(READER.tokenizer, "one two")
    for prompt, count in (("one two", 1), (["one two", "one two"], 2), (ids, 1), ([ids, ids, ids], 3)):
        jobs = completion(prompt=prompt).jobs
        assert len(jobs) == count
        assert {(job.ids, job.query) for job in jobs} == {(tuple(ids), "one two")}


@pytest.mark.parametrize("prompt", ["", [""], [[]]])
def test_an_empty_prompt_is_the_start_token(prompt):
    assert completion(prompt=prompt).jobs[0].ids == (END,)


@pytest.mark.parametrize(
    "prompt", [[], 3, {}, None, [1, "two"], ["one", [2]], [1.5], [-1], [[1], "x"], [True], [[None]]]
)
def test_other_prompts_are_refused(prompt):
    assert wrong({"prompt": prompt}).param == "prompt"


def test_tokens_that_nobody_knows_are_refused():
    assert completion(prompt=[8191]).jobs[0].ids == (8191,)
    assert "prompt[1] is 8192" in str(wrong({"prompt": [1, 8192]}))
    assert "prompt[1][0] is 9000" in str(wrong({"prompt": [[1], [9000]]}))


def test_prompts_are_counted():
    assert len(completion(prompt=["a"] * 64).jobs) == 64
    assert "at most 64 prompts, got 65" in str(wrong({"prompt": ["a"] * 65}))


def test_an_answer_has_a_size():
    small = reader(limits=RequestLimits(entries=420))
    body = {"model": NAME, "prompt": [[5] * 9] * 2, "max_tokens": 1}
    for fits in ({"n": 7, "logprobs": 2, "echo": True}, {"n": 8}, {"logprobs": 20, "n": 8}):
        assert len(small.completion({**body, **fits}).jobs) == 2
    for large in ({"n": 8, "logprobs": 2, "echo": True}, {"logprobs": 20, "n": 8, "max_tokens": 2}):
        error = wrong({**body, **large}, lambda **given: small.completion(given))
        assert error.code == "answer_too_large"
    assert "672 entries (4 tokens × n=8 × (logprobs + 1)=21), and at most 420 are allowed" in str(error)
    turn = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 20}
    assert small.chat({**turn, "n": 2}).jobs[0].sampling.max_tokens == 10, "as much as there is room for"
    assert wrong({**turn, "n": 2, "max_tokens": 11}, lambda **given: small.chat(given)).code == "answer_too_large"


def test_what_the_harness_asks_for_fits():
    wide = reader()
    wide.context = 2048
    body = {"model": NAME, "prompt": [[5] * 1024] * 64, "max_tokens": 1, "logprobs": 1, "echo": True}
    assert len(wide.completion(body).jobs) == 64
    assert len(wide.completion({**body, "logprobs": None, "max_tokens": 1024, "n": 8}).jobs) == 64
    assert wrong({**body, "prompt": [[5] * 1000] * 24, "n": 8, "logprobs": 20}, lambda **given: wide.completion(given))


def test_prompt_and_answer_must_fit():
    ids = [5] * (CONTEXT - 1)
    assert completion(prompt=ids, max_tokens=1).jobs[0].sampling.max_tokens == 1
    error = wrong({"prompt": ids, "max_tokens": 2})
    assert error.code == "context_length_exceeded"
    assert f"maximum context length is {CONTEXT} tokens, however you requested {CONTEXT + 1} tokens" in str(error)
    assert f"({CONTEXT - 1} in your prompt; 2 for the completion)" in str(error)
    assert wrong({"prompt": [[1], ids], "max_tokens": 2}).code == "context_length_exceeded"


@pytest.mark.parametrize("read", [lambda text: completion(prompt=text), lambda text: chat(("user", text))])
def test_what_cannot_fit_is_not_even_counted(read, monkeypatch):
    counted: list[Any] = []
    for name in ("text_token_ids", "tokenize_messages"):
        counts = getattr(requests, name)
        monkeypatch.setattr(
            requests,
            name,
            lambda tokenizer, said, rows, counts=counts: counted.append(said) or counts(tokenizer, said, rows),
        )
    with pytest.raises(BadRequest, match="8000000 characters") as caught:
        read("a" * 8_000_000)
    assert caught.value.code == "context_length_exceeded"
    assert counted == []
    with pytest.raises(BadRequest, match="you requested"):
        read("the time of " * CONTEXT)
    assert counted


def test_the_tokenizer_of_the_model_is_left_alone():
    engine = FakeEngine()
    engine.controller.tokenizer = own = copy.copy(engine.controller.tokenizer)
    own.__class__ = type("Copied", (type(own),), {"__deepcopy__": lambda self, _: copy.copy(self)})
    assert RequestParser(engine.controller, ModeParser(NAME, engine.models), RequestLimits()).tokenizer is not own


# --- how to draw


def test_what_nobody_says():
    [job] = completion().jobs
    how = job.sampling
    assert (how.max_tokens, how.temperature, how.top_p, how.stop, how.top) == (16, 1.0, 1.0, (), None)
    assert (job.choices, job.echo, job.mode.name) == (1, False, "base")
    assert completion().jobs[0].sampling.seed != how.seed  # or every answer would be the same


def test_what_somebody_says():
    drawing = {"max_tokens": 0, "temperature": 0, "top_p": 0.5, "stop": "\n", "seed": 7, "n": 3, "logprobs": 0}
    asked = completion(**drawing, echo=True, stream=True, stream_options={"include_usage": True})
    [job] = asked.jobs
    how = job.sampling
    assert (how.max_tokens, how.temperature, how.top_p, how.stop, how.seed, how.top) == (0, 0, 0.5, ("\n",), 7, 0)
    assert (job.choices, job.echo, asked.stream, asked.usage) == (3, True, True, True)


def test_null_is_nothing_and_unknown_fields_are_not_looked_at():
    nulls = dict.fromkeys(set(COMPLETION_SCHEMA["properties"]) - {"model", "prompt"})
    [job] = completion(**nulls, user="me", store=False, metadata={"a": 1}).jobs
    assert (job.sampling.max_tokens, job.choices) == (16, 1)


def test_every_prompt_draws_as_it_would_alone():
    jobs = completion(prompt=["a", "b"], seed=5).jobs
    assert [job.sampling.seed for job in jobs] == [5, 5]


def test_a_seed_is_never_negative():
    assert completion(seed=-1).jobs[0].sampling.seed >= 0
    assert completion(seed=-1).jobs[0].sampling.seed == completion(seed=-1).jobs[0].sampling.seed


def test_top_p_of_nothing_takes_the_likeliest():
    assert 0 < completion(top_p=0).jobs[0].sampling.top_p < 1e-6


@pytest.mark.parametrize(
    ("given", "drawn"), [(0, 0), (1e-300, 0), (1e-45, 0), (9.9e-7, 0), (1e-6, 1e-6), (1, 1), (2, 2)]
)
def test_a_temperature_of_almost_nothing_is_none(given, drawn):
    assert completion(temperature=given).jobs[0].sampling.temperature == drawn
    assert chat(("user", "hi"), temperature=given).jobs[0].sampling.temperature == drawn


def test_stops():
    assert completion(stop=["a", "b", "c", "d"]).jobs[0].sampling.stop == ("a", "b", "c", "d")
    assert completion(stop=[]).jobs[0].sampling.stop == ()
    for stop in ("", ["a", ""], [1], 5, ["a"] * 17):
        assert wrong({"stop": stop}).param == "stop"


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"temperature": "hot"}, "temperature", 'temperature must be a number from 0 to 2, got "hot"'),
        ({"temperature": 2.1}, "temperature", "got 2.1"),
        ({"temperature": True}, "temperature", "got true"),
        ({"top_p": -0.1}, "top_p", "from 0 to 1"),
        ({"max_tokens": -1}, "max_tokens", "a whole number from 0"),
        ({"max_tokens": 1.5}, "max_tokens", "a whole number"),
        ({"n": 0}, "n", "a whole number from 1 to 8, got 0"),
        ({"n": 9}, "n", "from 1 to 8, got 9"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"logprobs": True}, "logprobs", "got true"),
        ({"echo": "yes"}, "echo", "true or false"),
        ({"seed": 2**63}, "seed", "a whole number"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "true or false"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"top_k": 40}, "top_k", "not supported"),
        ({"top_k": -2}, "top_k", "a whole number of at least -1"),
        ({"min_p": 0.05}, "min_p", "not supported"),
        ({"repetition_penalty": 1.1}, "repetition_penalty", "not supported"),
        ({"siftlm": []}, "siftlm", "an object"),
        ({"siftlm": {"return": ["all"]}}, "siftlm.return[0]", '"selection" or "steps" or "timings"'),
        ({"siftlm": {"memory": ["docs"], "method": "sift"}}, "siftlm.memory", "a string"),
        ({"siftlm": {"method": "magic"}}, "siftlm.method", "unknown method 'magic'"),
        ({"siftlm": {"path": "/etc"}}, "siftlm.path", "not a setting of a request"),
    ],
)
def test_wrong_values_are_named(body, param, said):
    error = wrong(body)
    assert error.param == param
    assert said in str(error)


@pytest.mark.parametrize(
    ("settings", "param", "code", "message"),
    [
        ({"n": 0}, "siftlm.n", "invalid_value", "siftlm.n must be a whole number from 1 to 200, got 0"),
        ({"method": "magic"}, "siftlm.method", "invalid_value", "unknown method 'magic'"),
        ({"method": "base", "n": 3}, "siftlm.n", "invalid_value", "siftlm.n has no effect on the base model"),
        ({"path": "/etc"}, "siftlm.path", "unsupported_parameter", "siftlm.path is not a setting of a request"),
    ],
)
def test_fields_of_siftlm_have_one_spelling(settings, param, code, message):
    error = wrong({"siftlm": settings})
    assert (error.param, error.code) == (param, code)
    assert str(error).startswith(message)


def test_null_is_as_good_as_left_out():
    [job] = completion(model=LEARNING, siftlm={"k": None, "noise": None, "n": 3}).jobs
    assert job.mode.settings == {"method": "sift", "n": 3}
    assert completion(siftlm={"k": None}).jobs[0].mode.memory is None


def test_values_that_change_nothing_are_taken():
    completion(best_of=1, suffix="", presence_penalty=0, frequency_penalty=0.0, logit_bias={}, max_tokens=4.0)
    completion(top_k=0, min_p=0, repetition_penalty=1)
    completion(top_k=-1, min_p=0.0, repetition_penalty=1.0, mirostat=2)  # what nobody knows is not read
    assert completion(n=2, best_of=2).jobs[0].choices == 2


def test_a_deadline_is_set():
    before = time.monotonic()
    [job] = reader(limits=RequestLimits(seconds=5)).completion({"model": NAME, "prompt": "a"}).jobs
    assert before + 5 <= job.deadline <= time.monotonic() + 5


# --- what to learn for


def test_a_model_that_learns_does_so_for_the_prompt():
    [job] = completion(model=LEARNING, prompt=text_token_ids(READER.tokenizer, "Ada Brook")).jobs
    assert (job.mode.name, job.mode.memory, job.query) == ("sift-5", "docs", "Ada Brook")


def test_or_for_another_text():
    jobs = completion(model=LEARNING, prompt=["one", ""], siftlm={"prompt": "Ada", "noise": 0.5}).jobs
    assert [job.query for job in jobs] == ["Ada", "Ada"]
    assert jobs[0].mode.settings["noise"] == 0.5


@pytest.mark.parametrize("body", [{"prompt": ""}, {"prompt": " \n"}, {"prompt": [END]}, {"siftlm": {"prompt": ""}}])
def test_nothing_to_learn_for(body):
    assert "no texts can be selected" in str(wrong({"model": LEARNING, **body}))
    if "siftlm" not in body:
        completion(**body)  # the base model may well continue it


def test_what_is_told():
    asked = completion(siftlm={"method": "sift", "return": ["selection", "steps"], "events": True})
    assert (asked.include, asked.events) == ({"selection", "steps"}, True)
