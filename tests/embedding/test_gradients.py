"""Gradient features against their plain definition: each text's own loss, backward, and the whole gradient."""

from __future__ import annotations

import numpy as np
import pytest

from siftlm.embedding import embedder
from siftlm.embedding.models import GradientSettings, check_layers
from siftlm.errors import InvalidInput, UnknownName

TEXTS = ["rain fell on the harbour", "def add(a, b):", "the dog sleeps, and the dog sleeps " * 3, "tide tide"]
slow = pytest.mark.slow


def sketch_hash(key, size, width):
    return pytest.importorskip("siftlm.embedding.gradient_passes").sketch_hash(key, size, width)


# --- quick


def test_buckets_are_even_and_drawn_from_the_key():
    side = sketch_hash("a", 100, 32)
    assert sorted(np.bincount(side.buckets, minlength=32)) == [3] * 28 + [4] * 4
    assert set(side.signs) == {-1.0, 1.0}
    again, other = sketch_hash("a", 100, 32), sketch_hash("b", 100, 32)
    np.testing.assert_array_equal(side.buckets, again.buckets)
    assert (side.buckets != other.buckets).any()
    assert (side.signs != other.signs).any()


def test_few_coordinates_are_spread_over_all_buckets():
    assert sketch_hash("a", 8, 1000).buckets.max() > 100
    assert len(set(sketch_hash("a", 8, 1000).buckets.tolist())) == 8


@pytest.mark.parametrize("layers", ["heads", 3, [], ["head", ""], [1]])
def test_wrong_layers_are_named(layers):
    with pytest.raises(InvalidInput, match="layers"):
        check_layers(layers)


@pytest.mark.parametrize("setting", [{"width": 0}, {"seed": -1}, {"precision": "half"}, {"layer": 3}])
def test_wrong_settings_are_named_before_anything_is_loaded(setting):
    with pytest.raises(InvalidInput, match=next(iter(setting))):
        embedder("gradients:some/model", **setting)


# --- the sketch


def explicit(matrix: np.ndarray, name: str, width: int, seed: int = 0) -> np.ndarray:
    """The sketch, entry by entry."""
    out, into = (
        sketch_hash(f"{seed} {name} {which}", size, width)
        for which, size in zip(("out", "in"), matrix.shape, strict=True)
    )
    buckets = (out.buckets[:, None] + into.buckets[None, :]) % width
    signed = matrix * out.signs[:, None] * into.signs[None, :]
    return np.bincount(buckets.ravel(), signed.ravel(), minlength=width)


@slow
@pytest.mark.parametrize(("outputs", "inputs", "width"), [(7, 5, 16), (40, 12, 16), (33, 70, 17), (3, 2, 1)])
def test_a_sketched_outer_product_is_the_entries_in_their_buckets(outputs, inputs, width):
    import torch

    from siftlm.embedding.gradient_passes import TensorSketch, from_frequency_domain

    rng = np.random.default_rng(0)
    deltas, states = rng.normal(size=(6, outputs)), rng.normal(size=(6, inputs))
    rows = np.array([0, 1, 0, 1, 1, 0])
    total = torch.zeros((2, width // 2 + 1, 2))
    sketch = TensorSketch("layer", outputs, inputs, width, 0, "cpu")
    sketch.add(total, *(torch.tensor(one) for one in (rows, deltas, states)))
    found = from_frequency_domain(total, width).numpy()
    for row in (0, 1):
        plain = deltas[rows == row].T @ states[rows == row]
        np.testing.assert_allclose(found[row], explicit(plain, "layer", width), atol=1e-4)


@slow
def test_inner_products_of_sketches_are_unbiased():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, 20, 9))
    two += 0.5 * one
    truth = float((one * two).sum())
    estimates = [explicit(one, "layer", 64, seed) @ explicit(two, "layer", 64, seed) for seed in range(400)]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 4 * error
    # As good as a dense random projection of the whole gradient: the deviation is about ‖A‖ ‖B‖ / √width.
    assert np.std(estimates) < 2 * np.linalg.norm(one) * np.linalg.norm(two) / 8


# --- the features


def gradient(model, tokenizer, text: str, names: list[str], longest: int, head: list[int]) -> dict[str, np.ndarray]:
    """The plain way, (out, in) of each layer: mean loss of one text, backward through everything."""
    import torch

    model.zero_grad()
    ids = torch.tensor([head + tokenizer(text, add_special_tokens=False)["input_ids"][:longest]])
    logits = model(input_ids=ids[:, :-1]).logits[0]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    modules = dict(model.named_modules())
    found = {}
    for name in names:
        whole = modules[name].weight.grad.detach().numpy().copy()
        found[name] = whole.T if type(modules[name]).__name__ == "Conv1D" else whole
    model.zero_grad()
    return found


def opened(folder, tied: bool | None = None):
    """The model that the embedder would load, in the caller's hands; its head on its own, if it was tied."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    if tied is False:
        # Backward would add what comes through the input embeddings; the features are of the output layer alone.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def layers_of(made) -> list[str]:
    return [one.name for one in made._ready()._layers]


CASES = [
    ("gpt2", "head"),
    ("llama", "head"),
    ("gpt2", "block"),
    ("llama", "block"),
    ("gpt2", "lora"),
    ("llama", "lora"),
    ("llama", ["down_proj", "head"]),
    ("gpt2", ["h.0.attn.c_attn"]),
]


@slow
@pytest.mark.parametrize(("kind", "layers"), CASES)
def test_features_are_the_sketch_of_the_gradient(models, kind, layers):
    made = embedder(f"gradients:{models(kind)}", layers=layers, width=128)
    model, tokenizer = opened(models(kind), tied=False)
    head = [tokenizer.bos_token_id] if kind == "llama" else []
    names = layers_of(made)
    vectors = made.embed(TEXTS)
    assert vectors.any()
    for text, vector in zip(TEXTS, vectors, strict=True):
        plain = gradient(model, tokenizer, text, names, made.max_tokens, head)
        expected = sum(explicit(plain[name], name, 128) for name in names)
        np.testing.assert_allclose(vector, expected, atol=2e-5 * np.abs(expected).max())


@slow
def test_cosines_are_near_those_of_whole_gradients(models):
    made = embedder(f"gradients:{models('llama')}", layers="lora", width=4096)
    model, tokenizer = opened(models("llama"))
    plain = []
    for text in TEXTS:
        own = gradient(model, tokenizer, text, layers_of(made), made.max_tokens, [tokenizer.bos_token_id])
        plain.append(np.concatenate([whole.ravel() for whole in own.values()]))
    expected, found = np.corrcoef(plain), np.corrcoef(made.embed(TEXTS))
    assert np.abs(expected - np.eye(4)).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=0.06)


@slow
def test_the_layers_are_those_that_were_named(models):
    def found(kind, layers):
        return layers_of(embedder(f"gradients:{models(kind)}", layers=layers))

    assert found("gpt2", "head") == found("gpt2", ["head"]) == ["lm_head"]
    assert len(found("gpt2", "lora")) == 2 * len(found("gpt2", "block")) == 8
    assert all(name.startswith("model.layers.1.") for name in found("llama", "block"))
    assert found("llama", ["layers.0.mlp.up_proj"]) == ["model.layers.0.mlp.up_proj"]
    # In the model's order, each once.
    assert found("llama", ["head", "up_proj", "layers.0.mlp.up_proj"]) == [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
        "lm_head",
    ]
    with pytest.raises(UnknownName, match="did you mean 'up_proj'"):
        embedder(f"gradients:{models('llama')}", layers=["up_prj"]).embed(["x"])


@slow
@pytest.mark.parametrize("layers", ["head", "lora"])
def test_few_logits_at_once_change_nothing(models, layers, monkeypatch):
    from siftlm.embedding import gradient_passes

    made = embedder(f"gradients:{models('llama')}", layers=layers)
    at_once = made.embed(TEXTS)
    monkeypatch.setitem(gradient_passes.MAX_GRADIENT_LOGITS, "cpu", 1000)
    np.testing.assert_allclose(made.embed(TEXTS), at_once, atol=1e-6)


@slow
def test_a_single_token_has_a_direction_and_nothing_has_none(models):
    made = embedder(f"gradients:{models('gpt2')}")
    single, two, empty = made.embed(["!", "!!", ""])
    assert len(made.tokens(["!"])[0]) == 1
    assert single.any()
    assert two.any()
    assert not empty.any()


@slow
def test_the_fingerprint_knows_what_changes_vectors(models):
    name = f"gradients:{models('llama')}"
    other = embedder(f"gradients:{models('gpt2')}").fingerprint
    changes = [{}, {"seed": 1}, {"layers": "block"}, {"layers": ["down_proj"]}, {"width": 512}, {"max_tokens": 7}]
    found = [embedder(name, **change).fingerprint for change in changes]
    assert len({*found, other}) == len(changes) + 1
    assert embedder(name, batch_tokens=10, device="cpu").fingerprint == found[0]
    assert embedder(name, layers=["head"]).fingerprint == found[0]


@slow
@pytest.mark.parametrize("layers", ["head", "block"])
def test_a_model_in_hand_is_left_as_it_was(models, layers):
    import torch

    from siftlm.embedding.gradients import loaded_model_gradients

    model, tokenizer = opened(models("llama"))
    model.lm_head.weight.requires_grad_(False)
    wanted = [p.requires_grad for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    by_name = embedder(f"gradients:{models('llama')}", layers=layers)
    made = loaded_model_gradients("gradients:mine", model, tokenizer, GradientSettings(layers=layers))
    np.testing.assert_array_equal(made.embed(TEXTS), by_name.embed(TEXTS))
    assert made.fingerprint == by_name.fingerprint
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    # Tuned weights are another embedder.
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)
    assert made.fingerprint != by_name.fingerprint


@slow
def test_a_failure_on_the_way_leaves_no_hooks(models, monkeypatch):
    made = embedder(f"gradients:{models('llama')}", layers="block")
    made.embed(["x"])
    model = made._ready().gradients._model

    def fails(*arguments, **settings):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(model.model.norm, "forward", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        made.embed(TEXTS)
    assert not any(module._forward_hooks for module in model.modules())


@slow
def test_threads_do_not_disturb_each_other(models):
    from concurrent.futures import ThreadPoolExecutor

    made = embedder(f"gradients:{models('llama')}", layers="block", width=64)
    # In a thread as well: the main thread may add up in another order, with another number of processors.
    with ThreadPoolExecutor(1) as pool:
        alone = list(pool.map(lambda text: made.embed([text]), TEXTS))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: made.embed([text]), TEXTS * 5))
    for one, expected in zip(together, alone * 5, strict=True):
        np.testing.assert_array_equal(one, expected)


@slow
def test_capped_logits_are_what_the_model_learns_from(tmp_path, models):
    """Gemma 2 bends its logits."""
    import torch
    import transformers

    from siftlm.embedding.gradients import loaded_model_gradients

    _, tokenizer = opened(models("llama"))
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=32,
        max_position_embeddings=64,
        final_logit_softcapping=0.5,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Gemma2ForCausalLM(config).eval()
    made = loaded_model_gradients(
        "gradients:gemma", model, tokenizer, GradientSettings(layers=["head", "o_proj"], width=64)
    )
    plain = gradient(model, tokenizer, TEXTS[0], layers_of(made), 63, [tokenizer.bos_token_id])
    expected = sum(explicit(whole, name, 64) for name, whole in plain.items())
    np.testing.assert_allclose(made.embed(TEXTS[:1])[0], expected, atol=1e-4 * np.abs(expected).max())
    # What is not known here is refused rather than wrong.
    with pytest.raises(InvalidInput, match="logits"):
        loaded_model_gradients("gradients:bent", Bent(model), tokenizer).embed(TEXTS)


class Bent:
    """A model that does something of its own to its logits."""

    def __init__(self, model) -> None:
        self._inner = model

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def __call__(self, **arguments):
        out = self._inner(**arguments)
        out.logits = out.logits * 3
        return out


@slow
def test_experts_get_their_tokens_back(models):
    """Layers that see tokens in an order of their own: one text at a time, and the same answer."""
    import torch

    from siftlm.embedding.gradients import loaded_model_gradients

    model, tokenizer = opened(models("llama"))
    up = model.model.layers[1].mlp.up_proj
    plain = loaded_model_gradients("gradients:a", model, tokenizer, GradientSettings(layers="block")).embed(TEXTS)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = up

        def forward(self, states):
            flat = states.reshape(-1, states.shape[-1]).flip(0)
            return self.inner(flat).flip(0).reshape(*states.shape[:-1], -1)

    model.model.layers[1].mlp.up_proj = Flat()
    made = loaded_model_gradients("gradients:b", model, tokenizer, GradientSettings(layers=["up_proj.inner"], width=64))
    name = "model.layers.1.mlp.up_proj"
    found = made.embed(TEXTS)
    model.model.layers[1].mlp.up_proj = up
    for text, vector in zip(TEXTS, found, strict=True):
        whole = gradient(model, tokenizer, text, [name], 63, [tokenizer.bos_token_id])[name]
        expected = explicit(whole, f"{name}.inner", 64)
        np.testing.assert_allclose(vector, expected, atol=2e-5 * np.abs(expected).max())
    assert plain.any()


@slow
def test_an_encoder_is_refused(models):
    with pytest.raises(InvalidInput):
        embedder(f"gradients:{models('bert')}", layers="block").embed(["x"])


@slow
def test_a_memory_is_built_and_searched(models, tmp_path):
    import siftlm

    memory = siftlm.Memory.build(
        TEXTS, tmp_path / "memory", embedder=embedder(f"gradients:{models('llama')}", width=256)
    )
    found = memory.search(TEXTS[1], n=2)
    assert found[0].text == TEXTS[1]
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert siftlm.Memory.open(tmp_path / "memory").search(TEXTS[1], n=2).texts == found.texts


@slow
def test_the_bundled_model_keeps_its_name(models, monkeypatch):
    monkeypatch.setattr("siftlm.embedding.resolve.bundled_model", lambda: models("llama"))
    made = embedder("gradients:siftlm-tiny", layers="block")
    assert made.name == "gradients:siftlm-tiny"
    assert made.fingerprint == embedder(f"gradients:{models('llama')}", layers="block").fingerprint
    assert embedder("states:siftlm-tiny").name == "states:siftlm-tiny"
    monkeypatch.setattr("siftlm.embedding.resolve.bundled_model", lambda: models("llama") / "absent")
    with pytest.raises(InvalidInput, match="lacks the model"):
        embedder("gradients:siftlm-tiny")
