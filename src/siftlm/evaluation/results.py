"""`Results`: the records of one or several runs as a table of methods by texts, independent of the records' order.

[results] = gather(["runs/a", "runs/b"])
results.methods, results.measured["sift"][0].percent
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.evaluation.fingerprints import model_fingerprint
from siftlm.evaluation.labels import BASE_METHOD, INTERPOLATION_METHOD, method_name, method_sort_key, without_folder
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.methods import BASELINE_FILE_SETTING
from siftlm.evaluation.run_folder import question_of, records_of, shown_value
from siftlm.evaluation.statistics import Draws, Figure, percent_of_base
from siftlm.types import FloatArray

# Base bits per byte that differ by less, relatively, are equal: processors add in different orders.
BASE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Results:
    """Several methods on the same texts, with the same model, memory and protocol."""

    question: Mapping[str, Any]
    """The run's question; see `siftlm.evaluation.fingerprints.run_question`."""
    methods: tuple[str, ...]
    """The methods in the order of the tables; ``base`` is always one."""
    texts: tuple[str, ...]
    """Ids of the texts that every method has a result for; by domain, then by id."""
    domains: tuple[str, ...]
    """The domain of each text."""
    measured: Mapping[str, tuple[Measured, ...]]
    """Method -> its result on each text."""
    settings: Mapping[str, Mapping[str, Any]]
    """Method -> all settings that decided its results."""
    left_out: int
    """The number of texts that some method has no result for."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the domains."""
        return tuple(sorted(set(self.domains)))

    @property
    def others(self) -> tuple[str, ...]:
        """The methods without the base model."""
        return tuple(one for one in self.methods if one != BASE_METHOD)

    @property
    def bytes(self) -> FloatArray:
        """(texts,) bytes of the scored texts."""
        return np.array([one.bytes for one in self.measured[BASE_METHOD]], dtype=np.float64)

    @property
    def base(self) -> FloatArray:
        """(texts,) bits per byte of the base model."""
        return np.array([one.base for one in self.measured[BASE_METHOD]])

    def tuned(self, method: str, steps: int | None = None) -> FloatArray:
        """(texts,) bits per byte after so many steps, or after the last."""
        return np.array([one.tuned if steps is None else one.at(steps) for one in self.measured[method]])

    def points(self, method: str) -> list[int]:
        """The numbers of steps after which this method was measured on every text, and the largest number on any."""
        every = [set(one.curve) for one in self.measured[method]]
        return sorted({0, max(max(some) for some in every)}.union(set.intersection(*every)))

    def percent(self, method: str, steps: int | None = None) -> Figure:
        """The figure of the published tables: bits in % of the base model's."""
        return percent_of_base(self.tuned(method, steps), self.base, self.bytes)

    def draws(self) -> Draws:
        """The resampled texts of all comparisons."""
        return Draws.of(self.domains)

    def mean(self, values: Sequence[float] | FloatArray) -> float:
        """The mean over the texts of each domain, then over domains."""
        array, domains = np.asarray(values, dtype=np.float64), np.array(self.domains)
        return float(np.mean([array[domains == name].mean() for name in self.names]))

    def only(self, texts: Iterable[str]) -> Results:
        """The results on some of the texts."""
        chosen = set(texts)
        kept = [at for at, text in enumerate(self.texts) if text in chosen]
        return replace(
            self,
            texts=tuple(self.texts[at] for at in kept),
            domains=tuple(self.domains[at] for at in kept),
            measured={name: tuple(some[at] for at in kept) for name, some in self.measured.items()},
            left_out=self.left_out + len(self.texts) - len(kept),
        )

    def check(self, method: str) -> str:
        """The method's name, if the results have it."""
        if method not in self.methods:
            raise UnknownName("method of this run", method, self.methods)
        return method


def gather(paths: Sequence[str | os.PathLike[str]], methods: Sequence[str] | None = None) -> list[Results]:
    """The results of some runs, one `Results` for each memory, the first run's first.

    Args:
        paths: folders of runs of one model and protocol; runs with the same memory are combined.
        methods: only these; by default all.
    """
    if not paths:
        raise InvalidInput("a report needs at least one run")
    groups: dict[str, tuple[Mapping[str, Any], dict[tuple[str, str], dict[str, Any]]]] = {}
    questions = [question_of(path) for path in paths]
    for path, question in zip(paths, questions, strict=True):
        for name in ("protocol", "model", "engine"):
            if model_fingerprint(question.get(name)) != model_fingerprint(questions[0].get(name)):
                raise Conflict(
                    f"{path}: has {name}={shown_value(question.get(name))}, and {paths[0]} has "
                    f"{shown_value(questions[0].get(name))}; one report is of one model and protocol"
                )
        _check_same_length(paths[0], questions[0], path, question)
        records = records_of(path)
        if not records:
            raise InvalidInput(f"{path}: holds no results yet; `siftlm eval --out {path}` makes them")
        memory = json.dumps(question.get("memory"), sort_keys=True)
        first, by_key = groups.setdefault(memory, (question, {}))
        groups[memory] = _with_corpus(first, question), by_key
        for record in records:
            by_key.setdefault((record["text"], record["method"]), record)
    return [results_from_records(by_key.values(), question, methods) for question, by_key in groups.values()]


def _check_same_length(first: Any, one: Mapping[str, Any], path: Any, other: Mapping[str, Any]) -> None:
    """Refuse runs whose texts were cut to different lengths: they score different texts."""
    corpora = [question.get("corpus") or {} for question in (one, other)]
    if all("longest" in corpus for corpus in corpora) and corpora[0]["longest"] != corpora[1]["longest"]:
        raise Conflict(
            f"{path}: has longest={corpora[1]['longest']}, and {first} has {corpora[0]['longest']}; one report is of "
            "texts cut alike"
        )


def _with_corpus(question: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question with both corpora's names, if they differ, and their common settings."""
    one, two = (each.get("corpus") or {} for each in (question, other))
    names = [str(corpus.get("name", "")) for corpus in (one, two)]
    if not names[1] or names[1] in names[0].split(" and "):
        return question
    same = {key: value for key, value in one.items() if key in two and two[key] == value}
    return {**question, "corpus": {**same, "name": " and ".join(name for name in names if name)}}


def results_from_records(
    records: Iterable[Mapping[str, Any]], question: Mapping[str, Any], methods: Sequence[str] | None = None
) -> Results:
    """The results of one memory's records, in any order."""
    by_text: dict[str, dict[str, Mapping[str, Any]]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for record in records:
        by_text.setdefault(record["text"], {})[record["method"]] = record
        if "settings" in record:
            _check_same_settings(record, settings.setdefault(record["method"], record["settings"]))
    known = {name for some in by_text.values() for name in some} | {BASE_METHOD}
    for name in known:
        if method_name(name) == INTERPOLATION_METHOD:
            _choose_weights(by_text, name)
    # Records hold a file's name alone; those of earlier versions its path.
    methods = None if methods is None else [name if name in known else without_folder(name) for name in methods]
    for name in methods or ():
        if name not in known:
            raise UnknownName("method of this run", name, known)
    kept = sorted({*methods, BASE_METHOD} if methods else known, key=method_sort_key)
    needed = {name for name in kept if name != BASE_METHOD} or {BASE_METHOD}
    domains = {text: str(next(iter(some.values())).get("domain", "all")) for text, some in by_text.items()}
    common = sorted((text for text, some in by_text.items() if needed <= set(some)), key=lambda t: (domains[t], t))
    if not common:
        raise InvalidInput(
            f"no text has a result of each of {', '.join(sorted(needed))}; let siftlm eval finish, or name fewer in "
            f"{setting('methods')}"
        )
    measured = {name: tuple(_measured(by_text[text], text, name) for text in common) for name in kept}
    return Results(
        question,
        tuple(kept),
        tuple(common),
        tuple(domains[text] for text in common),
        measured,
        {name: settings[name] for name in kept if name in settings},
        len(by_text) - len(common),
    )


def _choose_weights(by_text: dict[str, dict[str, Mapping[str, Any]]], method: str) -> None:
    """Replace an interpolation's records by those at the weights chosen on the other texts."""
    from siftlm.evaluation.baselines import at_chosen_weight

    texts = sorted(text for text, some in by_text.items() if "nats" in (some.get(method, {}).get("extra") or {}))
    for text, record in zip(texts, at_chosen_weight([by_text[text][method] for text in texts]), strict=True):
        by_text[text][method] = record


def on_common_texts(memories: Sequence[Results]) -> list[Results]:
    """The results of several memories on the texts that all have; empty without such texts, or for a single memory."""
    if len(memories) < 2:
        return []
    shared = set(memories[0].texts).intersection(*(one.texts for one in memories))
    return [one.only(shared) for one in memories] if shared else []


def _measured(some: Mapping[str, Mapping[str, Any]], text: str, method: str) -> Measured:
    """A method's result on a text. Every record holds the base model's result, and all must agree on it."""
    first = some[min(some)]
    record = some.get(method, first)
    base, common = record.get("base"), first.get("base")
    for value in (base, common):
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise InvalidInput(
                f"text {text}, method {record['method']}: base={value!r} is no number of bits per byte of the base "
                "model; run siftlm eval on it again"
            )
    if abs(base - common) > BASE_TOLERANCE * common:  # type: ignore[operator]  # both are numbers, see above
        raise Conflict(
            f"text {text}: the base model needs {base:g} bits per byte where {record['method']} was measured, and "
            f"{common:g} where {first['method']} was; these results are of different models"
        )
    measured = Measured.of(record)
    if method in some:
        return measured
    return Measured(measured.base, {0: measured.base}, measured.bytes, measured.tokens)


def _check_same_settings(record: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    settings = record["settings"]
    for name in sorted({*known} & {*settings}):  # another version may have more
        if known[name] != settings[name]:
            if name == BASELINE_FILE_SETTING:
                raise Conflict(f"method {record['method']!r} is of two files that differ: measure one again")
            raise Conflict(
                f"method {record['method']!r} was measured with {name}={known[name]!r} and with "
                f"{name}={settings[name]!r}; write the setting into its name, as in {record['method']}+{name}=…"
            )
