"""`evaluate`: every method on every text, into the folder of a run."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.call import CallSettings, same_texts
from siftlm.controller import setting_names
from siftlm.errors import Conflict, InvalidInput, SiftlmError, setting
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.fingerprints import run_question
from siftlm.evaluation.measured import Measured, measured_from_score, selection_fields
from siftlm.evaluation.methods import (
    BASELINE_FILE_SETTING,
    BASELINE_SETTING,
    Baseline,
    Case,
    EvaluatedMethod,
    parse_methods,
)
from siftlm.evaluation.protocol import Protocol, TextParts, leaked_rows
from siftlm.evaluation.results import BASE_TOLERANCE
from siftlm.evaluation.run_folder import RunFolder
from siftlm.memory import Memory
from siftlm.memory.near_duplicates import copy_mask
from siftlm.progress import Meter, Report, reporter
from siftlm.results import Score

if TYPE_CHECKING:
    from siftlm.local import LocalModel

# Settings that decide nothing unless held-out passages are watched.
GUARD_SETTINGS = ("watch_every", "patience", "guard")
Records = Mapping[tuple[str, str], Mapping[str, Any]]
"""The records of a run by text and method."""
# Texts that LoRA tunes together.
TUNING_BATCH_TEXTS = 16


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`."""

    path: Path
    texts: int
    """Usable texts of the corpus."""
    unusable: int
    """Texts too short for the protocol, or whose prompt has no direction to search in."""
    done: int
    """Results of this call."""
    known: int
    """Results of earlier calls and of other processes."""
    missing: int
    """Results that other processes were still working on when this call ended."""


def evaluate(
    model: LocalModel,
    texts: Sequence[Text],
    methods: str | Sequence[str],
    *,
    into: str | os.PathLike[str],
    protocol: Protocol | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool | Report | None = None,
) -> Evaluation:
    """Score every text by every method, into a run's folder.

    Args:
        model: a controller and a memory. A calibration's settings count for the method ``calibrated`` alone; the
            model's own defaults (``LocalModel(…, clip=1)``) for all.
        texts: see `siftlm.evaluation.corpus.read`; duplicates count once.
        methods: see `siftlm.evaluation.methods`.
        into: the run's folder. An existing run must have the same question, and keeps its results; methods and texts
            may be added.
        protocol: how to score, and after how many steps.
        about: more to record with the question, such as the source of the texts.
        progress: as in `Memory.build`.
    """
    protocol = protocol or Protocol()
    evaluated = parse_methods(methods)
    distinct = list({text.id: text for text in texts}.values())
    usable = interleave_domains([text for text in distinct if protocol.fits(text.text)])
    runner = _MethodRunner(model, evaluated, protocol)
    # 1. Wrong settings are refused before there is any work or folder.
    settings = {method.label: runner.settings(method) for method in evaluated}
    if distinct and not usable:
        longest = max(len(text.text) for text in distinct)
        raise InvalidInput(
            f"none of {len(distinct)} texts is long enough for the protocol {protocol.name!r} (the longest has "
            f"{longest} characters): nothing of it would be left to score"
        )
    trial = next(filter(runner.has_direction, usable), None)
    if usable and trial is None:
        raise InvalidInput(
            f"none of {len(usable)} texts has a word that the memory's embedder {model.memory.embedder.name!r} knows: "
            "nothing can be searched for. Evaluate other texts, or build the memory with another embedder"
        )
    if trial is not None:
        for method in evaluated:
            runner.check_selection(method, trial)
    # 2. Every result is stored as soon as it is known.
    with RunFolder.begin(into, run_question(model, protocol, about or {})) as folder:
        folder.add_record_check(settings_check(folder.path, settings))
        known = sum((text.id, method.label) in folder.records for text in usable for method in evaluated)
        # Known results take no time, and would distort the estimate of the time left.
        meter = Meter("evaluating", "results", reporter(progress), total=len(usable) * len(evaluated) - known)
        meter.at(0)
        before = len(folder.records)
        done = 0
        for batch in runner.batches(usable):
            for method in evaluated:
                with ExitStack() as claims:
                    mine = [text for text in batch if claims.enter_context(folder.claim(text.id, method.label))]
                    mine = [text for text in mine if runner.has_direction(text)]
                    for text, result in runner.measured(method, mine, folder.records) if mine else ():
                        _check_base(text, method, result, folder)
                        folder.add(_result_record(text, method, settings[method.label], result, folder))
                        done += 1
                        meter.at(len(folder.records) - before)  # those of other processes as well
        usable = [text for text in usable if text.id not in runner.without_direction]
        there = sum((text.id, method.label) in folder.records for text in usable for method in evaluated)
    meter.finish()
    total = len(usable) * len(evaluated)
    return Evaluation(Path(into), len(usable), len(distinct) - len(usable), done, there - done, total - there)


class _MethodRunner:
    """Runs methods on texts, with one model and protocol."""

    def __init__(self, model: LocalModel, methods: Sequence[EvaluatedMethod], protocol: Protocol) -> None:
        self._calibrated = model
        # Every method begins with the same settings; those of a calibration are a method of its own.
        self._plain = model.uncalibrated()
        self._methods, self._protocol = methods, protocol
        self._leaks_cache: tuple[TextParts, list[int]] | None = None
        self._with_direction: set[str] = set()
        self.without_direction: set[str] = set()
        """Ids of texts whose prompt the memory cannot search for."""

    def settings(self, method: EvaluatedMethod) -> dict[str, Any]:
        """All settings that decide the method's results, for the record."""
        if method.baseline is not None:
            return self._baseline_settings(method.baseline, method.settings)
        model = self._model(method)
        if method.calibrated and not model.calibration:
            raise InvalidInput(
                f"{method.label}: there is no calibration of this memory for {model.controller.name}: siftlm calibrate"
            )
        return _json_settings(model.settings(n=self._protocol.n, **method.settings))

    def check_selection(self, method: EvaluatedMethod, text: Text) -> None:
        """Select once if there are settings of a selection, many of which are checked only there."""
        selects = method.baseline is None or method.baseline.options is None
        settings = method.settings
        if selects and set(settings) - {"method", "features"}:
            model = self._model(method)
            model.select(self._protocol.parts(text.text).prompt, n=1, **{**settings, "features": None})

    def has_direction(self, text: Text) -> bool:
        """Has the prompt's vector a direction? A text without one, all words unknown to the embedder, is unusable."""
        if text.id not in self._with_direction | self.without_direction:
            prompt = self._protocol.parts(text.text).prompt
            vector = np.asarray(self._plain.memory.embedder.embed([prompt], as_query=True), dtype=np.float64)
            directed = bool(np.isfinite(vector).all() and vector.any())
            (self._with_direction if directed else self.without_direction).add(text.id)
        return text.id in self._with_direction

    def batches(self, texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
        """The texts in batches that are tuned together."""
        size = TUNING_BATCH_TEXTS if self._plain.controller.adapters else 1
        return (texts[start : start + size] for start in range(0, len(texts), size))

    def measured(
        self, method: EvaluatedMethod, texts: Sequence[Text], records: Records
    ) -> Iterator[tuple[Text, Measured]]:
        """The method's result for each text; the texts are tuned together where that is possible.

        ``records``: what is known; where a method selected the same rows for a text, the model is not tuned again.
        """
        model = self._model(method)
        parts = [self._protocol.parts(text.text) for text in texts]
        if method.baseline is None and self._can_batch(model, method, texts):
            scores = model.score_many(
                [(one.prompt, one.scored) if one.before else one.scored for one in parts],
                n=self._protocol.n,
                mode=self._mode,
                at=self._protocol.points,
                progress=False,
                **method.settings,
            )
            for text, one, score in zip(texts, parts, scores, strict=True):
                yield text, self._of_score(one, score)
            return
        for text, one in zip(texts, parts, strict=True):
            yield text, self._one(model, method, one, text, records)

    # --- inside

    def _baseline_settings(self, baseline: Baseline, settings: Mapping[str, Any]) -> dict[str, Any]:
        source = {BASELINE_SETTING: baseline.name}
        if baseline.digest:
            source[BASELINE_FILE_SETTING] = baseline.digest
        if baseline.options is None:
            return {**source, **_json_settings(self._plain.settings(n=self._protocol.n, **settings))}
        options = {**baseline.options, **settings}
        tuning: dict[str, Any] = {}
        if "rate" in options:  # the baseline tunes the model
            named = {key: value for key, value in options.items() if key in setting_names() and value is not None}
            resolved = self._plain.settings(**named)
            if options["rate"] is None:  # the model's own settings count, so they are recorded
                tuning = {key: resolved[key] for key in setting_names()}
        return _json_settings({**source, **options, **tuning})

    def _one(
        self, model: LocalModel, method: EvaluatedMethod, parts: TextParts, text: Text, records: Records
    ) -> Measured:
        exclude = sorted({*text.exclude, *self._leaks(parts)})
        if method.baseline is not None:
            case = Case(
                self._plain,
                parts.prompt,
                parts.scored,
                parts.before,
                self._protocol.points,
                self._protocol.name,
                tuple(exclude),
                text.domain,
            )
            result = _run_baseline(method.baseline, method, case)
            if not result.rows or not isinstance(case.model.memory, Memory):
                return result
            return replace(result, copies=_count_copies(parts, case.model.memory.texts(result.rows)))
        own = self._call_settings(method, exclude)
        for other in self._methods:
            record = records.get((text.id, other.label))
            if record is None or other.baseline is not None:
                continue
            known = Measured.of(record)
            found = same_texts(model.memory, self._call_settings(other, exclude), own, parts.prompt, known.rows)
            if found is not None:
                return replace(known, **selection_fields(found))
        score = model.score(
            (parts.prompt, parts.scored) if parts.before else parts.scored,
            n=self._protocol.n,
            mode=self._mode,
            at=self._protocol.points,
            **_excluding(method, exclude),
        )
        return self._of_score(parts, score)

    def _call_settings(self, method: EvaluatedMethod, exclude: Sequence[int]) -> CallSettings:
        """The resolved settings of the method, no baseline, on a text for which these rows are excluded."""
        settings = self._model(method).call_settings(self._protocol.n, **_excluding(method, exclude))
        return settings.for_itself() if self._mode == "transductive" else settings

    def _model(self, method: EvaluatedMethod) -> LocalModel:
        return self._calibrated if method.calibrated else self._plain

    def _can_batch(self, model: LocalModel, method: EvaluatedMethod, texts: Sequence[Text]) -> bool:
        if len(texts) < 2 or self._protocol.copies == "exclude" or any(text.exclude for text in texts):
            return False
        tuning = {name: value for name, value in method.settings.items() if name in model.controller.settings.to_dict()}
        return model.controller.can_tune_many(model.controller.tuning_settings(**tuning))

    @property
    def _mode(self) -> Any:
        return "transductive" if self._protocol.name == "transductive" else "split"

    def _leaks(self, parts: TextParts) -> list[int]:
        """Rows that leak this text, if the protocol excludes them."""
        if self._protocol.copies != "exclude":
            return []
        if self._leaks_cache is None or self._leaks_cache[0] != parts:
            self._leaks_cache = (
                parts,
                leaked_rows(self._plain.memory, [parts.prompt, parts.scored], _full_text(parts)),
            )
        return self._leaks_cache[1]

    def _of_score(self, parts: TextParts, score: Score) -> Measured:
        return replace(
            measured_from_score(score, self._protocol.points), copies=_count_copies(parts, score.found.texts)
        )


def _excluding(method: EvaluatedMethod, rows: Sequence[int]) -> dict[str, Any]:
    """The method's settings, with these rows excluded."""
    return {**method.settings, **({"exclude": rows} if rows else {})}


def _run_baseline(baseline: Baseline, method: EvaluatedMethod, case: Case) -> Measured:
    """The baseline's result. If the caller's own file fails, the error names the file and the line."""
    try:
        result = baseline.run(case, **method.settings)
    except SiftlmError:
        raise
    except Exception as error:
        if not baseline.digest:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise SiftlmError(
            f"{method.label}: {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno}; the "
            f"text begins {case.scored[:30]!r})"
        ) from error
    if not isinstance(result, Measured):
        raise InvalidInput(f"{method.label}: run must return a Measured, got {type(result).__name__}")
    return result


# --- a run's settings: recorded with a method's first result, and the same for all later ones


def settings_check(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], None]:
    """A check that refuses records made with other settings than ``settings``.

    It runs on every record that is read: two processes that begin at once with different settings see each other's
    first record before they write their own.

    Args:
        path: the run's folder, for the message.
        settings: method -> all that decides its results now.
    """
    current = json.loads(json.dumps(settings))

    def check(record: Mapping[str, Any]) -> None:
        label = record["method"]
        old, new = record.get("settings"), current.get(label)
        if old is None or new is None:
            return
        for name in old.keys() & new.keys():  # another version may have more
            if old[name] != new[name]:
                change = _describe_change(label, name, old[name], new[name])
                raise Conflict(f"{path}: holds results of {label} with {change}")

    return check


def _describe_change(label: str, name: str, old: Any, new: Any) -> str:
    if name == BASELINE_FILE_SETTING:
        return f"another file than {label}'s is now: give {setting('into')} another folder, or the file another name"
    return f"{name}={old!r}, and now it is {new!r}; give {setting('into')} another folder, or write {label}+{name}=…"


def _check_base(text: Text, method: EvaluatedMethod, result: Measured, folder: RunFolder) -> None:
    """Refuse a result whose base model or scored bytes differ from those of other methods: they cannot be compared."""
    if not (math.isfinite(result.base) and result.base > 0):
        raise InvalidInput(f"{method.label}: base={result.base} is no number of bits per byte (text {text.id})")
    for name in sorted(folder.recorded_settings):
        record = folder.records.get((text.id, name), {})
        if not record.get("base"):
            continue
        if record.get("bytes", 0) != result.bytes:
            raise Conflict(
                f"{method.label} scored {result.bytes} bytes of text {text.id}, and {name} {record.get('bytes', 0)}: "
                "all methods must score the same"
            )
        if abs(record["base"] - result.base) > BASE_TOLERANCE * record["base"]:
            raise Conflict(
                f"text {text.id}: the base model needs {result.base:g} bits per byte where {method.label} was "
                f"measured, and {record['base']:g} where {name} was: some baseline has left the model changed"
            )


def _count_copies(parts: TextParts, texts: Sequence[str]) -> int:
    """The number of passages that leak the text: those that ``copies="exclude"`` keeps out."""
    leaks = np.zeros(len(texts), dtype=bool)
    # A passage across the cut shares half of its words with either part, and all of them with the text.
    for piece in dict.fromkeys((parts.prompt, parts.scored, _full_text(parts))):
        leaks |= copy_mask(piece, texts)
    return int(leaks.sum())


def _full_text(parts: TextParts) -> str:
    return parts.before + parts.scored


def interleave_domains(texts: Sequence[Text]) -> list[Text]:
    """The texts in turns: the first of each domain, then the second of each, so that a stopped run has all domains.

    >>> [one.id for one in interleave_domains([Text("a", "", "x"), Text("b", "", "x"), Text("c", "", "y")])]
    ['a', 'c', 'b']
    """
    seen: Counter[str] = Counter()
    places = []
    for text in texts:
        places.append(seen[text.domain])
        seen[text.domain] += 1
    return [texts[at] for at in sorted(range(len(texts)), key=places.__getitem__)]


def _result_record(
    text: Text, method: EvaluatedMethod, settings: Mapping[str, Any], result: Measured, folder: RunFolder
) -> dict[str, Any]:
    """One line of the log, with the settings if the run has none of this method yet."""
    first = method.label not in folder.recorded_settings
    record: dict[str, Any] = {"text": text.id, "domain": text.domain, "method": method.label, **result.to_dict()}
    return {**record, "settings": dict(settings)} if first else record


def _json_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they will be read back from JSON, without those of a guard where there is none."""
    guarded = settings.get("use") == "auto"
    settings = {name: value for name, value in settings.items() if guarded or name not in GUARD_SETTINGS}
    return {
        name: value if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else str(value)
        for name, value in settings.items()
    }
