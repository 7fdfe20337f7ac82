"""The main flow for many prompts: one search for all, and with LoRA a whole batch tuned, scored and continued at once.

What cannot be stacked (all weights, other adapters, dropout) is tuned one prompt after the other; results are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from siftlm.call import CallSettings, is_worth_tuning, refuse_unscored, scored_steps, split_text
from siftlm.controller import BatchTuner, Controller, Generated, check_sampling
from siftlm.errors import Conflict, InvalidInput
from siftlm.local import LocalModel
from siftlm.memory import Found
from siftlm.progress import Meter, Report, reporter
from siftlm.results import Answer, Score
from siftlm.types import Likelihood, Step, Trace
from siftlm.validation import text_with_content, whole_number

Item = TypeVar("Item")

NO_LIKELIHOOD, NO_GENERATION = Likelihood(0.0, 0, 0), Generated("", 0, "length")


@dataclass(eq=False)
class PromptState:
    """One prompt on its way."""

    prompt: str
    scored: str
    before: str
    """Read before what is scored."""
    found: Found
    context: tuple[str, ...]
    trace: Trace | None = None
    """Known from the beginning where nothing is to be learned."""
    steps: int = 0
    curve: dict[int, float] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    base: Likelihood = NO_LIKELIHOOD
    tuned: Likelihood = NO_LIKELIHOOD
    made: Generated = NO_GENERATION

    @property
    def went(self) -> Trace:
        """The trace, of a task that is done."""
        return Trace((), "nothing", 0) if self.trace is None else self.trace


class SinglePromptTuner:
    """The controller as it is now, whoever it is asked for, with the face of a `BatchTuner`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def likelihoods(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        owners: Sequence[int] | None = None,  # noqa: ARG002
        texts: Sequence[Sequence[str]] | None = None,
    ) -> list[Likelihood]:
        """One after the other where there is something to put before them."""
        if texts is None or not any(texts):
            return self._controller.likelihoods(pairs)
        return [self._controller.likelihoods([pair], texts=own)[0] for pair, own in zip(pairs, texts, strict=True)]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        owners: Sequence[int] | None = None,  # noqa: ARG002
        texts: Sequence[Sequence[str]],
        **how: Any,
    ) -> list[Generated]:
        """One after the other."""
        return [self._controller.generate(one, texts=own, **how) for one, own in zip(prompts, texts, strict=True)]

    def rows(self, owners: Sequence[int]) -> AbstractContextManager[Any]:  # noqa: ARG002
        """There is one owner."""
        return nullcontext()


TunedModel = BatchTuner | SinglePromptTuner
AfterTunedSteps = Callable[[TunedModel, Mapping[int, PromptState]], None]
"""Told of steps that were taken together: prompt of the model -> task."""
TunedWork = Callable[[TunedModel, Sequence[PromptState]], None]
"""What is to be done with a model that has learned for these."""


def score_many(
    model: LocalModel,
    texts: Sequence[str | tuple[str, str]],
    mode: str,
    at: Sequence[int],
    watch: bool,
    batch: int,
    progress: bool | Report | None,
    settings: Mapping[str, Any],
) -> list[Score]:
    """See `LocalModel.score_many`."""
    asked = model._asked(settings)
    _check_list("text", texts)
    parts = [split_text(f"text {place}", text, mode) for place, text in enumerate(texts)]
    if watch and mode == "transductive":
        raise Conflict("watch=True in mode 'transductive' would watch the very text that is scored")
    points = scored_steps(at)
    meter = Meter("scoring", "texts", reporter(progress), total=len(parts))

    def after(now: TunedModel, taken: Mapping[int, PromptState]) -> None:
        due = {owner: task for owner, task in taken.items() if task.steps in points}
        with _shared_timer(list(due.values()), "score"):
            seen = now.likelihoods(
                [(task.scored, task.before) for task in due.values()],
                owners=list(due),
                texts=[task.context for task in due.values()],
            )
        for task, one in zip(due.values(), seen, strict=True):
            task.curve[task.steps] = one.bits_per_byte
        meter.add(sum(_step_share(task, asked) for task in taken.values()))

    def work(now: TunedModel, tasks: Sequence[PromptState]) -> None:
        with _shared_timer(tasks, "score"):
            seen = now.likelihoods(
                [(task.scored, task.before) for task in tasks],
                owners=range(len(tasks)),
                texts=[task.context for task in tasks],
            )
        for task, one in zip(tasks, seen, strict=True):
            task.tuned = task.base if task.went.ended == "diverged" else one

    scores: list[Score] = []
    for some in _prompt_batches(parts, batch):
        tasks = _select_passages(model, some, asked)
        with _shared_timer(tasks, "score"):
            base = model.controller.likelihoods([(task.scored, task.before) for task in tasks])
        for task, one in zip(tasks, base, strict=True):
            refuse_unscored(f"text {task.scored[:40]!r}", one)
            task.base = one
            task.curve = {0: one.bits_per_byte} if 0 in points else {}
        _tune(model.controller, tasks, asked, watch, after, work)
        scores.extend(
            Score(
                task.base.bits_per_byte,
                task.tuned.bits_per_byte,
                mode,
                task.tuned,
                task.base,
                task.found,
                task.went,
                tuple(sorted(task.curve.items())),
                task.clock,
            )
            for task in tasks
        )
        meter.at(len(scores))
    meter.finish()
    return scores


def generate_many(
    model: LocalModel,
    prompts: Sequence[str],
    watch: bool,
    batch: int,
    progress: bool | Report | None,
    sampling: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> list[Answer]:
    """See `LocalModel.generate_many`."""
    asked = model._asked(settings)
    parts = [(prompt, "", "") for prompt in _checked_prompts("prompt", prompts)]
    stop = sampling["stop"]
    how = {**sampling, "stop": [stop] if isinstance(stop, str) else list(stop)}
    check_sampling(how["max_new_tokens"], how["temperature"], how["top_p"], how["stop"], model.controller.context)
    meter = Meter("answering", "prompts", reporter(progress), total=len(parts))

    def after(_: TunedModel, taken: Mapping[int, PromptState]) -> None:
        meter.add(sum(_step_share(task, asked) for task in taken.values()))

    def work(now: TunedModel, tasks: Sequence[PromptState]) -> None:
        with _shared_timer(tasks, "generate"):
            made = now.generate(
                [task.prompt for task in tasks], owners=range(len(tasks)), texts=[task.context for task in tasks], **how
            )
        for task, one in zip(tasks, made, strict=True):
            task.made = one

    answers: list[Answer] = []
    for some in _prompt_batches(parts, batch):
        tasks = _select_passages(model, some, asked)
        _tune(model.controller, tasks, asked, watch, after, work)
        answers.extend(
            Answer(
                task.made.text, task.made.stopped, task.made.tokens, task.found, task.went, task.made.cut, task.clock
            )
            for task in tasks
        )
        meter.at(len(answers))
    meter.finish()
    return answers


def learned_many(
    model: LocalModel, prompts: Sequence[str], work: TunedWork, batch: int, settings: Mapping[str, Any]
) -> None:
    """Do ``work`` with a model that has learned for each prompt; task i of a call of it is owner i of its model."""
    asked = model._asked(settings)
    parts = [(prompt, "", "") for prompt in _checked_prompts("prompt", prompts)]
    for some in _prompt_batches(parts, batch):
        _tune(model.controller, _select_passages(model, some, asked), asked, False, lambda *_: None, work)


def selected_many(model: LocalModel, prompts: Sequence[str], settings: Mapping[str, Any]) -> list[PromptState]:
    """What each prompt is to learn from; the trace is there already where nothing is to be learned."""
    return _select_passages(
        model, [(prompt, "", "") for prompt in _checked_prompts("prompt", prompts)], model._asked(settings)
    )


# --- inside


def _check_list(what: str, texts: object) -> None:
    if isinstance(texts, str):
        raise InvalidInput(f"{what}s must be a list; for one {what} there is the method without _many")


def _checked_prompts(what: str, texts: Sequence[str]) -> list[str]:
    _check_list(what, texts)
    return [text_with_content(f"{what} {place}", text) for place, text in enumerate(texts)]


def _prompt_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    whole_number("batch", size)
    return (items[start : start + size] for start in range(0, len(items), size))


def _select_passages(
    model: LocalModel, parts: Sequence[tuple[str, str, str]], asked: CallSettings
) -> list[PromptState]:
    """All selections, in one search where they are made by the memory's own vectors."""
    prompts = [prompt for prompt, _, _ in parts]
    began = time.perf_counter()
    if getattr(asked, "features", None) is not None:  # of the model itself, which looks at each prompt's own candidates
        found = [model._select(prompt, asked) for prompt in prompts]
    else:
        found = model.memory.search_many(prompts, asked.n, method=asked.method, **asked.search)
    share = (time.perf_counter() - began) / len(parts)
    tasks = [
        PromptState(*part, one, asked.context(one), clock={"select": share, "tune": 0.0})
        for part, one in zip(parts, found, strict=True)
    ]
    for task in tasks:
        if asked.use == "context" or not is_worth_tuning(task.found, asked.decide):
            ended = "declined" if asked.use != "context" else "done" if task.context else "nothing"
            task.trace = asked.noted(Trace((), ended, 0, {"use": asked.use, "decide": str(asked.decide)}))
    return tasks


def _tune(
    controller: Controller,
    tasks: Sequence[PromptState],
    asked: CallSettings,
    watch: bool,
    after: AfterTunedSteps,
    work: TunedWork,
) -> None:
    """Do the ``work`` for every task with a model that has learned for it, where that is worth it."""
    alone = SinglePromptTuner(controller)
    if as_it_is := [task for task in tasks if task.trace is not None]:
        work(alone, as_it_is)
    left = [task for task in tasks if task.trace is None]
    if left and controller.can_tune_many(**asked.tuning):
        _tune_together(controller, left, asked, watch, after, work)
        return
    for task in left:

        def stepped(_: Step, task: PromptState = task) -> None:
            task.steps += 1
            after(alone, {0: task})

        def look(prompt: str = task.prompt) -> float:
            return controller.likelihood(prompt).nats_per_token

        began = _unscored_time([task])
        with controller.tuning(**asked.tuning) as tuner:
            trace = tuner.learn(task.found.texts, watch=look if watch else None, after=stepped)
            task.trace = asked.noted(trace)
            _record_tuning_time([task], began)
            work(alone, [task])


def _tune_together(
    controller: Controller,
    tasks: Sequence[PromptState],
    asked: CallSettings,
    watch: bool,
    after: AfterTunedSteps,
    work: TunedWork,
) -> None:
    began = _unscored_time(tasks)
    with controller.tuning_many(len(tasks), **asked.tuning) as many:

        def stepped(steps: Mapping[int, Step]) -> None:
            taken = {owner: tasks[owner] for owner in steps}
            for task in taken.values():
                task.steps += 1
            after(many, taken)

        traces = many.learn(
            [task.found.texts for task in tasks],
            watch=[task.prompt for task in tasks] if watch else None,
            after=stepped,
        )
        for task, trace in zip(tasks, traces, strict=True):
            task.trace = asked.noted(trace)
        _record_tuning_time(tasks, began)
        work(many, tasks)


def _step_share(task: PromptState, asked: CallSettings) -> float:
    """Of its learning, that one step is; about."""
    turns = int(asked.tuning.get("passes", 1)) * int(asked.tuning.get("windows", 1))
    return 1 / max(1, len(task.found) * turns)


def _unscored_time(tasks: Sequence[PromptState]) -> float:
    """Stands still while something is scored for them."""
    return time.perf_counter() - sum(task.clock.get("score", 0.0) for task in tasks)


def _record_tuning_time(tasks: Sequence[PromptState], began: float) -> None:
    share = (_unscored_time(tasks) - began) / len(tasks)
    for task in tasks:
        task.clock["tune"] = share


@contextmanager
def _shared_timer(tasks: Sequence[PromptState], what: str) -> Iterator[None]:
    """Each has its share of the time."""
    began = time.perf_counter()
    yield
    for task in tasks:
        task.clock[what] = task.clock.get(what, 0.0) + (time.perf_counter() - began) / len(tasks)
