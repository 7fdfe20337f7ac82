"""Methods that are compared: every selection method, the baselines, and functions of the caller's own.

    from siftlm.evaluation import Case, Measured, baseline

    @baseline("unread", "the base model, without any text")
    def unread(case: Case, **settings: Any) -> Measured:
        score = case.model.controller.likelihood(case.scored, after=case.before)
        ...

A selection method chooses the texts that the model is tuned on. A file of the caller's own is named by its path
(``--methods base,./mine.py``); another package names its function under ``siftlm.baselines`` in its entry points.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.abc import SourceLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.errors import InvalidInput, SiftlmError, UnknownName
from siftlm.evaluation.labels import SETTINGS_SEPARATOR, split_labels, without_folder
from siftlm.evaluation.measured import Measured
from siftlm.recipes import RECIPES
from siftlm.selection import methods as selectors

if TYPE_CHECKING:
    from siftlm.local import LocalModel

__all__ = ["Baseline", "Case", "Measured", "baseline", "baseline_names", "find_baseline"]


ENTRY_POINT_GROUP = "siftlm.baselines"
# Under which a method's settings have the digest of the file that it is in.
BASELINE_FILE_SETTING = "way_file"


@dataclass(frozen=True, eq=False)
class Case:
    """One text, and everything to score it with."""

    model: LocalModel
    prompt: str
    scored: str
    before: str
    """Read before what is scored."""
    points: tuple[int, ...]
    """After how many steps is scored; the last is how many texts are learned from."""
    protocol: str
    exclude: tuple[int, ...] = ()
    """Rows of the memory that must not be used."""
    domain: str = ""


BaselineFunction = Callable[..., Measured]


@dataclass(frozen=True)
class Baseline:
    """A function and what is to be known of it."""

    name: str
    summary: str
    run: BaselineFunction
    digest: str = ""
    """Of the caller's file that it is in."""

    @property
    def options(self) -> Mapping[str, Any] | None:
        """Its settings with their defaults; None where it takes any that `LocalModel` takes."""
        own = list(inspect.signature(self.run).parameters.values())[1:]
        if any(one.kind is one.VAR_KEYWORD for one in own):
            return None
        return {one.name: one.default for one in own}


_BUILT_IN_BASELINES: dict[str, Baseline] = {}


def baseline(name: str, summary: str) -> Callable[[BaselineFunction], BaselineFunction]:
    """Declare a function to be a way."""

    def declare(run: BaselineFunction) -> BaselineFunction:
        entry = Baseline(name, summary, run)
        run.way = entry  # type: ignore[attr-defined]
        if run.__module__.startswith("siftlm."):
            _BUILT_IN_BASELINES[name] = entry
        return run

    return declare


def baseline_names() -> tuple[str, ...]:
    """Of all ways but the methods of selection.

    >>> "base" in baseline_names() and "context" in baseline_names()
    True
    """
    # They declare themselves.
    from siftlm.evaluation import baselines, dynamic  # noqa: F401

    return tuple(sorted({*_BUILT_IN_BASELINES, *_installed_baselines()}))


def find_baseline(name: str) -> Baseline | None:
    """The way of this name or in this file; None where there is none."""
    if name.endswith(".py"):
        return _baseline_in_file(name)
    if name not in baseline_names():
        return None
    return _BUILT_IN_BASELINES[name] if name in _BUILT_IN_BASELINES else _baseline_of(name, _load_installed(name))


@functools.cache
def _installed_baselines() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load_installed(name: str) -> Any:
    try:
        return _installed_baselines()[name].load()
    except SiftlmError:
        raise
    except Exception as error:  # it is another package's code
        raise InvalidInput(f"way {name!r} of another package cannot be loaded: {error!r}") from error


def _baseline_in_file(path: str) -> Baseline:
    try:
        return _baseline_in_source(path, Path(path).read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: there is no such file to read a way from") from error


@functools.cache
def _baseline_in_source(path: str, source: bytes) -> Baseline:
    """Of exactly these bytes: neither a file that was changed since nor what Python kept of it counts."""
    spec = importlib.util.spec_from_file_location(f"siftlm_way_{Path(path).stem}", path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise InvalidInput(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        exec(spec.loader.source_to_code(source, path), vars(module))
    except SiftlmError:
        raise
    except Exception as error:  # it is the caller's code
        raise InvalidInput(f"{path}: cannot be loaded: {error!r}") from error
    found = [one.way for one in vars(module).values() if isinstance(getattr(one, "way", None), Baseline)]
    if len(found) != 1:
        raise InvalidInput(
            f"{path}: holds {len(found)} baselines; it must hold one, a function with @baseline(name, …)"
        )
    digest = hashlib.blake2b(source, digest_size=8).hexdigest()
    return replace(_baseline_of(path, found[0].run), digest=digest)


def _baseline_of(name: str, run: Any) -> Baseline:
    entry = getattr(run, "way", None)
    if not isinstance(entry, Baseline):
        raise UnknownName("way", name, baseline_names())
    return entry


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

    >>> parse_method("sift+noise=0.1+kernel=power:4").settings
    {'method': 'sift', 'noise': 0.1, 'kernel': 'power:4'}
    >>> parse_method("nn").settings
    {'method': 'nearest'}
    >>> parse_method("shift")  # doctest: +ELLIPSIS
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

    >>> [one.label for one in parse_methods("base,sift+betas=(0.9,0.99)")]
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
