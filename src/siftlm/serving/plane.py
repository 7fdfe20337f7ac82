"""Candidates and the prompt as points of a plane, so that a page can draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.types import FloatArray, Vectors

# Lengths that are nothing but rounding.
ROUNDING_LENGTH = 1e-9


@dataclass(frozen=True, eq=False)
class PlaneProjection:
    """Where each of them is; near points may be far from each other in all the directions that a plane lacks."""

    candidates: FloatArray
    """(K, 2)"""
    prompt: FloatArray
    """(2,)"""
    shown: float
    """The share of the variance that the plane shows, 0 to 1."""


def project_to_plane(candidates: Vectors, prompt: Vectors) -> PlaneProjection:
    """The first two principal axes of the candidates (K, d) and the prompt (d,).

    X = U S Vᵀ, centred; the points are X V₂. The prompt lies to the right of the centre and above it, so a picture
    is the same each time. The order of the candidates moves no point.

    >>> found = plane(np.array([[3.0, 0, 0], [-3.0, 0, 0], [0, 1.0, 0]]), np.array([2.0, 1.0, 0]))
    >>> found.candidates.round(1).tolist(), found.prompt.round(1).tolist()
    ([[2.5, -0.6], [-3.5, -0.3], [-0.5, 0.5]], [1.5, 0.4])
    """
    given = np.asarray(candidates, dtype=np.float64)
    target = np.asarray(prompt, dtype=np.float64)
    if given.ndim != 2 or target.shape != given.shape[1:]:
        raise InvalidInput(f"candidates must be (K, d) and the prompt (d,), got {given.shape} and {target.shape}")
    # Rounding depends on the order, and where two axes are as long as each other so does everything: bring the rows
    # into one that depends on nothing but themselves.
    order = sorted(range(len(given)), key=lambda row: given[row].tobytes())
    points = np.concatenate([given[order], target[None, :]])
    points -= points.mean(axis=0)
    _, lengths, axes = np.linalg.svd(points, full_matrices=False)
    drawn = np.zeros((len(points), 2))
    for at in range(min(2, len(axes))):
        if lengths[at] > ROUNDING_LENGTH:
            drawn[:, at] = points @ axes[at] * _axis_sign(axes[at], points[-1])
    placed = np.empty((len(given), 2))
    placed[order] = drawn[:-1]
    squares = lengths**2
    total = float(squares.sum())
    return PlaneProjection(placed, drawn[-1], float(squares[:2].sum()) / total if total > ROUNDING_LENGTH**2 else 1.0)


def _axis_sign(axis: FloatArray, prompt: FloatArray) -> float:
    """Which end of an axis is the positive one."""
    along = float(axis @ prompt)
    if abs(along) <= ROUNDING_LENGTH:  # the prompt cannot tell
        along = float(axis[np.argmax(np.abs(axis))])
    return -1.0 if along < 0 else 1.0
