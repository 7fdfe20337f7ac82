"""The settings of each method of a run: written with its first record, and the same for all that come after.

Looked at whenever a record is read: two processes that begin at once with different settings see each other's first
record before they write their own.
"""

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

from siftlm.controller import setting_names
from siftlm.errors import Conflict, InvalidInput, SiftlmError
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.fingerprints import run_question
from siftlm.evaluation.measured import Measured, measured_from_score
from siftlm.evaluation.methods import BASELINE_FILE_SETTING, Baseline, Case, EvaluatedMethod, parse_methods
from siftlm.evaluation.protocol import Protocol, TextParts, leaked_rows
from siftlm.evaluation.results import BASE_TOLERANCE
from siftlm.evaluation.run_folder import RunFolder
from siftlm.memory import Memory
from siftlm.memory.near_duplicates import copy_mask
from siftlm.progress import Meter, Report, reporter
from siftlm.results import Score

if TYPE_CHECKING:
    from siftlm.local import LocalModel


def settings_check(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], None]:
    """A look at one record: refused if it is of other settings than ours, wherever those came from.

    Args:
        path: of the run, to be named.
        settings: name of a method -> all that decides its results now.
    """
    asked = json.loads(json.dumps(settings))

    def look(record: Mapping[str, Any]) -> None:
        label = record["method"]
        old, now = record.get("settings"), asked.get(label)
        if old is None or now is None:
            return
        for name in old.keys() & now.keys():  # another version may have more
            if old[name] != now[name]:
                raise Conflict(
                    f"{path}: holds results of {label} with {_describe_change(label, name, old[name], now[name])}"
                )

    return look


def _describe_change(label: str, name: str, old: Any, now: Any) -> str:
    if name == BASELINE_FILE_SETTING:
        return f"another file than {label}'s is now: give --out another folder, or the file another name"
    return f"{name}={old!r}, and now it is {now!r}; give --out another folder, or write {label}+{name}=…"


# Texts that LoRA tunes at once.
TUNING_BATCH_TEXTS = 16


@dataclass(frozen=True)
class Evaluation:
    """What came of a call of `evaluate`."""

    path: Path
    texts: int
    """Of the corpus that were used."""
    unusable: int
    """Too short for the protocol, or its prompt has no direction to search in."""
    done: int
    """Results that this call made."""
    known: int
    """Results that were there before, or that other processes made meanwhile."""
    missing: int
    """That others were still at when there was nothing else to do."""


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
        model: a controller and a memory. What a calibration chose counts for the method ``calibrated`` alone; what the
            model was made with (``LocalModel(…, clip=1)``) for all.
        texts: see `siftlm.evaluation.corpus.read`; one that is there twice counts once.
        methods: see `siftlm.evaluation.methods`.
        into: the folder of the run. There already: its question must be the same, and what it holds is kept; methods
            and texts may be added.
        protocol: how to score, and after how many steps.
        about: more to be written down with the question, such as where the texts are from.
        progress: as in `Memory.build`.
    """
    how = protocol or Protocol()
    asked = parse_methods(methods)
    given = list({text.id: text for text in texts}.values())
    good = interleave_domains([text for text in given if how.fits(text.text)])
    runner = _MethodRunner(model, how)
    # What is wrong with any of them is said before there is any work or folder.
    settings = {one.label: runner.settings(one) for one in asked}
    if given and not good:
        longest = max((len(text.text) for text in given), default=0)
        raise InvalidInput(
            f"none of {len(given)} texts is long enough for the protocol {how.name!r} (the longest has {longest} "
            "characters): nothing of it would be left to score"
        )
    if (trial := next(filter(runner.has_direction, good), None)) is not None:
        for one in asked:
            runner.check_selection(one, trial)
    with RunFolder.begin(into, run_question(model, how, about or {})) as folder:
        folder.add_record_check(settings_check(folder.path, settings))
        known = sum((text.id, one.label) in folder.records for text in good for one in asked)
        # What is there already took no time today, and says nothing of the time that is left.
        meter = Meter("evaluating", "results", reporter(progress), total=len(good) * len(asked) - known)
        meter.at(0)
        before = len(folder.records)
        done = 0
        for some in runner.batches(good):
            for method in asked:
                with ExitStack() as claims:
                    mine = [text for text in some if claims.enter_context(folder.claim(text.id, method.label))]
                    mine = [text for text in mine if runner.has_direction(text)]
                    for text, result in runner.measured(method, mine) if mine else ():
                        _check_base(text, method, result, folder)
                        folder.add(_result_record(text, method, settings[method.label], result, folder))
                        done += 1
                        meter.at(len(folder.records) - before)  # those of other processes as well
        good = [text for text in good if text.id not in runner.without_direction]
        there = sum((text.id, one.label) in folder.records for text in good for one in asked)
    meter.finish()
    total = len(good) * len(asked)
    return Evaluation(Path(into), len(good), len(given) - len(good), done, there - done, total - there)


class _MethodRunner:
    """Does the work for one model and protocol."""

    def __init__(self, model: LocalModel, protocol: Protocol) -> None:
        self._calibrated = model
        # Every method begins with the same settings; those of a calibration are a method of its own.
        self._plain = type(model)(model.controller, model.memory, calibrated=False, **model._defaults)
        self._protocol = protocol
        self._excluded_cache: tuple[TextParts, list[int]] | None = None
        self._with_direction: set[str] = set()
        self.without_direction: set[str] = set()
        """Texts that nothing can be searched for."""

    def settings(self, method: EvaluatedMethod) -> dict[str, Any]:
        """All that decides the method's results, for the record."""
        if method.way is not None:
            given = dict(method.settings)
            known = {
                "way": method.way.name,
                **({BASELINE_FILE_SETTING: method.way.digest} if method.way.digest else {}),
            }
            if method.way.options is not None:
                return self._baseline_settings(known, {**method.way.options, **given})
            return {**known, **_json_settings(self._plain.settings(n=self._protocol.n, **given))}
        model = self._model(method)
        if method.calibrated and not model._calibration:
            raise InvalidInput(
                f"{method.label}: there is no calibration of this memory for {model.controller.name}: siftlm calibrate"
            )
        watch = method.settings.get("watch", False)
        if not isinstance(watch, bool):
            raise InvalidInput(f"{method.label}: watch must be True or False, got {watch!r}")
        if watch and self._protocol.name == "transductive":
            raise Conflict(f"{method.label}: watch in a transductive run would watch the very text that is scored")
        return _json_settings({**model.settings(n=self._protocol.n, **_model_settings(method)), "watch": watch})

    def check_selection(self, method: EvaluatedMethod, text: Text) -> None:
        """Select once, where there are settings of a selection: many are looked at only there."""
        learns = method.way is None or method.way.options is None
        given = _model_settings(method)
        if learns and set(given) - {"method", "features"}:
            model = self._model(method)
            model.select(self._protocol.parts(text.text).prompt, n=1, **{**given, "features": None})

    def has_direction(self, text: Text) -> bool:
        """Has its prompt a direction? None of its words may be known to the embedder; no method then has a result."""
        if text.id not in self._with_direction | self.without_direction:
            prompt = self._protocol.parts(text.text).prompt
            vector = np.asarray(self._plain.memory.embedder.embed([prompt], as_query=True), dtype=np.float64)
            known = bool(np.isfinite(vector).all() and vector.any())
            (self._with_direction if known else self.without_direction).add(text.id)
        return text.id in self._with_direction

    def batches(self, texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
        """As many as are tuned together."""
        size = TUNING_BATCH_TEXTS if self._plain.controller.adapters else 1
        return (texts[start : start + size] for start in range(0, len(texts), size))

    def measured(self, method: EvaluatedMethod, texts: Sequence[Text]) -> Iterator[tuple[Text, Measured]]:
        """The method on some texts: together where that is possible."""
        model = self._model(method)
        parts = [self._protocol.parts(text.text) for text in texts]
        if method.way is None and self._can_batch(model, method, len(texts)):
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
            yield text, self._one(model, method, one, text.domain)

    # --- inside

    def _baseline_settings(self, way: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        known = {**way, **options}
        if "rate" not in options:
            return _json_settings(known)
        # It tunes: what it leaves to the model is written down too.
        asked = {key: value for key, value in options.items() if key in setting_names() and value is not None}
        tuning = self._plain.settings(**asked)
        return _json_settings(
            {**known, **({key: tuning[key] for key in setting_names()} if options["rate"] is None else {})}
        )

    def _one(self, model: LocalModel, method: EvaluatedMethod, parts: TextParts, domain: str) -> Measured:
        exclude = self._excluded(parts)
        if method.way is not None:
            case = Case(
                self._plain,
                parts.prompt,
                parts.scored,
                parts.before,
                self._protocol.points,
                self._protocol.name,
                tuple(exclude),
                domain,
            )
            result = _run_baseline(method.way, method, case)
            if not result.rows or not isinstance(case.model.memory, Memory):
                return result
            return replace(result, copies=_count_copies(parts, case.model.memory.texts(result.rows)))
        given = {**method.settings, **({"exclude": exclude} if exclude else {})}
        score = model.score(
            (parts.prompt, parts.scored) if parts.before else parts.scored,
            n=self._protocol.n,
            mode=self._mode,
            at=self._protocol.points,
            **given,
        )
        return self._of_score(parts, score)

    def _model(self, method: EvaluatedMethod) -> LocalModel:
        return self._calibrated if method.calibrated else self._plain

    def _can_batch(self, model: LocalModel, method: EvaluatedMethod, count: int) -> bool:
        if count < 2 or self._protocol.copies == "exclude":
            return False
        tuning = {name: value for name, value in method.settings.items() if name in model.controller.settings.to_dict()}
        return model.controller.can_tune_many(**tuning)

    @property
    def _mode(self) -> Any:
        return "transductive" if self._protocol.name == "transductive" else "split"

    def _excluded(self, parts: TextParts) -> list[int]:
        """Rows that no method may use for this text."""
        if self._protocol.copies != "exclude":
            return []
        if self._excluded_cache is None or self._excluded_cache[0] != parts:
            self._excluded_cache = (
                parts,
                leaked_rows(self._plain.memory, [parts.prompt, parts.scored], _full_text(parts)),
            )
        return self._excluded_cache[1]

    def _of_score(self, parts: TextParts, score: Score) -> Measured:
        return replace(
            measured_from_score(score, self._protocol.points), copies=_count_copies(parts, score.found.texts)
        )


def _run_baseline(way: Baseline, method: EvaluatedMethod, case: Case) -> Measured:
    """A way that is somebody's file may fail in any manner: what is said names the file and its line."""
    try:
        result = way.run(case, **method.settings)
    except SiftlmError:
        raise
    except Exception as error:
        if not way.digest:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise SiftlmError(
            f"{method.label}: {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno}; the "
            f"text begins {case.scored[:30]!r})"
        ) from error
    if not isinstance(result, Measured):
        raise InvalidInput(f"{method.label}: run must return a Measured, got {type(result).__name__}")
    return result


def _check_base(text: Text, method: EvaluatedMethod, result: Measured, folder: RunFolder) -> None:
    """The base model and the scored bytes are the same for every method, or nothing can be compared."""
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
                f"measured, and {record['base']:g} where {name} was: some way has left the model changed"
            )


def _count_copies(parts: TextParts, texts: Sequence[str]) -> int:
    """Counted for every method alike: what would be excluded."""
    found = np.zeros(len(texts), dtype=bool)
    # A passage across the cut shares half of its words with either part, and all of them with the text.
    for piece in dict.fromkeys((parts.prompt, parts.scored, _full_text(parts))):
        found |= copy_mask(piece, texts)
    return int(found.sum())


def _full_text(parts: TextParts) -> str:
    return parts.before + parts.scored


def interleave_domains(texts: Sequence[Text]) -> list[Text]:
    """The first of each domain, then the second of each: a run that is stopped has all domains.

    >>> [one.id for one in interleave_domains([Text("a", "", "x"), Text("b", "", "x"), Text("c", "", "y")])]
    ['a', 'c', 'b']
    """
    seen: Counter[str] = Counter()
    places = []
    for text in texts:
        places.append(seen[text.domain])
        seen[text.domain] += 1
    return [texts[at] for at in sorted(range(len(texts)), key=places.__getitem__)]


def _model_settings(method: EvaluatedMethod) -> dict[str, Any]:
    """Those that `LocalModel.settings` knows."""
    return {name: value for name, value in method.settings.items() if name != "watch"}


def _result_record(
    text: Text, method: EvaluatedMethod, settings: Mapping[str, Any], result: Measured, folder: RunFolder
) -> dict[str, Any]:
    """One line of the log; the settings only where they are new."""
    first = method.label not in folder.recorded_settings
    known: dict[str, Any] = {"text": text.id, "domain": text.domain, "method": method.label, **result.to_dict()}
    return {**known, "settings": dict(settings)} if first else known


def _json_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will give them back."""
    return {
        name: value if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else str(value)
        for name, value in settings.items()
    }
