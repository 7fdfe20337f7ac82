"""The engines against a plain loop: the same losses, the same gradients, the same weights at the end."""

from __future__ import annotations

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from controller import oracle, tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a much longer text than fits into the context of sixty-four bytes, which is cut, once, twice",
    "rain fell on the harbour",
    "the quick brown fox jumps over the lazy dog",
]
TOKENIZER = tiny.tokenizer()
SETTINGS = {
    "plain": {},
    "clipped and decayed": {"clip": 0.5, "decay": 0.1, "betas": (0.8, 0.95), "epsilon": 1e-6},
}


def first_window(text, size=tiny.CONTEXT):
    return TOKENIZER(text)["input_ids"][:size]


def near(trace, expected):
    assert trace.losses == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    assert [step.norm for step in trace.steps] == pytest.approx([norm for _, norm in expected], rel=1e-4)


SLOW = pytest.mark.slow
FULL = [
    pytest.param(name, setting, marks=() if (name, setting) == ("gpt2", "clipped and decayed") else SLOW)
    for name, setting in itertools.product(("gpt2", "gpt_neox", "llama", "gemma2", "phi3"), SETTINGS)
]


@pytest.mark.parametrize(("name", "setting"), FULL)
def test_full_weights_against_a_plain_loop(name, setting):
    one = Controller(tiny.model(name), TOKENIZER, engine="full", rate=1e-3, precision="float32", **SETTINGS[setting])
    twin = tiny.model(name)
    expected = oracle.steps(
        twin, list(twin.parameters()), [first_window(text) for text in TEXTS], rate=1e-3, **SETTINGS[setting]
    )
    with one.tuning() as tuner:
        near(tuner.learn(TEXTS), expected)
        ids = torch.tensor([first_window(TEXTS[1])])
        with torch.no_grad():
            torch.testing.assert_close(one.model(ids).logits, twin(ids).logits, atol=1e-4, rtol=1e-4)


def test_full_weights_against_adamw_of_torch():
    """The very optimiser of a script: fresh for the prompt, in a loop that pads nothing."""
    one = Controller(tiny.model("llama"), TOKENIZER, engine="full", rate=1e-3, precision="float32", decay=0.01)
    twin = tiny.model("llama")
    with one.tuning() as tuner:
        tuner.learn(TEXTS[::-1])
    optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.01, fused=False, foreach=False)
    losses = []
    for text in TEXTS:
        ids = torch.tensor([first_window(text)])
        loss = twin(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    with one.tuning() as tuner:
        assert tuner.learn(TEXTS).losses == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"windows": 3, "window": 32}, [(0, 0, 32), (0, 32, 64), (1, 0, 32), (1, 32, 64), (1, 64, 96), (2, 0, 32)]),
        ({"windows": 2}, [(0, 0, 64), (1, 0, 64), (1, 64, 128), (2, 0, 64)]),
        ({"windows": 1, "window": 5}, [(0, 0, 5), (1, 0, 5), (2, 0, 5)]),
    ],
)
def test_windows_are_consecutive_and_steps_of_their_own(kind, expected):
    one = Controller(tiny.model("llama"), TOKENIZER, engine="full", rate=1e-3, precision="float32", **kind)
    twin = tiny.model("llama")
    parts = [TOKENIZER(TEXTS[text])["input_ids"][start:end] for text, start, end in expected]
    with one.tuning() as tuner:
        trace = tuner.learn(TEXTS[:3])
    near(trace, oracle.steps(twin, list(twin.parameters()), [part for part in parts if len(part) > 1], rate=1e-3))
    assert [step.text for step in trace.steps] == [
        text for (text, _, _), part in zip(expected, parts, strict=True) if len(part) > 1
    ]


def test_only_the_completion_is_learned():
    one = Controller(tiny.model("llama"), TOKENIZER, engine="full", rate=1e-3, precision="float32", completion="\nA: ")
    twin = tiny.model("llama")
    texts = ["Q: two and two\nA: four\nA: 4", "no question at all"]
    with one.tuning() as tuner:
        trace = tuner.learn(texts)
    parts = [first_window(text) for text in texts]
    given = len("Q: two and two\nA: ")
    near(trace, oracle.steps(twin, list(twin.parameters()), parts, ignored=[given, 0], rate=1e-3))
    assert [step.tokens for step in trace.steps] == [len("four\nA: 4"), len(texts[1]) - 1]


def test_repeats_scale_the_rate_or_reuse_the_gradient():
    texts = ["one text", "another text", "one text", "one text"]
    parts = [first_window(text) for text in texts]
    scaled = Controller(tiny.model("llama"), TOKENIZER, engine="full", rate=1e-3, precision="float32")
    twin = tiny.model("llama")
    with scaled.tuning(repeats="scaled") as tuner:
        trace = tuner.learn(texts)
    near(trace, oracle.steps(twin, list(twin.parameters()), parts[:2], rate=1e-3, scales=[3.0, 1.0]))
    assert [step.rate for step in trace.steps] == pytest.approx([3e-3, 1e-3])

    with scaled.tuning(repeats="grouped", reuse=2) as tuner:
        reused = tuner.learn(texts)
    assert [(step.text, step.reused) for step in reused.steps] == [(0, False), (0, True), (0, False), (1, False)]
    twin = tiny.model("llama")
    optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for text, fresh in [(0, True), (0, False), (0, True), (1, True)]:
        if fresh:
            ids = torch.tensor([parts[text]])
            optimiser.zero_grad()
            loss = twin(input_ids=ids, labels=ids).loss
            loss.backward()
        losses.append(float(loss.detach()))
        optimiser.step()
    assert reused.losses == pytest.approx(losses, abs=1e-5)


# --- adapters against PEFT


def lora_config(model):
    conv = model.config.model_type == "gpt2"
    return peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=conv, task_type="CAUSAL_LM")


def loha_config(model):
    return peft.LoHaConfig(r=2, alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def ia3_config(model):
    return peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])


PEFT_CASES = [
    pytest.param("gpt2", lora_config, marks=SLOW),
    pytest.param("llama", lora_config),
    pytest.param("gemma2", lora_config, marks=SLOW),
    pytest.param("phi3", lora_config, marks=SLOW),
    pytest.param("llama", loha_config, marks=SLOW),
    pytest.param("mistral", ia3_config, marks=SLOW),
]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize(("name", "config"), PEFT_CASES)
def test_adapters_against_a_loop_over_peft_and_exported(name, config, tmp_path):
    """Same losses; and what is exported gives, on a fresh base in plain PEFT, the logits of the tuned model."""
    one = Controller(tiny.model(name), TOKENIZER, engine=config(tiny.model(name)), rate=5e-3, precision="float32")
    base = tiny.model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = peft.get_peft_model(base, config(base), adapter_name="siftlm")
    trained = [p for p in twin.parameters() if p.requires_grad]
    expected = oracle.steps(twin.eval(), trained, [first_window(text) for text in TEXTS], rate=5e-3)
    ids = torch.tensor([first_window("some text to look at")])
    with one.tuning() as tuner, torch.no_grad():
        near(tuner.learn(TEXTS), expected)
        logits = one.model(ids).logits
        torch.testing.assert_close(logits, twin(ids).logits, atol=1e-4, rtol=1e-4)
        folder = one.save_adapter(tmp_path / "adapter")
        plain = one.model(ids).logits
    assert torch.equal(plain, logits)
    with torch.no_grad():
        assert not torch.allclose(one.model(ids).logits, logits, atol=1e-3)
        loaded = peft.PeftModel.from_pretrained(tiny.model(name), folder).eval()
        torch.testing.assert_close(loaded(ids).logits, logits, atol=1e-6, rtol=1e-5)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, logits, atol=1e-4, rtol=1e-4)


def test_rank_alpha_and_targets_are_what_was_asked():
    one = Controller(
        tiny.model("llama"),
        TOKENIZER,
        engine="lora",
        rank=3,
        alpha=12,
        targets=["q_proj"],
        rate=1e-3,
        precision="float32",
    )
    with one.tuning() as tuner:
        settings = tuner.learn(TEXTS).settings
        inside = [name for name, module in one.model.named_modules() if hasattr(module, "lora_A")]
        assert [name.rsplit(".", 1)[-1] for name in inside] == ["q_proj", "q_proj"]
        assert one.model.get_submodule(inside[0]).scaling["siftlm"] == 4.0
    assert (settings["r"], settings["lora_alpha"], settings["trained"]) == (3, 12, 2 * 3 * (16 + 16))
    assert not any(hasattr(module, "lora_A") for module in one.model.modules())


def test_a_model_that_was_changed_between_two_prompts_stays_changed():
    """What is put back is what was there at the beginning of the block, not what there was once."""
    one = Controller(tiny.model("llama"), TOKENIZER, engine="full", rate=1e-3, precision="float32")
    with one.tuning() as tuner:
        tuner.learn(TEXTS)
    with torch.no_grad():
        one.model.model.norm.weight.mul_(1.5)
    changed = copy.deepcopy(one.model.state_dict())
    with one.tuning() as tuner:
        tuner.learn(TEXTS)
    assert all(torch.equal(changed[name], value) for name, value in one.model.state_dict().items())
