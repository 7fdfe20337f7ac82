"""What is tried: settings of selection and tuning, the plausible ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.selection import kernels
from siftlm.validation import number, whole_number

DEFAULT_NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)
DEFAULT_KERNELS = ("linear", "power:4", "centred")
DEFAULT_KS = (50, 200, 1000)
# What a search does unless told otherwise.
DEFAULT_K = 200
# Times the rate that suits models of this size; where time is short, only the first ones are tried.
RATE_FACTORS = (1.0, 3.0, 0.3, 10.0)
# A finer grid around the best of these, for the settings that are left.
FINER_FACTOR = 1.8
# How much less plausible, in powers of ten of λ, a setting is for not being the usual one.
UNUSUAL_K_PENALTY, UNUSUAL_KERNEL_PENALTY = 0.5, 0.2


@dataclass(frozen=True)
class Setting:
    """One way to select and to learn."""

    method: str
    rate: float
    noise: float | None = None
    kernel: str | None = None
    k: int = DEFAULT_K

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
        return Setting(self.method, _round_rate(rate), self.noise, self.kernel, self.k)

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


def nearest_setting(rate: float) -> Setting:
    """The usual way to retrieve."""
    return Setting("nearest", _round_rate(rate))


def default_setting(rate: float) -> Setting:
    """What a `LocalModel` does that was not calibrated."""
    return Setting("sift", _round_rate(rate), 1.0, "linear", DEFAULT_K)


def sift_settings(rate: float, grid: Grid, centres: Mapping[str, float]) -> list[Setting]:
    """Every way to select by SIFT: the usual one first, then those near the λ that suits the kernel, with the usual k.

    ``centres``: kernel -> λ, where `siftlm.spread` would start.
    """

    def distance(one: Setting) -> float:
        """In powers of ten of λ."""
        away = abs(math.log10((one.noise or 1.0) / centres.get(one.kernel or "", 1.0)))
        return away + UNUSUAL_K_PENALTY * (one.k != DEFAULT_K) + UNUSUAL_KERNEL_PENALTY * (one.kernel != "linear")

    found = [
        Setting("sift", rate, noise, kernel, k) for kernel in grid.kernels for noise in grid.noises for k in grid.ks
    ]
    return sorted(found, key=lambda one: (one != default_setting(rate), distance(one)))


@dataclass(frozen=True)
class Grid:
    """The values to combine, checked."""

    rates: tuple[float, ...]
    noises: tuple[float, ...]
    kernels: tuple[str, ...]
    ks: tuple[int, ...]


def make_grid(
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
        _check_numbers(
            "rates", rates if rates is not None else [_round_rate(rate * factor) for factor in RATE_FACTORS]
        ),
        _check_numbers("noises", DEFAULT_NOISES if noises is None else noises),
        _check_names(DEFAULT_KERNELS if kernel_names is None else kernel_names),
        tuple(whole_number("each of ks", k) for k in _check_values("ks", DEFAULT_KS if ks is None else ks)),
    )
    if ks is not None or passages is None:
        return chosen
    enough = [k for k in chosen.ks if k >= passages]
    return Grid(chosen.rates, chosen.noises, chosen.kernels, tuple(k for k in chosen.ks if k not in enough[1:]))


def _check_values(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str) or not len(values):
        raise InvalidInput(f"{name} must be a list of at least one value, got {values!r}")
    return list(dict.fromkeys(values))


def _check_numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    return tuple(number(f"each of {name}", value, above=0) for value in _check_values(name, values))


def _check_names(values: Sequence[str]) -> tuple[str, ...]:
    for value in _check_values("kernels", values):
        kernels.named(value)
    return tuple(_check_values("kernels", values))


def _round_rate(rate: float) -> float:
    """Two digits are what a grid can tell apart."""
    return float(f"{rate:.2g}")
