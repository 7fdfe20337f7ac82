"""Kernels: what "similar" means. The meaning of λ depends on the kernel's spread (see ``siftlm.spread``).

A kernel is a function of two sets of vectors, ``kernel(x, y) -> (len(x), len(y))``, positive semi-definite.
Any such function will do. The ready-made ones know two things more: their own diagonal, and (when they are
inner products of some features) those features, which lets selection scan instead of comparing pairs.

Vectors arrive normalised unless ``normalize=False`` was asked for, so the linear kernel is the cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.selection import checks

Vectors = npt.NDArray[Any]
KernelFunction = Callable[[Vectors, Vectors], Vectors]
# What `named` reads.
KERNEL_NAMES = ("linear", "centred", "power:P", "rbf:G", "plus-constant:C")


@runtime_checkable
class FeatureKernel(Protocol):
    """A kernel that is the inner product of ``features``, which may depend on the candidates (their mean, say)."""

    def features(self, vectors: Vectors, candidates: Vectors) -> Vectors:
        """(n, d) -> (n, d'): k(x, y) = features(x) · features(y)."""


@dataclass(frozen=True)
class Linear:
    """k(x, y) = x · y"""

    def __call__(self, x: Vectors, y: Vectors) -> Vectors:
        """The inner products (len(x), len(y))."""
        return x @ y.T

    def features(self, vectors: Vectors, candidates: Vectors) -> Vectors:  # noqa: ARG002
        """The vectors themselves."""
        return vectors


@dataclass(frozen=True)
class Centred:
    """k(x, y) = cos(x − μ, y − μ), with μ the candidates' mean or the one given.

    Embeddings of many models sit in a narrow cone: all cosines are close together and λ sees little of the
    differences. Taking the mean away opens the cone.
    """

    mean: tuple[float, ...] | None = None

    def features(self, vectors: Vectors, candidates: Vectors) -> Vectors:
        """x − μ, at unit length. A vector equal to μ has no direction left and becomes zero."""
        if self.mean is not None:
            mean = np.asarray(self.mean, dtype=np.float64)
            if mean.shape != (vectors.shape[1],):
                raise InvalidInput(f"mean has shape {mean.shape}, the vectors have width {vectors.shape[1]}")
        else:
            mean = candidates.mean(axis=0, dtype=np.float64)
        moved = vectors - mean.astype(vectors.dtype)
        length = np.sqrt(np.einsum("ij,ij->i", moved, moved))[:, None]
        # Below rounding, what is left is noise; blowing it up to unit length would invent a direction.
        tiny = 1e-6 if vectors.dtype == np.float32 else 1e-12
        unit: Vectors = np.divide(moved, length, out=np.zeros_like(moved), where=length > tiny)
        return unit


@dataclass(frozen=True)
class PlusConstant:
    """k(x, y) = base(x, y) + c: every text tells a little about every prompt.

    With c = 1 and twice the noise this is (1 + cos) / 2.
    """

    constant: float
    base: KernelFunction = Linear()

    def __post_init__(self) -> None:
        validation.number("constant", self.constant, least=0)
        _check_base(self.base)

    def __call__(self, x: Vectors, y: Vectors) -> Vectors:
        """base(x, y) + c"""
        shifted: Vectors = self.base(x, y) + np.asarray(self.constant, dtype=x.dtype)
        return shifted


@dataclass(frozen=True)
class Power:
    """k(x, y) = base(x, y)^p for a whole p ≥ 1: what is far counts for less, what is near for as much.

    An even p treats opposite directions as alike.
    """

    exponent: int
    base: KernelFunction = Linear()

    def __post_init__(self) -> None:
        # A product of kernels is a kernel; a broken power of one need not be.
        validation.whole_number("exponent", self.exponent, least=1)
        _check_base(self.base)

    def __call__(self, x: Vectors, y: Vectors) -> Vectors:
        """base(x, y)^p"""
        powers: Vectors = self.base(x, y) ** self.exponent
        return powers


@dataclass(frozen=True)
class RBF:
    """k(x, y) = exp(−γ ‖x − y‖²), the Gaussian kernel: what is far hardly counts.

    For vectors at unit length it is exp(2γ (cos − 1)). With γ = 2 and λ = 0.3, SIFT keeps to the prompt on texts that
    don't repeat each other, where with the cosine it may prefer a text about something else to a second one about it.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        validation.number("gamma", self.gamma, above=0)

    def __call__(self, x: Vectors, y: Vectors) -> Vectors:
        """exp(−γ ‖x − y‖²)"""
        squared = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y) - 2 * (x @ y.T)
        near: Vectors = np.exp(-self.gamma * np.maximum(squared, 0))
        return near


@dataclass(frozen=True)
class Relevance:
    """A prior on top of any method: gains times max(similarity to the prompt, floor)^power.

    Passed as ``prior=``, not as ``kernel=``. It keeps a wide search near the prompt. With several targets
    the nearest one counts.
    """

    power: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        validation.number("power", self.power, least=0)
        validation.number("floor", self.floor, least=0)

    def __call__(self, similarity: Vectors) -> Vectors:
        """(m, K) similarities, scaled to 1 for equal texts -> (K,) weights."""
        weights: Vectors = np.maximum(np.abs(similarity).max(axis=0), self.floor) ** self.power
        return weights


def _check_base(base: object) -> None:
    if not callable(base):
        raise InvalidInput(f"base must be a kernel function of two sets of vectors, got {base!r}")


def linear() -> Linear:
    """k(x, y) = x · y, the default.

    >>> linear()(np.eye(2), np.array([[3.0, 4.0]])).tolist()
    [[3.0], [4.0]]
    """
    return Linear()


def centred(mean: npt.ArrayLike | None = None) -> Centred:
    """The cosine after taking away the candidates' mean (or ``mean``). See `Centred`."""
    if mean is None:
        return Centred()
    return Centred(tuple(checks.finite_matrix("mean", mean, shape=(1, None))[0].tolist()))


def power(exponent: int, base: KernelFunction | None = None) -> Power:
    """base(x, y)^p.

    >>> power(4)(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])).tolist()
    [[0.0625]]
    """
    return Power(exponent, base or Linear())


def plus_constant(constant: float, base: KernelFunction | None = None) -> PlusConstant:
    """base(x, y) + c.

    >>> plus_constant(1.0)(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])).tolist()
    [[0.0]]
    """
    return PlusConstant(constant, base or Linear())


def rbf(gamma: float = 2.0) -> RBF:
    """exp(−γ ‖x − y‖²).

    >>> rbf(0.5)(np.zeros((1, 2)), np.array([[1.0, 1.0]])).round(4).tolist()
    [[0.3679]]
    """
    return RBF(gamma)


def relevance(power: float = 2.0, floor: float = 0.0) -> Relevance:
    """A prior that multiplies gains by the similarity to the prompt. See `Relevance`."""
    return Relevance(power, floor)


def named(name: str) -> KernelFunction | FeatureKernel:
    """The kernel of a short text, as a command line or a file of settings has it.

    >>> named("power:4")
    Power(exponent=4, base=Linear())
    """
    if not isinstance(name, str):
        raise InvalidInput(f"a kernel's name must be a str such as 'power:4', got {name!r}")
    kind, _, parameter = name.partition(":")
    kind = kind.replace("_", "-")
    if kind in ("linear", "centred"):
        if parameter:
            raise InvalidInput(f"{setting('kernel')} {kind!r} takes no setting, got {name!r}")
        return linear() if kind == "linear" else centred()
    try:
        if kind == "power":
            return power(int(parameter))
        if kind == "rbf":
            return rbf(float(parameter))
        if kind == "plus-constant":
            return plus_constant(float(parameter))
    except InvalidInput as error:  # it is a ValueError too, and says more
        raise InvalidInput(f"{setting('kernel')} {name!r}: {error.marked}") from error
    except ValueError as error:
        raise InvalidInput(f"{setting('kernel')} {name!r} needs a number: power:4, rbf:2 or plus-constant:1") from error
    raise UnknownName("kernel", name, KERNEL_NAMES, is_setting=True)


def named_prior(name: str) -> Relevance:
    """The prior of a short text, as `named` reads kernels: ``relevance`` or ``relevance:POWER``.

    >>> named_prior("relevance:1.5")
    Relevance(power=1.5, floor=0.0)
    """
    kind, _, parameter = name.partition(":")
    if kind != "relevance":
        raise UnknownName("prior", name, ("relevance:P",), is_setting=True)
    try:
        return relevance(float(parameter)) if parameter else relevance()
    except InvalidInput as error:  # it is a ValueError too, and says more
        raise InvalidInput(f"{setting('prior')} {name!r}: {error.marked}") from error
    except ValueError as error:
        raise InvalidInput(f"{setting('prior')} {name!r} needs a number: relevance:2") from error


def name_of(part: object) -> str | None:
    """The name from which `named` or `named_prior` makes this kernel or prior; None where there is no such name.

    >>> name_of(power(4)), name_of(relevance(1.5)), name_of(power(2, base=centred))
    ('power:4', 'relevance:1.5', None)
    """
    for kind, name in (
        (Linear, "linear"),
        (Centred, "centred"),
        (Power, f"power:{getattr(part, 'exponent', '')}"),
        (RBF, f"rbf:{getattr(part, 'gamma', '')}"),
        (PlusConstant, f"plus-constant:{getattr(part, 'constant', '')}"),
        (Relevance, f"relevance:{getattr(part, 'power', '')}"),
    ):
        if isinstance(part, kind):
            return name if part == (named_prior if kind is Relevance else named)(name) else None
    return None
