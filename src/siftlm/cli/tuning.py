"""The local model of ``score``, ``generate`` and ``chat``: its settings, its progress, and its losses."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from siftlm.cli import arguments as flags
from siftlm.cli.charts import sparkline
from siftlm.cli.terminal import StatusLine, Terminal, clip, one_line, printable, status, watched
from siftlm.errors import Conflict, InvalidInput, SiftlmError

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.memory import Found, Memory
    from siftlm.types import Step, Trace

SPARKLINE_COLUMNS = 40
# Settings of a local model and of its tuning that have flags of their own, under their Python names.
MODEL_NAMES = ("n", "use", "decide", "features")
TUNING_FLAG_NAMES = ("rate", "order", "passes", "seconds", "tokens")
# Steps that are logged where stderr is not a terminal.
LOGGED_STEPS = frozenset(step for power in range(6) for step in (10**power, 2 * 10**power, 5 * 10**power))


# --- keyword arguments for the library


def not_recipe(method: str | None) -> None:
    """An error for the name of a recipe, where only a selection is made."""
    from siftlm.selection import methods

    if method is None or method in methods():
        return
    from siftlm.recipes import RECIPES

    if (recipe := RECIPES.get(method)) is not None:
        tuning = " and ".join(f"--set {name}={value}" for name, value in recipe.items() if name != "method")
        raise InvalidInput(
            f"{method!r} is a recipe of siftlm score, generate and chat: method {recipe['method']!r}, tuned with "
            f"{tuning}; to select alone, name the method {recipe['method']!r}"
        )


def check_counts(settings: Mapping[str, Any], n: int | None) -> None:
    """An error where more picks are asked for than --k leaves to pick from."""
    k = settings.get("k")
    widened = ("replacement", "residual", "opposites", "candidates", "query")
    if isinstance(k, int) and n is not None and n > k and not any(settings.get(name) for name in widened):
        raise Conflict(f"-n {n} is more than the {k} candidates of --k {k}: raise --k, or lower -n")


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of score, generate and chat, as keyword arguments of a `LocalModel`."""
    from siftlm.controller import Tuning, setting_names

    settings = {**flags.values_of(arguments, (*MODEL_NAMES, *TUNING_FLAG_NAMES)), **flags.search_settings(arguments)}
    flags.add_options(settings, arguments, (*MODEL_NAMES, *flags.SEARCH_NAMES, "k", "kernel", *setting_names()))
    own = {flag.python_name: flag.option for flag in arguments.flags if flag.option.startswith("-")}
    for name, _ in arguments.sets:
        if name in own and name not in setting_names():
            raise InvalidInput(f"--set {name}: not a setting of tuning; use {own[name]}")
    flags.add_sets(settings, arguments, TUNING_FLAG_NAMES)
    check_counts(settings, settings.get("n"))
    # Checked before a model is loaded.
    tuning = {name for name, _ in arguments.sets} | set(setting_names())
    Tuning().with_({name: value for name, value in settings.items() if name in tuning})
    return settings


def controller_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of the model, as keyword arguments of a `Controller`."""
    return {
        "engine": arguments.engine or "auto",
        "rank": arguments.rank,
        "alpha": arguments.alpha,
        "targets": None if arguments.targets is None else arguments.targets.split(","),
        "device": arguments.device,
        "dtype": arguments.dtype,
        "context": arguments.context_tokens,
    }


# --- opening the model


def check_embedder(memory: Memory, folder: str) -> None:
    """Check that siftlm can embed a prompt for this memory."""
    if memory.manifest.embedder == "precomputed":
        raise Conflict(
            f"{folder}: its vectors are precomputed, so siftlm cannot embed a prompt for it: build a memory "
            "with siftlm index --embedder NAME"
        )


def open_model(arguments: argparse.Namespace, settings: dict[str, object]) -> LocalModel:
    """The model and the memory of the command line."""
    from siftlm.local import LocalModel
    from siftlm.memory import Memory

    memory = Memory.open(arguments.folder, embedder=arguments.embedder)
    check_embedder(memory, arguments.folder)
    if not len(memory):
        raise InvalidInput(f"{arguments.folder}: has no texts; add some with siftlm index FILES --into FOLDER --append")
    with status(f"loading {arguments.model}", quiet=arguments.quiet), device_errors():
        return LocalModel(arguments.model, memory, **controller_settings(arguments), **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Turns torch's errors about a missing device or too little memory into a `SiftlmError`."""
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
    """A callback after each step: redraws a line on a terminal, and logs some steps elsewhere, on stderr."""

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name, self._total = name, total
        self._status = StatusLine(sys.stderr) if watched() else None
        self._losses: list[float] = []
        self._start = time.monotonic()

    def __call__(self, step: Step) -> None:
        self._losses.append(step.loss)
        of = "" if self._total is None else f" of {self._total}"
        head = f"{self._name}: step {len(self._losses)}{of}"
        tail = f"loss {self._losses[-1]:.3f}, {time.monotonic() - self._start:.1f} s"
        if self._status is not None:
            terminal = Terminal.of(sys.stderr)
            drawn = sparkline(self._losses, min(SPARKLINE_COLUMNS, terminal.width - 45), terminal)
            self._status.draw(terminal.line(f"{head} {drawn} {tail}"))
        elif len(self._losses) in LOGGED_STEPS:
            self._log(f"{head} {tail}")

    def end(self, trace: Trace | None = None) -> None:
        """Erase the line; in a log, add a summary."""
        if self._status is not None:
            self._status.clear()
        elif trace is not None:
            self._log(f"{self._name}: {loss_summary(trace)} in {time.monotonic() - self._start:.1f} s")

    def _log(self, line: str) -> None:
        if sys.stderr is not None:
            print(printable(line, sys.stderr), file=sys.stderr, flush=True)


def step_line(name: str, model: LocalModel, *, quiet: bool, n: int | None = None) -> StepLine | None:
    """A `StepLine` for this model's next tuning; None if ``quiet``."""
    return None if quiet else StepLine(name, expected_steps(model, n))


def expected_steps(model: LocalModel, n: int | None = None) -> int | None:
    """The maximal number of steps, if it is known in advance."""
    settings = model.settings(**({} if n is None else {"n": n}))
    if settings["windows"] > 1 or settings["repeats"] == "scaled":
        return None
    return int(settings["n"]) * int(settings["passes"])


# --- losses


def mean_halves(values: Sequence[float]) -> tuple[float, float]:
    """The means of the first and of the second half; losses of single texts vary too much to compare.

    >>> mean_halves([4.0, 2.0, 2.0, 1.0])
    (3.0, 1.5)
    """
    middle = max(1, len(values) // 2)
    first, second = values[:middle], values[middle:] or values[:middle]
    return sum(first) / len(first), sum(second) / len(second)


def loss_summary(trace: Trace) -> str:
    """``50 steps, mean loss 3.210 in the first half, 2.980 in the second (nats a token)``."""
    if not trace.steps:
        return "no steps"
    first, second = mean_halves(trace.losses)
    if len(trace.steps) == 1:
        return f"1 step, loss {first:.3f} nats a token"
    return (
        f"{len(trace.steps)} steps, mean loss {first:.3f} in the first half, {second:.3f} in the second (nats a token)"
    )


def declined_remark(trace: Trace) -> str:
    """Why the texts were not learned."""
    if trace.choice is None:
        return "the texts reduce the uncertainty too little (--decide), so this is the base model"
    if trace.choice.use == "context":
        return f"the texts are read and not learned: {trace.choice}"
    return f"the texts would not help, so this is the base model: {trace.choice}"


ENDED: dict[str, Callable[[Trace], str]] = {
    "seconds": lambda _: "tuning stopped at the limit of --seconds",
    "tokens": lambda _: "tuning stopped at the limit of --tokens",
    "worse": lambda trace: f"the loss of held-out passages rose, so the state after step {trace.kept} was kept",
    "diverged": lambda _: "tuning diverged, so this is the base model; try a lower --rate",
    "declined": declined_remark,
    "nothing": lambda _: "no texts were found to tune on, so this is the base model",
}


def remark(trace: Trace) -> str:
    """Why tuning ended early; empty if it did not."""
    explain = ENDED.get(trace.ended)
    return "" if explain is None else explain(trace)


def completion_remark(settings: Mapping[str, Any], founds: Iterable[Found]) -> str:
    """A remark where ``completion`` marks a place in none of the texts; empty where it does."""
    completion = settings.get("completion")
    texts = [text for found in founds for text in found.texts]
    if completion is None or not texts or any(completion in text for text in texts):
        return ""
    return f"--set completion={completion!r} occurs in none of the texts, so all of each was learned"


def loss_parts(trace: Trace, terminal: Terminal) -> list[RenderableType]:
    """The losses as sparklines with summaries."""
    if not trace.steps:
        return [remark(trace) or "no steps were taken"]
    curves = [("loss of each text before its step", trace.losses, loss_summary(trace))]
    watched_losses = [step.watched for step in trace.steps if step.watched is not None]
    if watched_losses:
        change = f"expected loss from {watched_losses[0]:.1f} to {watched_losses[-1]:.1f} % of the base model's"
        curves.append(("held-out passages", watched_losses, change))
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
