"""For vectors that were made elsewhere: how wide they are and what to call them, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siftlm.embedding.checks import texts_checked, whole_number
from siftlm.embedding.fingerprint import fingerprint
from siftlm.embedding.words import word_spans
from siftlm.errors import InvalidInput
from siftlm.types import IntArray, Vectors


class PrecomputedEmbedder:
    """Stands where an embedder is asked for, and embeds nothing.

    Two are comparable when width and ``label`` agree: give different models different labels.
    """

    name = "precomputed"
    max_tokens = None

    def __init__(self, *, width: int, label: str = "vectors") -> None:
        self.width = whole_number("width", width)
        self._label = label

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "label": self._label}

    @property
    def fingerprint(self) -> str:
        return fingerprint("precomputed", self.settings)

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """An error, unless there is nothing to embed."""
        del as_query
        if texts_checked(texts):
            raise InvalidInput(
                f"these are precomputed vectors ({self._label!r}, {self.width} wide) and no model that made them is "
                "known: give a vector with every text, for documents and for prompts alike"
            )
        return np.zeros((0, self.width), dtype=np.float32)

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single signs."""
        return word_spans(texts_checked(texts))
