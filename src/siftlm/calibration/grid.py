"""The grid: settings of selection and tuning to try, the plausible ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from siftlm.errors import InvalidInput, setting
from siftlm.selection import kernels
from siftlm.validation import number, whole_number

DEFAULT_NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)
DEFAULT_KERNELS = ("linear", "power:4", "centred")
DEFAULT_KS = (50, 200, 1000)
# The default of a search.
DEFAULT_K = 200
# Factors of the rate that suits models of this size; if time is short, only the first ones are tried.
RATE_FACTORS = (1.0, 3.0, 0.3, 10.0)
# The factor between the best of these and its neighbours in the finer grid.
FINER_FACTOR = 1.8
# How much less plausible, in powers of ten of λ, settings other than the defaults are.
UNUSUAL_K_PENALTY, UNUSUAL_KERNEL_PENALTY = 0.5, 0.2


@dataclass(frozen=True)
class Setting:
    """One setting of selection and tuning."""

    method: str
    rate: float
    noise: float | None = None
    kernel: str | None = None
    k: int = DEFAULT_K

    def search(self, n: int) -> dict[str, Any]:
        """The arguments of `Memory.search`; those of SIFT as `LocalModel` passes them."""
        arguments: dict[str, Any] = {"method": self.method, "n": n, "k": max(self.k, n)}
        if self.method != "nearest":
            arguments.update(k=self.k, noise=self.noise)
            arguments["kernel"] = None if self.kernel is None else kernels.named(self.kernel)
        return arguments

    def settings(self) -> dict[str, Any]:
        """The settings of `LocalModel`, without those that the method does not have."""
        return {"method": self.method, "rate": self.rate} if self.method == "nearest" else asdict(self)

    def at(self, rate: float) -> Setting:
        """The setting at another rate."""
        return Setting(self.method, _round_rate(rate), self.noise, self.kernel, self.k)

    def __str__(self) -> str:
        return f"{self.selection}, rate {self.rate:g}"

    @property
    def selection(self) -> str:
        """The selection in words.

        >>> Setting("sift", 3e-4, 1.0, "power:4").selection
        'sift λ=1 power:4 k=200'
        """
        if self.method == "nearest":
            return self.method
        return f"{self.method} λ={self.noise:g} {self.kernel} k={self.k}"


def nearest_setting(rate: float) -> Setting:
    """Nearest neighbour."""
    return Setting("nearest", _round_rate(rate))


def default_setting(rate: float) -> Setting:
    """The setting of a `LocalModel` without a calibration."""
    return Setting("sift", _round_rate(rate), 1.0, "linear", DEFAULT_K)


def sift_settings(rate: float, grid: Grid, centres: Mapping[str, float]) -> list[Setting]:
    """All settings of SIFT: the default first, then those near the λ that suits the kernel, with the default k.

    ``centres``: kernel -> the λ of `siftlm.spread`.
    """

    def distance(one: Setting) -> float:
        """Distance from the most plausible setting, in powers of ten of λ."""
        away = abs(math.log10((one.noise or 1.0) / centres.get(one.kernel or "", 1.0)))
        return away + UNUSUAL_K_PENALTY * (one.k != DEFAULT_K) + UNUSUAL_KERNEL_PENALTY * (one.kernel != "linear")

    settings = [
        Setting("sift", rate, noise, kernel, k) for kernel in grid.kernels for noise in grid.noises for k in grid.ks
    ]
    return sorted(settings, key=lambda one: (one != default_setting(rate), distance(one)))


@dataclass(frozen=True)
class Grid:
    """Checked values to combine."""

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
    """The grid of the values, by default some around ``rate``; of the k beyond all passages only one is kept."""
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
        raise InvalidInput(f"{setting(name)} must be a list of at least one value, got {values!r}")
    return list(dict.fromkeys(values))


def _check_numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    return tuple(number(f"each of {name}", value, above=0) for value in _check_values(name, values))


def _check_names(values: Sequence[str]) -> tuple[str, ...]:
    for value in _check_values("kernels", values):
        kernels.named(value)
    return tuple(_check_values("kernels", values))


def _round_rate(rate: float) -> float:
    """The rate at two digits; a grid distinguishes no more."""
    return float(f"{rate:.2g}")
