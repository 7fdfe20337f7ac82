"""A model's identity: a digest of what it holds, wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from siftlm.extras import load

# So many values of each tensor are looked at, evenly spread: training moves practically all of them.
DIGEST_SAMPLE_VALUES = 256

# Texts on which tokenizers differ: case, accents, spaces, digits, code, other scripts.
TOKENIZER_PROBE = (
    "Hello hello HELLO naïve Straße 12345 3.14 don't\tx_1 = fooBar(y[0]);\n\n  日本語 привет مرحبا 😀 e\u0301 <b>"
)


def weights_digest(model: Any) -> str:
    """Over names, shapes and a sample of values in float32; neither device nor precision of loading matters.

    Poolers are left out: nothing here reads them, and where a file holds none they are made up at random.
    """
    torch = load("torch", "hf")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "pooler." in name:
            continue
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // DIGEST_SAMPLE_VALUES)
        values = flat[::step].to(device="cpu", dtype=torch.float32).numpy()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Over the vocabulary and what becomes of a text on which tokenizers differ."""
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{number} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(str(tokenizer(TOKENIZER_PROBE, verbose=False)["input_ids"]).encode())
    return digest.hexdigest()
