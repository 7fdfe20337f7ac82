"""The main flow, for one prompt or many: candidates -> selection -> tune -> score or generate -> restore.

One prompt has the controller's `Tuner`. Several whose adapters can be stacked (LoRA) are tuned, scored and continued
together, with the same results up to rounding; other engines tune them one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

from siftlm.call import CallSettings
from siftlm.controller import BatchTuner, Controller, Generated, Tuner, restoring
from siftlm.errors import InvalidInput
from siftlm.guard import Guard, chosen, make_guards, observed
from siftlm.memory import Found, Searcher
from siftlm.memory.rerank import rerank
from siftlm.progress import Meter
from siftlm.results import Answer, ChoiceScores, Score, ScoredChoice
from siftlm.types import Likelihood, Step, Trace, UseChoice
from siftlm.validation import whole_number

ScoredPair = tuple[str, str]
"""A text to score, and what is read before it."""
Item = TypeVar("Item")
Result = TypeVar("Result")

WHY_UNSCORED = (
    "the tokenizer makes no token of it, or a single one that nothing stands before (the tokenizer has no start "
    "token). Give a longer text, or a pair (prompt, continuation)"
)
NO_TRACE = Trace((), "nothing", 0)
NO_GENERATION = Generated("", 0, "length")


@dataclass(eq=False)
class PromptState:
    """One prompt on its way through the flow."""

    prompt: str
    found: Found
    """The texts to tune on."""
    context: tuple[str, ...] = ()
    """Those of them that are read before the prompt."""
    tunes: bool = True
    """Is the model tuned for it?"""
    guard: Guard | None = None
    """What decides how the texts are used, for ``use="auto"`` where the memory has passages to hold out."""
    trace: Trace = NO_TRACE
    """How tuning went; known from the beginning where nothing is tuned."""
    steps: int = 0
    """Steps taken so far."""
    scored: Sequence[ScoredPair] = ()
    """The texts to score."""
    base: tuple[Likelihood, ...] = ()
    """Their likelihoods by the base model."""
    tuned: tuple[Likelihood, ...] = ()
    """Their likelihoods by the tuned model."""
    generated: Generated = NO_GENERATION
    """The continuation of the prompt."""
    seen: dict[int, tuple[Likelihood, ...]] = field(default_factory=dict)
    """Steps -> the likelihoods after them, where they were measured."""
    clock: dict[str, float] = field(default_factory=dict)
    """Seconds spent on this prompt."""


@dataclass(frozen=True)
class SinglePromptTuner:
    """The controller as it is now, for the only prompt there is, with the face of a `BatchTuner`."""

    controller: Controller
    tuner: Tuner | None = None
    """What tunes it; None where nothing is tuned."""

    def rewind(self, owner: int) -> None:  # noqa: ARG002
        """Forget what was learned."""
        if self.tuner is not None:
            self.tuner.rewind()

    def likelihoods(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        owners: Sequence[int] | None = None,  # noqa: ARG002
        texts: Sequence[Sequence[str]] | None = None,
    ) -> list[Likelihood]:
        """The likelihoods of (text, after), together where the same texts are to be read before them."""
        if texts is None:
            return self.controller.likelihoods(pairs)
        seen: list[Likelihood] = []
        for own, some in groupby(zip(texts, pairs, strict=True), key=itemgetter(0)):
            seen += self.controller.likelihoods([pair for _, pair in some], texts=own)
        return seen

    def generate(
        self,
        prompts: Sequence[str],
        *,
        owners: Sequence[int] | None = None,  # noqa: ARG002
        texts: Sequence[Sequence[str]],
        **sampling: Any,
    ) -> list[Generated]:
        """The continuations, one after the other."""
        return [self.controller.generate(one, texts=own, **sampling) for one, own in zip(prompts, texts, strict=True)]

    def rows(self, owners: Sequence[int]) -> AbstractContextManager[Any]:  # noqa: ARG002
        """A block in which nothing is switched, since there is one owner."""
        return nullcontext()


TunedModel = BatchTuner | SinglePromptTuner
AfterTunedSteps = Callable[[TunedModel, Mapping[int, PromptState]], None]
"""Called after steps that were taken together: owner in the model -> prompt."""
AfterStep = Callable[[Step], None]
"""Called after each step."""
TunedWork = Callable[[TunedModel, Sequence[PromptState]], None]
"""What is done with a model that is tuned for these prompts; prompt i is owner i of the model."""


# --- the steps


def select(memory: Searcher, settings: CallSettings, prompts: Sequence[str]) -> list[PromptState]:
    """The selection for each prompt; the trace is there already where nothing is to be tuned."""
    began = time.perf_counter()
    request = replace(settings.request, prompts=prompts)
    found = memory.run(request) if settings.embed is None else rerank(memory, request, settings.embed)
    guards: Sequence[Guard | None] = [None] * len(found)
    if settings.use == "auto":
        guards = [guard if guard.pairs else None for guard in make_guards(memory, request, found, settings.guard)]
    share = (time.perf_counter() - began) / max(1, len(prompts))
    states = []
    for prompt, own, guard in zip(prompts, found, guards, strict=True):
        # Nothing is tuned where the texts are only read, or are not worth tuning on.
        ended = ""
        if settings.use == "context":
            ended = "done" if own.hits else "nothing"
        elif callable(settings.decide):
            ended = "" if settings.decide(own) else "declined"
        elif settings.decide is not None:
            left = own.selection.uncertainty
            removed = float(1 - left[-1] / left[0]) if len(own) and left[0] > 0 else -1.0
            ended = "" if removed >= settings.decide else "declined"
        notes = {"use": settings.use, "decide": str(settings.decide), **settings.notes}
        trace = Trace((), ended, 0, notes) if ended else NO_TRACE
        context = tuple(own.texts) if settings.use in ("context", "both") else ()
        clock = {"select": share, "tune": 0.0}
        states.append(PromptState(prompt, own, context, not ended, guard, trace, clock=clock))
    return states


def tuning_groups(
    controller: Controller, states: Sequence[PromptState], settings: CallSettings
) -> list[list[PromptState]]:
    """The prompts that are tuned together; those first for which nothing is tuned."""
    untuned = [state for state in states if not state.tunes]
    left = [state for state in states if state.tunes]
    together = len(left) > 1 and controller.can_tune_many(settings.tuning)
    return [group for group in (untuned, *([left] if together else ([state] for state in left))) if group]


@restoring
def tuned(
    controller: Controller,
    group: Sequence[PromptState],
    settings: CallSettings,
    *,
    taken: AfterTunedSteps | None = None,
    after: AfterStep | None = None,
) -> Iterator[TunedModel]:
    """The model, tuned for one of `tuning_groups` inside the block and itself again afterwards.

    Args:
        controller: the model.
        group: prompts; their steps, trace and clock are filled in.
        settings: how to tune.
        taken: called after steps that were taken together, with the model as it is then.
        after: called after each step of each prompt.
    """
    model: TunedModel = SinglePromptTuner(controller)
    if not group[0].tunes:
        yield model
        return

    def stepped(steps: Mapping[int, Step]) -> None:
        for owner in steps:
            group[owner].steps += 1
        if taken is not None:
            taken(model, {owner: group[owner] for owner in steps})
        if after is not None:
            for step in steps.values():
                after(step)

    scored, began = sum(state.clock.get("score", 0.0) for state in group), time.perf_counter()
    tuning, texts = settings.tuning.to_dict(), [[hit.text for hit in state.found.hits] for state in group]
    guards = {owner: state.guard for owner, state in enumerate(group) if state.guard is not None}

    def watch(owners: Sequence[int]) -> list[float]:
        return observed(model, guards, owners)

    opened: AbstractContextManager[Tuner | BatchTuner]
    opened = controller.tuning(**tuning) if len(group) == 1 else controller.tuning_many(len(group), **tuning)
    with opened as tuner:
        if isinstance(tuner, BatchTuner):
            model = tuner
            traces = tuner.learn(texts, watch=watch if guards else None, after=stepped)
        else:
            model = SinglePromptTuner(controller, tuner)
            look = (lambda: watch([0])[0]) if guards else None
            traces = [tuner.learn(texts[0], watch=look, after=lambda step: stepped({0: step}))]
        # Time in which something was scored on the way is no time of tuning.
        scored -= sum(state.clock.get("score", 0.0) for state in group)
        for state, trace in zip(group, traces, strict=True):
            state.trace = replace(trace, settings={**trace.settings, **settings.notes})
        if settings.use == "auto":
            choose_use(model, dict(enumerate(group)))
        for state in group:
            state.clock["tune"] = (time.perf_counter() - began + scored) / len(group)
        yield model


def choose_use(model: TunedModel, states: Mapping[int, PromptState]) -> None:
    """Decide for each owner, whose tuning has ended, how its texts are used; its trace and context follow."""
    for state in states.values():
        if state.guard is not None and state.trace.ended == "diverged":
            state.guard.estimates.pop("weights", None)  # of a state that is gone
    choices = chosen(model, {owner: state.guard for owner, state in states.items() if state.guard is not None})
    for owner, state in states.items():
        choice = choices.get(owner, UseChoice("weights", {}, 0))
        state.trace = replace(state.trace, choice=choice)
        if choice.use in ("context", "both"):
            state.context = tuple(state.found.texts)
        if choice.use in ("none", "context"):
            model.rewind(owner)
            # Where nothing was learned anyway, it stays known why.
            if state.trace.steps and (choice.use == "context" or state.trace.ended != "diverged"):
                state.trace = replace(state.trace, ended="declined", kept=0)


# --- what is done with a tuned model


def score(
    controller: Controller,
    memory: Searcher,
    settings: CallSettings,
    parts: Sequence[tuple[str, str, str]],
    *,
    mode: str,
    points: frozenset[int] = frozenset(),
    after: AfterStep | None = None,
    name: str = "",
) -> list[Score]:
    """The scores of texts before and after the model is tuned for each.

    Args:
        controller: the model.
        memory: the texts to tune on.
        settings: how to select and to tune.
        parts: of each text the prompt, what is scored, and what is read before that; see `siftlm.call.split_text`.
        mode: noted in the results, and decides what the method ``auto`` is; see `CallSettings.for_itself`.
        points: also score after these numbers of steps.
        after: called after each step.
        name: of the text in an error; left out, a text is known by its beginning.
    """
    states = _measured(
        controller,
        memory,
        settings.for_itself() if mode == "transductive" else settings,
        [prompt for prompt, _, _ in parts],
        [[(scored, before)] for _, scored, before in parts],
        points,
        after,
        name,
    )
    return [
        Score(
            base.bits_per_byte,
            tuned.bits_per_byte,
            mode,
            tuned,
            base,
            state.found,
            state.trace,
            tuple((steps, one.bits_per_byte) for steps, [one] in sorted(state.seen.items())),
            state.clock,
        )
        for state in states
        for base, tuned in zip(state.base, state.tuned, strict=True)
    ]


def score_choices(
    controller: Controller,
    memory: Searcher,
    settings: CallSettings,
    questions: Sequence[tuple[str, Sequence[str]]],
    *,
    points: frozenset[int] = frozenset(),
    after: AfterStep | None = None,
) -> list[ChoiceScores]:
    """The scores of each question's choices after its prompt, before and after the model is tuned for the prompt."""
    prompts = [prompt for prompt, _ in questions]
    scored = [[(choice, prompt) for choice in choices] for prompt, choices in questions]
    states = _measured(controller, memory, settings, prompts, scored, points, after)
    return [
        ChoiceScores(
            tuple(map(ScoredChoice, choices, state.base, state.tuned)),
            state.found,
            state.trace,
            tuple(sorted(state.seen.items())),
            state.clock,
        )
        for (_, choices), state in zip(questions, states, strict=True)
    ]


def generate(
    controller: Controller,
    memory: Searcher,
    settings: CallSettings,
    prompts: Sequence[str],
    sampling: Mapping[str, Any],
    *,
    after: AfterStep | None = None,
) -> list[Answer]:
    """The continuations of prompts, each by the model tuned for it; ``sampling`` is checked already."""
    states = select(memory, settings, prompts)
    for group in tuning_groups(controller, states, settings):
        with tuned(controller, group, settings, after=after) as model:
            began = time.perf_counter()
            contexts, owners = [state.context for state in group], range(len(group))
            made = model.generate([state.prompt for state in group], owners=owners, texts=contexts, **sampling)
            for state, one in zip(group, made, strict=True):
                state.generated, state.clock["generate"] = one, (time.perf_counter() - began) / len(group)
    return [
        Answer(
            state.generated.text,
            state.generated.stopped,
            state.generated.tokens,
            state.found,
            state.trace,
            state.generated.cut,
            state.clock,
        )
        for state in states
    ]


def tune_each(
    controller: Controller, memory: Searcher, settings: CallSettings, prompts: Sequence[str], work: TunedWork
) -> None:
    """Call ``work`` with a model that is tuned for each prompt."""
    states = select(memory, settings, prompts)
    for group in tuning_groups(controller, states, settings):
        with tuned(controller, group, settings) as model:
            work(model, group)


def in_batches(
    items: Sequence[Item], batch: int, meter: Meter, work: Callable[[Sequence[Item]], list[Result]]
) -> list[Result]:
    """The results of ``work``, called with ``batch`` items at a time."""
    batch = whole_number("batch", batch)
    results: list[Result] = []
    for start in range(0, len(items), batch):
        results += work(items[start : start + batch])
        meter.at(len(results))
    meter.finish()
    return results


def _measured(
    controller: Controller,
    memory: Searcher,
    settings: CallSettings,
    prompts: Sequence[str],
    scored: Sequence[Sequence[ScoredPair]],
    points: frozenset[int],
    after: AfterStep | None,
    name: str = "",
) -> list[PromptState]:
    """The prompts with the likelihoods of their scored texts before and after the model is tuned for each."""
    # 1. Select, and score by the base model.
    states = select(memory, settings, prompts)
    for state, pairs in zip(states, scored, strict=True):
        state.scored = pairs
    base = _likelihoods(SinglePromptTuner(controller), dict(enumerate(states)), [()] * len(states))
    for state, seen in zip(states, base, strict=True):
        for (text, _), one in zip(state.scored, seen, strict=True):
            if not one.tokens or not one.bytes:
                raise InvalidInput(f"nothing of {name or f'text {text[:40]!r}'} can be scored: {WHY_UNSCORED}")
        state.base, state.seen = seen, {0: seen} if 0 in points else {}

    def taken(model: TunedModel, stepped: Mapping[int, PromptState]) -> None:
        due = {owner: state for owner, state in stepped.items() if state.steps in points}
        measured = _likelihoods(model, due, [state.context for state in due.values()]) if due else []
        for state, seen in zip(due.values(), measured, strict=True):
            state.seen[state.steps] = seen

    # 2. Tune, and score unless this very state was scored on the way.
    for group in tuning_groups(controller, states, settings):
        with tuned(controller, group, settings, taken=taken if points else None, after=after) as model:
            left = {}
            for owner, state in enumerate(group):
                if state.trace.ended == "diverged" or not (state.trace.kept or state.context):
                    state.tuned = state.base
                elif state.steps in state.seen and 0 < state.steps == state.trace.kept and settings.use != "auto":
                    state.tuned = state.seen[state.steps]
                else:
                    left[owner] = state
            measured = _likelihoods(model, left, [state.context for state in left.values()]) if left else []
            for state, seen in zip(left.values(), measured, strict=True):
                state.tuned = seen
    return states


def _likelihoods(
    model: TunedModel, states: Mapping[int, PromptState], contexts: Sequence[Sequence[str]]
) -> list[tuple[Likelihood, ...]]:
    """The likelihoods of the scored texts, owner in the model -> prompt; each has its share of the time."""
    began = time.perf_counter()
    pairs: list[ScoredPair] = []
    owners: list[int] = []
    texts: list[Sequence[str]] = []
    for (owner, state), context in zip(states.items(), contexts, strict=True):
        pairs += state.scored
        owners += [owner] * len(state.scored)
        texts += [context] * len(state.scored)
    seen = iter(model.likelihoods(pairs, owners=owners, texts=texts))
    for state in states.values():
        state.clock["score"] = state.clock.get("score", 0.0) + (time.perf_counter() - began) / len(states)
    return [tuple(islice(seen, len(state.scored))) for state in states.values()]
