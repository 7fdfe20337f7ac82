"""How learning goes and went: a line while it lasts, a sparkline, and why it ended."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from siftlm.cli.drawing import Terminal, printable, width_of, wrap
from siftlm.cli.local import draw

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.types import Step, Trace

SPARKS = "▁▂▃▄▅▆▇█"
PLAIN_SPARKS = "_.-=+*%#"
SPARKLINE = 40  # columns
# Steps that are worth a line of their own in a log.
TOLD = frozenset(step for power in range(6) for step in (10**power, 2 * 10**power, 5 * 10**power))


def sparkline(values: Sequence[float], width: int, terminal: Terminal) -> str:
    """One sign for each value, or for the mean of several where there are more than ``width``; low ones are small.

    >>> sparkline([1.0, 2.0, 3.0], 10, Terminal()), sparkline([1.0, 1.0], 10, Terminal(unicode=False))
    ('▁▅█', '__')
    """
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [round(at * len(values) / count) for at in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    finite = [value for value in means if abs(value) < float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    signs = terminal.pick(SPARKS, PLAIN_SPARKS)
    last = len(signs) - 1
    return "".join(
        "?" if not abs(value) < float("inf") else signs[round((value - low) / (high - low) * last) if high > low else 0]
        for value in means
    )


class Live:
    """Told of each step: redraws a line on a terminal, and writes a few plain lines elsewhere, all on stderr."""

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name, self._total = name, total
        self._stream = sys.stderr
        self._screen = self._stream is not None and self._stream.isatty()
        self._losses: list[float] = []
        self._began = time.monotonic()

    def __call__(self, step: Step) -> None:
        self._losses.append(step.loss)
        if self._screen:
            draw(self._stream, self._line(Terminal.of(self._stream)))
        elif len(self._losses) in TOLD:
            self._print(self._line(None))

    def end(self, trace: Trace | None = None) -> None:
        """Leaves the screen as it was; in a log, says how it ended."""
        if self._screen:
            draw(self._stream, "")
        elif trace is not None:
            self._print(f"{self._name}: {how(trace)} in {time.monotonic() - self._began:.1f} s")

    def _line(self, terminal: Terminal | None) -> str:
        of = "" if self._total is None else f" of {self._total}"
        drawn = "" if terminal is None else sparkline(self._losses, min(SPARKLINE, terminal.width - 45), terminal) + " "
        seconds = time.monotonic() - self._began
        return f"{self._name}: step {len(self._losses)}{of} {drawn}loss {self._losses[-1]:.3f}, {seconds:.1f} s"

    def _print(self, line: str) -> None:
        if self._stream is not None:
            print(printable(line, self._stream), file=self._stream, flush=True)


def live(name: str, model: LocalModel, *, quiet: bool, n: int | None = None) -> Live | None:
    """A `Live` for what this model is about to do; None where nobody wants to know."""
    return None if quiet else Live(name, expected(model, n))


def expected(model: LocalModel, n: int | None = None) -> int | None:
    """How many steps there will be at most, where that can be said beforehand."""
    known = model.settings(**({} if n is None else {"n": n}))
    if known["windows"] > 1 or known["repeats"] == "scaled":
        return None
    return int(known["n"]) * int(known["passes"])


def halves(values: Sequence[float]) -> tuple[float, float]:
    """The mean of the first and of the second half: single texts differ too much to be compared.

    >>> halves([4.0, 2.0, 2.0, 1.0])
    (3.0, 1.5)
    """
    middle = max(1, len(values) // 2)
    first, second = values[:middle], values[middle:] or values[:middle]
    return sum(first) / len(first), sum(second) / len(second)


def how(trace: Trace) -> str:
    """``50 steps, mean loss 3.21 -> 2.98 nats a token``: of the first and of the second half."""
    if not trace.steps:
        return "no step"
    count = f"{len(trace.steps)} step{'s' if len(trace.steps) > 1 else ''}"
    first, second = halves(trace.losses)
    if len(trace.steps) == 1:
        return f"{count}, loss {first:.3f} nats a token"
    return f"{count}, mean loss {first:.3f} in the first half, {second:.3f} in the second (nats a token)"


ENDED: dict[str, Callable[[Trace], str]] = {
    "seconds": lambda _: "the seconds were spent, so it learned no further",
    "tokens": lambda _: "the tokens were spent, so it learned no further",
    "worse": lambda trace: f"the prompt was foreseen worse, so the state after step {trace.kept} was taken",
    "diverged": lambda _: "the loss exploded, so this is the base model; try a smaller rate",
    "declined": lambda _: "what was found was not thought worth learning, so this is the base model",
    "nothing": lambda _: "there was nothing to learn from, so this is the base model",
}


def remark(trace: Trace) -> str:
    """Why it ended, where that is worth saying; else nothing."""
    said = ENDED.get(trace.ended)
    return "" if said is None else said(trace)


def drawn(trace: Trace, terminal: Terminal) -> list[str]:
    """How the loss went, for a person."""
    if not trace.steps:
        return [remark(trace) or "no step was taken"]
    name, names = "loss of each text before its step", "loss of the prompt itself"
    width = max(10, min(2 * SPARKLINE, terminal.width - len(name) - 2))
    # On a narrow screen the signs get a line of their own.
    gap = "\n" if terminal.fixed and terminal.width < len(name) + 12 else "  "
    lines = [f"{name}{gap}{sparkline(trace.losses, width, terminal)}", how(trace)]
    watched = [step.watched for step in trace.steps if step.watched is not None]
    if watched:
        lines.append(f"{names}{gap}{sparkline(watched, width, terminal)}")
        lines.append(f"from {watched[0]:.3f} to {watched[-1]:.3f} nats a token")
    lines += [remark(trace)] if remark(trace) else []
    return [part for line in lines for half in line.split("\n") for part in wrapped(half, terminal)]


def wrapped(line: str, terminal: Terminal) -> list[str]:
    """As many lines as a screen needs for it."""
    return wrap(terminal.spell(line), terminal.width) if terminal.fixed and width_of(line) > terminal.width else [line]
