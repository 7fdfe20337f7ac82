"""Progress of long work: reported to a function, or drawn as a line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from siftlm.errors import InvalidInput, setting

# Drawn at most so often, in seconds.
REPORT_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """A report of progress."""

    what: str
    """The work, such as ``embedding``."""
    done: float
    """The units that are done."""
    total: float | None
    """The units in all, where that is known."""
    unit: str
    """The unit, such as ``passages``."""
    seconds: float
    """Seconds since the work began."""
    finished: bool = False
    """True in the last report."""

    @property
    def rate(self) -> float:
        """The rate, in units a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """The seconds left at this rate; None where the total is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    def __str__(self) -> str:
        """The report as one line.

        >>> print(Progress("embedding", 2000, 8000, "passages", 4.0))
        embedding  25 %  2,000 of 8,000 passages, 500/s, 12 s left
        """
        if self.finished:
            return f"{self.what}  {self.done:,.0f} {self.unit} in {_duration_text(self.seconds)}, {self.rate:,.0f}/s"
        if self.total is None:
            return f"{self.what}  {self.done:,.0f} {self.unit}, {self.rate:,.0f}/s, {_duration_text(self.seconds)}"
        share = 100 * self.done / self.total if self.total else 100.0
        line = f"{self.what} {min(share, 100):>3.0f} %  {self.done:,.0f} of {self.total:,.0f} {self.unit}"
        line += f", {self.rate:,.0f}/s"
        return line + (f", {_duration_text(self.left)} left" if self.left is not None else "")


Report = Callable[[Progress], None]


class Meter:
    """A counter that reports at most every tenth of a second.

    >>> seen = []
    >>> meter = Meter("reading", "lines", seen.append, total=2)
    >>> meter.at(2)
    >>> meter.finish()
    >>> (seen[-1].done, seen[-1].finished)
    (2, True)
    """

    def __init__(self, what: str, unit: str, report: Report | None, total: float | None = None) -> None:
        self._what, self._unit, self._report, self.total = what, unit, report, total
        self._began = time.monotonic()
        self._last = -REPORT_INTERVAL_SECONDS
        self.done: float = 0

    def at(self, done: float) -> None:
        """Set the number of units done."""
        self.done = done
        seconds = time.monotonic() - self._began
        if self._report is not None and seconds - self._last >= REPORT_INTERVAL_SECONDS:
            self._last = seconds
            self._report(Progress(self._what, done, self.total, self._unit, seconds))

    def add(self, more: float) -> None:
        """Add to the number of units done."""
        self.at(self.done + more)

    def finish(self) -> None:
        """Report for the last time."""
        if self._report is not None:
            seconds = time.monotonic() - self._began
            self._report(Progress(self._what, self.done, self.total, self._unit, seconds, finished=True))


def reporter(progress: bool | Report | None) -> Report | None:
    """The function that gets the reports: a function as it is; ``True`` draws on stderr, ``False`` is silent, ``None``
    draws only on a terminal."""
    if callable(progress):
        return progress
    if progress is not None and not isinstance(progress, bool):
        raise InvalidInput(f"{setting('progress')} must be True, False or a function, got {progress!r:.60}")
    stream = sys.stderr
    if progress or (progress is None and stream is not None and stream.isatty()):
        return _Line(stream)
    return None


class _Line:
    """A line that overwrites itself on a terminal; elsewhere only the last of each work is printed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._live = stream, stream.isatty()

    def __call__(self, progress: Progress) -> None:
        if self._live:
            self._stream.write(f"\r\x1b[K{progress}")
        if progress.finished:
            self._stream.write("\n" if self._live else f"{progress}\n")
        self._stream.flush()


def _duration_text(seconds: float | None) -> str:
    """A duration in words.

    >>> _duration_text(3725)
    '1 h 2 min'
    """
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s".replace(".0 s", " s")
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
