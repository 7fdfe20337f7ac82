"""How far a long work has come, on one line that keeps to the screen."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from siftlm.cli.drawing import Terminal, clip, one_line, pad, printable

if TYPE_CHECKING:
    from siftlm.progress import Progress, Report


def reporter(*, quiet: bool) -> Report:
    """For the ``progress`` of a library's function: draw on stderr where a person is watching."""
    stream = sys.stderr
    return silent if quiet or stream is None or not stream.isatty() else Line(stream)


def silent(_progress: Progress) -> None:
    """Say nothing."""


class Line:
    """Overwrites itself, and stays once the work is done."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._open = False

    def __call__(self, progress: Progress) -> None:
        terminal = Terminal.of(self._stream)
        room = terminal.width - 1  # in the last column some terminals begin a new line
        text = printable(one_line(str(progress)), self._stream)
        # Blanks instead of an escape sequence: even a dumb terminal knows them.
        self._stream.write("\r" + pad(clip(text, room, terminal.pick("…", "...")), room))
        self._open = not progress.finished
        if progress.finished:
            self._stream.write("\n")
        self._stream.flush()

    def end(self) -> None:
        """Whatever comes next is not written over a line that was left half-way."""
        if self._open:
            self._stream.write("\n")
            self._open = False
