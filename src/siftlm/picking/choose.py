"""The choice among the vectors of a pool: `siftlm.select`, followed pick by pick so that it can go on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from siftlm.picking.quotas import SourceLimits
from siftlm.selection import Limits, Method, Problem, Steps, select
from siftlm.selection.posterior import FeaturePosterior
from siftlm.selection.problem import MethodFunction, NextPick
from siftlm.selection.trace import TracePosterior
from siftlm.types import BoolArray, FloatArray, IntArray, Vectors


@dataclass(frozen=True, eq=False)
class Chosen:
    """Picks among candidates, in order."""

    indices: IntArray
    """(n,)"""
    gains: FloatArray
    """(n,)"""
    uncertainty: FloatArray
    """(n + 1,) the targets' mean variance before the first pick and after each."""
    stopped: str = "n"
    """``n``, ``budget`` or ``exhausted``; see `siftlm.Selection`."""

    @classmethod
    def none(cls) -> Chosen:
        """No picks yet."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is chosen from, and within which limits."""

    vectors: Vectors
    """(K, d) of unit length."""
    targets: Vectors
    """(m, d)"""
    allowed: BoolArray
    """(K,)"""
    noise: float
    prior: FloatArray | None = None
    """(K,) weights of the gains."""
    costs: FloatArray | None = None
    budget: float | None = None
    limits: Callable[[], SourceLimits] | None = None
    """The quotas, before any pick."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's own settings."""
    target_options: tuple[str, ...] = ()
    """Those of them that have a value for each target."""

    def for_targets(self, rows: IntArray) -> Candidates:
        """The same for some of the targets."""
        fewer = {name: [self.options[name][row] for row in rows] for name in self.target_options}
        return replace(self, targets=self.targets[rows], options={**self.options, **fewer})


Watch = Callable[[int], None]


def choose(
    candidates: Candidates,
    n: int | None,
    base: Method,
    *,
    begun: Chosen | None = None,
    keep: Callable[[Chosen], None] | None = None,
    watch: Watch | None = None,
    seed: int = 0,
) -> Chosen:
    """Pick ``n``, or as many as the budget buys, each at most once.

    Args:
        candidates: the vectors, the targets and the limits.
        n: how many picks.
        base: a method of `siftlm.select`.
        begun: the picks that ``keep`` was given by an earlier call with the same arguments: they are not made again.
        keep: gets the picks so far wherever a later call can go on with them.
        watch: gets the number of picks after each.
        seed: of methods with chance.
    """
    begun = begun or Chosen.none()
    limits = candidates.limits() if candidates.limits is not None else None
    allowed = candidates.allowed.copy()
    for index in begun.indices.tolist():
        if limits is not None:
            allowed[limits.record(index)] = False
    allowed[begun.indices] = False
    if limits is not None:
        allowed[limits.forbidden()] = False
    costs, budget = candidates.costs, candidates.budget
    if costs is not None and budget is not None:
        # What can never be bought: the loop compares with every candidate that is not excluded.
        allowed &= costs <= budget
        budget -= float(costs[begun.indices].sum())
    if n is not None and len(begun.indices) >= n:
        return begun
    if not allowed.any() or (budget is not None and budget <= 0):
        return replace(begun, stopped="budget" if allowed.any() else "exhausted")
    selection = select(
        candidates.targets if len(candidates.targets) else None,
        candidates.vectors,
        None if n is None else n - len(begun.indices),
        method=_followed(base, candidates.options, begun, limits, keep, watch),
        noise=candidates.noise,
        prior=candidates.prior,
        limits=Limits(exclude=~allowed, replacement=False, costs=costs, budget=budget),
        seed=seed,
    )
    later = selection.uncertainty[1:]
    if len(begun.indices):  # the selection counts from the targets' own variance
        later = np.maximum(later - selection.uncertainty[0] + begun.uncertainty[-1], 0.0)
    return Chosen(
        np.concatenate([begun.indices, selection.indices]),
        np.concatenate([begun.gains, selection.gains]),
        np.concatenate([begun.uncertainty if len(begun.indices) else selection.uncertainty[:1], later]),
        "exhausted" if n is None and selection.stopped == "n" else selection.stopped,
    )


def _followed(
    base: Method,
    options: Mapping[str, Any],
    begun: Chosen,
    limits: SourceLimits | None,
    keep: Callable[[Chosen], None] | None,
    watch: Watch | None,
) -> MethodFunction:
    """A method that does what ``base`` does, with a look at every pick, and after the picks that were ``begun``."""

    def run(problem: Problem) -> Steps:
        problem.rules.more = limits
        steps = base.run(problem, **options)
        step = next(steps)
        posterior = problem.posterior_in_use
        indices, values, trace = begun.indices.tolist(), begun.gains.tolist(), begun.uncertainty.tolist()
        trace = trace or [problem.space.target_trace / max(problem.space.targets, 1)]
        if indices and isinstance(posterior, (FeaturePosterior, TracePosterior)):
            posterior.restart(begun.indices)
            step = posterior.trace_gain()
        while True:
            index = yield step
            indices.append(index)
            values.append(step.gain if isinstance(step, NextPick) else float(step[index]))
            if watch is not None:
                watch(len(indices))
            if posterior is not None:
                trace.append(trace[-1] - posterior.look(index).drop)
            step = steps.send(index)
            if (
                keep is not None
                and resumes(base)
                and isinstance(posterior, (FeaturePosterior, TracePosterior))
                and posterior.refreshed
            ):
                keep(Chosen(np.array(indices, dtype=np.int64), np.array(values), np.array(trace)))

    run.method = replace(base, run=run)  # type: ignore[attr-defined]
    return run


def resumes(base: Method) -> bool:
    """Whether the picks so far are all that this method goes on from."""
    return base.name in ("sift", "vtl")
