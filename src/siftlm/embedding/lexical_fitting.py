"""Fit a `LexicalEmbedder` to a corpus: how rare each word is, and the directions in which texts differ most."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.embedding.checks import whole_number
from siftlm.embedding.lexical import (
    DIRECTIONS_FILE,
    LEXICAL_VERSION,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    LexicalEmbedder,
    hashed_word_counts,
    lexical_digest,
)
from siftlm.errors import InvalidInput
from siftlm.extras import load
from siftlm.progress import Meter, Report, reporter
from siftlm.types import Vectors

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
        raise InvalidInput(f"{total} texts are too few to find width={width} directions: give more, or a smaller width")
    matrix = sparse.vstack(blocks, format="csr")
    holding = np.bincount(matrix.indices, minlength=HASH_BUCKETS)
    # A word that only one text has brings no two texts together.
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
    _, _, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    found: Vectors = (basis @ turned.T)[:, :width]
    # A singular vector may as well point the other way: make the largest entry positive, so that a fit can be repeated.
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(width)])
    turned_right: Vectors = found * signs
    return turned_right
