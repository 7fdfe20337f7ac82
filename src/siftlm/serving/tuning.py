"""The prompts that learn: what each learns from, who learns the same, and what is remembered from earlier."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from siftlm.controller import BatchTuner, Tuning, TuningBatch, TuningRun
from siftlm.flow import PromptState as Selection
from siftlm.flow import selected_many
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving import events
from siftlm.serving.adapters import AdapterCache, AdapterKey, AdapterSlot, AdapterSlots, CachedTuning
from siftlm.serving.metrics import Metrics
from siftlm.serving.task import ServedRequest
from siftlm.types import Step


class EngineResources(Protocol):
    """What of the engine is needed here."""

    models: dict[str, LocalModel]
    memories: dict[str, Memory]
    count: Metrics


@dataclass(eq=False)
class TuningRequest:
    """One prompt that learns, for everybody who asked for just that."""

    place: AdapterSlot
    tasks: list[ServedRequest]
    selection: Selection
    course: TuningRun
    lesson: TuningBatch


class TuningQueue:
    """Only the engine's thread uses it."""

    def __init__(
        self, world: EngineResources, many: BatchTuner, places: AdapterSlots, remembering: AdapterCache
    ) -> None:
        self._engine, self._many = world, many
        self._places, self._remembering = places, remembering
        self._requests: dict[int, TuningRequest] = {}
        self._lessons: dict[str, TuningBatch] = {}
        self._versions: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def rows(self) -> int:
        """Choices that will be spoken when all have learned."""
        return sum(task.job.choices for task in self.tasks())

    def tasks(self) -> list[ServedRequest]:
        """All for whom something is being learned."""
        return [task for pupil in self._requests.values() for task in pupil.tasks]

    def admit(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        """Those who may speak at once; for the others learning begins."""
        ready: list[ServedRequest] = []
        new: dict[AdapterKey, list[ServedRequest]] = defaultdict(list)
        for task in tasks:
            task.passed("queue")
            if task.job.mode.memory is None:
                ready.append(task)
                continue
            try:
                key = self._key(task.job)
            except Exception as error:  # noqa: BLE001 (a memory that is damaged, say, is told to who asked)
                task.fail(error)
                continue
            if key in new or not self._known(key, task, ready):
                new[key].append(task)
        for key, selection in self._selected(new).items():
            ready += self._begin(key, new[key], selection)
        return ready

    def round(self) -> list[ServedRequest]:
        """One step for everybody; those who have learned enough."""
        ready: list[ServedRequest] = []
        for settings, lesson in list(self._lessons.items()):
            for course in lesson.round():
                ready += self._learned(self._requests.pop(course.owner))
            if not len(lesson):
                del self._lessons[settings]
        return ready

    def leave(self, task: ServedRequest) -> None:
        """Nobody waits for it; who is left alone learns no further."""
        for number, pupil in list(self._requests.items()):
            if task in pupil.tasks:
                pupil.tasks.remove(task)
                self._places.leave(pupil.place)
                if not pupil.tasks:
                    pupil.lesson.leave(number)
                    del self._requests[number]

    # --- inside

    def _key(self, job: events.Job) -> AdapterKey:
        name = job.mode.memory or ""
        version = self._engine.memories[name].version
        if self._versions.get(name) != version:
            self._remembering.forget(name, version)
            self._versions[name] = version
        settings = self._engine.models[name].settings(**job.mode.settings)
        return AdapterKey(name, version, job.learn_for, json.dumps(settings, sort_keys=True, default=str), job.asker)

    def _keep(self, key: AdapterKey, kept: CachedTuning) -> None:
        """Unless the memory has changed meanwhile, and what was learned from may no longer be there."""
        if self._engine.memories[key.memory].version == key.version:
            self._remembering.keep(key, kept)

    def _known(self, key: AdapterKey, task: ServedRequest, ready: list[ServedRequest]) -> bool:
        """Has somebody asked for this before, or does so now?"""
        place = self._places.share(key)
        pupil = None if place is None else self._requests.get(place.number)
        kept = place.kept if place is not None else self._remembering.find(key)
        self._engine.count.cache(pupil is not None or kept is not None)
        if place is None and kept is not None and kept.weights is not None:
            place = self._places.take(key, kept)
            self._many.load_weights(place.number, kept.weights)
        task.place = place
        if pupil is not None:
            pupil.tasks.append(task)
            task.tell(events.Selected(pupil.selection.found, cached=True))
        elif kept is not None:
            ready.append(self._ready(task, kept))
        return pupil is not None or kept is not None

    def _selected(self, new: Mapping[AdapterKey, Sequence[ServedRequest]]) -> dict[AdapterKey, Selection]:
        """One search for all who ask in the same way."""
        groups: dict[tuple[str, str], list[AdapterKey]] = defaultdict(list)
        for key in new:
            groups[key.memory, key.settings].append(key)
        found: dict[AdapterKey, Selection] = {}
        for (memory, _), keys in groups.items():
            model, settings = self._engine.models[memory], new[keys[0]][0].job.mode.settings
            try:
                made = selected_many(model, [key.prompt for key in keys], settings)
                found.update(zip(keys, made, strict=True))
            except Exception:  # noqa: BLE001 (one of them; whose it is shows when each is alone)
                for key in keys:
                    found.update(self._selected_alone(key, new[key]))
        return found

    def _selected_alone(self, key: AdapterKey, tasks: Sequence[ServedRequest]) -> dict[AdapterKey, Selection]:
        try:
            return {key: selected_many(self._engine.models[key.memory], [key.prompt], tasks[0].job.mode.settings)[0]}
        except Exception as error:  # noqa: BLE001 (told to who asked for it)
            for task in tasks:
                task.fail(error)
        return {}

    def _begin(self, key: AdapterKey, tasks: list[ServedRequest], selection: Selection) -> list[ServedRequest]:
        if selection.trace is not None:  # the texts are its context, or not worth learning from
            kept = CachedTuning(selection.found, selection.trace, selection.context)
            self._keep(key, kept)
            return [self._ready(task, kept, cached=False) for task in tasks]
        place = self._places.take(key)
        place.users = len(tasks)
        settings = self._engine.models[key.memory].tuning_settings(**tasks[0].job.mode.settings)
        lesson = self._lesson(settings)
        course = self._many.tuning_run(place.number, settings, selection.found.texts)
        self._requests[place.number] = TuningRequest(place, tasks, selection, course, lesson)
        for task in tasks:
            task.place = place
            task.passed("select")
            task.tell(events.Selected(selection.found))
        lesson.join([course])
        return []

    def _lesson(self, settings: Tuning) -> TuningBatch:
        name = json.dumps(settings.to_dict(), sort_keys=True)
        if name not in self._lessons:
            self._lessons[name] = self._many.tuning_batch(settings, after=self._stepped)
        return self._lessons[name]

    def _stepped(self, steps: Mapping[int, Step]) -> None:
        for owner, step in steps.items():
            pupil = self._requests[owner]
            event = events.Stepped(step, len(pupil.course.steps), len(pupil.course.planned))
            for task in pupil.tasks:
                task.tell(event)

    def _learned(self, pupil: TuningRequest) -> list[ServedRequest]:
        trace = self._many.trace(pupil.course)
        nothing = trace.ended in ("diverged", "nothing")
        weights = None if nothing else self._many.weights(pupil.place.number)
        context = () if trace.ended == "diverged" else pupil.selection.context
        kept = CachedTuning(pupil.selection.found, trace, context, weights)
        pupil.place.kept = kept
        self._keep(pupil.place.key, kept)
        self._engine.count.learned(len(trace.steps), sum(step.tokens for step in trace.steps))
        for task in pupil.tasks:
            task.passed("learn")
            task.context = context
            self._export(task)
            task.tell(events.Tuned(trace, context))
        return pupil.tasks

    def _ready(self, task: ServedRequest, kept: CachedTuning, *, cached: bool = True) -> ServedRequest:
        task.context = kept.context
        task.passed("select")
        task.tell(events.Selected(kept.found, cached=cached))
        self._export(task)
        task.tell(events.Tuned(kept.trace, kept.context))
        return task

    def _export(self, task: ServedRequest) -> None:
        """What was learned, for who speaks through it elsewhere; where the folder is, it is complete."""
        place, export = task.place, task.job.export
        if export is None or place is None or place.kept is None or place.kept.weights is None:
            return
        try:
            folder = export(place.key)
            if folder is not None:
                self._many.save_adapter(place.number, folder.with_name(f"{folder.name}.part")).replace(folder)
        except Exception as error:  # noqa: BLE001 (a full disk, say, is told to who asked)
            task.fail(error)
