"""A selection problem, and the methods that solve it, by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, InvalidInput, SiftlmError, UnknownName, setting
from siftlm.selection import checks
from siftlm.selection.numerics import check_noise, cosines
from siftlm.selection.posterior import Belief, Posterior, belief_of, posterior_of
from siftlm.selection.rules import PickRules
from siftlm.selection.space import FeatureSpace, Space
from siftlm.types import FloatArray


@dataclass
class Problem:
    """Everything a method may read. Made anew for each selection, so nothing leaks from one to the next."""

    space: Space
    """The candidates and the prompt."""
    expected: int
    """About how many picks there will be, known items included."""
    noise: float
    """λ"""
    probabilities: FloatArray | None = None
    """(K, C) for methods that read softmax outputs as candidates."""
    seed: int = 0
    certified: list[bool] | None = None
    """A method that searches only a part appends, per pick, whether it is provably that of a full search."""
    known: int = 0
    """How many of the space's last rows are known items: sent to the method before its first pick."""
    rules: PickRules = field(init=False)
    """What may be picked; ``rules.choose(gains)`` is what the loop will do with the gains."""
    posterior_in_use: Posterior | Belief | None = field(default=None, init=False)
    """What `posterior` or `belief` made; the loop reads the uncertainty from it."""

    def posterior(self, *, trace_only: bool = False) -> Posterior:
        """The posterior over all candidates. ``trace_only`` allows a form that cannot tell targets apart."""
        self.posterior_in_use = posterior = posterior_of(self.space, self.noise, self.expected, trace_only=trace_only)
        return posterior

    def belief(self) -> Belief:
        """The targets' posterior alone, for methods that look at few candidates."""
        check_noise(self.space, self.noise)
        self.posterior_in_use = belief = belief_of(self.space, self.noise)
        return belief

    @property
    def candidates(self) -> int:
        """How many rows of the space may be picked; the known items stand behind them."""
        return self.space.size - self.known

    @property
    def picks(self) -> int:
        """About how many picks there will be, known items not counted."""
        return self.expected - self.known

    def padded(self, values: FloatArray) -> FloatArray:
        """One number per candidate as one per row of the space: 0 for known items, which are never picked."""
        return np.concatenate([values, np.zeros(self.known)])

    def outputs(self) -> FloatArray:
        """(K, C) the softmax outputs that the candidates are."""
        if self.probabilities is None:
            raise InvalidInput("this problem holds vectors, and the method reads softmax outputs")
        return self.probabilities

    def everything(self, method: str, *, most: int = 8192) -> Space:
        """The same space with every candidate as a target, known items not included."""
        # Vectors sum up any number of targets in a d × d matrix; without features it takes all pairs.
        if not isinstance(self.space, FeatureSpace):
            self._check_pairs(method, most)
        return self.space.everything(self.candidates)

    def relevance(self, given: npt.ArrayLike | None = None) -> FloatArray:
        """(K,) mean similarity to the targets, scaled to 1 for equal texts, or what was given in its place."""
        if given is None:
            mean: FloatArray = self.similarity().mean(axis=0)
            return mean
        own = checks.finite_matrix("relevance", given, shape=(1, self.candidates))[0]
        if np.abs(own).max(initial=0.0) > 1:
            at = int(np.argmax(np.abs(own)))
            raise InvalidInput(f"{setting('relevance')}[{at}] is {own[at]:g}; it must be from -1 to 1, as a cosine is")
        return self.padded(own)

    def similarity(self) -> FloatArray:
        """(m, K) k(x*, x) / sqrt(k(x*, x*) k(x, x))"""
        own = np.sqrt(np.outer(np.diagonal(self.space.target_gram()), self.space.diagonal()))
        return cosines(self.space.cross(), own)

    def similarity_to(self, index: int) -> FloatArray:
        """(K,) k(x_index, x) / sqrt(k(x_index, x_index) k(x, x))"""
        diagonal = self.space.diagonal()
        return cosines(self.space.row(index).astype(np.float64), np.sqrt(diagonal * diagonal[index]))

    def generator(self) -> np.random.Generator:
        """The source of chance of this selection."""
        return np.random.default_rng(self.seed)

    def pairs(self, method: str, *, most: int = 8192) -> FloatArray:
        """(K, K) all similarities, scaled to 1 for equal texts, for methods that compare every pair."""
        self._check_pairs(method, most)
        size = self.space.size
        length = np.sqrt(self.space.diagonal())
        gram = self.space.rows(np.arange(size, dtype=np.int64)).astype(np.float64)
        return cosines(gram, np.outer(length, length))

    def _check_pairs(self, method: str, most: int) -> None:
        size = self.space.size
        if size > most:
            raise Conflict(
                f"method {method!r} compares every pair of candidates: {size} of them would need "
                f"{8 * size**2 / 2**30:.0f} GiB; preselect at most {most}"
            )


@dataclass(frozen=True)
class NextPick:
    """What a method yields in place of gains where it has chosen already, just as ``problem.rules`` will have it."""

    index: int
    gain: float


Steps = Generator[FloatArray | NextPick, int, None]
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
    """May it pick the same candidate again by default?"""
    signed: bool = False
    """Can its gains be negative? Then a factor on them (prior, cost) would mean nothing."""
    reads: Literal["vectors", "probabilities"] = "vectors"
    """What the candidates are."""
    whole: bool = False
    """Does it decide on all n picks at once? Then limits that act between picks cannot apply."""
    numbers: tuple[str, ...] = ()
    """Options that are one number per candidate."""
    nonnegative: tuple[str, ...] = ()
    """Those of them that may not be below 0."""
    labels: tuple[str, ...] = ()
    """Options that are a label, or a list of labels, per candidate."""
    target_labels: tuple[str, ...] = ()
    """Options that are a label per target."""

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
    numbers: tuple[str, ...] = (),
    nonnegative: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
    target_labels: tuple[str, ...] = (),
) -> Callable[[MethodFunction], MethodFunction]:
    """Declare a generator function to be a method. See `Method` for what the settings mean."""

    def declare(run: MethodFunction) -> MethodFunction:
        entry = Method(
            name, summary, run, targeted, repeats, signed, reads, whole, numbers, nonnegative, labels, target_labels
        )
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
    from siftlm.selection import selectors  # noqa: F401  # its modules declare themselves when imported

    return tuple(sorted({*_BUILT_IN_METHODS, *_entry_points()}))


def find_method(name: object) -> Method:
    """The method of this name, or `UnknownName` with the closest one."""
    if isinstance(name, str):
        if name not in _BUILT_IN_METHODS:
            from siftlm.selection import selectors  # noqa: F401  # as in `methods`
        if name in _BUILT_IN_METHODS:
            return _BUILT_IN_METHODS[name]
        if name in _entry_points():
            return method_of(_load_entry_point(name))
    elif callable(name):
        return method_of(name)
    raise UnknownName("method", name, methods(), is_setting=True)


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
