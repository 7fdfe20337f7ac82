"""The methods by name: those that ship with siftlm and those that other packages add.

A method is one generator function in one file. It yields the gains of all candidates, is sent the index that
was picked, and yields again; everything else (limits, priors, stopping, the record) is done around it:

    from siftlm.selection import Problem, Steps, method

    @method("shortest", "the candidates with the smallest norm")
    def shortest(problem: Problem) -> Steps:
        \"\"\"−k(x, x)\"\"\"
        while True:
            yield -problem.space.diagonal()

Another package names its function in its ``pyproject.toml``, and ``siftlm.select(…, method="shortest")`` works:

    [project.entry-points."siftlm.methods"]
    shortest = "their_package.module:shortest"
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from siftlm.errors import InvalidInput, SiftlmError, UnknownName
from siftlm.types import FloatArray

Steps = Generator[FloatArray, int, None]
MethodFunction = Callable[..., Steps]
METHODS_ENTRY_POINT_GROUP = "siftlm.methods"


@dataclass(frozen=True)
class Method:
    """A method and what the front door must know of it."""

    name: str
    summary: str
    run: MethodFunction
    targeted: bool = True
    """Does it need a query?"""
    repeats: bool = False
    """May it pick the same candidate again, unless told otherwise?"""
    signed: bool = False
    """Can its gains be negative? Then a factor on them (prior, cost) would mean nothing."""
    reads: Literal["vectors", "probabilities"] = "vectors"
    """What the candidates are."""
    whole: bool = False
    """Does it decide on all n picks at once? Then limits that act between picks cannot apply."""

    @property
    def options(self) -> Mapping[str, object]:
        """Its own keyword arguments and their defaults."""
        parameters = list(inspect.signature(self.run).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def formula(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.run) or "").split("\n")[0]


_BUILT_IN_METHODS: dict[str, Method] = {}


def method(
    name: str,
    summary: str,
    *,
    targeted: bool = True,
    repeats: bool = False,
    signed: bool = False,
    reads: Literal["vectors", "probabilities"] = "vectors",
    whole: bool = False,
) -> Callable[[MethodFunction], MethodFunction]:
    """Declare a generator function to be a method. See `Method` for what the settings mean."""

    def declare(run: MethodFunction) -> MethodFunction:
        entry = Method(name, summary, run, targeted, repeats, signed, reads, whole)
        run.method = entry  # type: ignore[attr-defined]
        if run.__module__.startswith("siftlm."):
            _BUILT_IN_METHODS[name] = entry
        return run

    return declare


@functools.cache
def _entry_points() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=METHODS_ENTRY_POINT_GROUP)}


def methods() -> tuple[str, ...]:
    """The names of all methods, those of other installed packages included.

    >>> "sift" in methods() and "nearest" in methods()
    True
    """
    from siftlm.selection import family  # noqa: F401  # its modules declare themselves when imported

    return tuple(sorted({*_BUILT_IN_METHODS, *_entry_points()}))


def find_method(name: object) -> Method:
    """The method of this name, or `UnknownName` with the closest one."""
    known = methods()
    if isinstance(name, str):
        if name in _BUILT_IN_METHODS:
            return _BUILT_IN_METHODS[name]
        if name in _entry_points():
            return method_of(_load_entry_point(name))
    elif callable(name):
        return method_of(name)
    raise UnknownName("method", name, known)


def _load_entry_point(name: str) -> object:
    try:
        return _entry_points()[name].load()
    except SiftlmError:
        raise
    except Exception as error:  # it is another package's code
        raise InvalidInput(f"method {name!r} of another package cannot be loaded: {error!r}") from error


def method_of(run: object) -> Method:
    """The method that a function was declared to be."""
    entry = getattr(run, "method", None)
    if not isinstance(entry, Method):
        raise InvalidInput(f"{run!r} is not a method: decorate it with siftlm.selection.method(name, summary)")
    return entry
