"""A model and a memory at work for ``score``, ``generate`` and ``chat``: opened, watched at each step, explained."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from siftlm.cli import arguments as flags
from siftlm.cli.charts import sparkline
from siftlm.cli.terminal import StatusLine, Terminal, clip, one_line, printable, status, watched
from siftlm.errors import Conflict, InvalidInput, SiftlmError

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.memory import Memory
    from siftlm.types import Step, Trace

SPARKLINE_COLUMNS = 40
# Steps that are worth a line of their own in a log.
LOGGED_STEPS = frozenset(step for power in range(6) for step in (10**power, 2 * 10**power, 5 * 10**power))


def check_embedder(memory: Memory, folder: str) -> None:
    """Refuse a memory whose vectors siftlm cannot make."""
    if memory.manifest.embedder == "precomputed":
        raise Conflict(
            f"{folder}: its vectors were made elsewhere, so a prompt cannot be compared with them: build a memory "
            "whose embedder siftlm can run, with siftlm index --embedder NAME"
        )


def open_model(arguments: argparse.Namespace, settings: dict[str, object]) -> LocalModel:
    """The model and the memory, ready; or one line on what is missing."""
    from siftlm.local import LocalModel
    from siftlm.memory import Memory

    memory = Memory.open(arguments.folder, embedder=arguments.embedder)
    check_embedder(memory, arguments.folder)
    if not len(memory):
        raise InvalidInput(f"{arguments.folder}: holds no texts to learn from: siftlm index FILES --into … --append")
    with status(f"loading {arguments.model}", quiet=arguments.quiet), device_errors():
        return LocalModel(arguments.model, memory, **flags.controller_settings(arguments), **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """A device that is missing, or has not enough memory, is no fault of the program."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        message = one_line(str(error))
        if "out of memory" in message or "can't allocate memory" in message:
            raise SiftlmError(
                "not enough memory on the device: try --engine lora, a smaller --context-tokens, "
                f"--set checkpointing=true, or a smaller model ({clip(message, 120)})"
            ) from error
        if any(word in message for word in ("CUDA", "cuda", "device string", "device type", "MPS", "XPU")):
            raise SiftlmError(f"--device: {clip(message, 160)}") from error
        raise


class StepLine:
    """Called after each step: redraws a line on a terminal, and writes a few plain lines elsewhere, all on stderr."""

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name, self._total = name, total
        self._status = StatusLine(sys.stderr) if watched() else None
        self._losses: list[float] = []
        self._began = time.monotonic()

    def __call__(self, step: Step) -> None:
        self._losses.append(step.loss)
        of = "" if self._total is None else f" of {self._total}"
        head = f"{self._name}: step {len(self._losses)}{of}"
        tail = f"loss {self._losses[-1]:.3f}, {time.monotonic() - self._began:.1f} s"
        if self._status is not None:
            terminal = Terminal.of(sys.stderr)
            drawn = sparkline(self._losses, min(SPARKLINE_COLUMNS, terminal.width - 45), terminal)
            self._status.draw(terminal.line(f"{head} {drawn} {tail}"))
        elif len(self._losses) in LOGGED_STEPS:
            self._log(f"{head} {tail}")

    def end(self, trace: Trace | None = None) -> None:
        """Clears the line; in a log, adds a summary."""
        if self._status is not None:
            self._status.clear()
        elif trace is not None:
            self._log(f"{self._name}: {loss_summary(trace)} in {time.monotonic() - self._began:.1f} s")

    def _log(self, line: str) -> None:
        if sys.stderr is not None:
            print(printable(line, sys.stderr), file=sys.stderr, flush=True)


def step_line(name: str, model: LocalModel, *, quiet: bool, n: int | None = None) -> StepLine | None:
    """A `StepLine` for what this model is about to do; None where nobody wants to see it."""
    return None if quiet else StepLine(name, expected_steps(model, n))


def expected_steps(model: LocalModel, n: int | None = None) -> int | None:
    """The largest number of steps, where it is known beforehand."""
    known = model.settings(**({} if n is None else {"n": n}))
    if known["windows"] > 1 or known["repeats"] == "scaled":
        return None
    return int(known["n"]) * int(known["passes"])


# --- how it went


def mean_halves(values: Sequence[float]) -> tuple[float, float]:
    """The mean of the first and of the second half: single texts differ too much to be compared.

    >>> mean_halves([4.0, 2.0, 2.0, 1.0])
    (3.0, 1.5)
    """
    middle = max(1, len(values) // 2)
    first, second = values[:middle], values[middle:] or values[:middle]
    return sum(first) / len(first), sum(second) / len(second)


def loss_summary(trace: Trace) -> str:
    """``50 steps, mean loss 3.210 in the first half, 2.980 in the second (nats a token)``."""
    if not trace.steps:
        return "no step"
    first, second = mean_halves(trace.losses)
    if len(trace.steps) == 1:
        return f"1 step, loss {first:.3f} nats a token"
    return (
        f"{len(trace.steps)} steps, mean loss {first:.3f} in the first half, {second:.3f} in the second (nats a token)"
    )


ENDED: dict[str, Callable[[Trace], str]] = {
    "seconds": lambda _: "the seconds were spent, so it learned no further",
    "tokens": lambda _: "the tokens were spent, so it learned no further",
    "worse": lambda trace: f"the prompt became less likely, so the state after step {trace.kept} was taken",
    "diverged": lambda _: "the loss exploded, so this is the base model; try a smaller rate",
    "declined": lambda _: "what was found was not thought worth learning, so this is the base model",
    "nothing": lambda _: "there was nothing to learn from, so this is the base model",
}


def remark(trace: Trace) -> str:
    """Why tuning ended, where that is worth saying; else nothing."""
    ended = ENDED.get(trace.ended)
    return "" if ended is None else ended(trace)


def loss_parts(trace: Trace, terminal: Terminal) -> list[RenderableType]:
    """How the loss went, for a person."""
    if not trace.steps:
        return [remark(trace) or "no step was taken"]
    curves = [("loss of each text before its step", trace.losses, loss_summary(trace))]
    watched_losses = [step.watched for step in trace.steps if step.watched is not None]
    if watched_losses:
        change = f"from {watched_losses[0]:.3f} to {watched_losses[-1]:.3f} nats a token"
        curves.append(("loss of the prompt itself", watched_losses, change))
    parts: list[RenderableType] = []
    for name, values, summary in curves:
        beside = not terminal.fixed or terminal.width >= len(name) + 12
        room = terminal.width - len(name) - 2 if beside else terminal.width
        drawn = sparkline(values, max(10, min(2 * SPARKLINE_COLUMNS, room)), terminal)
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(name, drawn)
        parts += [row] if beside else [name, drawn]
        parts.append(summary)
    return [*parts, *filter(None, [remark(trace)])]
