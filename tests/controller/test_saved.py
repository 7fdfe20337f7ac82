"""An adapter of the bundled model, loaded by others."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from siftlm.controller import Controller  # noqa: E402
from siftlm.extras import TINY_MODEL, bundled_model  # noqa: E402

TEXTS = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_the_bundled_model_is_loaded_as_the_manual_says(tmp_path):
    one = Controller(TINY_MODEL, engine="lora", rank=4, rate=1e-2, precision="float32", device="cpu")
    ids = torch.tensor([one.tokenizer("some text to look at")["input_ids"]])
    with one.tuning() as tuner, torch.no_grad():
        tuner.learn(TEXTS)
        folder = one.save_adapter(tmp_path / "adapter")
        logits = one.model(ids).logits
    recorded = json.loads((folder / "adapter_config.json").read_text())
    assert recorded["base_model_name_or_path"] == TINY_MODEL, "no path of this machine"
    base = transformers.AutoModelForCausalLM.from_pretrained(bundled_model()).float()
    with torch.no_grad():
        plain = base(ids).logits
        loaded = peft.PeftModel.from_pretrained(base, folder)
        torch.testing.assert_close(loaded(ids).logits, logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, logits, atol=1e-2)
