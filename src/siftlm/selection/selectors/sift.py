"""SIFT, one pick at a time and in blocks, and its variants: VTL, lazy greedy, and pursuit for one-step learners."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.selection.numerics import LAZY_MARGIN, cosines
from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import NextPick, Problem, Steps, method
from siftlm.selection.rules import NO_PICK
from siftlm.selection.selectors.retrieval import nearest
from siftlm.selection.space import FeatureSpace, Space
from siftlm.selection.trace import Ceiling, TracePosterior
from siftlm.types import BoolArray, FloatArray, IntArray


@method("sift", "least uncertainty about the prompt; relevant and not redundant", repeats=True)
def sift(problem: Problem) -> Steps:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)

    Exactly the fall in the prompt's mean posterior variance by picking x. Also known as VTL.
    """
    if blocks_pay(problem.space):
        yield from block_steps(problem)
    posterior = problem.posterior(trace_only=True)
    while True:
        index = yield posterior.trace_gain()
        posterior.observe(index)


@method("vtl", "least total variance of the targets; the objective of sift by its older name", repeats=True)
def vtl(problem: Problem) -> Steps:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)

    The trace of the targets' posterior covariance. The same function as ``sift``, kept so that results of the
    active-learning literature can be named as they were.
    """
    yield from sift(problem)


# --- many picks at a time. A pick takes two products of every candidate, and many candidates do not fit into the
# processor's cache, so one pick after the other waits for memory. A block of picks reads them once
# (docs/decisions/0066-blocks-of-picks.md):
#
# 1. The first pick is the best of all candidates, whose gains are up to date.
# 2. The next ones are made among those candidates that had the best scores then, and only these are kept up to date.
#    The block ends when the best score among them is no more than that of the best of the others at first.
# 3. All candidates are brought up to date for the whole block. Where the gain of one of the others has grown so much
#    that it would have been picked, that pick of the block and those after it are dropped.
#
# So the picks are those of the plain loop, up to the rounding of sums that are added up in another order.

# From so many candidates on, blocks cost less than one pick after the other (d = 384).
BLOCKS_MIN_CANDIDATES = 20_000
# With fewer targets a plain step takes one product of each candidate instead of two, and blocks end sooner.
BLOCKS_MIN_TARGETS = 4
# Picks in a block: at first, and at most. A matrix product of more directions is hardly faster.
FIRST_BLOCK_PICKS, MAX_BLOCK_PICKS = 32, 96
# The best candidates of a block: at least, at most (the cache should hold their vectors), and one in so many of all.
MIN_BEST, MAX_BEST, CANDIDATES_PER_BEST = 4096, 16_384, 8


def blocks_pay(space: Space) -> bool:
    """Are there so many candidates and targets that blocks cost less than one pick after the other?"""
    many = space.size >= BLOCKS_MIN_CANDIDATES and space.targets >= BLOCKS_MIN_TARGETS
    return many and isinstance(space, FeatureSpace)


def block_steps(problem: Problem) -> Steps:
    """The steps of ``sift``: between two blocks they yield the gains of all candidates, within one the picks."""
    space = problem.space
    if not isinstance(space, FeatureSpace):
        raise TypeError("blocks of picks need vectors")
    problem.posterior_in_use = posterior = TracePosterior(space, problem.noise)
    for _ in range(problem.known):
        posterior.observe((yield posterior.trace_gain()))
    size, left = BlockSize.first(space.size), problem.picks
    while True:
        index = yield posterior.trace_gain()
        if posterior.refreshed:  # a selection that goes on from here knows of no earlier blocks
            size = BlockSize.first(space.size)
        most = min(size.picks, left, posterior.picks_to_refresh)
        block = _look_ahead(problem, posterior, index, most, size.best) if most > 1 else Block([], 0, size.best)
        size = size.after(block)
        for pick in block.picks:
            posterior.observe(index)
            index = yield pick
        posterior.observe(index)
        left -= 1 + len(block.picks)


@dataclass(frozen=True)
class Block:
    """The picks of a block after its first."""

    picks: list[NextPick]
    dropped: int
    """How many more there were, until one of the others would have been picked."""
    best: int
    """How many of the best candidates the next block is likely to need."""


@dataclass(frozen=True)
class BlockSize:
    """How many picks the next block has at most, and how many of the best candidates they are made among."""

    picks: int
    best: int
    limits: tuple[int, int]
    """The least and the most of ``best``."""

    @classmethod
    def first(cls, candidates: int) -> BlockSize:
        """That of the first block."""
        most = max(1, min(MAX_BEST, candidates // CANDIDATES_PER_BEST))
        least = min(MIN_BEST, most)
        return cls(FIRST_BLOCK_PICKS, least, (least, most))

    def after(self, block: Block) -> BlockSize:
        """That of the block after this one."""
        made, (least, most) = 1 + len(block.picks), self.limits
        picks = made if block.dropped else min(max(self.picks, 2 * made), MAX_BLOCK_PICKS)
        return replace(self, picks=picks, best=min(max(block.best, least), most))


def _look_ahead(problem: Problem, posterior: TracePosterior, first: int, most: int, best: int) -> Block:
    """The picks after ``first``, ``most`` with it, among the ``best``; the posterior is prepared for those kept."""
    # 1. The best candidates, and the highest score of the others.
    rules = problem.rules
    scores, forbidden = rules.scores(posterior.trace_gain()), rules.forbidden()
    if forbidden is not None:
        scores = np.where(forbidden, -np.inf, scores)
    indices, highest = _best(scores, best, first)
    # 2. The plain loop among them.
    part, own, first_scores = posterior.part(indices), rules.part(indices), scores[indices]
    updates = [part.rehearse(int(np.searchsorted(indices, first)))]
    picks: list[NextPick] = []
    limits: list[float] = []
    needed = best
    while not part.worn:
        if len(updates) == most:
            needed = 2 * int(np.count_nonzero(first_scores >= limits[-1]))
            break
        gains = part.trace_gain()
        at = own.choose(gains)
        score = -np.inf if at == NO_PICK else float(own.scores(gains)[at])
        if not np.isfinite(score):
            break
        # Nobody below the limit ties with the pick.
        limit = score - rules.ties.loose * abs(score)
        if limit <= highest:
            needed = 2 * best
            break
        picks.append(NextPick(int(indices[at]), float(gains[at])))
        limits.append(limit)
        own.record(at)
        updates.append(part.rehearse(at))
    if not picks:
        return Block([], 0, needed)
    # 3. All others.
    ceiling = None
    if highest > -np.inf:
        others = np.isfinite(scores)
        others[indices] = False
        ceiling = Ceiling(others, np.array([*limits, np.inf]), _weights(problem))
    kept = posterior.prepare(updates, ceiling) - 1
    return Block(picks[:kept], len(picks) - kept, needed)


def _best(scores: FloatArray, count: int, first: int) -> tuple[IntArray, float]:
    """The indices, in rising order, of the best scores and of ``first``; and the highest of the other scores."""
    if count >= len(scores):
        return np.arange(len(scores), dtype=np.int64), -np.inf
    order = np.argpartition(scores, len(scores) - count - 1)
    return np.union1d(order[len(scores) - count :], [first]), float(scores[order[len(scores) - count - 1]])


def _weights(problem: Problem) -> FloatArray | None:
    """(K,) what gains are multiplied by to be scores."""
    if problem.rules.prior is None and problem.rules.costs is None:
        return None
    weights: FloatArray = np.minimum(problem.rules.scores(np.ones(problem.space.size)), np.finfo(np.float64).max)
    return weights


# --- pursuit

# The share of what a text can teach that one gradient step on it closes, as it was measured for the bundled model
# (docs/decisions/0051-step-aware-selection.md).
DEFAULT_STEP = 0.3
# Mean cosine of the nearest with each other from which variety pays, and how many of them are compared at most.
DEFAULT_LIKENESS, MAX_COMPARED = 0.65, 200


@method("pursuit", "sift for a learner that takes one step on each text, and leaves something to repeat", repeats=True)
def pursuit(problem: Problem, *, step: float = DEFAULT_STEP) -> Steps:
    """step (2 − step) mean_m (q_m · φ)² / φ²,  φ = φ(x),  q_m = φ(x*_m); after a pick q_m ← q_m − step (q_m · φ) φ / φ²

    Sift's posterior is that of a regression solved to the end. A learner that takes one gradient step on each text
    closes only a share ``step`` of what the text could teach, and goes on to the next. The residual query q is what
    the prompt still lacks, and the gain is the fall of its squared length. ``step=1`` is matching pursuit; towards 0
    the nearest neighbour is repeated. By a pick the same text, and texts like it, lose about step (2 − step) of their
    gain, where for sift they lose nearly all of it.
    """
    step = validation.number("step", step, above=0, most=1)
    space, own = problem.space, problem.space.diagonal()
    cross = space.cross().astype(np.float64)
    inverse = np.divide(1.0, own, out=np.zeros(len(own)), where=own > 0)
    weights = step * (2 - step) / max(1, len(cross)) * inverse
    while True:
        index = yield np.einsum("mk,mk->k", cross, cross) * weights
        cross -= np.outer(step * inverse[index] * cross[:, index], space.row(index))


@method("auto", "pursuit, each text once, where the nearest are much alike; else the nearest", numbers=("relevance",))
def auto(
    problem: Problem,
    *,
    step: float = DEFAULT_STEP,
    likeness: float = DEFAULT_LIKENESS,
    relevance: npt.ArrayLike | None = None,
) -> Steps:
    """that of ``pursuit`` if the n nearest have a mean cosine of ``likeness`` with each other, else of ``nearest``

    Near-copies teach a learner little that the first one has not taught. Where the nearest are not all alike, what
    matters is to be near the prompt, and texts that differ from one another for the sake of it are a loss: there may be
    copies among them, but beyond these the next group of texts is about something else. (A text that is scored as
    its own prompt is another matter: there `siftlm.LocalModel.score` takes ``auto`` to be ``sift`` with repeats.)
    ``relevance`` as for ``nearest``.
    """
    step = validation.number("step", step, above=0, most=1)
    likeness = validation.number("likeness", likeness, least=0, most=1)
    space, known = problem.space, problem.known
    ranked = np.argsort(-problem.relevance(relevance)[: space.size - known], kind="stable")
    ranked = ranked[: min(problem.expected - known, MAX_COMPARED)]
    length = np.sqrt(space.diagonal()[ranked])
    pairs = cosines(space.among(ranked, ranked), np.outer(length, length))[np.triu_indices(len(ranked), k=1)]
    alike = bool(len(pairs)) and float(pairs.mean()) >= likeness
    yield from pursuit(problem, step=step) if alike else nearest(problem, relevance=relevance)


# --- lazy greedy

# A pick is settled by at most so many looks at single candidates, then one glance at many of the next best
# (a fiftieth of all, if that is more), then as many looks again. Together they cost half as much as bringing
# all candidates up to date (K = 100,000, d = 384), which is what follows if all that was in vain.
MAX_SINGLE_UPDATES = 32
BULK_UPDATE_CANDIDATES = 2048
# After laziness was in vain, so many picks at most are settled the hard way before it is tried again.
MAX_EXACT_PICKS = 8


@method("sift-fast", "sift by lazy evaluation: looks again only at the best of the earlier gains", repeats=True)
def sift_fast(problem: Problem) -> Steps:
    """mean_m k_s(x*_m, x)² / (k_s(x, x) + λ),  s ≤ n the state in which x was last looked at

    All gains are computed once. Then, for each pick, only the candidate with the best remembered gain is
    looked at again, until the best is one that was looked at since the last pick. That is exact SIFT as long
    as gains never grow. **They can**: two texts may say little about a prompt alone and much together (the
    prompt (1, 1) seen through (1, 0, …) and (0, 1, …) that share a third direction), and small λ makes this
    common. A candidate whose gain has grown unseen is passed over: the picks then differ from those of
    ``sift``, and leave somewhat more uncertainty.

    Where looks at single candidates do not settle a pick, many are looked at together, and in the end all,
    which makes that pick exact.
    ``Selection.certified`` says of each pick whether it is provably that of ``sift`` given the picks before:
    because all gains were fresh, or because no other gain can be larger, by Cauchy–Schwarz at most
    σ²_n v / (v + λ) with v the variance that the candidate had when last looked at. (Bounding the change since
    as well was tried; it certified hardly more.)
    """
    search = _LazyGreedy(problem)
    problem.certified = []
    for _ in range(problem.known):
        index = yield search.gains
        search.observe(index)
    while True:
        problem.certified.append(search.settle())
        index = yield search.gains
        search.observe(index)


class _LazyGreedy:
    """What is remembered of every candidate, and what is known of the prompt now."""

    def __init__(self, problem: Problem) -> None:
        space = problem.space
        self._rules = problem.rules
        self._now = problem.belief()
        # Knows all candidates, as they were before the picks that are pending.
        self._then = posterior_of(space, problem.noise, problem.expected, trace_only=True)
        self._pending: list[int] = []
        self._left = float(np.trace(space.target_gram())) / space.targets
        self._penance = self._straight = 0
        self._noise, self._size = problem.noise, space.size
        self._remember()

    def _remember(self) -> None:
        self.gains = self._then.trace_gain().copy()
        self._variance = self._then.variance

    def observe(self, index: int) -> None:
        self._left -= self._now.look(index).drop
        self._now.observe(index)
        self._pending.append(index)

    def settle(self) -> bool:
        """Look until the best gain is a fresh one. Is it provably the best of all?"""
        if not self._pending:
            return True
        if self._straight:
            self._straight -= 1
            return self._catch_up()
        fresh = np.zeros(self._size, dtype=np.bool_)
        best = self._look_around(fresh)
        if best is None:
            self._glance(fresh)
            best = self._look_around(fresh)
        if best is not None:
            self._penance //= 2
            return best != NO_PICK and self._proves(best, fresh)
        self._penance = self._straight = min(MAX_EXACT_PICKS, max(1, 2 * self._penance))
        return self._catch_up()

    def _catch_up(self) -> bool:
        """Make all gains fresh, which proves whatever is best."""
        for index in self._pending:
            self._then.observe(index)
        self._pending.clear()
        self._remember()
        return True

    def _look_around(self, fresh: BoolArray) -> int | None:
        """The first that is best and fresh; ``None`` if it takes too many looks."""
        for _ in range(MAX_SINGLE_UPDATES):
            best = self._rules.choose(self.gains)
            if best == NO_PICK or fresh[best]:
                return best
            look = self._now.look(best)
            self.gains[best], self._variance[best] = look.drop, look.noisy - self._noise
            fresh[best] = True
        return None

    def _glance(self, fresh: BoolArray) -> None:
        """Bring many of the best up to date at once."""
        forbidden = self._rules.forbidden()
        promise = np.where(fresh if forbidden is None else fresh | forbidden, -1.0, self.gains)
        count = min(max(BULK_UPDATE_CANDIDATES, self._size // 50), self._size)
        indices = np.argpartition(promise, self._size - count)[-count:].astype(np.int64)
        self.gains[indices], noisy = self._now.glance(indices)
        self._variance[indices] = noisy - self._noise
        fresh[indices] = True

    def _proves(self, best: int, fresh: BoolArray) -> bool:
        # Whoever is first with the others at their bounds is first with them at their gains too, and so is,
        # by the second question, nobody of the fresh ones in a tie.
        bound = max(0.0, self._left) * (1 + LAZY_MARGIN) * self._variance / (self._variance + self._noise)
        if self._rules.choose(np.where(fresh, self.gains, bound)) != best:
            return False
        return self._rules.choose(np.where(fresh, self.gains, 0.0)) == best
