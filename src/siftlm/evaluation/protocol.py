"""How a text is scored: what of it is the prompt, what is foreseen, and after how many steps.

`transductive` is what is published: the scored text is also the prompt that texts are selected for. `split` and
`prefix` select for the beginning and score the rest, which is what somebody gets who asks for a continuation. The two
kinds of numbers are never comparable, so every record and every table carries the name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from siftlm.errors import InvalidInput, UnknownName
from siftlm.local_asked import split_in_half
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
    Parts(prompt='The train', scored=' left at noon.', before='The train')
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
