"""Gradient steps on texts, watched: the loop at the heart of test-time fine-tuning, for one prompt and for many.

In each round every prompt that is still being tuned takes its own next step; prompts whose texts are of similar length
may take it in one pass. A prompt that has no text left, has spent its budget, diverged or got worse leaves, and others
may join; nobody else notices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from siftlm.controller.forward import resolve_precision, window_loss
from siftlm.controller.restore import training_mode
from siftlm.controller.settings import PlannedStep, Tuning, plan_steps
from siftlm.controller.tokens import Window, windows_of
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.types import Step, Trace
from siftlm.validation import list_of_texts

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller

# Tokens that tell whether the last step has made the model diverge: a whole text would cost a third of a step.
DIVERGENCE_CHECK_TOKENS = 32
# Where nobody says how often to look at what is watched.
LOOKS_PER_RUN, MIN_STEPS_BETWEEN_LOOKS = 4, 5

Watch = Callable[[], float]
"""How well the model does on what is watched: lower is better, and no number is nothing to watch."""
MeasureRuns = Callable[[Sequence[int]], Sequence[float]]
"""Prompts -> how well each does on what is watched for it; see `Watch`."""
AfterSteps = Callable[[Mapping[int, Step]], None]


@dataclass(eq=False)
class TuningRun:
    """The tuning of one prompt so far, with the rules that end it."""

    settings: Tuning
    highest_loss: float
    """A loss above it is that of a model that has diverged."""
    planned: list[tuple[PlannedStep, Window]]
    watched: bool = False
    owner: int = 0
    """The place of its prompt among all."""
    steps: list[Step] = field(default_factory=list)
    ended: str = ""
    """Empty while it is under way; then as in `Trace`."""
    clock: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "watch": 0.0})
    gradient: tuple[float, float] = (math.nan, math.nan)
    """Loss and norm of the newest gradient."""
    best: float = math.inf
    best_at: int = 0
    checks_without_gain: int = 0
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def next(self) -> tuple[PlannedStep, Window]:
        """The next step, and what it learns."""
        return self.planned[len(self.steps)]

    @property
    def watch_every(self) -> int:
        """Steps between two looks at what is watched."""
        return self.settings.watch_every or max(MIN_STEPS_BETWEEN_LOOKS, -(-len(self.planned) // LOOKS_PER_RUN))

    def is_running(self) -> bool:
        """Is there a next step, and room for it in every budget? If not, `ended` says why."""
        if self.ended:
            return False
        seconds, tokens = self.settings.seconds, self.settings.tokens
        if len(self.steps) == len(self.planned):
            self.ended = "done" if self.steps else "nothing"
        elif seconds is not None and time.monotonic() - self.began >= seconds:
            self.ended = "seconds"
        elif tokens is not None and sum(step.tokens for step in self.steps) + self.next[1].learned > tokens:
            self.ended = "tokens"
        return not self.ended

    def is_stable(self, loss: float, norm: float = 0.0) -> bool:
        """Are loss and gradient numbers, and the loss none of a model that has diverged?"""
        return math.isfinite(loss) and math.isfinite(norm) and loss <= self.highest_loss

    def observe(self, now: float) -> bool:
        """Is this the best state so far? Too many checks without a gain end the run."""
        if now < self.best:
            self.best, self.best_at, self.checks_without_gain = now, len(self.steps), 0
            return True
        self.checks_without_gain += 1
        if self.checks_without_gain >= self.settings.patience:
            self.ended = "worse"
        return False

    def trace(self, engine: Mapping[str, Any]) -> Trace:
        """The record of a run that has ended; ``engine`` describes what was tuned."""
        kept = 0 if self.ended == "diverged" else self.best_at if self.watched else len(self.steps)
        ended = "worse" if self.ended != "diverged" and kept < len(self.steps) else self.ended
        return Trace(tuple(self.steps), ended, kept, {**self.settings.to_dict(), **engine}, dict(self.clock))


class Trainable(Protocol):
    """The weights that runs change: those of one model, or an adapter for each run."""

    def batches(self, runs: Sequence[TuningRun]) -> list[list[TuningRun]]:
        """Runs whose next steps are taken together."""

    def step(self, runs: Sequence[TuningRun]) -> list[Step]:
        """The next step of each run; no weight changes where loss or gradient is no number."""

    def last_losses(self, runs: Sequence[TuningRun]) -> list[float]:
        """The loss of each unwatched run on what it learned last; no number where its weights are none."""

    def keep(self, run: TuningRun) -> None:
        """Remember the state as the best so far."""

    def take_best(self, run: TuningRun) -> None:
        """Go back to what was kept last."""

    def rewind(self, run: TuningRun) -> None:
        """Go back to the base model."""


@dataclass(eq=False)
class TuningBatch:
    """Runs that are under way together; they may join while others are."""

    weights: Trainable
    measure: MeasureRuns
    after: AfterSteps | None = None
    """Called with the steps that were taken together, prompt -> step."""
    _runs: list[TuningRun] = field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self._runs)

    def join(self, runs: Sequence[TuningRun]) -> None:
        """From now on these take part."""
        for run, now in self._measured([run for run in runs if run.watched]):
            run.best, run.watched = now, math.isfinite(now)  # of a text of one token, say, nothing could get worse
            if run.watched:
                self.weights.keep(run)
        self._runs.extend(runs)

    def leave(self, owner: int) -> None:
        """The run of this prompt ends here; nobody waits for it."""
        self._runs = [run for run in self._runs if run.owner != owner]

    def round(self) -> list[TuningRun]:
        """The next step of each. Returns those that have ended, each at its best state."""
        # 1. Take the steps, and take out the runs that have ended.
        for batch in self.weights.batches([run for run in self._runs if run.is_running()]):
            self._step(batch)
        ended = [run for run in self._runs if not run.is_running()]
        self._runs = [run for run in self._runs if not run.ended]
        if not ended:
            return []
        # 2. After a last step none follows that would notice where it led; a watch would.
        unchecked = [run for run in ended if run.ended != "diverged"]
        for run, loss in zip(unchecked, self.weights.last_losses(unchecked), strict=True):
            if not run.is_stable(loss):
                self.weights.rewind(run)
                run.ended = "diverged"
        # 3. Measure the last states that were not measured, and go back to better ones.
        watched = [run for run in unchecked if run.watched and run.ended != "diverged"]
        for run, now in self._measured([run for run in watched if len(run.steps) % run.watch_every]):
            if now < run.best:
                run.best_at = len(run.steps)
        for run in watched:
            if run.best_at < len(run.steps):
                self.weights.take_best(run)
        return ended

    # --- inside

    def _step(self, runs: Sequence[TuningRun]) -> None:
        start = time.monotonic()
        steps = self.weights.step(runs)
        share = (time.monotonic() - start) / len(runs)
        for run, step in zip(runs, steps, strict=True):
            run.clock["steps"] += share
            run.steps.append(replace(step, seconds=share))
            if not run.is_stable(step.loss, step.norm):
                self.weights.rewind(run)
                run.ended = "diverged"
        stable = [run for run in runs if not run.ended]
        due = [run for run in stable if run.watched and len(run.steps) % run.watch_every == 0]
        for run, now in self._measured(due):
            run.steps[-1] = replace(run.steps[-1], watched=now)
            if run.observe(now):
                self.weights.keep(run)
        if self.after is not None and stable:
            self.after({run.owner: run.steps[-1] for run in stable})

    def _measured(self, runs: Sequence[TuningRun]) -> list[tuple[TuningRun, float]]:
        """Each with what is watched for it, infinite where that is no number."""
        if not runs:
            return []
        start = time.monotonic()
        values = [now if math.isfinite(now) else math.inf for now in self.measure([run.owner for run in runs])]
        if len(values) != len(runs):
            raise InvalidInput(
                f"{setting('watch')} must return a number for each of {len(runs)} prompts, got {len(values)}"
            )
        for run in runs:
            run.clock["watch"] += (time.monotonic() - start) / len(runs)
        return list(zip(runs, values, strict=True))


class Tuner:
    """A controller while it is tuned: `learn` from texts, then use the controller. `Controller.tuning` makes one."""

    def __init__(self, controller: Controller, settings: Tuning) -> None:
        if settings.reuse > 1 and settings.windows > 1:
            raise Conflict(
                f"{setting('reuse', settings.reuse)} keeps one gradient, and "
                f"{setting('windows', settings.windows)} make several"
            )
        if settings.window is not None and settings.window > controller.context:
            raise InvalidInput(
                f"{setting('window', settings.window)}: the model reads at most {controller.context} tokens"
            )
        if settings.rate is None:
            raise InvalidInput("the settings of a tuner need a rate")
        self.model, self.engine = controller.model, controller.engine
        self.device = next(self.model.parameters()).device
        self.settings = replace(
            settings,
            window=settings.window or controller.context,
            precision=resolve_precision(settings.precision, self.device.type),
        )
        self.highest_loss = settings.explode * math.log(max(2, controller.vocabulary))
        """A loss above it is that of a model that has diverged."""
        self._tokenizer, self._prefix = controller.tokenizer, controller.prefix_tokens
        self._rows = controller.vocabulary
        self._forward = torch.compile(self.model, dynamic=True) if settings.compile else self.model

    def learn(
        self,
        texts: Sequence[str],
        *,
        watch: Watch | None = None,
        after: Callable[[Step], None] | None = None,
    ) -> Trace:
        """One step on each text, in order.

        Args:
            texts: those that were selected; one that is there several times is learned as `Tuning.repeats` says.
            watch: measured every so many steps; when it gets worse, the best state is taken.
            after: called with each step.
        """
        run = TuningRun(self.settings, self.highest_loss, self.planned_steps(texts), watched=watch is not None)
        batch = TuningBatch(
            _OnePrompt(self, self._forward),
            (lambda _: [watch()]) if watch is not None else (lambda _: [math.inf]),
            (lambda steps: after(steps[run.owner])) if after is not None else None,
        )
        with training_mode(self.model, self.settings.dropout, self.settings.checkpointing):
            batch.join([run])
            while not run.ended:
                batch.round()
        for p in self.engine.parameters:
            p.grad = None
        return run.trace(self.engine.description)

    def rewind(self) -> None:
        """Go back to the base model; more may be learned from there."""
        self.engine.rewind()

    def planned_steps(self, texts: Sequence[str]) -> list[tuple[PlannedStep, Window]]:
        """The steps that these texts are learned in, each with its window, in order."""
        texts = list_of_texts("texts", texts)
        settings = self.settings
        cut: dict[int, list[Window]] = {}
        planned: list[tuple[PlannedStep, Window]] = []
        for step in plan_steps(texts, settings):
            if step.text not in cut:
                cut[step.text] = windows_of(
                    self._tokenizer,
                    self._prefix,
                    texts[step.text],
                    settings.window or 0,
                    settings.windows,
                    settings.completion,
                    self._rows,
                )
            # A text without tokens has no window, and so no step.
            planned.extend((step, window) for window in cut[step.text])
        return planned


@dataclass(frozen=True, eq=False)
class _OnePrompt:
    """The weights of the model itself, or its one adapter: for one run at a time."""

    tuner: Tuner
    forward: Any
    """The model, compiled or not."""

    def batches(self, runs: Sequence[TuningRun]) -> list[list[TuningRun]]:
        return [[run] for run in runs]

    def step(self, runs: Sequence[TuningRun]) -> list[Step]:
        (run,) = runs
        settings, parameters = self.tuner.settings, self.tuner.engine.parameters
        planned, window = run.next
        rate = float(settings.rate or 0.0) * planned.scale
        reused = planned.reuse and any(p.grad is not None for p in parameters)
        if not reused:
            for p in parameters:
                p.grad = None
            with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
                loss = window_loss(self.forward, window, self.tuner.device, settings.precision)
                loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if settings.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
            run.gradient = float(loss.detach()), float(norm)
        if all(math.isfinite(number) for number in run.gradient):
            self.tuner.engine.adam.update(rate)
        return [Step(planned.text, run.gradient[0], window.learned, run.gradient[1], rate, reused=reused)]

    def last_losses(self, runs: Sequence[TuningRun]) -> list[float]:
        losses = [0.0] * len(runs)
        for place, run in enumerate(runs):
            if run.steps and not run.watched:
                window = run.planned[len(run.steps) - 1][1].beginning(DIVERGENCE_CHECK_TOKENS)
                self.tuner.model.eval()
                with torch.inference_mode():
                    losses[place] = float(
                        window_loss(self.tuner.model, window, self.tuner.device, self.tuner.settings.precision)
                    )
        with torch.no_grad():
            norms = torch._foreach_norm([p.detach() for p in self.tuner.engine.parameters])
            finite = bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())
        return losses if finite else [math.nan] * len(runs)

    def keep(self, run: TuningRun) -> None:  # noqa: ARG002
        self.tuner.engine.keep()

    def take_best(self, run: TuningRun) -> None:  # noqa: ARG002
        self.tuner.engine.take_best()

    def rewind(self, run: TuningRun) -> None:  # noqa: ARG002
        self.tuner.engine.rewind()
