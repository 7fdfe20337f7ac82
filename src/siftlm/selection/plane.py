"""Vectors in a plane, for pictures of candidates and prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection.checks import RealArray
from siftlm.types import FloatArray

# Lengths below this are rounding errors.
ROUNDING_LENGTH = 1e-9


@dataclass(frozen=True, eq=False)
class PlaneProjection:
    """Positions in a plane. Points close together may be far apart in other directions."""

    candidates: FloatArray
    """(K, 2)"""
    prompt: FloatArray
    """(2,), or (m, 2) for several targets"""
    shown: float
    """The share of the variance that the plane shows, 0 to 1."""


def project_to_plane(candidates: RealArray, prompt: RealArray) -> PlaneProjection:
    """The first two principal axes of the candidates (K, d) and the prompt (d,), or its targets (m, d).

    X = U S Vᵀ, centred; the points are X V₂. Signs are chosen so that the prompt lies above and to the right of the
    centre. The order of the candidates does not matter.

    >>> found = project_to_plane(np.array([[3.0, 0, 0], [-3.0, 0, 0], [0, 1.0, 0]]), np.array([2.0, 1.0, 0]))
    >>> found.candidates.round(1).tolist(), found.prompt.round(1).tolist()
    ([[2.5, -0.6], [-3.5, -0.3], [-0.5, 0.5]], [1.5, 0.4])
    """
    rows = np.asarray(candidates, dtype=np.float64)
    given = np.asarray(prompt, dtype=np.float64)
    targets = np.atleast_2d(given)
    if rows.ndim != 2 or targets.ndim != 2 or targets.shape[1:] != rows.shape[1:]:
        raise InvalidInput(f"candidates must be (K, d) and the prompt (d,), got {rows.shape} and {given.shape}")
    # Rounding depends on the order of the rows, and with two axes of equal length so does everything: sort the rows by
    # their values.
    order = sorted(range(len(rows)), key=lambda row: rows[row].tobytes())
    points = np.concatenate([rows[order], targets])
    points -= points.mean(axis=0)
    _, lengths, axes = np.linalg.svd(points, full_matrices=False)
    plane = np.zeros((len(points), 2))
    for at in range(min(2, len(axes))):
        if lengths[at] > ROUNDING_LENGTH:
            plane[:, at] = points @ axes[at] * _axis_sign(axes[at], points[len(rows) :].mean(axis=0))
    positions = np.empty((len(rows), 2))
    positions[order] = plane[: len(rows)]
    squares = lengths**2
    total = float(squares.sum())
    shown = float(squares[:2].sum()) / total if total > ROUNDING_LENGTH**2 else 1.0
    return PlaneProjection(positions, plane[len(rows) :].reshape(*given.shape[:-1], 2), shown)


def _axis_sign(axis: FloatArray, prompt: FloatArray) -> float:
    """The sign that makes the prompt's coordinate positive."""
    along = float(axis @ prompt)
    if abs(along) <= ROUNDING_LENGTH:  # the prompt's is zero
        along = float(axis[np.argmax(np.abs(axis))])
    return -1.0 if along < 0 else 1.0
