"""What is compared: a way to use the memory with its settings, under the name that tables print.

base                      the model as it is
nn, sift, mmr, …          learn from what this method of selection chooses
sift+noise=0.1+k=1000     the same with settings: any of `LocalModel`
context                   SIFT's texts in the context instead of in the weights
calibrated                what `siftlm calibrate` chose for this memory and this model
./mine.py                 a way of your own; its name in tables is mine
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siftlm.errors import InvalidInput, UnknownName
from siftlm.evaluation.labels import SETTINGS_SEPARATOR, split_labels, without_folder
from siftlm.evaluation.ways import Baseline, baseline_names, find_baseline
from siftlm.recipes import RECIPES
from siftlm.selection import methods as selectors

# As they are called in papers.
METHOD_ALIASES = {"nn": "nearest"}
CALIBRATED_METHOD = "calibrated"
# Set by the protocol, so that it is the same for all methods.
PROTOCOL_SETTINGS = ("n", "at", "mode", "exclude")


@dataclass(frozen=True)
class EvaluatedMethod:
    """One line of the tables."""

    label: str
    way: Baseline | None = None
    """None where it learns from what a method of selection chooses."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For `LocalModel`, or for the way."""
    calibrated: bool = False


def parse_method(label: str) -> EvaluatedMethod:
    """What a name means.

    >>> parse("sift+noise=0.1+kernel=power:4").settings
    {'method': 'sift', 'noise': 0.1, 'kernel': 'power:4'}
    >>> parse("nn").settings
    {'method': 'nearest'}
    >>> parse("shift")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown method 'shift'; did you mean 'sift'? ...
    """
    label = label.strip()  # records are found by it
    name, *rest = SETTINGS_SEPARATOR.split(label)
    settings: dict[str, Any] = {}
    for one in rest:
        known, value = _parse_setting(label, one)
        if known in settings:
            raise InvalidInput(f"{label}: {known} is given twice")
        settings[known] = value
    if name == CALIBRATED_METHOD:
        return EvaluatedMethod(label, None, settings, calibrated=True)
    found = find_baseline(name)
    learned = {*selectors(), *RECIPES}
    if found is not None:
        _check_settings(label, found, settings)
        short = without_folder(name)
        if short != name and short in {*baseline_names(), *METHOD_ALIASES, CALIBRATED_METHOD, *learned}:
            raise InvalidInput(f"{name}: {short} is a method already; give the file another name")
        return EvaluatedMethod(without_folder(label), found, settings)
    selector = METHOD_ALIASES.get(name, name)
    if selector not in learned:
        first, plus, bare = selector.partition("+")
        if plus and (find_baseline(first) or METHOD_ALIASES.get(first, first) in learned):
            raise InvalidInput(f"{label}: {bare!r} is no setting with a value; write {first}+NAME=VALUE")
        raise UnknownName("method", name, {*baseline_names(), *METHOD_ALIASES, CALIBRATED_METHOD, *learned})
    if "method" in settings:
        raise InvalidInput(f"{label}: its method is {name}; write {settings['method']}+… for the other one")
    return EvaluatedMethod(label, None, {"method": selector, **settings})


def parse_methods(labels: str | Sequence[str]) -> list[EvaluatedMethod]:
    """Several, separated by commas or in a list.

    >>> [one.label for one in parse_all("base,sift+betas=(0.9,0.99)")]
    ['base', 'sift+betas=(0.9,0.99)']
    """
    split = split_labels(labels) if isinstance(labels, str) else list(labels)
    found = [parse_method(label) for label in split if label.strip()]
    if not found:
        raise InvalidInput("methods names nothing to compare; try base,nn,sift")
    for at, one in enumerate(found):
        if any(other.label == one.label for other in found[:at]):
            raise InvalidInput(f"methods names {one.label!r} twice")
        # 1 and 1.0 are the same; True is something else, though equal to both.
        for other in found[:at]:
            if (other.calibrated, other.way, _known_settings(other)) == (one.calibrated, one.way, _known_settings(one)):
                raise InvalidInput(f"methods names the same twice, as {other.label!r} and as {one.label!r}")
    return found


def _known_settings(method: EvaluatedMethod) -> dict[str, tuple[bool, Any]]:
    return {name: (isinstance(value, bool), value) for name, value in method.settings.items()}


def _parse_setting(label: str, text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name in PROTOCOL_SETTINGS:
        raise InvalidInput(f"{label}: {name} belongs to the protocol, and is the same for all methods of a run")
    if (name, value) == ("k", "all"):  # as on the command line
        return name, None
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _check_settings(label: str, found: Baseline, settings: Mapping[str, Any]) -> None:
    options = found.options
    for name in settings if options is not None else ():
        if name not in (options or {}):
            raise UnknownName(f"setting of {label.split('+')[0]}", name, options or ("none",))
