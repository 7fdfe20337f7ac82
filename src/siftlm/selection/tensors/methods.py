"""The methods of the torch twin: each a pure function of what is known before a pick, for b prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from siftlm.extras import load

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")


class TensorView(NamedTuple):
    """What a method may look at: b prompts, m targets each, K candidates. Empty if it said it would not."""

    a: Tensor
    """(b, m, K) k_n(x*, x)"""
    noisy: Tensor
    """(b, K) k_n(x, x) + λ"""
    targets: Tensor
    """(b, m, m) k_n(x*, x*)"""
    least: Tensor
    """(b, m, 1) a target's variance below this is rounding: nothing is left to learn of it"""
    relevance: Tensor
    """(b, K) mean cosine to the targets"""
    closest: Tensor
    """(b, K) largest cosine to a pick; 0 before the first"""
    chance: Tensor
    """(b, K) uniform random numbers, the same for every prompt"""
    noise: float
    """λ"""


def sift(view: TensorView) -> Tensor:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)"""
    if view.a.shape[1] == 1:
        return view.a[:, 0].square().div_(view.noisy)
    return view.a.square().mean(1).div_(view.noisy)


def itl(view: TensorView) -> Tensor:
    """½ log((v + λ) / (v + λ − aᵀ (T + λI)⁻¹ a)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)"""
    told = view.targets.clone()
    # The jitter is far below λ, and keeps what rounding made of T positive; least is of the size of rounding.
    told.diagonal(dim1=1, dim2=2).add_(view.noise + view.least[:, :, 0])
    factor = torch.linalg.cholesky_ex(told)[0]  # cholesky itself would wait for the device to look for errors
    part = torch.linalg.solve_triangular(factor, view.a, upper=False).square().sum(1)
    return torch.log1p(-part.minimum(uncertainty(view)) / view.noisy) / -2


def mm_itl(view: TensorView) -> Tensor:
    """mean_m −½ log(1 − a_m² / ((v + λ) T_mm)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)"""
    left = view.targets.diagonal(dim1=1, dim2=2)[:, :, None]
    share = torch.where(left > view.least, view.a.square() / left, 0)
    # By Cauchy–Schwarz a_m² ≤ v T_mm; rounding must not take it further.
    share = share.minimum(uncertainty(view)[:, None]) / view.noisy[:, None]
    return torch.log1p(-share).mean(1) / -2


def undirected_itl(view: TensorView) -> Tensor:
    """½ log(1 + k_n(x, x) / λ)"""
    return torch.log1p(uncertainty(view) / view.noise) / 2


def uncertainty(view: TensorView) -> Tensor:
    """k_n(x, x)"""
    return (view.noisy - view.noise).clamp_min(0)


def nearest(view: TensorView) -> Tensor:
    """(1 + mean_m cos(x*_m, x)) / 2"""
    return (1 + view.relevance) / 2


def mmr(view: TensorView) -> Tensor:
    """½ mean_m cos(x*_m, x) − ½ max_{i picked} cos(x_i, x)"""
    return (view.relevance - view.closest) / 2


def random(view: TensorView) -> Tensor:
    """A random number, the same for every prompt: each gets the picks that it would get alone."""
    return view.chance


@dataclass(frozen=True)
class TensorMethod:
    """A method and what it looks at; what no method looks at is not computed."""

    gains: Callable[[TensorView], Tensor]
    looks_at: frozenset[str] = frozenset({"posterior"})
    """Of ``posterior`` (a, noisy), ``targets``, ``relevance``, ``closest``, ``chance``"""
    repeats: bool = False
    """May it pick the same candidate again, unless told otherwise?"""


METHODS: dict[str, TensorMethod] = {
    "sift": TensorMethod(sift, repeats=True),
    "vtl": TensorMethod(sift, repeats=True),
    "itl": TensorMethod(itl, frozenset({"posterior", "targets"}), repeats=True),
    "mm-itl": TensorMethod(mm_itl, frozenset({"posterior", "targets"}), repeats=True),
    "undirected-itl": TensorMethod(undirected_itl, repeats=True),
    "uncertainty": TensorMethod(uncertainty, repeats=True),
    "nearest": TensorMethod(nearest, frozenset({"relevance"})),
    "nn-f": TensorMethod(nearest, frozenset({"relevance"}), repeats=True),
    "mmr": TensorMethod(mmr, frozenset({"relevance", "closest"})),
    "random": TensorMethod(random, frozenset({"chance"})),
}
