"""What is tried: settings of selection and tuning, the plausible ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from siftlm.controller.checks import number, whole
from siftlm.errors import InvalidInput
from siftlm.selection import kernels

NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)
KERNELS = ("linear", "power:4", "centred")
KS = (50, 200, 1000)
# What a search does unless told otherwise.
K = 200
# Times the rate that suits models of this size; where time is short, only the first ones are tried.
RATES = (1.0, 3.0, 0.3, 10.0)
# A finer grid around the best of these, for the settings that are left.
FINER = 1.8
# How much less plausible, in powers of ten of λ, a setting is for not being the usual one.
UNUSUAL_K, UNUSUAL_KERNEL = 0.5, 0.2


@dataclass(frozen=True)
class Setting:
    """One way to select and to learn."""

    method: str
    rate: float
    noise: float | None = None
    kernel: str | None = None
    k: int = K

    def search(self, n: int) -> dict[str, Any]:
        """The arguments of `Memory.search`; those of SIFT as `LocalModel` passes them."""
        given: dict[str, Any] = {"method": self.method, "n": n, "k": max(self.k, n)}
        if self.method != "nearest":
            given.update(k=self.k, noise=self.noise)
            given["kernel"] = None if self.kernel is None else kernels.named(self.kernel)
        return given

    def settings(self) -> dict[str, Any]:
        """For `LocalModel`: what is not the setting of this method is left out."""
        known = {"method": self.method, "rate": self.rate}
        return known if self.method == "nearest" else asdict(self)

    def at(self, rate: float) -> Setting:
        """The same with another rate."""
        return Setting(self.method, _rounded(rate), self.noise, self.kernel, self.k)

    def __str__(self) -> str:
        return f"{self.selection}, rate {self.rate:g}"

    @property
    def selection(self) -> str:
        """In words.

        >>> Setting("sift", 3e-4, 1.0, "power:4").selection
        'sift λ=1 power:4 k=200'
        """
        if self.method == "nearest":
            return self.method
        return f"{self.method} λ={self.noise:g} {self.kernel} k={self.k}"


def nearest(rate: float) -> Setting:
    """The usual way to retrieve."""
    return Setting("nearest", _rounded(rate))


def usual(rate: float) -> Setting:
    """What a `LocalModel` does that was not calibrated."""
    return Setting("sift", _rounded(rate), 1.0, "linear", K)


def selections(rate: float, grid: Grid, centres: Mapping[str, float]) -> list[Setting]:
    """Every way to select by SIFT: the usual one first, then those near the λ that suits the kernel, with the usual k.

    ``centres``: kernel -> λ, where `siftlm.spread` would start.
    """

    def distance(one: Setting) -> float:
        """In powers of ten of λ."""
        away = abs(math.log10((one.noise or 1.0) / centres.get(one.kernel or "", 1.0)))
        return away + UNUSUAL_K * (one.k != K) + UNUSUAL_KERNEL * (one.kernel != "linear")

    found = [
        Setting("sift", rate, noise, kernel, k) for kernel in grid.kernels for noise in grid.noises for k in grid.ks
    ]
    return sorted(found, key=lambda one: (one != usual(rate), distance(one)))


@dataclass(frozen=True)
class Grid:
    """The values to combine, checked."""

    rates: tuple[float, ...]
    noises: tuple[float, ...]
    kernels: tuple[str, ...]
    ks: tuple[int, ...]


def grid_of(
    rate: float,
    passages: int | None,
    *,
    rates: Sequence[float] | None,
    noises: Sequence[float] | None,
    kernel_names: Sequence[str] | None,
    ks: Sequence[int] | None,
) -> Grid:
    """What was asked for, or the usual around ``rate``; of the k beyond all passages only one is kept."""
    chosen = Grid(
        _each("rates", rates if rates is not None else [_rounded(rate * factor) for factor in RATES]),
        _each("noises", NOISES if noises is None else noises),
        _names(KERNELS if kernel_names is None else kernel_names),
        tuple(whole("each of ks", k) for k in _some("ks", KS if ks is None else ks)),
    )
    if ks is not None or passages is None:
        return chosen
    enough = [k for k in chosen.ks if k >= passages]
    return Grid(chosen.rates, chosen.noises, chosen.kernels, tuple(k for k in chosen.ks if k not in enough[1:]))


def _some(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str) or not len(values):
        raise InvalidInput(f"{name} must be a list of at least one value, got {values!r}")
    return list(dict.fromkeys(values))


def _each(name: str, values: Sequence[float]) -> tuple[float, ...]:
    return tuple(number(f"each of {name}", value, above=True) for value in _some(name, values))


def _names(values: Sequence[str]) -> tuple[str, ...]:
    for value in _some("kernels", values):
        kernels.named(value)
    return tuple(_some("kernels", values))


def _rounded(rate: float) -> float:
    """Two digits are what a grid can tell apart."""
    return float(f"{rate:.2g}")
