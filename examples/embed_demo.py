"""Embed the texts of ``siftlm demo`` again, after they were changed.

    pip install sentence-transformers
    python examples/embed_demo.py

reads ``src/siftlm/cli/demo_data/*.json`` (those that name an embedder are embedded when the demo runs) and writes
``vectors.npz`` beside them: float16, at unit length,
with a fingerprint of the texts that a test compares. The model is all-MiniLM-L6-v2 (Apache-2.0), fetched from
the Hugging Face Hub the first time; where there is no network, name a folder that holds it:

    HF_HUB_OFFLINE=1 python examples/embed_demo.py --model path/to/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from siftlm.cli.demo_picks import DATA, EXAMPLES, fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="name or folder")
    model_name = parser.parse_args().model

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_name, device="cpu")
    arrays = {}
    for name in EXAMPLES:
        record = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        if "embedder" in record:  # embedded when the demo runs
            continue
        texts = [text for fact in record["facts"] for text in fact["texts"]]
        vectors = model.encode([record["prompt"], *texts], normalize_embeddings=True, batch_size=64)
        arrays[f"{name}_prompt"] = vectors[0].astype(np.float16)
        arrays[f"{name}_texts"] = vectors[1:].astype(np.float16)
        arrays[f"{name}_fingerprint"] = np.array(fingerprint(record))
    np.savez_compressed(DATA / "vectors.npz", **arrays)
    print(f"wrote {DATA / 'vectors.npz'}")


if __name__ == "__main__":
    main()
