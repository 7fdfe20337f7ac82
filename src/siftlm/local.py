"""The main flow: a prompt -> candidates -> selection -> tune -> score or generate -> forget.

`LocalModel` brings a memory and a controller together for one prompt at a time. Read `LocalModel.learned` first.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from siftlm import recipes
from siftlm.call import (
    GRADIENT_FEATURES,
    LOCAL_SETTINGS,
    CallSettings,
    check_setting_names,
    is_worth_tuning,
    refuse_unscored,
    scored_steps,
    split_text,
)
from siftlm.controller import Controller, Tuning, check_sampling, restoring, setting_names
from siftlm.embedding.gradients import GradientEmbedder
from siftlm.errors import Conflict
from siftlm.memory import Found, Memory
from siftlm.memory.request import with_defaults
from siftlm.memory.rerank import check_rerank as check_reselect
from siftlm.memory.rerank import rerank
from siftlm.memory.searcher import Searcher
from siftlm.progress import Report
from siftlm.results import Answer, Learned, Score
from siftlm.selection import kernels
from siftlm.types import Step, Trace, Vectors
from siftlm.validation import text_with_content

logger = logging.getLogger(__name__)


class LocalModel:
    """A language model that learns from a memory for every prompt, and forgets.

    Args:
        model: a name, a folder, a transformers model (with ``tokenizer``), or a `Controller`.
        memory: a folder, a `Memory`, or an `Outside` vector database.
        embedder: for a folder whose own embedder has moved.
        tokenizer, engine, rank, alpha, targets, device, dtype, context: see `Controller`.
        calibrated: begin with what calibration chose for this memory and this model.
        **settings: what to use unless a call says otherwise: ``n``, ``method``, ``use``, ``decide``, ``features``;
            those of tuning (see `siftlm.controller.Tuning`) and of the search (see `Memory.search`).

    ``features="gradients"`` selects among the ``k`` nearest by what the model would learn from each, not by the
    memory's own vectors; any `siftlm.embedding.Embedder` will do as well.

    ``method="hullft"`` is a recipe: one word for a published way to select and the way to learn that goes with it
    (see `siftlm.recipes`). What is given by name beats what a recipe implies.

    What is not given comes from the memory's calibration for this model, if there is one, and else from published
    values: 50 texts of the 200 nearest by SIFT, one step on each. Of a calibration that was made for another method
    than the one asked for, only the settings of tuning and ``n`` are taken; of one that was made with all weights where
    this model tunes adapters, or the other way round, all but the learning rate.
    """

    def __init__(
        self,
        model: Any,
        memory: str | os.PathLike[str] | Searcher,
        *,
        embedder: Any = None,
        tokenizer: Any = None,
        engine: Any = "auto",
        rank: int | None = None,
        alpha: float | None = None,
        targets: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        context: int | None = None,
        calibrated: bool = True,
        **settings: Any,
    ) -> None:
        if isinstance(memory, Searcher):
            if embedder is not None:
                raise Conflict("embedder= is for a memory that is opened by its path; this one is open already")
            self.memory = memory
        else:
            self.memory = Memory.open(memory, embedder=embedder)
        if isinstance(model, Controller):
            self.controller = model
        else:
            self.controller = Controller(
                model,
                tokenizer,
                engine=engine,
                rank=rank,
                alpha=alpha,
                targets=targets,
                device=device,
                dtype=dtype,
                context=context,
            )
        self._calibration, self._defaults = self._calibrated() if calibrated else {}, settings
        self._own_gradients: GradientEmbedder | None = None
        self._checked({})  # a wrong setting is said here rather than at the first prompt

    # --- the flow

    @restoring
    def learned(
        self, prompt: str, *, watch: bool = False, after: Callable[[Step], None] | None = None, **settings: Any
    ) -> Iterator[Learned]:
        """Select for the prompt, tune, and stay so inside the block.

        ``watch``: end when the prompt itself is foreseen worse. ``after``: told of each step.
        """
        text_with_content("the prompt", prompt)
        asked = self._asked(settings)
        with self._learned(prompt, asked, self._select(prompt, asked), watch, after) as learned:
            yield learned

    @restoring
    def _learned(
        self, prompt: str, asked: CallSettings, found: Found, watch: bool, after: Callable[[Step], None] | None
    ) -> Iterator[Learned]:
        context = asked.context(found)
        if asked.use == "context" or not is_worth_tuning(found, asked.decide):
            ended = "declined" if asked.use != "context" else "done" if context else "nothing"
            trace = Trace((), ended, 0, {"use": asked.use, "decide": str(asked.decide)})
            yield Learned(found, asked.noted(trace), context)
            return
        with self.controller.tuning(**asked.tuning) as tuner:
            trace = tuner.learn(found.texts, watch=self._watch(prompt) if watch else None, after=after)
            yield Learned(found, asked.noted(trace), context)

    @restoring
    def tuned(self, prompt: str, n: int | None = None, method: Any = None, **settings: Any) -> Iterator[Any]:
        """The plain transformers model, tuned for the prompt inside the block and itself again afterwards."""
        with self.learned(prompt, **_without_none(n=n, method=method), **settings):
            yield self.controller.model

    def select(self, prompt: str, n: int | None = None, method: Any = None, **settings: Any) -> Found:
        """What the model would learn from."""
        return self._select(
            text_with_content("the prompt", prompt), self._asked({**_without_none(n=n, method=method), **settings})
        )

    def score(
        self,
        text: str | tuple[str, str],
        n: int | None = None,
        method: Any = None,
        *,
        mode: Literal["split", "transductive"] = "split",
        at: Sequence[int] = (),
        watch: bool = False,
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Score:
        """Bits per byte of a text before and after the model learned for it.

        Args:
            text: at least two words, in mode ``split``; or a pair, the prompt and the continuation that is scored.
            n: how many texts to learn from.
            method: how to select them.
            mode: ``split`` takes the first half as the prompt and scores the second, as a user gets it who wants a
                continuation; ``transductive`` takes the text as the prompt for itself, as published.
            at: also score after these numbers of steps.
            watch: end tuning when the prompt is foreseen worse (``split`` only).
            after: told of each step.
            **settings: as for `LocalModel`.
        """
        prompt, scored, before = split_text("the text", text, mode)
        if watch and mode == "transductive":
            raise Conflict("watch=True in mode 'transductive' would watch the very text that is scored")
        points = scored_steps(at)
        asked = self._asked({**_without_none(n=n, method=method), **settings})
        clock: dict[str, float] = {}
        with _timer(clock, "score"):
            base = self.controller.likelihood(scored, after=before)
        refuse_unscored("the text", base)
        seen = {0: base} if 0 in points else {}
        found = self._select(prompt, asked)
        taken = 0

        def stepped(step: Step) -> None:
            nonlocal taken
            taken += 1
            if taken in points:
                with _timer(clock, "score"):
                    seen[taken] = self.controller.likelihood(scored, after=before, texts=asked.context(found))
            if after is not None:
                after(step)

        began = time.perf_counter() - clock["score"]  # what is scored on the way counts as scoring
        with self._learned(prompt, asked, found, watch, stepped) as learned:
            clock["tune"] = time.perf_counter() - began - clock["score"]
            if taken and taken in seen and learned.trace.kept == taken:
                tuned = seen[taken]  # by this very model
            else:
                with _timer(clock, "score"):
                    tuned = self.controller.likelihood(scored, after=before, texts=learned.context)
        clock["select"] = sum(found.seconds.values())
        if learned.trace.ended == "diverged":
            tuned = base
        return Score(
            base.bits_per_byte,
            tuned.bits_per_byte,
            mode,
            tuned,
            base,
            learned.found,
            learned.trace,
            tuple((step, one.bits_per_byte) for step, one in sorted(seen.items())),
            clock,
        )

    def generate(
        self,
        prompt: str,
        n: int | None = None,
        method: Any = None,
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        watch: bool = False,
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Answer:
        """Continue the prompt with a model that has learned for it.

        Args:
            prompt: what to continue.
            n: how many texts to learn from.
            method: how to select them.
            max_new_tokens, temperature, top_p, stop, seed: see `siftlm.controller.Controller.generate`.
            watch: end tuning when the prompt itself is foreseen worse.
            after: told of each step.
            **settings: as for `LocalModel`.
        """
        stops = [stop] if isinstance(stop, str) else list(stop)
        check_sampling(max_new_tokens, temperature, top_p, stops, self.controller.context)  # before any tuning
        clock: dict[str, float] = {}
        began = time.perf_counter()
        given = {**_without_none(n=n, method=method), **settings}
        with self.learned(prompt, watch=watch, after=after, **given) as learned:
            clock["select"] = sum(learned.found.seconds.values())
            clock["tune"] = time.perf_counter() - began - clock["select"]
            with _timer(clock, "generate"):
                made = self.controller.generate(
                    prompt,
                    max_new_tokens=max_new_tokens,
                    texts=learned.context,
                    temperature=temperature,
                    top_p=top_p,
                    stop=stops,
                    seed=seed,
                )
        return Answer(made.text, made.stopped, made.tokens, learned.found, learned.trace, made.cut, clock)

    def score_many(
        self,
        texts: Sequence[str | tuple[str, str]],
        n: int | None = None,
        method: Any = None,
        *,
        mode: Literal["split", "transductive"] = "split",
        at: Sequence[int] = (),
        watch: bool = False,
        batch: int = 32,
        progress: bool | Report | None = None,
        **settings: Any,
    ) -> list[Score]:
        """`score` for many texts: one search for all, and LoRA tunes ``batch`` at once.

        The results are those of `score`, for LoRA up to rounding: to four decimals in ``precision="float32"``, while in
        bfloat16 bits per byte may differ in the third.
        """
        from siftlm.flow import score_many

        return score_many(
            self, texts, mode, at, watch, batch, progress, {**_without_none(n=n, method=method), **settings}
        )

    def generate_many(
        self,
        prompts: Sequence[str],
        n: int | None = None,
        method: Any = None,
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        watch: bool = False,
        batch: int = 32,
        progress: bool | Report | None = None,
        **settings: Any,
    ) -> list[Answer]:
        """`generate` for many prompts: one search for all, and LoRA tunes ``batch`` at once.

        The results are those of `generate`, for LoRA up to rounding; see `score_many`.
        """
        from siftlm.flow import generate_many

        sampling = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stop": stop,
            "seed": seed,
        }
        given = {**_without_none(n=n, method=method), **settings}
        return generate_many(self, prompts, watch, batch, progress, sampling, given)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What a call with these changes goes by; a name that is not known or a wrong value is an error.

        Of the search λ and repeats are there; other settings that nobody chose are left out, and have the defaults of
        `Memory.search`.
        """
        asked = self._checked(changes)
        own = {name: getattr(asked, name) for name in LOCAL_SETTINGS}
        own["method"] = asked.recipe or asked.method
        tuning = self.controller.tuning_settings(**asked.tuning).to_dict()
        return {**own, **with_defaults(asked.method, asked.search), **tuning}

    def tuning_settings(self, **changes: Any) -> Tuning:
        """How a call with these changes learns."""
        return self.controller.tuning_settings(**self._asked(changes).tuning)

    # --- inside

    def _calibrated(self) -> dict[str, Any]:
        """What calibration chose for this memory and this model."""
        known = getattr(self.memory, "manifest", None)
        record = (known.calibration if known is not None else {}).get(self.controller.name, {})
        made_with = record.get("model", {}).get("engine", {}).get("engine", "full")
        if record and (made_with != "full") != self.controller.adapters:
            # All of it was chosen for a rate and a number of steps that are not these.
            own = "lora" if self.controller.adapters else "full"
            logger.warning(
                "the calibration of this memory was made with engine=%r and is left out: "
                "siftlm calibrate MEMORY --engine %s makes one for this model",
                made_with,
                own,
            )
            return {}
        return dict(record.get("settings", {}))

    def _asked(self, given: Mapping[str, Any]) -> CallSettings:
        merged, recipe = recipes.merged(self._calibration, self._defaults, given)
        tuning = {name: merged.pop(name) for name in setting_names() if name in merged}
        own = {name: merged.pop(name) for name in LOCAL_SETTINGS if name in merged}
        if isinstance(merged.get("kernel"), str):  # as calibration writes it down
            merged["kernel"] = kernels.named(merged["kernel"])
        if isinstance(merged.get("prior"), str):
            merged["prior"] = kernels.named_prior(merged["prior"])
        asked = CallSettings(tuning=tuning, search=merged, recipe=recipe, **own)
        check_setting_names(merged, asked.method)
        self.controller.tuning_settings(**asked.tuning)
        return asked

    def _checked(self, given: Mapping[str, Any]) -> CallSettings:
        """The same, with what is wrong for the search said now."""
        asked = self._asked(given)
        if asked.features is None:
            self.memory.check(asked.n, method=asked.method, **asked.search)
        else:
            check_reselect(self.memory, asked.n, method=asked.method, **asked.search)
        return asked

    def _select(self, prompt: str, asked: CallSettings) -> Found:
        settings = asked.search
        if asked.features is None:
            return self.memory.search(prompt, asked.n, method=asked.method, **settings)
        made = self._gradients() if asked.features == GRADIENT_FEATURES else asked.features

        def features(texts: Sequence[str]) -> Vectors:
            return self.controller.evaluating(lambda: made.embed(texts))

        return rerank(self.memory, prompt, asked.n, features, method=asked.method, **settings)

    def _gradients(self) -> GradientEmbedder:
        """Of the controller's own model, as it is when it is asked."""
        if self._own_gradients is None:
            model, tokenizer, context = self.controller.model, self.controller.tokenizer, self.controller.context
            name = f"gradients:{self.controller.name}"
            made = GradientEmbedder(name, model, tokenizer=tokenizer)
            if made.max_tokens is None or made.max_tokens > context:
                made = GradientEmbedder(name, model, tokenizer=tokenizer, max_tokens=context)
            self._own_gradients = made
        return self._own_gradients

    def _watch(self, prompt: str) -> Callable[[], float]:
        return lambda: self.controller.likelihood(prompt).nats_per_token

    def __repr__(self) -> str:
        return f"LocalModel({self.controller!r}, {self.memory!r})"


def _without_none(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@contextmanager
def _timer(clock: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        clock[name] = clock.get(name, 0.0) + time.perf_counter() - began
