"""The ways by name: those here, those of other packages, and files of the caller's own."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.abc import SourceLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput, SiftlmError, UnknownName
from siftlm.evaluation.measured import Measured
from siftlm.local import LocalModel

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

    >>> "base" in names() and "context" in names()
    True
    """
    # They declare themselves.
    from siftlm.evaluation.ways import base, context, dynamic, interpolation, tttlm  # noqa: F401

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
