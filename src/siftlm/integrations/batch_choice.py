"""The rows of a batch: `siftlm.select` on torch tensors, given rows that are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from siftlm.selection import select, tensors
from siftlm.selection.problem import MethodFunction, find_method
from siftlm.types import FloatArray, Selection

# Methods whose gains come from the posterior alone: known rows may go into the features instead of being observed.
POSTERIOR_METHODS = frozenset(
    {"sift", "vtl", "sift-fast", "itl", "mm-itl", "ctl", "undirected-itl", "undirected-vtl", "uncertainty"}
)


def choose_rows(
    candidates: Tensor,
    targets: Tensor | None,
    known: Tensor | None,
    n: int,
    *,
    method: str | MethodFunction,
    noise: float,
    seed: int,
    **settings: Any,
) -> Selection:
    """``siftlm.select`` on vectors as they are, without repeats, given known ones.

    Where there are more known vectors than features, they go into the features: with M = I + KᵀK/λ = C Cᵀ the posterior
    kernel given K is xᵀ M⁻¹ x' = (C⁻¹x)·(C⁻¹x'). That costs two matrix products, in place of a scan for each.
    """
    entry = find_method(method)
    settings |= {"method": method, "noise": noise, "normalize": False, "seed": seed, "replacement": False}
    if entry.reads == "probabilities":
        return select(None, _array(candidates), n, **settings)
    on_device = candidates.device.type != "cpu" and can_choose_on_device(entry.name, settings)
    by_posterior = entry.name in POSTERIOR_METHODS and "kernel" not in settings
    if known is not None and by_posterior and (on_device or len(known) > known.shape[1]):
        candidates, targets = given_known(candidates, targets, known, noise)
        known = None
    if on_device and known is None:
        return choose_on_device(candidates, targets, n, settings)
    return select(
        None if targets is None else _array(targets),
        _array(candidates),
        n,
        known=None if known is None else _array(known),
        **settings,
    )


def given_known(
    candidates: Tensor, targets: Tensor | None, known: Tensor, noise: float
) -> tuple[Tensor, Tensor | None]:
    """Features whose inner products are the posterior kernel given the known vectors."""
    precision = torch.eye(known.shape[1], dtype=known.dtype, device=known.device) + known.mT @ known / noise
    factor = torch.linalg.cholesky(precision)
    rows = [candidates] if targets is None else [candidates, targets]
    moved = [torch.linalg.solve_triangular(factor, vectors.mT, upper=False).mT for vectors in rows]
    return moved[0], None if targets is None else moved[1]


def can_choose_on_device(method: str, settings: Mapping[str, Any]) -> bool:
    """Do `siftlm.selection.tensors` have this method with these settings?"""
    return method in tensors.METHODS and set(settings) == {"method", "noise", "normalize", "seed", "replacement"}


def choose_on_device(candidates: Tensor, targets: Tensor | None, n: int, settings: Mapping[str, Any]) -> Selection:
    """`select` on the device of the candidates."""
    queries = torch.zeros_like(candidates[:1]) if targets is None else targets
    picks = tensors.select_many(queries[None], candidates, n, **settings)[0]
    nothing: FloatArray = np.full(len(picks) + 1, np.nan)
    return picks if targets is not None else dataclasses.replace(picks, uncertainty=nothing, evidence=None)


def _array(vectors: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.ascontiguousarray(vectors.cpu().numpy())
    return array
