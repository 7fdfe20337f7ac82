"""Output for terminals and pipes: rich lays it out; this module handles encodings and control characters.

Text from documents, models and files reaches rich only as a `Text` made by a `Terminal`: it is never parsed as markup,
holds no control characters, and has only characters that the stream can encode.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from siftlm.progress import Progress, Report

PIPE_COLUMNS = 100
UNLIMITED_COLUMNS = 10**6
PROGRESS_BAR_COLUMNS = 16
SYMBOLS = "█▏▎▍▌▋▊▉│─┤└○●✓·…⣿⠁λ²–"
# ASCII for the symbols of siftlm's own output, where the encoding has none; any other character becomes "?".
_LETTERS = "λ lambda σ sigma φ phi Φ Phi μ mu Σ sum α alpha γ gamma ² ^2 ⁻ ^- ¹ 1 ᵀ ^T ₁ 1 ₂ 2 ₙ n ₓ x ½ 1/2 "
_SIGNS = "‖ | ≤ <= ≥ >= − - × x · . ∈ in √ sqrt … ... – - — - ✓ + │ | ─ - ’ ' ‘ ' “ \" ” \""
_PAIRS = (_LETTERS + _SIGNS).split()
PLAIN = str.maketrans(dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)))
# ASCII for the characters that rich draws itself, one column each.
PLAIN_GLYPHS = str.maketrans("…│─━╸╺", "~|-=- ")


@dataclass(frozen=True)
class Terminal:
    """The capabilities of an output stream, and the layout of text for it."""

    width: int = 80
    unicode: bool = True
    colour: bool = False
    fixed: bool = False
    """Whether lines must fit into ``width``, as on a screen; in a pipe they may be longer."""

    @classmethod
    def of(cls, stream: IO[str], environ: Mapping[str, str] = os.environ) -> Terminal:
        """The capabilities of ``stream``. Honours COLUMNS, NO_COLOR and TERM=dumb."""
        screen = stream.isatty()
        if screen:
            columns = shutil.get_terminal_size((80, 24)).columns
        else:
            setting = environ.get("COLUMNS", "")
            columns = int(setting) if setting.isdigit() and int(setting) > 0 else PIPE_COLUMNS
        plain = environ.get("NO_COLOR", "") != "" or environ.get("TERM") == "dumb"
        return cls(max(20, columns), can_show(SYMBOLS, stream), colour=screen and not plain, fixed=screen)

    @property
    def limit(self) -> int:
        """The maximal columns of a line."""
        return self.width if self.fixed else UNLIMITED_COLUMNS

    def spell(self, text: str) -> str:
        """The text as it will be written, to count its columns: ``λ`` may become ``lambda``."""
        return text if self.unicode else text.translate(PLAIN)

    def pick(self, fine: str, plain: str) -> str:
        """``fine`` if the stream can encode it, else ``plain``."""
        return fine if self.unicode else plain

    # --- layout

    def prose(self, text: str, style: str = "") -> Text:
        """A paragraph, wrapped at the width of the screen."""
        return Text(self.spell(one_line(text)), style, overflow="fold")

    def line(self, text: str, style: str = "", words: Collection[str] = ()) -> Text:
        """One line, truncated at the width of the screen; ``words`` (in lower case) are bold."""
        return _emphasized(Text(self.spell(one_line(text)), style, no_wrap=True, overflow="ellipsis"), words)

    def verbatim(self, text: str, words: Collection[str] = (), *, indent: int = 0) -> RenderableType:
        """A text with its own line breaks and indentation; lines that are too long are wrapped.

        >>> print(Terminal().render(Terminal().verbatim("def f():\\n\\treturn 1")))
        def f():
            return 1
        """
        lines = []
        for line in text.expandtabs(4).splitlines():
            shown = self.spell(_without_controls(line.rstrip()))
            margin = min(len(shown) - len(shown.lstrip()), self.width // 2)
            own = _emphasized(Text(shown.lstrip()), words)
            lines.append(indented(own, indent + margin) if own else Text())
        return Group(*lines)

    def excerpt(self, text: str, width: int, most: int) -> Text:
        """The first ``most`` lines of a text in ``width`` columns, with an ellipsis if there are more."""
        lines = self.prose(text).wrap(self._console(), width)
        kept = lines[:most]
        if len(lines) > most:
            kept[-1].truncate(width - 1)
            kept[-1].rstrip()
            kept[-1].append("…")
        return Text("\n").join(kept)

    def rule(self, title: str) -> RenderableType:
        """A horizontal line with a title, as wide as the screen."""
        characters = self.pick("─", "-")
        return Rule(self.line(title, "bold"), characters=characters, align="left", style="bold")

    # --- output

    def render(self, *parts: RenderableType, width: int | None = None) -> str:
        """The parts as one string, below each other; a string is a paragraph."""
        console = self._console(width)
        # In a group, since rich joins separate texts and loses their no_wrap.
        console.print(Group(*(self.prose(part) if isinstance(part, str) else part for part in parts)))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        lines = [line.rstrip() for line in shown.removesuffix("\n").split("\n")]
        return "\n".join(lines) if self.unicode else "\n".join(lines).translate(PLAIN_GLYPHS)

    def show(self, *parts: RenderableType, stream: IO[str] | None = None, width: int | None = None) -> None:
        """Print the parts on ``stream`` (default: stdout)."""
        stream = stream or sys.stdout
        print(printable(self.render(*parts, width=width), stream), file=stream, flush=True)

    def _console(self, width: int | None = None) -> Console:
        # Every setting is explicit, so that rich inspects neither the environment nor the stream.
        return Console(
            file=io.StringIO(),
            width=min(width or self.limit, self.limit),
            height=100,
            color_system="standard" if self.colour else None,
            force_terminal=self.colour,
            no_color=not self.colour,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
            _environ={},
        )


def table(*, header: bool = True) -> Table:
    """A table without borders."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header, header_style="dim")


def indented(part: RenderableType, columns: int = 2) -> Padding:
    """The part with a left margin."""
    return Padding(part, (0, 0, 0, columns), expand=False)


def print_json(record: Any, *, indent: int | None = None) -> None:
    """Print one JSON record on stdout."""
    print(json.dumps(record, indent=indent))


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None


# --- characters


def can_show(text: str, stream: IO[str]) -> bool:
    """Whether the stream can encode all these characters."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def printable(text: str, stream: IO[str]) -> str:
    """The text with a substitute for every character that the stream cannot encode."""
    if can_show(text, stream):
        return text
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        shown = [c if can_show(c, stream) else c.translate(PLAIN) for c in text]
        return "".join(shown).encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text.translate(PLAIN).encode("ascii", "replace").decode("ascii")


def one_line(text: str) -> str:
    """The text on one line, without control characters."""
    return _without_controls(" ".join(text.split()))


def _without_controls(text: str) -> str:
    return "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in text)


def clip(text: str, width: int, ellipsis: str = "…") -> str:
    """At most ``width`` columns of the text.

    >>> clip("a long sentence", 8)
    'a long…'
    """
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - cell_len(ellipsis))).rstrip() + ellipsis[: max(0, width)]


def clip_start(text: str, width: int, ellipsis: str = "…") -> str:
    """The last ``width`` columns of the text, for paths.

    >>> clip_start("a/long/path.py", 8)
    '…path.py'
    """
    if cell_len(text) <= width:
        return text
    kept = text
    while kept and cell_len(kept) > max(0, width - cell_len(ellipsis)):
        kept = kept[1:]
    return ellipsis[: max(0, width)] + kept


def _emphasized(text: Text, words: Collection[str]) -> Text:
    if words:
        for word in re.finditer(r"\w+", text.plain):
            if word[0].casefold() in words:
                text.stylize("bold", *word.span())
    return text


def amount(size: float) -> str:
    """A number of bytes in decimal units.

    >>> amount(512), amount(2_340_000)
    ('512 bytes', '2.3 MB')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    power = next(power for power in (1, 2, 3, 4) if size < 999.5 * 1000**power or power == 4)
    size /= 1000**power
    return f"{size:.{1 if size < 9.95 else 0}f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


# --- stderr: notes, and a line of progress


def note(text: str) -> None:
    """Print a note on stderr."""
    if sys.stderr is not None:
        print(printable(f"siftlm: {one_line(text)}", sys.stderr), file=sys.stderr)


def watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class StatusLine:
    """A line of a screen that is redrawn in place, without escape sequences, so that it works on a dumb terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._open = False

    def draw(self, part: RenderableType) -> None:
        """Redraw the line."""
        terminal = Terminal.of(self._stream)
        room = terminal.width - 1  # some terminals wrap after the last column
        shown = printable(terminal.render(part, width=room).partition("\n")[0], self._stream)
        self._stream.write(f"\r{' ' * room}\r{shown}")
        self._stream.flush()
        self._open = True

    def clear(self) -> None:
        """Erase the line."""
        if self._open:
            self._stream.write(f"\r{' ' * (Terminal.of(self._stream).width - 1)}\r")
            self._stream.flush()
            self._open = False

    def keep(self) -> None:
        """Leave the line on the screen and begin a new one."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def report(self, progress: Progress) -> None:
        """Draw a progress report of the library."""
        terminal = Terminal.of(self._stream)
        text = terminal.line(str(progress))
        row = Table.grid(padding=(0, 1, 0, 0))
        if progress.total and not progress.finished and terminal.width > PROGRESS_BAR_COLUMNS + cell_len(text.plain):
            row.add_row(ProgressBar(progress.total, progress.done, width=PROGRESS_BAR_COLUMNS), text)
        else:
            row.add_row(text)
        self.draw(row)
        if progress.finished:
            self.keep()


@contextlib.contextmanager
def progress_line(*, quiet: bool) -> Iterator[Report]:
    """A progress callback that draws on stderr if that is a terminal."""
    if quiet or not watched():
        yield lambda _progress: None
        return
    status = StatusLine(sys.stderr)
    try:
        yield status.report
    finally:
        status.keep()


@contextlib.contextmanager
def status(text: str, *, quiet: bool) -> Iterator[None]:
    """Show ``text`` on stderr for the duration, if that is a terminal."""
    if quiet or not watched():
        yield
        return
    line = StatusLine(sys.stderr)
    line.draw(Terminal.of(sys.stderr).line(f"{text} …"))
    try:
        yield
    finally:
        line.clear()


@contextlib.contextmanager
def resumable(remark: str) -> Iterator[None]:
    """Print a remark after Ctrl-C; `siftlm.cli.main` then returns 130."""
    try:
        yield
    except KeyboardInterrupt:
        note(remark)
        raise
