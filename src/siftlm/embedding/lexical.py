"""The lexical embedder: TF-IDF weights of words, reduced by an SVD fitted to a corpus.

    siftlm.embedding.lexical.fit(corpus, into="lexical")      once, for a corpus: seconds
    siftlm.Memory.build(corpus, into="memory", embedder="lexical:lexical")

Rare words count for more than frequent ones, and words that occur in the same texts end up close together. A word is
known by a hash, so there is no vocabulary to keep, and embedding needs numpy alone. Unlike ``hashing`` it has to be
fitted, and it means something on texts like those of its corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import WORD_OR_SIGN, word_hash, word_spans
from siftlm.embedding.protocol import fingerprint
from siftlm.errors import Damaged, InvalidInput, setting
from siftlm.extras import load
from siftlm.progress import Meter, Report, reporter
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

SETTINGS_FILE, WEIGHTS_FILE, DIRECTIONS_FILE = "lexical.json", "weights.npy", "directions.npy"
LEXICAL_VERSION = 1
# Texts whose features are added up together.
LEXICAL_BATCH_TEXTS = 64


class LexicalEmbedder:
    """The embedder that `siftlm.embedding.lexical.fit` wrote into a folder."""

    max_tokens = None

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        where = Path(folder)
        try:
            known = json.loads((where / SETTINGS_FILE).read_text(encoding="utf-8"))
            self._weights: FloatArray = np.load(where / WEIGHTS_FILE, allow_pickle=False).astype(np.float64)
            self._directions: npt.NDArray[np.float16] = np.load(
                where / DIRECTIONS_FILE, mmap_mode="r", allow_pickle=False
            )
        except FileNotFoundError as error:
            raise InvalidInput(
                f"the folder {folder!r} holds no lexical embedder: {error.filename} is missing"
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise Damaged(f"the lexical embedder in {folder!r} cannot be read: {error}") from error
        if known.get("version") != LEXICAL_VERSION or self._directions.shape != (
            len(self._weights),
            known.get("width"),
        ):
            raise Damaged(f"the lexical embedder in {folder!r} does not fit together: fit it again")
        self.width = int(known["width"])
        self._digest = str(known["digest"])

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def fingerprint(self) -> str:
        return fingerprint("lexical", {"version": LEXICAL_VERSION, "digest": self._digest})

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, width) of unit length; zero for a text of nothing but space."""
        del as_query
        texts = list_of_texts("texts", texts)
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for start in range(0, len(texts), LEXICAL_BATCH_TEXTS):
            vectors[start : start + LEXICAL_BATCH_TEXTS] = self._embed_batch(texts[start : start + LEXICAL_BATCH_TEXTS])
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    def _embed_batch(self, texts: list[str]) -> FloatArray:
        rows, places, values = weighted_word_counts(texts, self._weights)
        sums = np.zeros((len(texts), self.width))
        if len(rows):
            parts = self._directions[places].astype(np.float64) * values[:, None]
            # Each row on its own, in one order: a batch equals its texts one by one, bit for bit.
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            sums[rows[starts]] = np.add.reduceat(parts, starts, axis=0)
        # A text of unknown words or of punctuation must still have a direction.
        for row in np.flatnonzero(~sums.any(axis=1)):
            if texts[row].strip():
                sums[row, word_hash("".join(texts[row].split())) % self.width] = 1.0
        lengths = np.sqrt(np.einsum("nd,nd->n", sums, sums))
        unit: FloatArray = sums / np.where(lengths > 0, lengths, 1.0)[:, None]
        return unit


def hashed_word_counts(texts: Sequence[str], buckets: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows, places and damped counts of the words of each text, in order of row and place."""
    words = [[word for word in WORD_OR_SIGN.findall(text.lower()) if word.isalnum()] for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(one) for one in words])
    known = {word: word_hash(word) % buckets for word in set().union(*words)} if words else {}
    places = np.array([known[word] for one in words for word in one], dtype=np.int64)
    keys, counts = np.unique(rows * buckets + places, return_counts=True)
    rows, places = np.divmod(keys, buckets)
    return rows, places, 1 + np.log(counts)


def weighted_word_counts(texts: Sequence[str], weights: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """`hashed_word_counts` times the weight of each word, each text at unit length."""
    rows, places, counts = hashed_word_counts(texts, len(weights))
    values = counts * weights[places]
    lengths = np.sqrt(np.bincount(rows, values**2, minlength=len(texts)))
    return rows, places, values / np.where(lengths > 0, lengths, 1.0)[rows]


def lexical_digest(*arrays: npt.NDArray[Any]) -> str:
    """The digest of the arrays of an embedder."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


# Words share a place where their hashes collide; with so many places few words that matter do.
HASH_BUCKETS = 1 << 16
FIT_BATCH_TEXTS = 2000
# Passes of the randomized SVD over the corpus, and directions beyond those that are kept (Halko et al., 2011).
PASSES, BEYOND = 4, 20


def fit(
    texts: Iterable[str],
    into: str | os.PathLike[str],
    *,
    width: int = 256,
    most: int = 200_000,
    seed: int = 0,
    progress: bool | Report | None = None,
) -> LexicalEmbedder:
    """Write an embedder into a folder, fitted to passages like those that it will embed.

    Args:
        texts: the passages; beyond ``most`` they are not read, and 20,000 are plenty.
        into: a folder.
        width: directions to keep.
        most: of the texts.
        seed: of the randomized SVD.
        progress: as in `siftlm.Memory.build`.
    """
    sparse = load("scipy.sparse", "lexical")
    whole_number("width", width)
    meter = Meter("counting words", "texts", reporter(progress))
    stream, blocks, total = iter(texts), [], 0
    while some := list(islice(stream, min(FIT_BATCH_TEXTS, most - total))):
        rows, places, counts = hashed_word_counts(some, HASH_BUCKETS)
        blocks.append(sparse.csr_matrix((counts, (rows, places)), shape=(len(some), HASH_BUCKETS), dtype=np.float32))
        total += len(some)
        meter.at(total)
    meter.finish()
    if total <= width + BEYOND:
        raise InvalidInput(
            f"{total} texts are too few to find {setting('width', width)} directions: give more, or a smaller width"
        )
    matrix = sparse.vstack(blocks, format="csr")
    holding = np.bincount(matrix.indices, minlength=HASH_BUCKETS)
    # A word of a single text brings no two texts together.
    weights = np.where(holding > 1, np.log(total / np.maximum(holding, 1)), 0.0).astype(np.float32)
    weighted = matrix @ sparse.diags(weights)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    unit = sparse.diags(1 / np.where(lengths > 0, lengths, 1.0)) @ weighted
    directions = _singular_vectors(unit, width, seed).astype(np.float16)
    folder = Path(into)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / WEIGHTS_FILE, weights)
    np.save(folder / DIRECTIONS_FILE, directions)
    known = {"version": LEXICAL_VERSION, "width": width, "texts": total, "digest": lexical_digest(weights, directions)}
    (folder / SETTINGS_FILE).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return LexicalEmbedder(f"lexical:{folder.resolve()}", str(folder))


def _singular_vectors(rows: Any, width: int, seed: int) -> Vectors:
    """(buckets, width) the right singular vectors of the largest singular values, by subspace iteration."""
    basis: Any = np.random.default_rng(seed).standard_normal((HASH_BUCKETS, width + BEYOND)).astype(np.float32)
    for _ in range(PASSES):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    _, _, rotation = np.linalg.svd(rows @ basis, full_matrices=False)
    vectors: Vectors = (basis @ rotation.T)[:, :width]
    # The sign of a singular vector is arbitrary: make the largest entry positive, so that a fit can be repeated.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    oriented: Vectors = vectors * signs
    return oriented
