"""The lexical embedder: TF-IDF weights of words, reduced by an SVD fitted to a corpus.

    siftlm.Memory.build(corpus, into="memory", embedder="lexical")      fitted to the corpus, and kept in the memory
    siftlm.embedding.lexical.fit(passages, into="folder")               fitted on its own, for several memories:
    siftlm.Memory.build(corpus, into="memory", embedder="lexical:folder")

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
from typing import Any, NamedTuple

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


# The name of an embedder that lies in the memory that it was fitted for.
LEXICAL = "lexical"
# Directions where no width is given; fewer where the texts have no more, but so many at least.
DEFAULT_WIDTH, MIN_DEFAULT_WIDTH = 256, 8


class UnfittedLexicalEmbedder:
    """``lexical`` by name: the stand-in for an embedder that a memory fits to the texts that it is built from."""

    name, fingerprint = LEXICAL, f"{LEXICAL}:unfitted"
    max_tokens = None

    def __init__(self, *, width: int | None = None) -> None:
        """``width``: left out, 256, or as many directions as fewer texts have."""
        self.requested_width = None if width is None else whole_number("width", width)
        self.width = self.requested_width or DEFAULT_WIDTH

    @property
    def settings(self) -> dict[str, Any]:
        return {} if self.requested_width is None else {"width": self.requested_width}

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """An error, unless there is nothing to embed."""
        del as_query
        if list_of_texts("texts", texts):
            raise InvalidInput(UNFITTED_MESSAGE)
        return np.zeros((0, self.width), dtype=np.float32)

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    def fit(self, texts: Iterable[str], report: Report | None = None) -> LexicalEmbedder:
        """The embedder, fitted to passages."""
        return fit_lexical(LEXICAL, texts, self.requested_width, report=report)


UNFITTED_MESSAGE = (
    "the embedder 'lexical' has to be fitted to texts first: building a memory does that (siftlm index, in Python "
    "Memory.build), and siftlm.embedding.lexical.fit writes one into a folder, for lexical:FOLDER"
)


class LexicalEmbedder:
    """A fitted embedder: a weight for each bucket of words, and the directions."""

    max_tokens = None

    def __init__(
        self,
        name: str,
        weights: npt.NDArray[np.float32],
        directions: npt.NDArray[np.float16],
        *,
        texts: int,
        digest: str | None = None,
    ) -> None:
        self.name, self.texts = name, texts
        self._weights: FloatArray = weights.astype(np.float64)
        self._directions = directions
        self.width = int(directions.shape[1])
        self._digest = self._content_digest() if digest is None else digest

    @classmethod
    def read(cls, name: str, folder: str | os.PathLike[str]) -> LexicalEmbedder:
        """The embedder that `save` wrote into a folder."""
        where = Path(folder)
        try:
            known = json.loads((where / SETTINGS_FILE).read_text(encoding="utf-8"))
            weights = np.load(where / WEIGHTS_FILE, allow_pickle=False)
            directions = np.load(where / DIRECTIONS_FILE, mmap_mode="r", allow_pickle=False)
            shape, texts, digest = (len(weights), known["width"]), int(known.get("texts", 0)), str(known["digest"])
        except FileNotFoundError as error:
            raise InvalidInput(
                f"the folder {str(folder)!r} holds no lexical embedder: {error.filename} is missing"
            ) from error
        except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"the lexical embedder in {str(folder)!r} cannot be read: {error}") from error
        if known.get("version") != LEXICAL_VERSION or directions.shape != shape:
            raise Damaged(f"the lexical embedder in {str(folder)!r} does not fit together: fit it again")
        return cls(name, weights, directions, texts=texts, digest=digest)

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / WEIGHTS_FILE, self._weights.astype(np.float32))
        np.save(folder / DIRECTIONS_FILE, self._directions)
        known = {"version": LEXICAL_VERSION, "width": self.width, "texts": self.texts, "digest": self._digest}
        (folder / SETTINGS_FILE).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    def is_intact(self) -> bool:
        """Whether the arrays are those that were written."""
        return self._content_digest() == self._digest

    def _content_digest(self) -> str:
        return lexical_digest(self._weights.astype(np.float32), self._directions)

    @property
    def settings(self) -> dict[str, Any]:
        # One that lies in a memory is made again by that; one in a folder needs the folder alone.
        return {"width": self.width} if self.name == LEXICAL else {}

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
# Up to so many used ones count as few.
SPARSE_BUCKETS = HASH_BUCKETS // 4
FIT_BATCH_TEXTS = 2000
# Passes of the randomized SVD over the corpus, and directions beyond those that are kept (Halko et al., 2011).
PASSES, BEYOND = 4, 20


def fit(
    texts: Iterable[str],
    into: str | os.PathLike[str],
    *,
    width: int = DEFAULT_WIDTH,
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
    folder = Path(into)
    name = f"{LEXICAL}:{folder.resolve()}"
    width = whole_number("width", width)
    fit_lexical(name, texts, width, most=most, seed=seed, report=reporter(progress)).save(folder)
    return LexicalEmbedder.read(name, folder)


def fit_lexical(
    name: str,
    texts: Iterable[str],
    width: int | None,
    *,
    most: int = 200_000,
    seed: int = 0,
    report: Report | None = None,
) -> LexicalEmbedder:
    """The embedder fitted to passages; without a ``width`` as many directions as they have, up to `DEFAULT_WIDTH`."""
    sparse = load("scipy.sparse", "lexical")
    # 1. Which words each text holds.
    meter = Meter("counting words", "texts", report)
    stream, blocks, total = iter(texts), [], 0
    while some := list(islice(stream, min(FIT_BATCH_TEXTS, most - total))):
        rows, places, counts = hashed_word_counts(some, HASH_BUCKETS)
        blocks.append(sparse.csr_matrix((counts, (rows, places)), shape=(len(some), HASH_BUCKETS), dtype=np.float32))
        total += len(some)
        meter.at(total)
    meter.finish()
    wanted = min(DEFAULT_WIDTH, total - BEYOND - 1) if width is None else width
    if total <= wanted + BEYOND:
        raise InvalidInput(
            f"{total} texts are too few to find {setting('width', width)} directions: give more, or a smaller width"
        )
    if width is None and wanted < MIN_DEFAULT_WIDTH:
        least = MIN_DEFAULT_WIDTH + BEYOND + 1
        raise InvalidInput(
            f"the embedder 'lexical' needs {least} different texts or more to be fitted to, got {total}. {ADVICE}"
        )
    # 2. Their weights.
    matrix = sparse.vstack(blocks, format="csr")
    del blocks
    holding = np.bincount(matrix.indices, minlength=HASH_BUCKETS)
    # A word of a single text brings no two texts together.
    weights = np.where(holding > 1, np.log(total / np.maximum(holding, 1)), 0.0).astype(np.float32)
    weighted = matrix @ sparse.diags(weights)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    unit = sparse.diags(1 / np.where(lengths > 0, lengths, 1.0)) @ weighted
    # 3. The directions. A small corpus has few words that weigh something, and only their buckets are looked at. A
    # large one keeps the others: leaving them out would save little and change last bits, and so known fingerprints.
    used = np.flatnonzero(weights)
    if len(used) > SPARSE_BUCKETS:
        used = np.arange(HASH_BUCKETS)
    else:
        unit = unit.tocsc()[:, used].tocsr()
    found = _singular_vectors(unit, used, wanted, seed, report)
    if found.rank < (MIN_DEFAULT_WIDTH if width is None else 1):
        raise InvalidInput(
            f"the {total:,} texts give the embedder 'lexical' {found.rank} directions: too few words occur in several "
            f"of them and not in all. {ADVICE}"
        )
    kept = min(wanted, found.rank) if width is None else width
    # In one layout, whether read or just fitted: sums in another order differ in their last bits.
    directions = np.zeros((HASH_BUCKETS, kept), dtype=np.float16)
    directions[used, : found.rank] = found.vectors
    return LexicalEmbedder(name, weights, directions, texts=total)


ADVICE = "Give more, or use 'hashing' or 'static', which are not fitted"
# Singular values below this share of the largest are rounding.
NO_DIRECTION = 1e-4


class SingularVectors(NamedTuple):
    """The right singular vectors of the largest singular values."""

    vectors: Vectors
    """(used buckets, rank)."""
    rank: int
    """How many there are: the width, unless the rows have fewer directions."""


def _singular_vectors(rows: Any, used: IntArray, width: int, seed: int, report: Report | None) -> SingularVectors:
    """By subspace iteration from random vectors, of which only the ``used`` buckets matter."""
    meter = Meter("finding directions", "passes", report, PASSES)
    shape = (HASH_BUCKETS, width + BEYOND)
    basis: Any = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)[used]
    for done in range(PASSES if len(used) else 0):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
        meter.at(done + 1)
    meter.finish()
    _, values, rotation = np.linalg.svd(rows @ basis, full_matrices=False)
    rank = int((values[:width] > NO_DIRECTION * values[:1]).sum())
    vectors: Vectors = (basis @ rotation.T)[:, :rank]
    # The sign of a singular vector is arbitrary: make the largest entry positive, so that a fit can be repeated.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)]) if rank else 1
    return SingularVectors(vectors * signs, rank)
