"""Compare a selection with the oracle, pick by pick, along the selection's own picks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from properties.oracle import World, world
from properties.worlds import Array, Case
from siftlm import Selection, select

Score = Callable[[World, list[int]], Array]


def rounding(case: Case, world: World) -> float:
    """The error to expect of numbers of order one, from the precision of the products and λ alone."""
    scale = float(max(np.diagonal(world.joint).max(), 1e-300))
    usual = float(np.diagonal(world.joint)[world.candidates].mean())
    wide = case.candidates.dtype == np.float64 or case.noise < 0.999e-3 * usual
    # Gains nearer to each other than about 1e-9 count as equal, so a pick may be off by that much.
    return 2.3e-16 * (64 + 64 * scale / case.noise) + 1e-9 if wide else 1.2e-7 * (64 + 64 * scale / case.noise)


def follow(
    selection: Selection,
    world: World,
    score: Score,
    *,
    error: float,
    allowed: Callable[[list[int]], Array] | None = None,
    weight: Array | None = None,
    repeats: bool = False,
    floor: float = 0.0,
    twins: bool = True,
) -> None:
    """Every pick is the best, or so near to it that rounding decides; equal ones go by index; gains agree.

    ``error`` is relative to the best score so far, that with nothing known included, and to ``floor``.
    ``allowed`` masks candidates given the picks so far (each once, unless given or ``repeats``); ``weight``
    multiplies scores before they are compared; without ``twins``, equal vectors need not have equal scores.
    """
    size = len(world.candidates)
    picks: list[int] = []
    heaviest = 1.0 if weight is None else float(weight.max())
    largest = max(floor, float(np.abs(score(world.before_anything(), [])).max()))
    for step, pick in enumerate(selection.indices.tolist()):
        gains = np.asarray(score(world, picks), dtype=np.float64)
        if allowed is not None:
            mask = allowed(picks)
        else:
            mask = np.ones(size, bool)
            if not repeats:
                mask[picks] = False
        assert mask[pick], f"pick {step} ({pick}) was not allowed after {picks}"
        scores = gains if weight is None else gains * weight
        scores = np.where(mask, scores, -np.inf)
        best = scores.max()
        largest = max(largest, abs(gains[mask]).max())
        tolerance = error * largest * heaviest
        assert scores[pick] >= best - tolerance, (
            f"pick {step} is {pick} with score {scores[pick]!r} ± {tolerance:.2g}, "
            f"but {scores.argmax()} has {best!r} after {picks}"
        )
        same = equal_to(world, pick) if twins else []
        earlier = [j for j in same if j < pick and mask[j] and (weight is None or weight[j] == weight[pick])]
        assert not earlier, f"pick {step} is {pick}, but {earlier} are the same and come first"
        assert abs(selection.gains[step] - gains[pick]) <= error * largest + 1e-30, (
            f"gain {step} is {selection.gains[step]!r}, expected {gains[pick]!r} ± {error * largest:.2g}"
        )
        picks.append(pick)


def equal_to(world: World, pick: int) -> Sequence[int]:
    """Candidates that nothing can tell from the pick: the very same vector."""
    return np.flatnonzero((world.rows == world.rows[pick]).all(axis=1)).tolist()


def check_uncertainty(selection: Selection, world: World, *, error: float) -> None:
    """One more entry than picks, from the prior on, each the variance that the picks leave, never rising."""
    trace = selection.uncertainty
    assert trace.shape == (len(selection) + 1,)
    for step in range(len(trace)):
        expected = world.uncertainty(selection.indices[:step].tolist())
        if np.isnan(expected):
            assert np.isnan(trace[step])
        else:
            prior = world.uncertainty([])
            assert abs(trace[step] - expected) <= error * max(prior, 1e-300), (
                f"uncertainty[{step}] is {trace[step]!r}, expected {expected!r}"
            )
            assert trace[step] >= 0
    if not np.isnan(trace[0]):
        assert (np.diff(trace) <= 0).all(), trace


def run_case(case: Case, **settings: Any) -> Selection:
    return select(case.query, case.candidates, case.n, noise=case.noise, normalize=case.normalize, **settings)


def world_of(case: Case, **settings: Any) -> World:
    return world(case.query, case.candidates, noise=case.noise, normalize=case.normalize, **settings)
