"""Results of a search: the passages in the order in which they were picked, and the selection behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

from siftlm.types import Selection, json_number


@dataclass(frozen=True, eq=False)
class Hit:
    """One picked passage."""

    text: str
    meta: Mapping[str, Any]
    """The metadata of its document."""
    score: float
    """Cosine to the prompt; to the nearest vector of it, if it has several."""
    gain: float
    """The method's figure for it; for SIFT, by how much it lowered the uncertainty."""
    uncertainty: float
    """The uncertainty left after it."""
    row: int
    """The row of the memory that holds it."""
    id: str | None = None
    """The caller's own id of its document."""
    document: int = 0
    """The number of its document."""
    part: int = 0
    """The place of this passage in its document, from 0."""
    parts: int = 1
    """The number of passages of its document."""
    start: int = 0
    """The character of its document at which it begins."""
    copies: int = 1
    """How often this text was added to the memory."""
    words_score: float | None = None
    """BM25, where candidates are found by words; the higher the better, 0 where it holds none of the prompt's words."""
    fused_score: float | None = None
    """0.6 cosine + 0.4 of ``words_score`` as a share of the best one's, where candidates are found by both."""

    def to_dict(self) -> dict[str, Any]:
        """The hit as a dict for ``json.dumps``; numbers that are not finite become ``None``."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("score", "gain", "uncertainty"):
            plain[name] = json_number(plain[name])
        plain["meta"] = dict(self.meta)
        return plain


@dataclass(frozen=True, eq=False)
class Found:
    """The hits in the order in which they were picked; a text that was picked twice is there twice."""

    hits: tuple[Hit, ...]
    selection: Selection
    """The selection: gains, uncertainty and the reason it stopped. Its ``indices`` are rows of the memory."""
    considered: int
    """The number of passages that were selected from."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent to ``embed``, ``search``, ``select`` and ``read``."""

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, at: int) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, at: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[at]

    @property
    def texts(self) -> list[str]:
        """The texts of the hits, in their order."""
        return [hit.text for hit in self.hits]

    @property
    def score_columns(self) -> dict[str, list[float]]:
        """The hits' scores by the title of a table's column: the cosine, and with words those by words and by both."""
        columns: dict[str, list[float | None]] = {
            "score": [hit.score for hit in self],
            "words": [hit.words_score for hit in self],
            "fused": [hit.fused_score for hit in self],
        }
        return {
            title: [one for one in column if one is not None]
            for title, column in columns.items()
            if title == "score" or None not in column
        }

    def to_dict(self) -> dict[str, Any]:
        """The result as a dict for ``json.dumps``."""
        return {
            "considered": self.considered,
            "seconds": dict(self.seconds),
            "hits": [hit.to_dict() for hit in self.hits],
            "selection": self.selection.to_dict(),
        }

    def __str__(self) -> str:
        chosen = self.selection
        lines = [f"{chosen.method}, λ = {chosen.noise:g}: {len(self)} of {self.considered:,} passages"]
        scores = self.score_columns
        titles = " ".join(f"{title:>6}" for title in scores)
        lines += [f"{'pick':>4} {titles} {'gain':>8} {'left':>7}  text"]
        for at, hit in enumerate(self.hits, start=1):
            text = " ".join(hit.text.split())[:80]
            own = " ".join(f"{column[at - 1]:>6.3f}" for column in scores.values())
            lines.append(f"{at:>4} {own} {hit.gain:>8.4f} {hit.uncertainty:>7.4f}  {text}")
        return "\n".join(lines)
