"""Chosen by scores of each record: DEITA's filter (Liu et al. 2024) and DEALRec (Lin et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.clusters import even_shares
from siftlm.selection.numerics import ZERO_COSINE_ROUNDINGS, scaled_to_one
from siftlm.selection.problem import Problem, Steps, method
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, IntArray

# Cosine above which a record repeats an accepted one: the default of the published code.
DEFAULT_THRESHOLD = 0.9
# DEALRec's, as published.
DEFAULT_RANGES, DEFAULT_WEIGHT, DEFAULT_DAMPING = 50, 1.0, 0.01
# Newton's method and conjugate gradients stop at these shares of their first residual.
NEWTON_TOLERANCE, SOLVE_TOLERANCE = 1e-9, 1e-12
MAX_NEWTON_STEPS = 100


@method(
    "deita",
    "best score (prior=) first, but nothing too similar to a pick (DEITA)",
    targeted=False,
    numbers=("complexity",),
    nonnegative=("complexity",),
)
def deita(problem: Problem, *, threshold: float = DEFAULT_THRESHOLD, complexity: npt.ArrayLike | None = None) -> Steps:
    """complexity(x)  among candidates with max_i cos(x_i, x) ≤ threshold over the picks x_i

    Liu et al. 2024, arXiv 2312.15685. The score of a text is the product of its complexity and its quality, two
    numbers that DEITA's own models give: pass one as ``complexity`` (K,) and the other as ``prior``, or the product as
    ``prior``. Without any, candidates come in the order in which they are given. What is too similar to a pick or to a
    known item can never be picked, so there may be fewer picks than asked for. O(K d) a pick.
    """
    threshold = validation.number("threshold", threshold, least=-1, most=1)
    scores = np.ones(problem.candidates)
    if complexity is not None:
        scores = checks.per_item("complexity", complexity, problem.candidates, positive=False)
    gains = problem.padded(scores)
    # A cosine is no more than the threshold if it is so but for rounding.
    most = threshold + ZERO_COSINE_ROUNDINGS * problem.space.rounding
    while True:
        index = yield gains
        problem.rules.block(problem.similarity_to(index) > most)


@method(
    "dealrec",
    "drawn over all ranges of influence and effort, from the rarest range first (DEALRec)",
    targeted=False,
    whole=True,
    numbers=("influence", "effort"),
    nonnegative=("effort",),
    labels=("labels",),
)
def dealrec(
    problem: Problem,
    *,
    influence: npt.ArrayLike | None = None,
    labels: Sequence[object] | npt.NDArray[Any] | None = None,
    effort: npt.ArrayLike | None = None,
    weight: float = DEFAULT_WEIGHT,
    ranges: int = DEFAULT_RANGES,
    prune: float = 0.0,
    damping: float = DEFAULT_DAMPING,
) -> Steps:
    """n draws over ranges of s(x) = influence(x) + weight · effort(x), each of the two scaled to [0, 1]

    Lin et al. 2024, arXiv 2401.17197. Influence is how much the mean loss of a small surrogate would rise without the
    record, to first order: a number of your own for each candidate, or ``labels``, one for each, from which it is
    computed. The surrogate is then the softmax regression from vectors to labels that minimises the mean loss
    + ``damping`` / 2 ‖W‖², and the influence ḡᵀ H⁻¹ g_x, where g_x is the gradient of the loss on x, ḡ their mean and H
    the Hessian. ``effort`` is the norm of the loss's gradient in the model that will be trained.

    The scores are cut into ``ranges`` of equal width. The range with the fewest candidates comes first: of m picks that
    are left for r ranges it gives m / r at random, or all that it has. ``prune`` leaves out that share of the
    candidates with the highest scores first. The gain of a pick is 1 + s(x).

    The paper's surrogate is a recommender, and its H⁻¹ ḡ a stochastic estimate for one layer of it; here the system is
    solved. Without influence and labels, only effort counts. O(K d C) for each product with H, where C labels differ.
    """
    weight = validation.number("weight", weight, least=0)
    ranges, prune = validation.whole_number("ranges", ranges), validation.number("prune", prune, least=0, below=1)
    damping = validation.number("damping", damping, above=0)
    if influence is not None and labels is not None:
        raise Conflict(f"{setting('influence')} and {setting('labels')} exclude each other: it is computed from them")
    scores = np.zeros(problem.candidates)
    if influence is not None:
        scores += _scaled(checks.finite_matrix("influence", [influence], shape=(1, problem.candidates))[0])
    elif labels is not None:
        scores += _scaled(_influence(problem, checks.labels("labels", labels, problem.candidates), damping))
    if effort is not None:
        scores += weight * _scaled(checks.per_item("effort", effort, problem.candidates, positive=False))
    forbidden = problem.rules.forbidden()
    allowed = np.arange(len(scores)) if forbidden is None else np.flatnonzero(~forbidden[: len(scores)])
    kept = allowed[np.argsort(-scores[allowed], kind="stable")][int(prune * len(allowed)) :]
    out = np.ones(problem.space.size, dtype=np.bool_)
    out[kept] = False
    problem.rules.block(out)
    for _ in range(problem.known):
        yield np.zeros(problem.space.size)
    for member in _drawn(scores, kept, min(problem.picks, len(kept)), ranges, problem.generator()).tolist():
        gains = np.zeros(problem.space.size)
        gains[member] = 1 + scores[member]
        yield gains
    while True:
        yield np.zeros(problem.space.size)


def _scaled(values: FloatArray) -> FloatArray:
    values = scaled_to_one(values)
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def _drawn(scores: FloatArray, kept: IntArray, n: int, ranges: int, draw: np.random.Generator) -> IntArray:
    """n of the candidates that are kept, from all ranges of their scores."""
    if not len(kept):
        return kept
    own = scores[kept]
    edges = own.min() + (own.max() - own.min()) / ranges * np.arange(1, ranges)
    numbers = np.searchsorted(edges, own, side="left")
    members = sorted((kept[numbers == at] for at in np.unique(numbers)), key=len)
    shares = even_shares([len(group) for group in members], n)
    return np.concatenate(
        [draw.choice(group, share, replace=False) for group, share in zip(members, shares, strict=True)]
    )


# --- influence on a surrogate


def _influence(problem: Problem, labels: IntArray, damping: float) -> FloatArray:
    """(K,) ḡᵀ H⁻¹ g of each candidate."""
    if not isinstance(problem.space, FeatureSpace):
        raise Conflict(
            f"{setting('labels')} are predicted from vectors: a kernel function or a Gram matrix has none; pass "
            f"{setting('influence')}"
        )
    count = int(labels.max()) + 1
    if count < 2:
        raise InvalidInput(f"{setting('labels')} are all the same: there is nothing to predict")
    rows = problem.space.gather(np.arange(problem.candidates))
    surrogate = _Softmax(rows, np.eye(count)[labels], damping)
    errors = surrogate.errors(surrogate.optimum())
    solved = surrogate.solve(errors + surrogate.targets, rows.T @ errors / len(rows))
    found: FloatArray = ((rows @ solved) * errors).sum(axis=1)
    return found


@dataclass(frozen=True, eq=False)
class _Softmax:
    """A softmax regression: mean cross-entropy + damping / 2 ‖W‖² in the weights W, (d, C)."""

    rows: FloatArray
    """(K, d)"""
    targets: FloatArray
    """(K, C) one-hot."""
    damping: float

    def errors(self, weights: FloatArray) -> FloatArray:
        """(K, C) p − e_y"""
        logits = self.rows @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: FloatArray = shares / shares.sum(axis=1, keepdims=True) - self.targets
        return found

    def loss(self, weights: FloatArray) -> float:
        logits = self.rows @ weights
        top = logits.max(axis=1)
        losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - (logits * self.targets).sum(axis=1)
        return float(losses.mean() + self.damping / 2 * (weights**2).sum())

    def solve(self, shares: FloatArray, right: FloatArray) -> FloatArray:
        """H⁻¹ times the right side, where the model gives the labels these shares (K, C)."""

        def product(weights: FloatArray) -> FloatArray:
            moved = self.rows @ weights
            moved = shares * (moved - (shares * moved).sum(axis=1, keepdims=True))
            found: FloatArray = self.rows.T @ moved / len(self.rows) + self.damping * weights
            return found

        return _conjugate_gradients(product, right)

    def optimum(self) -> FloatArray:
        """The weights of the least loss, by Newton's method with step lengths that lower it."""
        weights = np.zeros((self.rows.shape[1], self.targets.shape[1]))
        first = None
        for _ in range(MAX_NEWTON_STEPS):
            errors = self.errors(weights)
            gradient = self.rows.T @ errors / len(self.rows) + self.damping * weights
            size = float(np.linalg.norm(gradient))
            first = size if first is None else first
            if size <= NEWTON_TOLERANCE * first:
                return weights
            step = self.solve(errors + self.targets, gradient)
            length, before, slope = 1.0, self.loss(weights), float((gradient * step).sum())
            while length > 1e-6 and self.loss(weights - length * step) > before - 1e-4 * length * slope:
                length /= 2
            weights = weights - length * step
        raise InvalidInput(
            f"the surrogate of the {setting('labels')} did not converge in {MAX_NEWTON_STEPS} steps: pass a larger "
            f"{setting('damping')} than {self.damping:g}"
        )


def _conjugate_gradients(product: Callable[[FloatArray], FloatArray], right: FloatArray) -> FloatArray:
    """The solution of product(x) = right, for a positive definite product."""
    found = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    size = float((residual**2).sum())
    enough = SOLVE_TOLERANCE**2 * size
    for _ in range(10 * right.size):
        if size <= enough:
            break
        moved = product(direction)
        length = size / float((direction * moved).sum())
        found += length * direction
        residual -= length * moved
        before, size = size, float((residual**2).sum())
        direction = residual + size / before * direction
    return found
