"""How a text is scored: what of it is the prompt, what is foreseen, and after how many steps.

`transductive` is what is published: the scored text is also the prompt that texts are selected for. `split` and
`prefix` select for the beginning and score the rest, which is what somebody gets who asks for a continuation. The two
kinds of numbers are never comparable, so every record and every table carries the name.
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
from siftlm.errors import InvalidInput, UnknownName
from siftlm.memory.near_duplicates import copy_mask
from siftlm.memory.searcher import Searcher
from siftlm.validation import whole_number

PROTOCOL_NAMES = ("transductive", "split", "prefix")
COPY_RULES = ("report", "exclude")
DEFAULT_POINTS = (1, 2, 5, 10, 20, 50)
DEFAULT_PREFIX_CHARACTERS = 500


@dataclass(frozen=True)
class TextParts:
    """A text, taken apart."""

    prompt: str
    """Texts are selected for it."""
    scored: str
    before: str
    """Read before what is scored, and not scored."""


@dataclass(frozen=True)
class Protocol:
    """What is the same for all methods of a run.

    >>> Protocol("prefix", prefix=9).parts("The train left at noon.")
    TextParts(prompt='The train', scored=' left at noon.', before='The train')
    >>> Protocol(n=20).points
    (1, 2, 5, 10, 20)
    """

    name: str = "split"
    n: int = 50
    """Texts to learn from."""
    at: tuple[int, ...] = ()
    """Also score after these numbers of steps; without any, after 1, 2, 5, 10, 20 and 50."""
    prefix: int = DEFAULT_PREFIX_CHARACTERS
    """Characters of the prompt, of ``prefix``."""
    copies: str = "report"
    """Passages of the memory that give the scored text away: ``report`` counts those that were picked, ``exclude``
    keeps them out of every search."""

    def __post_init__(self) -> None:
        for name, value, known in (("protocol", self.name, PROTOCOL_NAMES), ("copies", self.copies, COPY_RULES)):
            if value not in known:
                raise UnknownName(name, value, known)
        whole_number("n", self.n)
        whole_number("prefix", self.prefix)
        for step in self.at:
            if whole_number("each of at", step) > self.n:
                raise InvalidInput(f"at={step}: there are only n={self.n} steps")

    @property
    def points(self) -> tuple[int, ...]:
        """After how many steps is scored; the last is ``n``."""
        return tuple(sorted({*(self.at or (point for point in DEFAULT_POINTS if point < self.n)), self.n}))

    def parts(self, text: str) -> TextParts:
        """The text, taken apart."""
        if self.name == "transductive":
            return TextParts(text, text, "")
        prompt, rest = split_in_half(text) if self.name == "split" else _prefix_end(text, self.prefix)
        return TextParts(prompt, rest, prompt)

    def fits(self, text: str) -> bool:
        """Has the text the parts that are needed?"""
        try:
            self.parts(text)
        except InvalidInput:
            return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        known = {**asdict(self), "at": list(self.points)}
        return known if self.name == "prefix" else {key: value for key, value in known.items() if key != "prefix"}


def _prefix_end(text: str, length: int) -> tuple[str, str]:
    """Cut at the first white space from there on."""
    for at in range(length, len(text)):
        if text[at].isspace() and text[:at].strip() and text[at:].strip():
            return text[:at], text[at:]
    raise InvalidInput(f"the text {text[:40]!r} has nothing left to score behind its first {length} characters")


# Copies are looked for among so many neighbours of each part.
LEAK_SEARCH_NEIGHBOURS = 200


def leaked_rows(memory: Searcher, pieces: Sequence[str], *others: str) -> list[int]:
    """Rows of passages that share most of their words with a piece (a prompt, what is scored) or with ``others``.

    They are looked for near each piece.
    """
    wanted = [piece for piece in dict.fromkeys(pieces) if piece.strip()]
    rows: set[int] = set()
    for piece in wanted:
        try:
            near = memory.search(piece, LEAK_SEARCH_NEIGHBOURS, method="nearest", k=LEAK_SEARCH_NEIGHBOURS)
        except InvalidInput:  # it may have no direction
            continue
        texts = near.texts
        copy = np.zeros(len(texts), dtype=bool)
        for other in dict.fromkeys((*wanted, *others)):
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


def domain_weights(given: str | os.PathLike[str] | Mapping[str, float], domains: Sequence[str]) -> dict[str, float]:
    """A weight for each of ``domains``; one that the weights do not name counts for nothing.

    >>> domain_weights("pile", ["Github", "ArXiv", "Recipes"])
    {'Github': 7.59, 'ArXiv': 8.96, 'Recipes': 0.0}
    """
    known = given if isinstance(given, Mapping) else BUILT_IN_WEIGHTS.get(str(given)) or _read_weights(Path(given))
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InvalidInput(f"weights: the weight of {name!r} is {value!r}; it must be a number ≥ 0")
    found = {name: float(known.get(name, 0.0)) for name in domains}
    if not sum(found.values()):
        raise InvalidInput(
            f"weights name none of the domains {', '.join(domains)}; they name {', '.join(map(str, known))}"[:400]
        )
    return found


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: there is no such file of weights; give one, or pile") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(known, dict) or not known:
        raise InvalidInput(f'{path}: must hold an object such as {{"Github": 7.6, "ArXiv": 9}}')
    return known
