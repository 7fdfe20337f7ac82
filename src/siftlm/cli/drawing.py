"""Drawing for terminals: what a stream can show, bars and columns.

Nothing here knows what is drawn. A ``Terminal`` says what may be used; everything returns strings.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
SYMBOLS = "█▏▎▍▌▋▊▉│─┤└○●✓·…⣿⠁λ²–"
# How our own words are written where the encoding has no letters for them; anything else becomes "?".
PLAIN = str.maketrans(
    {
        "λ": "lambda",
        "σ": "sigma",
        "φ": "phi",
        "Φ": "Phi",
        "μ": "mu",
        "Σ": "sum",
        "α": "alpha",
        "γ": "gamma",
        "²": "^2",
        "⁻": "^-",
        "¹": "1",
        "ᵀ": "^T",
        "₁": "1",
        "₂": "2",
        "ₙ": "n",
        "ₓ": "x",
        "½": "1/2",
        "‖": "|",
        "≤": "<=",
        "≥": ">=",
        "−": "-",
        "×": "x",
        "·": ".",
        "∈": "in",
        "√": "sqrt",
        "…": "...",
        "–": "-",
        "—": "-",
        "✓": "+",
        "│": "|",
        "─": "-",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
    }
)


@dataclass(frozen=True)
class Terminal:
    """What may be used where the output goes."""

    width: int = 80
    unicode: bool = True
    colour: bool = False
    fixed: bool = False
    """Is the width a limit that lines must keep, as on a screen, or only a proposal, as in a pipe?"""

    @classmethod
    def of(cls, stream: IO[str], environ: Mapping[str, str] = os.environ) -> Terminal:
        """What ``stream`` can show. Honours COLUMNS, NO_COLOR and TERM=dumb."""
        screen = stream.isatty()
        columns = shutil.get_terminal_size((80, 24)).columns if screen else _columns(environ)
        plain = environ.get("NO_COLOR", "") != "" or environ.get("TERM") == "dumb"
        return cls(
            width=max(20, columns),
            unicode=can_show(SYMBOLS, stream),
            colour=screen and not plain,
            fixed=screen,
        )

    @property
    def limit(self) -> int:
        """Columns that a line of prose may take: the screen's, or as many as it likes."""
        return self.width if self.fixed else 10**6

    def paint(self, text: str, *colours: str) -> str:
        """The text in these colours, or as it is where there are none."""
        if not (self.colour and text and colours):
            return text
        return f"\x1b[{';'.join(COLOURS[c] for c in colours)}m{text}\x1b[0m"

    def spell(self, text: str) -> str:
        """The text as it will be written, so that its columns can be counted: ``λ`` may become ``lambda``."""
        return text if self.unicode else text.translate(PLAIN)

    def pick(self, fine: str, plain: str) -> str:
        """``fine`` where it can be shown, else ``plain``."""
        return fine if self.unicode else plain


def _columns(environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    return int(given) if given.isdigit() and int(given) > 0 else 100


def can_show(text: str, stream: IO[str]) -> bool:
    """Does the stream's encoding have all these characters?"""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def printable(text: str, stream: IO[str]) -> str:
    """The text with every character that the stream cannot encode written in another way."""
    if can_show(text, stream):
        return text
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        shown = [c if can_show(c, stream) else c.translate(PLAIN) for c in text]
        return "".join(shown).encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text.translate(PLAIN).encode("ascii", "replace").decode("ascii")


def width_of(text: str) -> int:
    """Columns that the text takes: wide letters take two, combining marks none."""
    return sum(_width(c) for c in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def one_line(text: str) -> str:
    """The text on one line, with nothing in it that could steer a terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in " ".join(text.split()))


def clip(text: str, width: int, ellipsis: str = "…") -> str:
    """At most ``width`` columns of the text.

    >>> clip("a long sentence", 8)
    'a long…'
    """
    if width_of(text) <= width:
        return text
    room, kept = width - width_of(ellipsis), 0
    for at, character in enumerate(text):
        kept += _width(character)
        if kept > room:
            return text[:at].rstrip() + ellipsis[: max(0, width)]
    return text


def pad(text: str, width: int) -> str:
    """The text and blanks, ``width`` columns in all."""
    return text + " " * (width - width_of(text))


def bar(fraction: float, width: int, terminal: Terminal) -> str:
    """A bar of ``fraction`` of the width, drawn in eighths where the letters for that are there.

    >>> bar(0.5, 8, Terminal()), bar(0.5, 8, Terminal(unicode=False))
    ('████    ', '####    ')
    """
    fraction = min(1.0, max(0.0, fraction)) if fraction == fraction else 0.0
    if not terminal.unicode:
        return pad("#" * round(fraction * width), width)
    eighths = round(fraction * width * 8)
    return pad("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), width)


def wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """The text in lines of at most ``width`` columns; they start with ``first``, then ``rest``."""
    return _folded(one_line(text), max(10, width), first, rest) or [first]


def _folded(text: str, width: int, first: str, rest: str) -> list[str]:
    if width_of(text) == len(text):
        return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest)
    # textwrap counts letters, and some of these take two columns, or none.
    lines, line = [], first
    for word in text.split():
        if line.strip() and width_of(line) + 1 + width_of(word) > width:
            lines.append(line)
            line = rest
        line += (" " if line not in (first, rest) else "") + word
        while width_of(line) > width:
            head = clip(line, width, "")
            lines.append(head)
            line = rest + line[len(head) :]
    return [*lines, line] if line.strip() else lines


def paragraphs(text: str, width: int | None) -> list[str]:
    """The text with its own lines and their indentation; those beyond ``width`` are broken, if there is one.

    >>> paragraphs("def f():\\n\\treturn 1", 80)
    ['def f():', '    return 1']
    """
    lines = []
    for line in text.expandtabs(4).splitlines():
        clean = "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in line.rstrip())
        if width is None or width_of(clean) <= width:
            lines.append(clean)
            continue
        indent = clean[: min(len(clean) - len(clean.lstrip()), width // 2)]
        lines += _folded(clean.strip(), max(10, width), indent, indent)
    return lines


def emphasized(text: str, words: Collection[str], terminal: Terminal) -> str:
    """The text with these words, given in lower case, in bold; as it is where there is no colour."""
    if not (terminal.colour and words):
        return text
    return re.sub(
        r"\w+", lambda word: terminal.paint(word[0], "bold") if word[0].casefold() in words else word[0], text
    )


def amount(size: float) -> str:
    """Bytes, as people say it.

    >>> amount(512), amount(2_340_000)
    ('512 bytes', '2.3 MB')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    power = next(power for power in (1, 2, 3, 4) if size < 999.5 * 1000**power or power == 4)
    size /= 1000**power
    return f"{size:.{1 if size < 9.95 else 0}f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


Styled = tuple[str, tuple[str, ...]]
"""A line, and the colours it gets once it has been padded."""


def beside(left: Sequence[Styled], right: Sequence[Styled], column: int, terminal: Terminal) -> list[str]:
    """Two blocks of lines side by side, ``column`` wide each, with a rule in between."""
    rule = terminal.paint(terminal.pick(" │ ", " | "), "dim")
    lines = []
    for at in range(max(len(left), len(right))):
        (one, one_style), (other, other_style) = (block[at] if at < len(block) else ("", ()) for block in (left, right))
        lines.append(terminal.paint(pad(one, column), *one_style) + rule + terminal.paint(other, *other_style))
    return [line.rstrip() for line in lines]
