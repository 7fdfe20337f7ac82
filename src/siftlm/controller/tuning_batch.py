"""The loop of `siftlm.controller.tuner` for many prompts at once: same steps, same arithmetic, same traces.

In each round every prompt that still learns takes its own next step; prompts whose texts are of similar length take it
in one pass. Who has no text left, has spent its budget, diverged or got worse leaves, and who comes later joins; nobody
else notices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from siftlm.controller.batching import BatchBudget, batches
from siftlm.controller.forward import autocast, token_nats_of
from siftlm.controller.settings import PlannedStep
from siftlm.controller.stacked import AdapterStack
from siftlm.controller.tokens import IGNORE_INDEX, Window
from siftlm.controller.tuner import DIVERGENCE_CHECK_TOKENS, Tuner
from siftlm.types import Step, Trace

AfterSteps = Callable[[Mapping[int, Step]], None]
MeasureRows = Callable[[Sequence[int]], Sequence[float]]
"""Prompts -> how well each does on what is watched for it: nats a token."""


@dataclass
class TuningRun:
    """How far one prompt has come."""

    owner: int
    """Its place among the prompts."""
    turns: list[tuple[PlannedStep, Window]]
    watched: bool
    steps: list[Step] = field(default_factory=list)
    ended: str = ""
    """Empty while it learns; then as in `Trace`."""
    clock: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "watch": 0.0})
    last: tuple[float, float] = (math.nan, math.nan)
    """Loss and norm of the gradient that is kept for it."""
    best: float = math.inf
    best_at: int = 0
    missed: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def turn(self) -> PlannedStep:
        """The next one."""
        return self.turns[len(self.steps)][0]

    @property
    def window(self) -> Window:
        """That of the next turn."""
        return self.turns[len(self.steps)][1]


class TuningBatch:
    """Prompts that learn together; they may join while others are under way."""

    def __init__(
        self, stack: AdapterStack, rules: Tuner, room: BatchBudget, measure: MeasureRows, after: AfterSteps | None
    ) -> None:
        self._stack, self.rules, self._room = stack, rules, room
        self._measure, self._after = measure, after
        self._settings = rules.settings
        self._courses: list[TuningRun] = []
        self._best: Any = None
        self._kept = torch.empty_like(stack.weights) if self._settings.reuse > 1 else None

    def __len__(self) -> int:
        return len(self._courses)

    def join(self, courses: Sequence[TuningRun]) -> None:
        """From now on they learn as well."""
        watched = [course for course in courses if course.watched]
        if watched and self._best is None:
            self._best = torch.empty_like(self._stack.weights)
        for course, now in self._measure_runs(watched):
            course.best, course.watched = now, math.isfinite(now)
            self._best[course.owner] = self._stack.weights[course.owner]
        self._courses.extend(courses)

    def leave(self, owner: int) -> None:
        """This prompt learns no further; nobody waits for it."""
        self._courses = [course for course in self._courses if course.owner != owner]

    def round(self) -> list[TuningRun]:
        """Everybody's next step. Returns those who have ended, each at its best state."""
        learning = [course for course in self._courses if self._is_running(course)]
        reusing = [course for course in learning if course.turn.reuse]
        fresh = [course for course in learning if not course.turn.reuse]
        for batch in batches([len(course.window.ids) - 1 for course in fresh], self._room):
            self._step([fresh[place] for place in batch], reuse=False)
        if reusing:
            self._step(reusing, reuse=True)
        ended = [course for course in self._courses if not self._is_running(course)]
        self._courses = [course for course in self._courses if not course.ended]
        self._settle(ended)
        return ended

    def trace(self, course: TuningRun) -> Trace:
        """Of one that has ended."""
        kept = 0 if course.ended == "diverged" else course.best_at if course.watched else len(course.steps)
        ended = course.ended
        if ended != "diverged" and kept < len(course.steps):
            ended = "worse"
        settings = {**self._settings.to_dict(), **self._stack.engine.describe()}
        return Trace(tuple(course.steps), ended, kept, settings, dict(course.clock))

    # --- inside

    def _is_running(self, course: TuningRun) -> bool:
        if not course.ended:
            if len(course.steps) == len(course.turns):
                course.ended = "done" if course.steps else "nothing"
            else:
                course.ended = self.rules.exhausted_budget(course.steps, course.window, course.began)
        return not course.ended

    def _step(self, courses: Sequence[TuningRun], *, reuse: bool) -> None:
        start = time.monotonic()
        owners = [course.owner for course in courses]
        if reuse and self._kept is not None:
            gradients = self._kept[owners]
        else:
            gradients = self._gradients(courses)
        rates = [float(self._settings.rate or 0.0) * course.turn.scale for course in courses]
        fine = [row for row, course in enumerate(courses) if all(math.isfinite(one) for one in course.last)]
        self._stack.update([(owners[row], gradients[row], rates[row]) for row in fine], self._settings)
        share = (time.monotonic() - start) / len(courses)
        taken: list[tuple[TuningRun, Step]] = []
        for course, rate in zip(courses, rates, strict=True):
            loss, norm = course.last
            step = Step(course.turn.text, loss, course.window.learned, norm, rate, reused=reuse, seconds=share)
            course.clock["steps"] += share
            if self.rules.sound(step):
                taken.append((course, step))
            else:
                self._stack.rewind(course.owner)
                course.steps.append(step)
                course.ended = "diverged"
        self._record_steps(taken)
        if self._after is not None and taken:
            self._after({course.owner: course.steps[-1] for course, _ in taken})

    def _gradients(self, courses: Sequence[TuningRun]) -> Any:
        """(rows, total), clipped; loss and norm are left in `TuningRun.last`."""
        owners = [course.owner for course in courses]
        with torch.inference_mode(False), torch.enable_grad(), self._through(owners) as weights:
            losses = self._losses([course.window for course in courses])
            (gradients,) = torch.autograd.grad(losses.sum(), weights)
        norms = gradients.norm(dim=1)
        if self._settings.clip is not None:
            gradients.mul_((self._settings.clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        if self._kept is not None:
            self._kept[owners] = gradients
        for course, last in zip(courses, torch.stack([losses.detach(), norms], dim=1).tolist(), strict=True):
            course.last = last[0], last[1]
        return gradients

    def _losses(self, windows: Sequence[Window]) -> Any:
        """(rows,) mean nats of the tokens that each learns."""
        device = self._stack.weights.device
        width = max(len(window.ids) for window in windows) - 1
        # Padding on the right: no token of a causal model sees what comes after it.
        ids = torch.tensor([_right_padded(window.ids[:-1], width, 0) for window in windows], device=device)
        labels = torch.tensor(
            [_right_padded(window.labels[1:], width, IGNORE_INDEX) for window in windows], device=device
        )
        learned = torch.tensor([float(window.learned) for window in windows], device=device)
        with autocast(device.type, self._settings.precision):
            logits = self.rules.model(input_ids=ids, use_cache=False).logits
        return token_nats_of(logits, labels).sum(dim=1) / learned

    def _through(self, owners: Sequence[int]) -> AbstractContextManager[Any]:
        precision = self._settings.precision
        kind = None if precision == "float32" else getattr(torch, precision)
        return self._stack.rows(owners, kind=kind)

    def _record_steps(self, taken: Sequence[tuple[TuningRun, Step]]) -> None:
        """Record the steps, after a look at those whose time it is."""
        every = self._settings.watch_every
        due = [course for course, _ in taken if course.watched and (len(course.steps) + 1) % every == 0]
        seen = {course.owner: now for course, now in self._measure_runs(due)}
        for course, step in taken:
            now = seen.get(course.owner)
            course.steps.append(replace(step, watched=now))
            if now is None:
                continue
            if now < course.best:
                course.best, course.best_at, course.missed = now, len(course.steps), 0
                self._best[course.owner] = self._stack.weights[course.owner]
            else:
                course.missed += 1
            if course.missed >= self._settings.patience:
                course.ended = "worse"

    def _measure_runs(self, courses: Sequence[TuningRun]) -> list[tuple[TuningRun, float]]:
        if not courses:
            return []
        start = time.monotonic()
        seen = [now if math.isfinite(now) else math.inf for now in self._measure([c.owner for c in courses])]
        for course in courses:
            course.clock["watch"] += (time.monotonic() - start) / len(courses)
        return list(zip(courses, seen, strict=True))

    def _settle(self, ended: Sequence[TuningRun]) -> None:
        """Each at its best state."""
        # After a last step none follows that would notice where it led; a watch would.
        going = [course for course in ended if course.steps and not course.watched and course.ended != "diverged"]
        wild: set[int] = set()
        for course, loss in zip(going, self._losses_now(going), strict=True):
            if not self.rules.sound(replace(course.steps[-1], loss=loss)):
                wild.add(course.owner)
        for course, finite in zip(ended, self._stack.finite([course.owner for course in ended]), strict=True):
            if course.ended != "diverged" and (course.owner in wild or not finite):
                self._stack.rewind(course.owner)
                course.ended = "diverged"
        every = self._settings.watch_every
        watched = [course for course in ended if course.watched and course.ended != "diverged"]
        for course, now in self._measure_runs([course for course in watched if len(course.steps) % every]):
            if now < course.best:
                course.best, course.best_at = now, len(course.steps)
                self._best[course.owner] = self._stack.weights[course.owner]
        for course in watched:
            if course.best_at < len(course.steps):
                self._stack.weights[course.owner] = self._best[course.owner]

    def _losses_now(self, courses: Sequence[TuningRun]) -> list[float]:
        """Each on what it learned last."""
        windows = [course.turns[len(course.steps) - 1][1].beginning(DIVERGENCE_CHECK_TOKENS) for course in courses]
        found = [math.inf] * len(courses)
        self.rules.model.eval()
        with torch.inference_mode():
            for batch in batches([len(window.ids) - 1 for window in windows], self._room):
                with self._through([courses[place].owner for place in batch]):
                    losses = self._losses([windows[place] for place in batch]).tolist()
                for place, loss in zip(batch, losses, strict=True):
                    found[place] = loss
        return found


def _right_padded(ids: Sequence[int], width: int, filling: int) -> list[int]:
    return [*ids, *[filling] * (width - len(ids))]
