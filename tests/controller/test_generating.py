"""Continuations against the plainest loop there is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from controller import oracle, tiny  # noqa: E402
from embedding import tiny as embedders  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.errors import InvalidInput  # noqa: E402

TOKENIZER = tiny.tokenizer()


def ids_of(text):
    return TOKENIZER(text)["input_ids"]


def likeliest(row):
    return int(row.argmax())


@pytest.fixture(scope="module")
def one():
    """A model that has something to say: it has learned a text for good."""
    model = tiny.model("gpt2")
    controller = Controller(model, TOKENIZER, precision="float32")
    text = "abcdefghijklmnopqrstuvwxyz " * 2
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([[*ids_of(text), 0]])
    for _ in range(60):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.zero_grad()
    return controller


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["abc", "xyz a", "q", ""])
def test_the_likeliest_tokens(one, prompt):
    read = ids_of(prompt) or [0]
    expected = oracle.greedy(one.model, read, 12, 0, likeliest)
    made = one.generate(prompt, max_new_tokens=12)
    assert (made.text, made.tokens) == (TOKENIZER.decode(expected, skip_special_tokens=True), len(expected))
    assert made.stopped == ("end" if expected[-1] == 0 else "length")
    assert made.cut == 0


def test_the_end_of_the_text(one):
    made = one.generate("abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz", max_new_tokens=9)
    assert (made.text, made.stopped, made.tokens) == (" ", "end", 2)


@pytest.mark.parametrize(("stop", "text"), [("gh", "def"), (["zz", "h", "fgh"], "de"), ("d", "")])
def test_a_stop_text_ends_it_and_is_left_out(one, stop, text):
    made = one.generate("abc", max_new_tokens=20, stop=stop)
    assert (made.text, made.stopped) == (text, "stop")
    assert made.tokens < 20


@pytest.mark.parametrize("length", [53, 54, 55, 60, 64, 100])
def test_the_beginning_of_a_long_prompt_is_left_out(one, length):
    prompt = ("abcdefghijklmnopqrstuvwxyz " * 4)[:length]
    room = tiny.CONTEXT - 10
    expected = oracle.greedy(one.model, ids_of(prompt)[-room:], 10, 0, likeliest)
    made = one.generate(prompt, max_new_tokens=10)
    assert made.text == TOKENIZER.decode(expected, skip_special_tokens=True)
    assert made.cut == max(0, length - room)


@pytest.mark.parametrize("most", [1, 20, 40, 62, 63])
@pytest.mark.parametrize("prompt", ["abc", "abcdefghijklmnopqrstuvwxyz " * 3])
def test_texts_in_the_context_leave_room_for_the_rest(one, prompt, most):
    made = one.generate(prompt, max_new_tokens=most, texts=["x" * 100])
    assert 1 <= made.tokens <= most
    left = tiny.CONTEXT - most
    kept = max(left // 2, left - len(prompt))
    front = one.context_of(["x" * 100])[:kept]
    read = [*front, *ids_of(prompt)[-max(1, left - len(front)) :]]
    assert len(read) + most <= tiny.CONTEXT
    expected = oracle.greedy(one.model, read, most, 0, likeliest)
    assert made.text == TOKENIZER.decode(expected, skip_special_tokens=True)


def test_drawing_is_seeded_and_leaves_the_random_state(one):
    state = torch.get_rng_state()
    draws = [one.generate("abc", max_new_tokens=8, temperature=3.0, seed=seed).text for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    assert torch.equal(state, torch.get_rng_state())
    surely = one.generate("abc", max_new_tokens=8, temperature=3.0, top_p=1e-9)
    assert surely.text == one.generate("abc", max_new_tokens=8).text


def test_the_models_own_rules_for_generating_do_not_count():
    plain, ruled = (Controller(tiny.model("llama"), TOKENIZER) for _ in range(2))
    rules = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 0.1, "top_k": 1, "max_length": 3}
    for name, value in rules.items():
        setattr(ruled.model.generation_config, name, value)
    for settings in ({}, {"temperature": 1.0}):
        assert ruled.generate("abc", max_new_tokens=9, **settings) == plain.generate(
            "abc", max_new_tokens=9, **settings
        )
    assert ruled.model.generation_config.repetition_penalty == 5.0


def test_every_end_that_the_model_knows_ends_a_text(one):
    letter = ids_of("f")[0]
    known = one.model.generation_config.eos_token_id
    one.model.generation_config.eos_token_id = [0, letter]
    try:
        made = one.generate("abc", max_new_tokens=9)
    finally:
        one.model.generation_config.eos_token_id = known
    assert (made.text, made.stopped) == ("def", "end")


def test_a_space_that_a_tokenizer_would_swallow_is_kept(tmp_path):
    """Words of this tokenizer begin with the space before them, and a text never does."""
    one = Controller(str(embedders.llama(tmp_path)))
    said = one.generate("the tide", max_new_tokens=6)
    read = [one.tokenizer.bos_token_id, *one.tokenizer("the tide", add_special_tokens=False)["input_ids"]]
    made = oracle.greedy(one.model, read, 6, one.tokenizer.eos_token_id, likeliest)
    whole = one.tokenizer.decode([*read, *made], skip_special_tokens=True)
    assert "the tide" + said.text == whole


def test_an_empty_prompt_without_a_token_to_begin_with():
    one = Controller(tiny.model("llama"), tiny.tokenizer("bare"))
    with pytest.raises(InvalidInput, match="empty"):
        one.generate("", max_new_tokens=3)
    assert one.generate("a", max_new_tokens=3).tokens == 3


# --- every kind of model against transformers' own loop

# Models that keep something other than the keys and values of each token, or nothing at all.
OTHER_CACHES = {
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}),
    "rwkv": ("RwkvForCausalLM", "RwkvConfig", {"hidden_size": 16, "num_hidden_layers": 2, "context_length": 64}),
    "openai-gpt": (
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2},
    ),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", {**tiny.GROUPED, "full_attn_idxs": [1], "block_ff_dim": 32}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
}


def model_of(name):
    if name in tiny.ARCHITECTURES:
        return tiny.model(name)
    kind, config, settings = OTHER_CACHES[name]
    shared = {"vocab_size": tiny.VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, kind)(getattr(transformers, config)(**{**shared, **settings})).eval()
        with torch.no_grad():
            for p in made.parameters():
                if p.dim() > 1:
                    p.mul_(4)
    return made


def by_transformers(model, read, count, seed, **sampling):
    """The tokens of ``model.generate`` without any of the model's own rules."""
    rules, model.generation_config = model.generation_config, transformers.GenerationConfig()
    how = {"do_sample": True, "top_k": 0, **sampling} if sampling else {"do_sample": False}
    config = transformers.GenerationConfig(max_new_tokens=count, pad_token_id=0, eos_token_id=0, **how)
    ids = torch.tensor([read])
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    model.generation_config = rules
    return made[0, len(read) :].tolist()


FAST = {"gpt2", "llama", "mistral", "mamba"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in (*tiny.ARCHITECTURES, *OTHER_CACHES)
    ],
)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}], ids=str)
def test_the_tokens_are_those_of_transformers(name, sampling):
    model = model_of(name)
    one = Controller(model, TOKENIZER, context=tiny.CONTEXT)
    for prompt in ("abc", "the cat sat on the mat", "q"):
        expected = by_transformers(model, ids_of(prompt), 14, 3, **sampling)
        made = one.generate(prompt, max_new_tokens=14, seed=3, **sampling)
        assert (made.text, made.tokens) == (TOKENIZER.decode(expected, skip_special_tokens=True), len(expected))


def test_a_stop_text_that_begins_in_the_prompt_is_none(one):
    made = one.generate("abc", max_new_tokens=4, stop="cd")
    assert (made.text, made.stopped) == ("defg", "length")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 64}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"texts": 3}, "texts"),
        ({"texts": np.ones((2, 2))}, "texts"),
    ],
)
def test_wrong_ways_to_continue_are_refused_by_name(one, settings, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        one.generate("abc", **{"max_new_tokens": 3, **settings})
    assert caught.value.settings == (message,)


@pytest.mark.parametrize("temperature", [2, np.float32(2), Fraction(2)], ids=str)
def test_a_temperature_is_any_number(one, temperature):
    expected = one.generate("abc", max_new_tokens=3, temperature=2.0, top_p=0.5, seed=1).text
    assert one.generate("abc", max_new_tokens=3, temperature=temperature, top_p=Fraction(1, 2), seed=1).text == expected
