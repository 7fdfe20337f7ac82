"""`LocalModel`: a memory and a controller brought together. What it does for a prompt is written in `siftlm.flow`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

from siftlm import flow, recipes
from siftlm.call import (
    GRADIENT_FEATURES,
    LOCAL_SETTINGS,
    SELECTION_SEED,
    CallSettings,
    calibrated_settings,
    check_after,
    check_untuned,
    checked_prompts,
    checked_question,
    checked_questions,
    checked_sampling,
    listed,
    scored_steps,
    settings_by_name,
    split_text,
    without_tuning,
)
from siftlm.controller import Controller, Tuning, restoring
from siftlm.embedding.models import GradientSettings, ModelEmbedder
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory import Found, Memory, Search, Searcher
from siftlm.memory.request import search_request
from siftlm.memory.rerank import check_rerank
from siftlm.progress import Meter, Report, reporter
from siftlm.results import Answer, ChoiceScores, Learned, Score
from siftlm.types import Step, Vectors
from siftlm.validation import flag, text_with_content, whole_number


class LocalModel:
    """A language model that is fine-tuned on texts of a memory for each prompt, and restored afterwards.

    Args:
        model: a name, a folder, a GGUF file, a transformers model (with ``tokenizer``), or a `Controller`.
        memory: a folder, a `Memory`, or an `Outside` vector database.
        embedder: for a folder whose own embedder has moved.
        tokenizer, engine, rank, alpha, targets, device, dtype, context: see `Controller`.
        calibrated: begin with what calibration chose for this memory and this model.
        search, tuning: a `siftlm.Search` and a `siftlm.Tuning`, whose fields that differ from their defaults count as
            if they were given by name. A default value is chosen by name alone: ``passes=1``.
        **settings: what to use unless a call says otherwise: ``n``, ``method``, ``use``, ``decide``, ``guard``,
            ``features``; the fields of `siftlm.Search` and of `siftlm.Tuning`, and the method's own options. They win
            over ``search`` and ``tuning``. ``seed`` is that of the selection and of tuning; ``selection_seed``, like
            the field of ``search``, that of the selection alone. The ``seed`` of `generate` is that of the tokens.

    ``features="gradients"`` selects among the ``k`` nearest by what the model would learn from each, not by the
    memory's own vectors; any `siftlm.embedding.Embedder` will do as well.

    ``method="hullft"`` is a recipe: one word for a published way to select and the way to learn that goes with it
    (see `siftlm.recipes`). What is given by name beats what a recipe implies.

    What is not given comes from the memory's calibration for this model, if there is one, and else from published
    values: 50 texts of the 200 nearest, one step on each. They are selected by ``auto``, for variety where the nearest
    are much alike, else by nearness; by ``sift`` where they are only read (``use="context"``), and beside settings that
    are SIFT's, such as ``noise``. Of a calibration that was made for another method than the one in use, only the
    settings of tuning and ``n`` are taken; of one that was made with all weights where this model tunes adapters, or
    the other way round, all but the learning rate.
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
        search: Search | None = None,
        tuning: Tuning | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(memory, Searcher):
            if embedder is not None:
                raise Conflict(
                    f"{setting('embedder')} is for a memory that is opened by its path; this one is open already"
                )
            self.memory = memory
        elif isinstance(memory, (str, os.PathLike)):
            self.memory = Memory.open(memory, embedder=embedder)
        else:
            raise InvalidInput(f"{setting('memory')} must be a folder, a Memory or an Outside, got {memory!r:.60}")
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
        self.calibration: Mapping[str, Any] = (
            calibrated_settings(self.memory, self.controller) if flag("calibrated", calibrated) else {}
        )
        """The settings that calibration chose; empty where there is none, or none is wanted."""
        self._defaults = settings_by_name({"search": search, "tuning": tuning, **settings})
        self.settings()  # a wrong setting is an error here rather than at the first prompt

    # --- the flow

    @restoring
    def learned(
        self,
        prompt: str,
        n: int | None = None,
        method: Any = None,
        *,
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Iterator[Learned]:
        """The model, fine-tuned for the prompt inside the block and restored afterwards.

        ``after``: called after each step.
        """
        text_with_content("the prompt", prompt)
        resolved = self.call_settings(n, method, **settings)
        check_after(after)
        [state] = flow.select(self.memory, resolved, [prompt])
        with flow.tuned(self.controller, [state], resolved, after=after):
            yield Learned(state.found, state.trace, state.context)

    @restoring
    def tuned(self, prompt: str, n: int | None = None, method: Any = None, **settings: Any) -> Iterator[Any]:
        """The plain transformers model, tuned for the prompt inside the block and itself again afterwards."""
        with self.learned(prompt, n, method, **settings):
            yield self.controller.model

    def select(self, prompt: str, n: int | None = None, method: Any = None, **settings: Any) -> Found:
        """The texts that the model would be tuned on."""
        text_with_content("the prompt", prompt)
        resolved = self.call_settings(n, method, **settings)
        return flow.select(self.memory, resolved, [prompt])[0].found

    def score(
        self,
        text: str | tuple[str, str],
        n: int | None = None,
        method: Any = None,
        *,
        mode: Literal["split", "transductive"] = "split",
        at: Sequence[int] = (),
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Score:
        """The bits per byte of a text before and after the model is tuned for it.

        Args:
            text: at least two words, in mode ``split``; or a pair, the prompt and the continuation that is scored.
            n: how many texts to tune on.
            method: how to select them.
            mode: ``split`` takes the first half as the prompt and scores the second, which is what a continuation is
                worth; ``transductive`` takes the text as the prompt for itself, as in the published tables.
            at: also score after these numbers of steps.
            after: called after each step.
            **settings: as for `LocalModel`, ``search`` and ``tuning`` included.
        """
        parts = split_text("the text", text, mode)
        points, resolved = scored_steps(at), self.call_settings(n, method, **settings)
        if after is not None:
            check_after(after)
        return flow.score(
            self.controller,
            self.memory,
            resolved,
            [parts],
            mode=mode,
            points=points,
            after=after,
            name="the text",
        )[0]

    def score_choices(
        self,
        prompt: str,
        choices: Sequence[str],
        n: int | None = None,
        method: Any = None,
        *,
        at: Sequence[int] = (),
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> ChoiceScores:
        """How likely each of several continuations of a prompt is, before and after the model is tuned for the prompt.

        Args:
            prompt: the question.
            choices: two or more answers, each with the white space that stands before it.
            n, method, at, after, **settings: as for `score`.
        """
        question = checked_question(prompt, choices)
        points, resolved = scored_steps(at), self.call_settings(n, method, **settings)
        check_after(after)
        return flow.score_choices(self.controller, self.memory, resolved, [question], points=points, after=after)[0]

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
        after: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Answer:
        """The continuation of a prompt by the model tuned for it.

        Unless ``use`` is given, it is ``auto``: held-out passages decide whether the texts are learned, read, both, or
        neither, and ``trace.choice`` of the answer says why.

        Args:
            prompt: what to continue.
            n: how many texts to tune on.
            method: how to select them.
            max_new_tokens, temperature, top_p, stop, seed: see `siftlm.controller.Controller.generate`.
            after: called after each step.
            **settings: as for `LocalModel`, ``search`` and ``tuning`` included.
        """
        sampling = checked_sampling(self.controller.context, max_new_tokens, temperature, top_p, stop, seed)
        text_with_content("the prompt", prompt)
        resolved = self.call_settings(n, method, "auto", **settings)
        check_after(after)
        return flow.generate(self.controller, self.memory, resolved, [prompt], sampling, after=after)[0]

    def score_many(
        self,
        texts: Sequence[str | tuple[str, str]],
        n: int | None = None,
        method: Any = None,
        *,
        mode: Literal["split", "transductive"] = "split",
        at: Sequence[int] = (),
        batch: int = 32,
        progress: bool | Report | None = None,
        **settings: Any,
    ) -> list[Score]:
        """`score` for many texts: one search for all, and LoRA tunes ``batch`` at once.

        The results are those of `score`, for LoRA up to rounding: to four decimals in ``precision="float32"``, while in
        bfloat16 bits per byte may differ in the third.
        """
        resolved = self.call_settings(n, method, **settings)
        parts = [split_text(f"text {place}", text, mode) for place, text in enumerate(listed("text", texts))]
        points = scored_steps(at)
        meter = Meter("scoring", "texts", reporter(progress), total=len(parts))
        work = partial(flow.score, self.controller, self.memory, resolved, mode=mode, points=points)
        return flow.in_batches(parts, batch, meter, partial(work, after=lambda _: meter.add(resolved.step_share)))

    def score_choices_many(
        self,
        questions: Sequence[tuple[str, Sequence[str]]],
        n: int | None = None,
        method: Any = None,
        *,
        at: Sequence[int] = (),
        batch: int = 32,
        progress: bool | Report | None = None,
        **settings: Any,
    ) -> list[ChoiceScores]:
        """`score_choices` for many pairs of a prompt and its choices; LoRA tunes ``batch`` prompts at once.

        The results are those of `score_choices`, for LoRA up to rounding; see `score_many`.
        """
        resolved = self.call_settings(n, method, **settings)
        checked = checked_questions(questions)
        points = scored_steps(at)
        meter = Meter("scoring", "questions", reporter(progress), total=len(checked))
        work = partial(flow.score_choices, self.controller, self.memory, resolved, points=points)
        return flow.in_batches(checked, batch, meter, partial(work, after=lambda _: meter.add(resolved.step_share)))

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
        batch: int = 32,
        progress: bool | Report | None = None,
        **settings: Any,
    ) -> list[Answer]:
        """`generate` for many prompts: one search for all, and LoRA tunes ``batch`` at once.

        The results are those of `generate`, for LoRA up to rounding; see `score_many`.
        """
        resolved = self.call_settings(n, method, "auto", **settings)
        checked = checked_prompts(prompts)
        sampling = checked_sampling(self.controller.context, max_new_tokens, temperature, top_p, stop, seed)
        meter = Meter("answering", "prompts", reporter(progress), total=len(checked))
        work = partial(flow.generate, self.controller, self.memory, resolved, sampling=sampling)
        return flow.in_batches(checked, batch, meter, partial(work, after=lambda _: meter.add(resolved.step_share)))

    # --- for evaluation, serving and integrations

    def select_many(self, prompts: Sequence[str], **settings: Any) -> list[flow.PromptState]:
        """The selection for each prompt; the trace is there already where nothing is to be tuned."""
        return flow.select(self.memory, self.call_settings(**settings), checked_prompts(prompts))

    def tune_many(self, prompts: Sequence[str], work: flow.TunedWork, *, batch: int = 32, **settings: Any) -> None:
        """Call ``work(model, prompts)`` with a model tuned for each; prompt i of a call is owner i of its model.

        LoRA tunes ``batch`` prompts at once.
        """
        resolved = self.call_settings(**settings)

        def tune(some: Sequence[str]) -> list[None]:
            flow.tune_each(self.controller, self.memory, resolved, some, work)
            return [None] * len(some)

        flow.in_batches(checked_prompts(prompts), batch, Meter("tuning", "prompts", None), tune)

    def uncalibrated(self) -> LocalModel:
        """The same model, memory and settings, without what calibration chose."""
        model = copy.copy(self)
        model.calibration = {}
        model.settings()  # which may have been right only beside what calibration chose
        return model

    # --- settings

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The settings of a call with these changes; an unknown name or a wrong value is an error.

        Of the search λ and repeats are there; other settings that nobody chose are left out, and have the defaults of
        `Memory.search`. ``seed`` is that of tuning; where the selection has another, ``selection_seed`` is there.
        """
        resolved = self.call_settings(**changes)
        if resolved.features is None:
            self.memory.check_request(resolved.request)
        else:
            check_rerank(self.memory, resolved.request)
        return resolved.to_dict()

    def tuning_settings(self, **changes: Any) -> Tuning:
        """The settings of tuning of a call with these changes."""
        return self.call_settings(**changes).tuning

    def call_settings(
        self, n: int | None = None, method: Any = None, default_use: str = "weights", /, **changes: Any
    ) -> CallSettings:
        """The resolved settings of a call with these changes; ``n`` and ``method`` may be None by place, not by name.

        A call wins over the model, this over a recipe, this over calibration, and this over defaults.
        """
        if n is not None:
            changes["n"] = n
        if method is not None:
            changes["method"] = method
        # The one place where settings are sorted by who needs them.
        if "search" in changes or "tuning" in changes or "seed" in changes:
            changes = settings_by_name(changes)
        known, recipe = recipes.merged(self.calibration, self._defaults, changes)
        own = {"use": default_use, **{name: known.pop(name) for name in LOCAL_SETTINGS if name in known}}
        how = {name: known.pop(name) for name in Tuning.names() if name in known}
        if SELECTION_SEED in known:
            known["seed"] = whole_number(SELECTION_SEED, known.pop(SELECTION_SEED), least=0)
        n, method, features = own.pop("n", 50), own.pop("method"), own.get("features")
        request = search_request(n, method, known, also_known=(*Tuning.names(), *LOCAL_SETTINGS, SELECTION_SEED))
        tuning = self.controller.tuning_settings(**how)
        if changes.get("use") == "context" and len(rest := without_tuning(changes)) < len(changes):
            check_untuned(tuning, self.call_settings(**rest).tuning)
        return CallSettings(
            request,
            tuning,
            embed=None if features is None else partial(self._embed, features),
            recipe=recipe,
            chosen=frozenset(known) - request.options.keys(),
            **own,
        )

    # --- inside

    def _embed(self, features: Any, texts: Sequence[str]) -> Vectors:
        """The features of texts, by the model as it is now."""
        made = self.gradient_embedder if features == GRADIENT_FEATURES else features
        vectors: Vectors = self.controller.evaluating(lambda: made.embed(texts))
        return vectors

    @cached_property
    def gradient_embedder(self) -> ModelEmbedder:
        """The features ``"gradients"``: those of the controller's own model, as it is when it is used."""
        from siftlm.embedding.gradients import loaded_model_gradients  # which needs torch

        model, tokenizer, context = self.controller.model, self.controller.tokenizer, self.controller.context
        name = f"gradients:{self.controller.name}"
        made = loaded_model_gradients(name, model, tokenizer)
        if made.max_tokens is None or made.max_tokens > context:
            made = loaded_model_gradients(name, model, tokenizer, GradientSettings(max_tokens=context))
        return made

    def __repr__(self) -> str:
        return f"LocalModel({self.controller!r}, {self.memory!r})"
