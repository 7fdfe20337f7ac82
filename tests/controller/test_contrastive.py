"""Contrastive decoding and hidden states against the plainest loops, and copies of a controller."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller, SamplingParams, contrastive_samples  # noqa: E402
from siftlm.errors import Conflict, InvalidInput  # noqa: E402

TOKENIZER = tiny.tokenizer()
PROMPTS = ["abc", "a longer prompt", "", "xy"]


def pair(name="gpt2"):
    return [Controller(tiny.model(name, seed=seed), TOKENIZER) for seed in (1, 0)]


def recurrent():
    """A model that keeps a state and no keys and values."""
    config = transformers.MambaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, use_mambapy=False,
    )  # fmt: skip
    made = []
    for seed in (1, 0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(Controller(transformers.MambaForCausalLM(config).eval(), TOKENIZER, context=64))
    return made


def by_definition(tuned, base, prompt, count, scale, plausible, temperature, seed):
    """The tokens of one continuation: both models read everything again for each."""
    ids = TOKENIZER(prompt)["input_ids"] or [0]
    begun = len(ids)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.inference_mode():
            p, q = (torch.softmax(one.model(torch.tensor([ids])).logits[0, -1].double(), -1) for one in (tuned, base))
        score = torch.where(p >= plausible * p.max(), p.log() - scale * q.log(), -math.inf)
        if temperature:
            ids.append(int(torch.multinomial(torch.softmax(score.float() / temperature, -1), 1, generator=generator)))
        else:
            ids.append(int(score.argmax()))
        if ids[-1] == 0:
            break
    return TOKENIZER.decode(ids[begun:], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "mamba"])
@pytest.mark.parametrize(("scale", "plausible", "temperature"), [(1.0, 0.1, 0.0), (0.5, 0.01, 0.8), (2.0, 1.0, 1.0)])
def test_tokens_are_those_of_the_formula(name, scale, plausible, temperature):
    tuned, base = recurrent() if name == "mamba" else pair(name)
    how = SamplingParams(8, temperature, seed=5)
    made = contrastive_samples(tuned, base, PROMPTS, how, scale=scale, plausible=plausible)
    for at, (prompt, one) in enumerate(zip(PROMPTS, made, strict=True)):
        expected = by_definition(tuned, base, prompt, 8, scale, plausible, temperature, 5 + at)
        assert one.text.encode("utf-8", "replace") == expected.encode("utf-8", "replace")


def test_with_nothing_subtracted_it_is_the_tuned_model():
    tuned, base = pair()
    how = SamplingParams(10, 1.0, seed=3)
    [made] = contrastive_samples(tuned, base, ["abc"], how, scale=0.0, plausible=1e-30)
    assert made == tuned.generate("abc", max_new_tokens=10, temperature=1.0, seed=3)


def test_models_of_other_tokens_are_refused():
    tuned, base = pair()
    other = Controller(tiny.model("gpt2"), tiny.tokenizer("bare"))
    with pytest.raises(Conflict, match="have different tokens"):
        contrastive_samples(tuned, other, ["a"], SamplingParams(2))
    assert contrastive_samples(tuned, base, [], SamplingParams(2)) == []


def test_many_prompts_are_continued_as_each_alone():
    tuned, _ = pair()
    for temperature in (0.0, 1.0):
        together = tuned.generate_many(PROMPTS, max_new_tokens=6, temperature=temperature, seed=2)
        alone = [tuned.generate(one, max_new_tokens=6, temperature=temperature, seed=2) for one in PROMPTS]
        assert together == alone


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_hidden_states_are_those_of_each_text_alone(name, layer):
    control = pair(name)[0]
    texts = ["abc", "a text that is longer than the others", "x" * 100]
    expected = []
    for text in texts:
        ids = TOKENIZER(text)["input_ids"]
        for at in range(0, len(ids), 63):
            piece = torch.tensor([[0, *ids[at : at + 63]]])
            with torch.inference_mode():
                expected.append(control.model(piece, output_hidden_states=True).hidden_states[layer][0, 1:])
    found = control.hidden_states(texts, layer)
    assert (found.shape, found.dtype) == ((sum(map(len, texts)), 16), np.float32)
    np.testing.assert_allclose(found, torch.cat(expected).numpy(), atol=2e-5)


def test_hidden_states_name_what_is_wrong():
    control = pair()[0]
    with pytest.raises(InvalidInput, match="layer=7: the model has 2 layers"):
        control.hidden_states(["a"], 7)
    with pytest.raises(InvalidInput, match="texts have no tokens"):
        control.hidden_states([""])


def test_a_copy_learns_for_itself():
    control = Controller(tiny.model("gpt2"), TOKENIZER, engine="lora", rank=2, precision="float32", rate=1e-2)
    before = control.likelihood("abcabc").nats
    made = control.copy()
    assert made.likelihood("abcabc").nats == before
    assert (made.adapters, made.settings, made.context) == (True, control.settings, control.context)
    with made.tuning() as tuner:
        tuner.learn(["abcabc"] * 3)
        assert made.likelihood("abcabc").nats < before
        assert made.current_fingerprint() != made.fingerprint
        assert control.likelihood("abcabc").nats == before
    assert made.likelihood("abcabc").nats == before
    assert made.current_fingerprint() == made.fingerprint == control.fingerprint
