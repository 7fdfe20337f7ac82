"""Gradient steps on texts, one after another, watched: the loop at the heart of test-time fine-tuning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from siftlm.controller.engines import Engine
from siftlm.controller.forward import resolve_precision, vocabulary_size, window_loss
from siftlm.controller.restore import training_mode
from siftlm.controller.settings import PlannedStep, Tuning, plan_steps
from siftlm.controller.tokens import Window, windows_of
from siftlm.errors import Conflict, InvalidInput
from siftlm.types import Step, Trace

# Tokens that tell whether the last step has made the model go wild: a whole text would cost a third of a step.
DIVERGENCE_CHECK_TOKENS = 32

Watch = Callable[[], float]
"""How well the model does on what it is tuned for: nats a token, lower is better."""


class Tuner:
    """A controller while it is tuned: `learn` from texts, then use the controller. `Controller.tuning` makes one."""

    def __init__(self, model: Any, tokenizer: Any, engine: Engine, settings: Tuning, context: int) -> None:
        if settings.reuse > 1 and settings.windows > 1:
            raise Conflict(f"reuse={settings.reuse} keeps one gradient, and windows={settings.windows} make several")
        if settings.window is not None and settings.window > context:
            raise InvalidInput(f"window={settings.window}: the model reads at most {context} tokens")
        if settings.rate is None:
            raise InvalidInput("the settings of a tuner need a rate")
        device = next(model.parameters()).device
        self.model, self.engine = model, engine
        self.settings = replace(
            settings, window=settings.window or context, precision=resolve_precision(settings.precision, device.type)
        )
        self._tokenizer, self._device = tokenizer, device
        self._run = torch.compile(model, dynamic=True) if settings.compile else model
        self._vocabulary = vocabulary_size(model)

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
            after: told of each step.
        """
        with training_mode(self.model, self.settings.dropout, self.settings.checkpointing):
            return self._learn(texts, watch, after)

    def _learn(self, texts: Sequence[str], watch: Watch | None, after: Callable[[Step], None] | None) -> Trace:
        began = time.monotonic()
        clock = {"steps": 0.0, "watch": 0.0}
        guard = _EarlyStopping(watch, self.settings, self.engine, clock)
        steps: list[Step] = []
        ended, learned = "nothing", Window((), ())
        for turn, window in self.turns(texts):
            ended = self.exhausted_budget(steps, window, began)
            if ended:
                break
            start = time.monotonic()
            step, learned = self._step(turn, window), window
            clock["steps"] += time.monotonic() - start
            if not self.sound(step):
                self.engine.rewind()
                steps.append(step)
                return self._trace(steps, "diverged", 0, clock)
            step = replace(step, watched=guard.look(len(steps) + 1), seconds=time.monotonic() - start)
            steps.append(step)
            if after is not None:
                after(step)
            if guard.worse:
                ended = "worse"
                break
            ended = "done"
        # After the last step none follows that would notice where it led; a watch would.
        wild = bool(steps) and not guard.watching and not self.sound(replace(steps[-1], loss=self._loss_now(learned)))
        if wild or not self._finite():
            self.engine.rewind()
            return self._trace(steps, "diverged", 0, clock)
        kept = guard.settle(len(steps))
        return self._trace(steps, "worse" if kept < len(steps) else ended, kept, clock)

    # --- the rules, also where many prompts learn at once

    def turns(self, texts: Sequence[str]) -> list[tuple[PlannedStep, Window]]:
        """What is learned, window by window, in order."""
        if isinstance(texts, str):
            raise InvalidInput("texts must be a list of texts; for one text, put it into a list")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise InvalidInput(f"text {place} must be a str, got {type(text).__name__}")
        cut: dict[int, list[Window]] = {}
        turns: list[tuple[PlannedStep, Window]] = []
        for turn in plan_steps(texts, self.settings):
            if turn.text not in cut:
                cut[turn.text] = windows_of(
                    self._tokenizer,
                    texts[turn.text],
                    self.settings.window or 0,
                    self.settings.windows,
                    self.settings.completion,
                )
            # A text without tokens has no window, and so no step.
            turns.extend((turn, window) for window in cut[turn.text])
        return turns

    def sound(self, step: Step) -> bool:
        """Are its loss and gradient numbers, and the loss none of a model that has gone wild?"""
        highest = self.settings.explode * math.log(max(2, self._vocabulary))
        return math.isfinite(step.loss) and math.isfinite(step.norm) and step.loss <= highest

    def exhausted_budget(self, steps: Sequence[Step], window: Window, began: float) -> str:
        """Which budget has no room for another step on ``window``; empty where all have."""
        settings = self.settings
        if settings.seconds is not None and time.monotonic() - began >= settings.seconds:
            return "seconds"
        if settings.tokens is not None and sum(s.tokens for s in steps) + window.learned > settings.tokens:
            return "tokens"
        return ""

    # --- inside

    def _step(self, turn: PlannedStep, window: Window) -> Step:
        rate = float(self.settings.rate or 0.0) * turn.scale
        parameters = self.engine.parameters()
        reused = turn.reuse and any(p.grad is not None for p in parameters)
        if not reused:
            for p in parameters:
                p.grad = None
            with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
                loss = window_loss(self._run, window, self._device, self.settings.precision)
                loss.backward()
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if self.settings.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, norm)
            self._last = float(loss.detach()), float(norm)
        loss, norm = self._last
        if math.isfinite(norm) and math.isfinite(loss):
            self.engine.update(rate)
        return Step(turn.text, loss, window.learned, norm, rate, reused=reused)

    def _loss_now(self, window: Window) -> float:
        self.model.eval()
        with torch.inference_mode():
            return float(
                window_loss(
                    self.model, window.beginning(DIVERGENCE_CHECK_TOKENS), self._device, self.settings.precision
                )
            )

    def _finite(self) -> bool:
        with torch.no_grad():
            norms = torch._foreach_norm([p.detach() for p in self.engine.parameters()])
            return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())

    def _trace(self, steps: Sequence[Step], ended: str, kept: int, clock: dict[str, float]) -> Trace:
        for p in self.engine.parameters():
            p.grad = None
        return Trace(tuple(steps), ended, kept, {**self.settings.to_dict(), **self.engine.describe()}, dict(clock))


class _EarlyStopping:
    """Keeps the best state, if anybody watches."""

    def __init__(self, watch: Watch | None, settings: Tuning, engine: Engine, clock: dict[str, float]) -> None:
        self._watch, self._settings, self._engine, self._clock = watch, settings, engine, clock
        self._best, self._at, self._missed = math.inf, 0, 0
        if watch is not None:
            self._best = self._measured()
            if math.isfinite(self._best):
                engine.keep()
            else:
                self._watch = None  # a text of one token, say: nothing is foreseen there that could get worse

    @property
    def watching(self) -> bool:
        """Is there anything to look at?"""
        return self._watch is not None

    @property
    def worse(self) -> bool:
        """Is it time to give up?"""
        return self._missed >= self._settings.patience

    def look(self, step: int) -> float | None:
        """Measure, if it is time to."""
        if self._watch is None or step % self._settings.watch_every:
            return None
        now = self._measured()
        if now < self._best:
            self._best, self._at, self._missed = now, step, 0
            self._engine.keep()
        else:
            self._missed += 1
        return now

    def settle(self, step: int) -> int:
        """End at the best state; how many steps did it make?"""
        if self._watch is None:
            return step
        if step % self._settings.watch_every and self._measured() < self._best:
            return step
        if self._at < step:
            self._engine.take_best()
        return self._at

    def _measured(self) -> float:
        start = time.monotonic()
        now = self._watch() if self._watch is not None else math.inf
        self._clock["watch"] += time.monotonic() - start
        return now if math.isfinite(now) else math.inf
