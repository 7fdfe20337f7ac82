"""The prompts that are being tuned: selecting texts for them, sharing equal requests, and reusing cached adapters."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from siftlm.controller import BatchTuner, Tuning, TuningBatch, TuningRun
from siftlm.flow import PromptState, choose_use
from siftlm.guard import observed
from siftlm.serving.adapters import AdapterCache, AdapterKey, AdapterSlot, AdapterSlots, CachedTuning
from siftlm.serving.events import EngineProtocol, Job, Selected, ServedRequest, Stepped, Tuned
from siftlm.types import Step


@dataclass(eq=False)
class TuningRequest:
    """One prompt that is being tuned, for every request with the same key."""

    slot: AdapterSlot
    tasks: list[ServedRequest]
    state: PromptState
    run: TuningRun
    batch: TuningBatch
    automatic: bool
    """Do held-out passages decide how the texts are used?"""


class TuningQueue:
    """The prompts that are being tuned. Only the engine's thread uses it."""

    def __init__(self, engine: EngineProtocol, tuner: BatchTuner, slots: AdapterSlots, cache: AdapterCache) -> None:
        self._engine, self._tuner = engine, tuner
        self._slots, self._cache = slots, cache
        self._requests: dict[int, TuningRequest] = {}  # by the number of the slot
        self._batches: dict[str, TuningBatch] = {}  # by their settings
        self._versions: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def rows(self) -> int:
        """Choices to decode once all prompts are tuned."""
        return sum(task.job.choices for task in self.tasks())

    def tasks(self) -> list[ServedRequest]:
        """All requests that wait for tuning."""
        return [task for request in self._requests.values() for task in request.tasks]

    def admit(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        """Start tuning for new requests, and return those that need none."""
        ready: list[ServedRequest] = []
        new: dict[AdapterKey, list[ServedRequest]] = defaultdict(list)
        for task in tasks:
            task.record_time("queue")
            if task.job.mode.memory is None:
                ready.append(task)
                continue
            try:
                key = self._key(task.job)
            except Exception as error:  # noqa: BLE001 (a damaged memory, for example, fails this request alone)
                task.fail(error)
                continue
            if key in new or not self._join_known(key, task, ready):
                new[key].append(task)
        for key, state in self._select(new).items():
            ready += self._begin(key, new[key], state)
        return ready

    def round(self) -> list[ServedRequest]:
        """Take one step for every prompt, and return the requests whose tuning has ended."""
        ready: list[ServedRequest] = []
        for settings, batch in list(self._batches.items()):
            for run in batch.round():
                ready += self._finish(self._requests.pop(run.owner))
            if not len(batch):
                del self._batches[settings]
        return ready

    def leave(self, task: ServedRequest) -> None:
        """Drop a request; tuning stops when no other request shares it."""
        for number, request in list(self._requests.items()):
            if task in request.tasks:
                request.tasks.remove(task)
                self._slots.leave(request.slot)
                if not request.tasks:
                    request.batch.leave(number)
                    del self._requests[number]

    # --- inside

    def _key(self, job: Job) -> AdapterKey:
        name = job.mode.memory or ""
        version = self._engine.memories[name].version
        if self._versions.get(name) != version:
            self._cache.forget(name, version)
            self._versions[name] = version
        settings = self._engine.models[name].settings(**job.mode.settings)
        return AdapterKey(name, version, job.query, json.dumps(settings, sort_keys=True, default=str), job.caller)

    def _keep(self, key: AdapterKey, kept: CachedTuning) -> None:
        """Cache a tuning, unless the memory has changed meanwhile: its texts may have been deleted."""
        if self._engine.memories[key.memory].version == key.version:
            self._cache.keep(key, kept)

    def _join_known(self, key: AdapterKey, task: ServedRequest, ready: list[ServedRequest]) -> bool:
        """Attach a request to a running or cached tuning of the same key; False if there is none."""
        slot = self._slots.share(key)
        running = None if slot is None else self._requests.get(slot.number)
        kept = slot.kept if slot is not None else self._cache.find(key)
        self._engine.count.cache(running is not None or kept is not None)
        if slot is None and kept is not None and kept.weights is not None:
            slot = self._slots.take(key, kept)
            self._tuner.load_weights(slot.number, kept.weights)
        task.slot = slot
        if running is not None:
            running.tasks.append(task)
            task.emit(Selected(running.state.found, cached=True))
        elif kept is not None:
            ready.append(self._ready(task, kept))
        return running is not None or kept is not None

    def _select(self, new: Mapping[AdapterKey, Sequence[ServedRequest]]) -> dict[AdapterKey, PromptState]:
        """Select texts for new keys, with one search for all that share memory and settings."""
        groups: dict[tuple[str, str], list[AdapterKey]] = defaultdict(list)
        for key in new:
            groups[key.memory, key.settings].append(key)
        states: dict[AdapterKey, PromptState] = {}
        for (memory, _), keys in groups.items():
            model, settings = self._engine.models[memory], new[keys[0]][0].job.mode.settings
            try:
                selected = model.select_many([key.query for key in keys], **settings)
                states.update(zip(keys, selected, strict=True))
            except Exception:  # noqa: BLE001 (one of them failed; searching for each alone shows which)
                for key in keys:
                    states.update(self._select_alone(key, new[key]))
        return states

    def _select_alone(self, key: AdapterKey, tasks: Sequence[ServedRequest]) -> dict[AdapterKey, PromptState]:
        try:
            model, settings = self._engine.models[key.memory], tasks[0].job.mode.settings
            return {key: model.select_many([key.query], **settings)[0]}
        except Exception as error:  # noqa: BLE001 (it fails these requests alone)
            for task in tasks:
                task.fail(error)
        return {}

    def _begin(self, key: AdapterKey, tasks: list[ServedRequest], state: PromptState) -> list[ServedRequest]:
        """Start tuning on the selected texts; the requests come back at once if there is nothing to tune on."""
        if not state.tunes:  # the texts are its context, or not worth tuning on
            kept = CachedTuning(state.found, state.trace, state.context)
            self._keep(key, kept)
            return [self._ready(task, kept, cached=False) for task in tasks]
        slot = self._slots.take(key)
        slot.users = len(tasks)
        resolved = self._engine.models[key.memory].call_settings(**tasks[0].job.mode.settings)
        settings, automatic = resolved.tuning, resolved.use == "auto"
        batch = self._batch(settings)
        run = self._tuner.tuning_run(slot.number, settings, state.found.texts, watched=state.guard is not None)
        self._requests[slot.number] = TuningRequest(slot, tasks, state, run, batch, automatic)
        for task in tasks:
            task.slot = slot
            task.record_time("select")
            task.emit(Selected(state.found))
        batch.join([run])
        return []

    def _batch(self, settings: Tuning) -> TuningBatch:
        """The batch of all prompts with these settings."""
        name = json.dumps(settings.to_dict(), sort_keys=True)
        if name not in self._batches:
            self._batches[name] = self._tuner.tuning_batch(settings, self._emit_steps, self._watch)
        return self._batches[name]

    def _watch(self, owners: Sequence[int]) -> list[float]:
        """What the guards of these prompts expect of their models as they are now."""
        return observed(self._tuner, {owner: self._requests[owner].state.guard for owner in owners}, owners)

    def _emit_steps(self, steps: Mapping[int, Step]) -> None:
        for number, step in steps.items():
            request = self._requests[number]
            event = Stepped(step, len(request.run.steps), len(request.run.planned))
            for task in request.tasks:
                task.emit(event)

    def _finish(self, request: TuningRequest) -> list[ServedRequest]:
        """Cache the tuned adapter, and return the requests that waited for it."""
        state, owner = request.state, request.slot.number
        state.trace = self._tuner.trace(request.run)
        if request.automatic:
            choose_use(self._tuner, {owner: state})
        trace = state.trace
        untuned = trace.ended in ("diverged", "nothing", "declined")
        weights = None if untuned else self._tuner.weights(owner)
        context = () if trace.ended == "diverged" else state.context
        kept = CachedTuning(state.found, trace, context, weights)
        request.slot.kept = kept
        self._keep(request.slot.key, kept)
        self._engine.count.tuned(len(trace.steps), sum(step.tokens for step in trace.steps))
        for task in request.tasks:
            task.record_time("learn")
            task.context = context
            self._export(task)
            task.emit(Tuned(trace, context))
        return request.tasks

    def _ready(self, task: ServedRequest, kept: CachedTuning, *, cached: bool = True) -> ServedRequest:
        task.context = kept.context
        task.record_time("select")
        task.emit(Selected(kept.found, cached=cached))
        self._export(task)
        task.emit(Tuned(kept.trace, kept.context))
        return task

    def _export(self, task: ServedRequest) -> None:
        """Save the adapter for another server to decode with. A folder that exists is complete."""
        slot, export = task.slot, task.job.export
        if export is None or slot is None or slot.kept is None or slot.kept.weights is None:
            return
        try:
            folder = export(slot.key)
            if folder is not None:
                self._tuner.save_adapter(slot.number, folder.with_name(f"{folder.name}.part")).replace(folder)
        except Exception as error:  # noqa: BLE001 (a full disk, for example, fails this request alone)
            task.fail(error)
