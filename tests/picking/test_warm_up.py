"""LESS's features against their plain definition: PEFT's adapter, each text's own loss, autograd, Adam, cosines."""

from __future__ import annotations

import json

import numpy as np
import pytest

import siftlm
from siftlm.errors import BadRecord, Conflict, Damaged, InvalidInput
from siftlm.extras import bundled_model
from siftlm.picking import warm_up

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")

from embedding import tiny  # noqa: E402

pytestmark = pytest.mark.slow

POOL = [*tiny.CORPUS, "the dog sleeps at night", "ships and tides", "return a + b", "the quick fox"]
TEXTS = ["rain fell on the harbour", "def add(a, b):", "tide tide", "the dog sleeps, and the dog sleeps"]
# As wide as LoRA's weights are many, the projection loses nothing.
EXACT = 4096
RATE, PASSES = 0.01, 2


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def warmed(request, tmp_path_factory):
    """(folder of the model, folder of the warm-up)."""
    folder = tmp_path_factory.mktemp("less")
    model = getattr(tiny, request.param)(folder / "model")
    warm_up(model, POOL, folder / "warm", fraction=0.5, passes=PASSES, rank=2, rate=RATE, progress=False)
    return model, folder / "warm"


def plain_influence(model_folder, folder, queries, passages):
    """(queries, passages) Σᵢ ηᵢ cos(∇ᵢ(x'), Γᵢ(x)) / Σ η in float64, one loss after the other."""
    known = json.loads((folder / "less.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    total = np.zeros((len(queries), len(passages)))
    for at, rate in enumerate(known["rates"]):
        kept = safetensors.load_file(folder / f"checkpoint-{at + 1}.safetensors")
        model = transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()
        conv = model.config.model_type == "gpt2"
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=known["layers"], fan_in_fan_out=conv)
        model = peft.inject_adapter_in_model(config, model).double()
        modules = dict(model.named_modules())
        weights = []
        for layer in known["layers"]:
            for which, side in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
                weight = getattr(modules[layer], side)["default"].weight
                weight.data.copy_(kept[f"{which}.{layer}"])
                weights.append(weight)

        def gradient(text, model=model, weights=weights):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            first = list(tokenizer("", add_special_tokens=True)["input_ids"])[:1]
            ids = torch.tensor([[*first, *ids]])
            loss = model(input_ids=ids, labels=ids).loss
            return torch.cat([one.reshape(-1) for one in torch.autograd.grad(loss, weights)]).numpy()

        def step(own, kept=kept, time=known["steps"][at] + 1):
            m = 0.9 * kept["exp_avg"].numpy().astype(float) + 0.1 * own
            v = 0.999 * kept["exp_avg_sq"].numpy().astype(float) + 0.001 * own**2
            return (m / (1 - 0.9**time)) / np.sqrt(v / (1 - 0.999**time) + 1e-8)

        left = np.array([gradient(text) for text in queries])
        right = np.array([step(gradient(text)) for text in passages])
        cosines = left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)
        total += rate / sum(known["rates"]) * cosines
    return total


def test_an_inner_product_is_the_influence_of_the_paper(warmed):
    model, folder = warmed
    features = siftlm.embedder(f"less:{folder}", width=EXACT)
    found = features.embed(TEXTS[:2], as_query=True) @ features.embed(TEXTS).T
    np.testing.assert_allclose(found, plain_influence(model, folder, TEXTS[:2], TEXTS), atol=1e-5)


def test_the_method_less_picks_by_the_influence_on_the_bundled_model(tmp_path):
    pool = [f"def add_{at}(x, y):\n    return x + y * {at}" for at in range(8)]
    pool += [f"It rained all night on harbour {at}, and the ships waited." for at in range(8)]
    targets = [
        "def mean(values):\n    return sum(values) / len(values)",
        "class Point:\n    x = 0",
        "The tide came in.",
    ]
    kinds = ["code", "code", "sea"]
    folder = tmp_path / "warm"
    settings = {"fraction": 0.25, "passes": 2, "rank": 2, "targets": ["q_proj", "v_proj"], "progress": False}
    warm_up("siftlm-tiny", pool, folder, **settings)
    influence = plain_influence(bundled_model(), folder, targets, pool)
    features = siftlm.embedder(f"less:{folder}", width=2**14)  # more than there are weights of LoRA
    scores = np.maximum(influence[:2].mean(axis=0), influence[2])
    records = [{"text": text, "kind": kind} for text, kind in zip(targets, kinds, strict=True)]
    picks = siftlm.pick(
        pool, records, 7, method="less", options={"groups": "kind"}, embedder=features, without_copies=False
    )
    assert picks.numbers.tolist() == np.argsort(-scores)[:7].tolist()
    np.testing.assert_allclose(picks.gains, (1 + np.sort(scores)[::-1][:7]) / 2, atol=1e-5)


def test_checkpoints_have_the_rates_and_steps_of_their_passes(warmed):
    _, folder = warmed
    known = json.loads((folder / "less.json").read_text())
    np.testing.assert_allclose(known["rates"], [0.75 * RATE, 0.25 * RATE])
    assert known["steps"] == [len(POOL) // 2, len(POOL)]
    kept = [safetensors.load_file(folder / f"checkpoint-{at}.safetensors") for at in (1, 2)]
    assert any((kept[0][name] != kept[1][name]).any() for name in kept[0])


def test_passages_and_queries_are_of_unit_length_and_differ(warmed):
    features = siftlm.embedder(f"less:{warmed[1]}", width=64)
    passages, queries = features.embed([*TEXTS, ""]), features.embed([*TEXTS, ""], as_query=True)
    assert features.width == 64 * PASSES == passages.shape[1]
    for vectors in (passages, queries):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0], atol=1e-5)
    assert not np.allclose(passages[0], queries[0], atol=0.1)
    np.testing.assert_allclose(features.embed(TEXTS[:1])[0], passages[0], atol=1e-5)


def test_a_projection_keeps_cosines_on_average(warmed):
    exact = siftlm.embedder(f"less:{warmed[1]}", width=EXACT)
    target = exact.embed(TEXTS[:1], as_query=True) @ exact.embed(TEXTS).T
    narrow = [siftlm.embedder(f"less:{warmed[1]}", width=256, seed=seed) for seed in range(12)]
    found = np.mean([one.embed(TEXTS[:1], as_query=True) @ one.embed(TEXTS).T for one in narrow], axis=0)
    assert np.abs(found - target).max() < 4 / np.sqrt(256 * 12)


def test_the_fingerprint_is_that_of_checkpoints_and_settings(warmed, tmp_path):
    model, folder = warmed
    first = siftlm.embedder(f"less:{folder}")
    assert siftlm.embedder(folder).fingerprint == first.fingerprint
    assert siftlm.embedder(f"less:{folder}", seed=1).fingerprint != first.fingerprint
    again = {"fraction": 0.5, "passes": PASSES, "rank": 2, "rate": RATE, "progress": False}
    assert warm_up(model, POOL, tmp_path / "same", **again).fingerprint == first.fingerprint
    assert warm_up(model, POOL, tmp_path / "other", **{**again, "seed": 1}).fingerprint != first.fingerprint


def test_pick_chooses_by_it(warmed):
    settings = {"embedder": f"less:{warmed[1]}", "without_copies": False}
    features = siftlm.embedder(f"less:{warmed[1]}")
    influence = (features.embed(TEXTS[1:2], as_query=True) @ features.embed(POOL).T)[0]
    nearest = siftlm.pick(POOL, TEXTS[1:2], 3, method="nearest", **settings)
    assert nearest.records == [POOL[at] for at in np.argsort(-influence)[:3]]
    # Of one target SIFT's first pick has the largest squared inner product.
    assert siftlm.pick(POOL, TEXTS[1:2], 2, **settings).records[0] == POOL[int(np.argmax(influence**2))]


# --- errors


def test_what_is_no_warm_up_is_refused(warmed, tmp_path):
    model, folder = warmed
    with pytest.raises(InvalidInput, match=r"holds no warm-up: less\.json"):
        siftlm.embedder(f"less:{model}").embed(["a text"])
    with pytest.raises(InvalidInput, match="is not a folder"):
        siftlm.embedder("less:nowhere")
    with pytest.raises(InvalidInput, match="needs the folder"):
        siftlm.embedder("less:")
    with pytest.raises(Conflict, match="holds a warm-up already"):
        warm_up(model, POOL, folder, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(Conflict, match="is not empty"):
        warm_up(model, POOL, tmp_path / "full", progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"passes": 0}, "passes"),
        ({"seed": -1}, "seed"),
        ({"rate": 1e9}, r"warm-up failed in pass 1: .* smaller rate"),
    ],
)
def test_wrong_settings_are_named(warmed, tmp_path, settings, message):
    with pytest.raises(InvalidInput, match=message):
        warm_up(warmed[0], POOL, tmp_path / "warm", progress=False, **{"rank": 2, "fraction": 1.0, **settings})
    assert not (tmp_path / "warm" / "less.json").exists()


def test_a_pool_that_cannot_be_learned_is_refused(warmed, tmp_path):
    with pytest.raises(BadRecord, match="cannot learn from this record"):
        warm_up(warmed[0], [{"year": 1900}], tmp_path / "a", progress=False)
    with pytest.raises(InvalidInput, match="holds no record"):
        warm_up(warmed[0], [], tmp_path / "b", progress=False)


def test_damage_is_noticed(warmed, tmp_path):
    model, _ = warmed
    folder = tmp_path / "warm"
    warm_up(model, POOL[:2], folder, fraction=1.0, passes=1, rank=1, progress=False)
    file = folder / "checkpoint-1.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Damaged, match="not what was written"):
        siftlm.embedder(f"less:{folder}").embed(["a text"])
    (folder / "less.json").write_text("{")
    with pytest.raises(Damaged, match="cannot be read"):
        siftlm.embedder(f"less:{folder}").embed(["a text"])


def test_another_base_model_is_refused(tmp_path):
    warm_up(tiny.llama(tmp_path / "model"), POOL[:2], tmp_path / "warm", fraction=1.0, passes=1, rank=1, progress=False)
    tiny.llama(tmp_path / "model", seed=1)
    with pytest.raises(InvalidInput, match="its weights have changed"):
        siftlm.embedder(f"less:{tmp_path / 'warm'}").embed(["a text"])
