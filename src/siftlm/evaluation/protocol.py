"""The protocol: which part of a text is the prompt, which part is scored, and after how many steps.

`transductive` is the published protocol: the scored text is also the prompt that texts are selected for. `split` and
`prefix` select for the beginning and score the rest, as for a continuation. Numbers of the two kinds are not
comparable, so every record and every table names the protocol.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.call import split_in_half
from siftlm.errors import InvalidInput, setting
from siftlm.memory.near_duplicates import copy_mask
from siftlm.memory.searcher import Searcher
from siftlm.validation import choice, whole_number

PROTOCOL_NAMES = ("transductive", "split", "prefix")
COPY_RULES = ("report", "exclude")
DEFAULT_POINTS = (1, 2, 5, 10, 20, 50)
DEFAULT_PREFIX_CHARACTERS = 500


@dataclass(frozen=True)
class TextParts:
    """The parts of a text under a protocol."""

    prompt: str
    """The part that texts are selected for."""
    scored: str
    before: str
    """The context before the scored part."""


@dataclass(frozen=True)
class Protocol:
    """The settings that are the same for all methods of a run.

    >>> Protocol("prefix", prefix=9).parts("The train left at noon.")
    TextParts(prompt='The train', scored=' left at noon.', before='The train')
    >>> Protocol(n=20).points
    (1, 2, 5, 10, 20)
    """

    name: str = "split"
    n: int = 50
    """Texts to tune on."""
    at: tuple[int, ...] = ()
    """Numbers of steps to score after, besides ``n``; by default those of `score_points`."""
    prefix: int = DEFAULT_PREFIX_CHARACTERS
    """Characters of the prompt under ``prefix``."""
    copies: str = "report"
    """Passages of the memory that leak the scored text: ``report`` counts those that were picked, ``exclude`` keeps
    them out of every search."""

    def __post_init__(self) -> None:
        choice("protocol", self.name, PROTOCOL_NAMES)
        choice("copies", self.copies, COPY_RULES)
        whole_number("n", self.n)
        whole_number("prefix", self.prefix)
        for step in self.at:
            if whole_number("each of at", step) > self.n:
                raise InvalidInput(f"{setting('at', step)}: there are only n={self.n} steps")

    @property
    def points(self) -> tuple[int, ...]:
        """Numbers of steps to score after; the last is ``n``."""
        return tuple(sorted({*self.at, self.n})) if self.at else score_points(self.n)

    def parts(self, text: str) -> TextParts:
        """The parts of a text."""
        if self.name == "transductive":
            return TextParts(text, text, "")
        prompt, rest = split_in_half(text) if self.name == "split" else _prefix_end(text, self.prefix)
        return TextParts(prompt, rest, prompt)

    def fits(self, text: str) -> bool:
        """Is the text long enough?"""
        try:
            self.parts(text)
        except InvalidInput:
            return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        fields = {**asdict(self), "at": list(self.points)}
        return fields if self.name == "prefix" else {key: value for key, value in fields.items() if key != "prefix"}


def score_points(n: int) -> tuple[int, ...]:
    """The default numbers of steps to score after, up to ``n``.

    >>> score_points(15)
    (1, 2, 5, 10, 15)
    """
    return (*(point for point in DEFAULT_POINTS if point < n), n)


def _prefix_end(text: str, length: int) -> tuple[str, str]:
    """The text, cut at the first white space after ``length`` characters."""
    for at in range(length, len(text)):
        if text[at].isspace() and text[:at].strip() and text[at:].strip():
            return text[:at], text[at:]
    raise InvalidInput(f"the text {text[:40]!r} has nothing left to score behind its first {length} characters")


# Neighbours of each part among which copies are searched.
LEAK_SEARCH_NEIGHBOURS = 200


def leaked_rows(memory: Searcher, pieces: Sequence[str], *others: str) -> list[int]:
    """Rows of passages that share most words with one of ``pieces`` or ``others``, searched near each piece."""
    searched = [piece for piece in dict.fromkeys(pieces) if piece.strip()]
    rows: set[int] = set()
    for piece in searched:
        try:
            near = memory.search(piece, LEAK_SEARCH_NEIGHBOURS, method="nearest", k=LEAK_SEARCH_NEIGHBOURS)
        except InvalidInput:  # a piece without a direction
            continue
        texts = near.texts
        copy = np.zeros(len(texts), dtype=bool)
        for other in dict.fromkeys((*searched, *others)):
            copy |= copy_mask(other, texts)
        rows.update(near[at].row for at in np.flatnonzero(copy).tolist())
    return sorted(rows)


# Share of the Pile in percent, by `pile_set_name`: Gao et al. 2020, "The Pile", table 1, column "Weight".
PILE_WEIGHTS: Mapping[str, float] = {
    "Pile-CC": 18.11,
    "PubMed Central": 14.40,
    "Books3": 12.07,
    "OpenWebText2": 10.01,
    "ArXiv": 8.96,
    "Github": 7.59,
    "FreeLaw": 6.12,
    "StackExchange": 5.13,
    "USPTO Backgrounds": 3.65,
    "PubMed Abstracts": 3.07,
    "Gutenberg (PG-19)": 2.17,
    "OpenSubtitles": 1.55,
    "Wikipedia (en)": 1.53,
    "DM Mathematics": 1.24,
    "Ubuntu IRC": 0.88,
    "BookCorpus2": 0.75,
    "EuroParl": 0.73,
    "HackerNews": 0.62,
    "YoutubeSubtitles": 0.60,
    "PhilPapers": 0.38,
    "NIH ExPorter": 0.30,
    "Enron Emails": 0.14,
}
BUILT_IN_WEIGHTS = {"pile": PILE_WEIGHTS}


def domain_weights(weights: str | os.PathLike[str] | Mapping[str, float], domains: Sequence[str]) -> dict[str, float]:
    """The weight of each of ``domains``; a domain that ``weights`` does not name has weight 0.

    >>> domain_weights("pile", ["Github", "ArXiv", "Recipes"])
    {'Github': 7.59, 'ArXiv': 8.96, 'Recipes': 0.0}
    """
    all_weights = (
        weights if isinstance(weights, Mapping) else BUILT_IN_WEIGHTS.get(str(weights)) or _read_weights(Path(weights))
    )
    for name, value in all_weights.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InvalidInput(f"{setting('weights')}: the weight of {name!r} is {value!r}; it must be a number ≥ 0")
    shares = {name: float(all_weights.get(name, 0.0)) for name in domains}
    if not sum(shares.values()):
        names = ", ".join(map(str, all_weights))
        raise InvalidInput(f"{setting('weights')} names none of the domains {', '.join(domains)}, but {names:.300}")
    return shares


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: there is no such file of weights; give one, or pile") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(weights, dict) or not weights:
        raise InvalidInput(f'{path}: must hold an object such as {{"Github": 7.6, "ArXiv": 9}}')
    return weights
