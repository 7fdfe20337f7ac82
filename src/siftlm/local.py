"""The main flow: a prompt -> candidates -> selection -> tune -> score or generate -> forget.

`LocalModel` brings a memory and a controller together for one prompt at a time. Read `LocalModel.learned` first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Literal

from siftlm import recipes
from siftlm.controller import Controller
from siftlm.controller.checks import number, text_with_content, whole
from siftlm.controller.generating import check_sampling
from siftlm.controller.interrupts import restoring
from siftlm.controller.settings import setting_names
from siftlm.embedding.gradients import GradientEmbedder
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory import Found, Memory
from siftlm.memory.asked import EVEN
from siftlm.memory.reselect import reselect
from siftlm.memory.searching import Searching
from siftlm.progress import Report
from siftlm.selection import kernels, select
from siftlm.types import Likelihood, Step, Trace, Vectors

MODES = ("split", "transductive")
PAIR = ("the prompt", "the continuation")
USES = ("weights", "context", "both")
GRADIENTS = "gradients"
# What decides whether tuning is worth it: the least share of the uncertainty that the selection must remove, or
# a function that looks at what was found.
Decide = float | Callable[[Found], bool] | None
# Settings of `LocalModel` itself, beside those of a search and those of tuning.
OWN = ("n", "method", "use", "decide", "features")


@dataclass(frozen=True, eq=False)
class Learned:
    """A model that has learned for one prompt; valid inside the block that made it."""

    found: Found
    """What it learned from."""
    trace: Trace
    """How that went."""
    context: tuple[str, ...]
    """Texts to be put before the prompt: what was found, where it is used as context."""


@dataclass(frozen=True, eq=False)
class Score:
    """How well a text was foreseen, before and after."""

    base: float
    """Bits per byte of the base model."""
    tuned: float
    """Bits per byte after tuning (and with the texts in the context, where that was asked for)."""
    mode: str
    """``split``: the first half was the prompt and the second is scored; ``transductive``: the scored text itself
    was the prompt, as in the published tables."""
    likelihood: Likelihood
    """Of the tuned model."""
    base_likelihood: Likelihood
    found: Found
    trace: Trace
    curve: tuple[tuple[int, float], ...] = ()
    """(steps, bits per byte) wherever that was asked for."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``score``."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of the tuning."""
        return self.trace.steps

    @property
    def percent(self) -> float:
        """The tuned model's bits per byte in % of the base model's."""
        return 100 * self.tuned / self.base

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {
            "base": self.base,
            "tuned": self.tuned,
            "mode": self.mode,
            "bytes": self.likelihood.bytes,
            "tokens": self.likelihood.tokens,
            "curve": [list(point) for point in self.curve],
            "seconds": dict(self.seconds),
            "trace": self.trace.to_dict(),
            "found": self.found.to_dict(),
        }

    def __str__(self) -> str:
        said = f"{self.base:.3f} -> {self.tuned:.3f} bits per byte ({self.percent:.1f} %), {self.mode}, "
        return said + f"{self.trace.kept} steps ({self.trace.ended})"


@dataclass(frozen=True, eq=False)
class Answer:
    """A continuation of the prompt by the model that was tuned for it."""

    text: str
    stopped: str
    """``end``, ``stop`` or ``length``."""
    tokens: int
    """That were made."""
    found: Found
    trace: Trace
    cut: int = 0
    """Tokens of the prompt's beginning that did not fit into the context."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``generate``."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        own = {"text": self.text, "stopped": self.stopped, "tokens": self.tokens, "cut": self.cut}
        return {
            **own, "seconds": dict(self.seconds), "trace": self.trace.to_dict(), "found": self.found.to_dict()
        }  # fmt: skip

    def __str__(self) -> str:
        return self.text


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
    than the one asked for, only the settings of tuning and ``n`` are taken.
    """

    def __init__(
        self,
        model: Any,
        memory: str | os.PathLike[str] | Searching,
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
        if isinstance(memory, Searching):
            if embedder is not None:
                raise Conflict("embedder= is for a memory that is opened by its path; this one is open already")
            self.memory = memory
        else:
            self.memory = Memory.open(memory, embedder=embedder)
        if isinstance(model, Controller):
            self.controller = model
        else:
            self.controller = Controller(
                model, tokenizer, engine=engine, rank=rank, alpha=alpha, targets=targets, device=device, dtype=dtype,
                context=context,
            )  # fmt: skip
        self._calibration, self._defaults = self._calibrated() if calibrated else {}, settings
        self._own_gradients: GradientEmbedder | None = None
        self._asked({})  # a wrong setting is said here rather than at the first prompt

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
        found = self._select(prompt, asked)
        context = tuple(found.texts) if asked.use != "weights" else ()
        if asked.use == "context" or not _worth_it(found, asked.decide):
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
        with self.learned(prompt, **_given(n=n, method=method), **settings):
            yield self.controller.model

    def select(self, prompt: str, n: int | None = None, method: Any = None, **settings: Any) -> Found:
        """What the model would learn from."""
        return self._select(
            text_with_content("the prompt", prompt), self._asked({**_given(n=n, method=method), **settings})
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
        prompt, scored, before = parted("the text", text, mode)
        if watch and mode == "transductive":
            raise Conflict("watch=True in mode 'transductive' would watch the very text that is scored")
        points = {whole("each of at", step, least=0) for step in at}
        clock: dict[str, float] = {}
        with _timed(clock, "score"):
            base = self.controller.likelihood(scored, after=before)
        curve = {0: base.bits_per_byte} if 0 in points else {}
        taken = 0

        def stepped(step: Step) -> None:
            nonlocal taken
            taken += 1
            if taken in points:
                with _timed(clock, "score"):
                    curve[taken] = self.controller.likelihood(scored, after=before).bits_per_byte
            if after is not None:
                after(step)

        given = {**_given(n=n, method=method), **settings}
        began = time.perf_counter() - clock["score"]  # what is scored on the way counts as scoring
        with self.learned(prompt, watch=watch, after=stepped, **given) as learned:
            clock["tune"] = time.perf_counter() - began - clock["score"] - sum(learned.found.seconds.values())
            with _timed(clock, "score"):
                tuned = self.controller.likelihood(scored, after=before, texts=learned.context)
        clock["select"] = sum(learned.found.seconds.values())
        if learned.trace.ended == "diverged":
            tuned = base
        return Score(
            base.bits_per_byte, tuned.bits_per_byte, mode, tuned, base, learned.found, learned.trace,
            tuple(sorted(curve.items())), clock,
        )  # fmt: skip

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
            max_new_tokens, temperature, top_p, stop, seed: see `siftlm.controller.generating.generate`.
            watch: end tuning when the prompt itself is foreseen worse.
            after: told of each step.
            **settings: as for `LocalModel`.
        """
        stops = [stop] if isinstance(stop, str) else list(stop)
        check_sampling(max_new_tokens, temperature, top_p, stops, self.controller.context)  # before any tuning
        clock: dict[str, float] = {}
        began = time.perf_counter()
        given = {**_given(n=n, method=method), **settings}
        with self.learned(prompt, watch=watch, after=after, **given) as learned:
            clock["select"] = sum(learned.found.seconds.values())
            clock["tune"] = time.perf_counter() - began - clock["select"]
            with _timed(clock, "generate"):
                made = self.controller.generate(
                    prompt, max_new_tokens=max_new_tokens, texts=learned.context, temperature=temperature, top_p=top_p,
                    stop=stops, seed=seed,
                )  # fmt: skip
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
        """`score` for many texts, with the same results: one search for all, and LoRA tunes ``batch`` at once."""
        from siftlm.local_many import score_many

        return score_many(self, texts, mode, at, watch, batch, progress, {**_given(n=n, method=method), **settings})

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
        """`generate` for many prompts, with the same results: one search for all, and LoRA tunes ``batch`` at once."""
        from siftlm.local_many import generate_many

        sampling = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "stop": stop, "seed": seed,
        }  # fmt: skip
        given = {**_given(n=n, method=method), **settings}
        return generate_many(self, prompts, watch, batch, progress, sampling, given)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What a call with these changes goes by; a name that is not known or a wrong value is an error.

        Settings of the search that nobody chose are left out: `Memory.search` has their defaults.
        """
        asked = self._asked(changes)
        own = {name: getattr(asked, name) for name in OWN}
        own["method"] = asked.recipe or asked.method
        return {**own, **asked.search, **self.controller.tuning_settings(**asked.tuning).to_dict()}

    # --- inside

    def _calibrated(self) -> dict[str, Any]:
        """What calibration chose for this memory and this model."""
        known = getattr(self.memory, "manifest", None)
        record = (known.calibration if known is not None else {}).get(self.controller.name, {})
        return dict(record.get("settings", {}))

    def _asked(self, given: Mapping[str, Any]) -> _Asked:
        merged, recipe = recipes.merged(self._calibration, self._defaults, given)
        tuning = {name: merged.pop(name) for name in setting_names() if name in merged}
        own = {name: merged.pop(name) for name in OWN if name in merged}
        if isinstance(merged.get("kernel"), str):  # as calibration writes it down
            merged["kernel"] = kernels.named(merged["kernel"])
        asked = _Asked(tuning=tuning, search=merged, recipe=recipe, **own)
        _check_names(merged, asked.method)
        self.controller.tuning_settings(**asked.tuning)
        return asked

    def _select(self, prompt: str, asked: _Asked) -> Found:
        settings = dict(asked.search)
        if isinstance(asked.method, str) and asked.method in EVEN:
            settings.setdefault("replacement", True)  # learning a text twice can be worth more than learning another
        if asked.features is None:
            return self.memory.search(prompt, asked.n, method=asked.method, **settings)
        made = self._gradients() if asked.features == GRADIENTS else asked.features

        def features(texts: Sequence[str]) -> Vectors:
            return self.controller.evaluating(lambda: made.embed(texts))

        return reselect(self.memory, prompt, asked.n, features, method=asked.method, **settings)

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


@dataclass(frozen=True)
class _Asked:
    """Everything that a call may say, sorted by who needs it."""

    tuning: dict[str, Any]
    search: dict[str, Any]
    n: int = 50
    method: Any = "sift"
    use: str = "weights"
    decide: Decide = None
    features: Any = None
    recipe: str | None = None
    """The word that method and some of tuning came from."""

    def __post_init__(self) -> None:
        whole("n", self.n)
        if self.features is not None and self.features != GRADIENTS and not hasattr(self.features, "embed"):
            raise UnknownName("features", self.features, (GRADIENTS, "an Embedder"))
        if self.use not in USES:
            raise UnknownName("use", self.use, USES)
        if self.decide is not None and not callable(self.decide) and number("decide", self.decide) > 1:
            raise InvalidInput(f"decide must be a share from 0 to 1, a function, or None, got {self.decide!r}")

    def noted(self, trace: Trace) -> Trace:
        """The same, with the recipe among its settings, if there is one."""
        if self.recipe is None:
            return trace
        return replace(trace, settings={**trace.settings, "recipe": self.recipe})


def _check_names(search: Mapping[str, Any], method: Any) -> None:
    """Whatever is neither ours nor a setting of tuning must be one of the search, the selection or the method."""
    taken = [name for call in (Searching.search, select) for name in signature(call).parameters]
    known = {*taken, *recipes.find(method).options} - {"self", "query", "settings", "options"}
    for name in search:
        if name not in known:
            raise UnknownName("setting", name, known | {*setting_names(), *OWN})


def _worth_it(found: Found, decide: Decide) -> bool:
    """Is what was found worth learning?"""
    if decide is None:
        return True
    if callable(decide):
        return bool(decide(found))
    left = found.selection.uncertainty
    return bool(len(found)) and bool(left[0] > 0) and float(1 - left[-1] / left[0]) >= decide


def parted(name: str, text: Any, mode: str) -> tuple[str, str, str]:
    """The prompt, what is scored, and what is read before it, of a text or of a pair that is cut already."""
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    if isinstance(text, tuple):
        if len(text) != 2 or mode == "transductive":
            raise InvalidInput(
                f"{name} is a tuple of {len(text)}; a pair (prompt, continuation) is what mode 'split' can take"
            )
        prompt, scored = (text_with_content(f"{part} of {name}", one) for part, one in zip(PAIR, text, strict=True))
        return prompt, scored, prompt
    text_with_content(name, text)
    if mode == "transductive":
        return text, text, ""
    prompt, rest = halves(text)
    return prompt, rest, prompt


def halves(text: str) -> tuple[str, str]:
    """Cut at the white space nearest behind the middle, so that no word is cut; the second half keeps the space.

    >>> halves("one two three four")
    ('one two three', ' four')
    """
    middle = len(text) // 2
    places = [at for at in range(middle, len(text)) if text[at].isspace()]
    places += [at for at in range(middle, 0, -1) if text[at].isspace()]
    for at in places:
        if text[:at].strip() and text[at:].strip():
            return text[:at], text[at:]
    raise InvalidInput(
        f"the text {text[:40]!r} has no two words to split between; mode='transductive' scores all of it"
    )


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        clock[name] = clock.get(name, 0.0) + time.perf_counter() - began
