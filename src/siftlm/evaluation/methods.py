"""Methods to compare: every selection method, the baselines, and functions of the caller's own.

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
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.abc import SourceLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.errors import InvalidInput, SiftlmError, UnknownName, setting
from siftlm.evaluation.labels import SETTINGS_SEPARATOR, split_labels, without_folder
from siftlm.evaluation.measured import Measured
from siftlm.extras import load
from siftlm.recipes import RECIPES
from siftlm.selection import methods as selectors

if TYPE_CHECKING:
    from siftlm.local import LocalModel

__all__ = ["Baseline", "Case", "Measured", "baseline", "baseline_names", "find_baseline"]


ENTRY_POINT_GROUP = "siftlm.baselines"
# Keys in a record's settings: a baseline's name, and the digest of its file. Records of all versions have these.
BASELINE_SETTING, BASELINE_FILE_SETTING = "way", "way_file"


@dataclass(frozen=True, eq=False)
class Case:
    """One text, and everything that a baseline needs to score it."""

    model: LocalModel
    prompt: str
    scored: str
    before: str
    """The context before the scored part."""
    points: tuple[int, ...]
    """Numbers of steps to score after; the last is the number of texts to tune on."""
    protocol: str
    exclude: tuple[int, ...] = ()
    """Rows of the memory that must not be used."""
    domain: str = ""


BaselineFunction = Callable[..., Measured]


@dataclass(frozen=True)
class Baseline:
    """A named function that scores a `Case`."""

    name: str
    summary: str
    run: BaselineFunction
    digest: str = ""
    """The digest of the caller's file that declares it."""

    @property
    def options(self) -> Mapping[str, Any] | None:
        """The settings with their defaults; None for a function that takes all settings of `LocalModel`."""
        own = list(inspect.signature(self.run).parameters.values())[1:]
        if any(one.kind is one.VAR_KEYWORD for one in own):
            return None
        return {one.name: one.default for one in own}


# Name -> the file that declares it, imported when the baseline is used: one of them needs torch.
_BUILT_IN_FILES = {
    "base": "baselines",
    "context": "baselines",
    "interpolation": "baselines",
    "dynamic": "dynamic",
    "tttlm": "dynamic",
}


def baseline(name: str, summary: str) -> Callable[[BaselineFunction], BaselineFunction]:
    """Declare a function to be a baseline."""

    def declare(run: BaselineFunction) -> BaselineFunction:
        run.baseline = Baseline(name, summary, run)  # type: ignore[attr-defined]
        return run

    return declare


def baseline_names() -> tuple[str, ...]:
    """The names of all baselines, those of other packages included.

    >>> "base" in baseline_names() and "context" in baseline_names()
    True
    """
    return tuple(sorted({*_BUILT_IN_FILES, *_installed_baselines()}))


def find_baseline(name: str) -> Baseline | None:
    """The baseline of this name or in this file; None where there is none."""
    if name.endswith(".py"):
        return _baseline_in_file(name)
    if name in _BUILT_IN_FILES:
        file = _BUILT_IN_FILES[name]
        if file == "dynamic":
            load("torch", "tune")
        return _baseline_of(name, getattr(importlib.import_module(f"siftlm.evaluation.{file}"), name))
    return _baseline_of(name, _load_installed(name)) if name in _installed_baselines() else None


@functools.cache
def _installed_baselines() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load_installed(name: str) -> Any:
    try:
        return _installed_baselines()[name].load()
    except SiftlmError:
        raise
    except Exception as error:  # the other package's code may fail in any manner
        raise InvalidInput(f"baseline {name!r} of another package cannot be loaded: {error!r}") from error


def _baseline_in_file(path: str) -> Baseline:
    try:
        return _baseline_in_source(path, Path(path).read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: there is no such file to read a baseline from") from error


@functools.cache
def _baseline_in_source(path: str, source: bytes) -> Baseline:
    """The baseline in exactly these bytes: neither a later change of the file nor Python's cached bytecode counts."""
    spec = importlib.util.spec_from_file_location(f"siftlm_baseline_{Path(path).stem}", path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise InvalidInput(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        exec(spec.loader.source_to_code(source, path), vars(module))
    except SiftlmError:
        raise
    except Exception as error:  # the caller's code may fail in any manner
        raise InvalidInput(f"{path}: cannot be loaded: {error!r}") from error
    entries = [getattr(one, "baseline", None) for one in vars(module).values()]
    declared = [entry for entry in entries if isinstance(entry, Baseline)]
    if len(declared) != 1:
        raise InvalidInput(
            f"{path}: holds {len(declared)} baselines; it must hold one, a function with @baseline(name, …)"
        )
    digest = hashlib.blake2b(source, digest_size=8).hexdigest()
    return replace(_baseline_of(path, declared[0].run), digest=digest)


def _baseline_of(name: str, run: Any) -> Baseline:
    entry = getattr(run, "baseline", None)
    if not isinstance(entry, Baseline):
        raise UnknownName("baseline", name, baseline_names())
    return entry


# The names in papers.
METHOD_ALIASES = {"nn": "nearest"}
CALIBRATED_METHOD = "calibrated"
# Settings of the protocol, the same for all methods.
PROTOCOL_SETTINGS = ("n", "at", "mode", "exclude")


@dataclass(frozen=True)
class EvaluatedMethod:
    """One line of the tables."""

    label: str
    baseline: Baseline | None = None
    """None for a selection method, whose selection the model is tuned on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `LocalModel`, or of the baseline."""
    calibrated: bool = False


def parse_method(label: str) -> EvaluatedMethod:
    """The method with this label: a name, and settings behind plus signs.

    >>> parse_method("sift+noise=0.1+kernel=power:4").settings
    {'method': 'sift', 'noise': 0.1, 'kernel': 'power:4'}
    >>> parse_method("nn").settings
    {'method': 'nearest'}
    >>> parse_method("shift")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown method 'shift'; did you mean 'sift'? ...
    """
    label = label.strip()  # the key of records
    name, *rest = SETTINGS_SEPARATOR.split(label)
    settings: dict[str, Any] = {}
    for one in rest:
        key, value = _parse_setting(label, one)
        if key in settings:
            raise InvalidInput(f"{label}: {key} is given twice")
        settings[key] = value
    if name == CALIBRATED_METHOD:
        return EvaluatedMethod(label, None, settings, calibrated=True)
    entry = find_baseline(name)
    tuned = {*selectors(), *RECIPES}
    known = {*baseline_names(), *METHOD_ALIASES, CALIBRATED_METHOD, *tuned}
    if entry is not None:
        _check_settings(label, entry, settings)
        short = without_folder(name)
        if short != name and short in known:
            raise InvalidInput(f"{name}: {short} is a method already; give the file another name")
        return EvaluatedMethod(without_folder(label), entry, settings)
    selector = METHOD_ALIASES.get(name, name)
    if selector not in tuned:
        first, plus, bare = selector.partition("+")
        if plus and (find_baseline(first) or METHOD_ALIASES.get(first, first) in tuned):
            raise InvalidInput(f"{label}: {bare!r} is no setting with a value; write {first}+NAME=VALUE")
        raise UnknownName("method", name, known)
    if "method" in settings:
        raise InvalidInput(f"{label}: its method is {name}; write {settings['method']}+… for the other one")
    return EvaluatedMethod(label, None, {"method": selector, **settings})


def parse_methods(labels: str | Sequence[str]) -> list[EvaluatedMethod]:
    """The methods with these labels, which commas separate or a list holds.

    >>> [one.label for one in parse_methods("base,sift+betas=(0.9,0.99)")]
    ['base', 'sift+betas=(0.9,0.99)']
    """
    split = split_labels(labels) if isinstance(labels, str) else list(labels)
    methods = [parse_method(label) for label in split if label.strip()]
    if not methods:
        raise InvalidInput(f"{setting('methods')} names nothing to compare; try base,nn,auto")
    for at, one in enumerate(methods):
        for other in methods[:at]:
            if other.label == one.label:
                raise InvalidInput(f"{setting('methods')} names {one.label!r} twice")
            if _identity(other) == _identity(one):
                raise InvalidInput(
                    f"{setting('methods')} names the same twice, as {other.label!r} and as {one.label!r}"
                )
    return methods


def _identity(method: EvaluatedMethod) -> tuple[Any, ...]:
    """Equal for methods with equal results: settings 1 and 1.0 are the same, but True, which equals both, is not."""
    settings = {name: (isinstance(value, bool), value) for name, value in method.settings.items()}
    return method.calibrated, method.baseline, settings


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


def _check_settings(label: str, entry: Baseline, settings: Mapping[str, Any]) -> None:
    options = entry.options
    for name in settings if options is not None else ():
        if name not in (options or {}):
            raise UnknownName(f"setting of {label.split('+')[0]}", name, options or ("none",))
