"""A group of candidates near the targets in transport, found by exchanges: GORACS (Mei et al. 2025)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, setting
from siftlm.selection import checks
from siftlm.selection.problem import Problem, Steps, method
from siftlm.selection.selectors.got_d import DEFAULT_ENTROPY, target_distances
from siftlm.selection.transport import MIN_ENTROPY, Potentials, row_potentials, transport
from siftlm.types import FloatArray, IntArray

# As published: the exchanges that are made at most, and how many candidates on either side of one are tried.
DEFAULT_EXCHANGES, DEFAULT_TRIED = 100, 30
# Candidates beyond so many, by the cost of their nearest target, take no part.
DEFAULT_SHORTLIST = 4096
# The error of masses at which Sinkhorn's iterations end: that of the distance goes by its square.
TOLERANCE = 1e-3
# An exchange must lower the distance by more than that.
LEAST_GAIN = 1e-6
# A fall of the sum of minima that is rounding.
LEAST_FALL = 1e-9


@method(
    "goracs",
    "a group whose optimal transport to the targets is least, found by exchanges (GORACS)",
    whole=True,
    numbers=("gradients",),
    nonnegative=("gradients",),
)
def goracs(
    problem: Problem,
    *,
    gradients: npt.ArrayLike | None = None,
    weight: float | None = None,
    exchanges: int = DEFAULT_EXCHANGES,
    tried: int = DEFAULT_TRIED,
    entropy: float = DEFAULT_ENTROPY,
    shortlist: int = DEFAULT_SHORTLIST,
) -> Steps:
    """Minimise OT(group, targets) with cost ‖φ(x) − φ(x*)‖ / max − weight · ‖∇L(x)‖ / max over groups of n candidates

    Mei et al. 2025, arXiv 2506.04015: a bound on the loss on the targets after training on the group. ``gradients``
    (K,) are the norms of the loss's gradients of the model before training, ``weight`` (1 with gradients) is the
    paper's λ; without them only the distance counts. First, n times, the candidate that lowers Σ_j min_{i ∈ group} c_ij
    most joins the group; once none does, the minima are taken anew over those that join from then on, which the paper
    leaves open. Then candidates in the group are exchanged for others while that lowers the distance: those tried are
    the ``tried`` on either side whose potentials promise most (the paper's Theorem 4.3).

    Each candidate of the group has the mass 1/n. The distance has ``entropy`` in it, in units of the cost's range
    (the paper's has none), and all but ``shortlist`` candidates with the least costs are left out first (the paper's
    are not). The version with a group for each class is not here. Picks come in the order of joining; the gain is
    1 + max c − Σ_j c_xj / m. Known items play no part. O(n · shortlist · m), then an OT of n × m for each exchange.
    """
    entropy = validation.number("entropy", entropy, least=MIN_ENTROPY, most=1)
    exchanges = validation.whole_number("exchanges", exchanges, least=0)
    tried, shortlist = validation.whole_number("tried", tried), validation.whole_number("shortlist", shortlist)
    if weight is not None and gradients is None:
        raise Conflict(f"{setting('weight')} weighs {setting('gradients')}, which are not given")
    factor = 1.0 if weight is None else validation.number("weight", weight, least=0)
    cost = target_distances(problem)[: problem.candidates]
    cost /= float(cost.max()) or 1.0
    if gradients is not None:
        norms = checks.per_item("gradients", gradients, problem.candidates, positive=False)
        cost -= factor * (norms / (float(norms.max()) or 1.0))[:, None]
    allowed = _shortlisted(problem, cost, max(shortlist, problem.picks))
    cost = cost[allowed]
    cost -= cost.min()
    cost /= float(cost.max()) or 1.0
    group = _exchanged(cost, _greedy(cost, min(problem.picks, len(allowed))), exchanges, tried, entropy)
    for _ in range(problem.known):
        yield np.zeros(problem.space.size)
    for member in group:
        gains = np.zeros(problem.space.size)
        gains[allowed[member]] = 2 - float(cost[member].mean())
        yield gains
    while True:
        yield np.zeros(problem.space.size)


def _shortlisted(problem: Problem, cost: FloatArray, most: int) -> IntArray:
    """The candidates that may be picked, of many those with the least cost to some target."""
    forbidden = problem.rules.forbidden()
    allowed = np.arange(len(cost)) if forbidden is None else np.flatnonzero(~forbidden[: len(cost)])
    if len(allowed) > most:
        least = cost[allowed].min(axis=1)
        allowed = allowed[np.sort(np.argsort(least, kind="stable")[:most])]
    return allowed.astype(np.int64)


def _greedy(cost: FloatArray, n: int) -> list[int]:
    """n rows, one by one that which lowers the sum of the columns' minima most."""
    mean = cost.mean(axis=1)
    group: list[int] = []
    least = np.ones(cost.shape[1])
    out = np.ones(len(cost), dtype=np.bool_)
    while len(group) < n:
        falls = np.maximum(least - cost, 0).sum(axis=1)
        if falls[out].max() <= LEAST_FALL and (least < 1).any():  # every target has its best
            least = np.ones(cost.shape[1])
            continue
        best = np.flatnonzero(out & (falls >= falls[out].max() * (1 - 1e-12)))
        group.append(int(best[mean[best].argmin()]))
        out[group[-1]] = False
        np.minimum(least, cost[group[-1]], out=least)
    return group


def _exchanged(cost: FloatArray, group: list[int], exchanges: int, tried: int, entropy: float) -> list[int]:
    """The group after exchanges, one row for one that is not in it, each of which lowers the distance."""
    now = transport(cost[group], entropy, tolerance=TOLERANCE)
    for _ in range(exchanges):
        better = _better(cost, group, now, tried, entropy)
        if better is None:
            break
        group, now = better
    return group


def _better(
    cost: FloatArray, group: list[int], now: Potentials, tried: int, entropy: float
) -> tuple[list[int], Potentials] | None:
    """The group after the first exchange of those that promise most that lowers the distance."""
    promise = importance(cost, np.array(group), now.rows)
    members = np.zeros(len(cost), dtype=np.bool_)
    members[group] = True
    leaving = sorted(range(len(group)), key=lambda at: -promise[group[at]])[:tried]
    outside = np.flatnonzero(~members)
    joining = outside[np.argsort(promise[outside], kind="stable")[:tried]]
    potential = row_potentials(cost, now.columns, entropy)
    for at in leaving:
        for other in joining.tolist():
            # At least so large is the distance after the exchange: the dual's value where the columns stay as they are.
            if potential[other] - potential[group[at]] >= -LEAST_GAIN * len(group):
                continue
            changed = [*group[:at], other, *group[at + 1 :]]
            found = transport(cost[changed], entropy, now.columns, tolerance=TOLERANCE)
            if found.distance < now.distance - LEAST_GAIN:
                return changed, found
    return None


def importance(cost: FloatArray, group: IntArray, potentials: FloatArray) -> FloatArray:
    """(K,) about what each row changes the distance by as a member: mean_j min(c_kj − y_k − f_kj, 0) + y_k / n

    f_kj is the least c_ij − u_i over members i other than k, with u their potentials; y_k is the ⌈m/n⌉-th largest
    c_kj − f_kj: the potential at which a share of 1/n of the targets would come to k.
    """
    members, targets = len(group), cost.shape[1]
    reduced = cost[group] - potentials[:, None]
    order = np.argsort(reduced, axis=0, kind="stable")
    least = np.take_along_axis(reduced, order[:1], axis=0)[0]
    second = np.take_along_axis(reduced, order[1:2], axis=0)[0] if members > 1 else np.ones(targets)
    others = np.broadcast_to(least, cost.shape).copy()
    others[group[order[0]], np.arange(targets)] = second
    beyond = cost - others
    share = min(targets, -(-targets // members))
    level = np.partition(beyond, targets - share, axis=1)[:, targets - share]
    promised: FloatArray = np.minimum(beyond - level[:, None], 0).mean(axis=1) + level / members
    return promised
