"""The loop that every method runs in: ask for gains, choose, record, go on until a reason to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection.numerics import smallest_noise
from siftlm.selection.posterior import belief_of
from siftlm.selection.problem import Problem, Steps
from siftlm.selection.rules import NO_PICK, Stopping
from siftlm.types import FloatArray, IntArray


@dataclass(frozen=True)
class GreedyResult:
    """What the loop found; the front door makes a Selection of it."""

    indices: IntArray
    gains: FloatArray
    uncertainty: FloatArray
    stopped: str


def greedy_select(problem: Problem, steps: Steps, n: int, stopping: Stopping) -> GreedyResult:
    """Pick until ``n``, a stopping rule, the budget or the candidates end it.

    The known items count as picked before the first pick. After the last pick nothing more is computed.
    """
    steps = _checked_steps(steps, problem)
    gains = next(steps)
    in_use, space = problem.posterior_in_use, problem.space
    # Methods that never look at the posterior still get the uncertainty of their picks, so that they compare.
    belief = in_use or belief_of(space, max(problem.noise, smallest_noise(space)))
    first = space.target_trace() / space.targets if space.targets else float("nan")
    for index in range(problem.candidates, space.size):
        first -= belief.look(index).drop
        if in_use is None:
            belief.observe(index)
        gains = steps.send(index)
    indices: list[int] = []
    values: list[float] = []
    trace = [first]
    stopped, rules, may_stop = "n", problem.rules, stopping.active
    while len(indices) < n:
        index = rules.choose(gains)
        if index == NO_PICK:
            stopped = "budget" if rules.out_of_budget else "exhausted"
            break
        after = trace[-1] - belief.look(index).drop
        if may_stop and (reason := stopping.refuses(len(indices), trace[-1], after)):
            stopped = reason
            break
        indices.append(index)
        values.append(float(gains[index]))
        trace.append(after)
        rules.record(index)
        if may_stop and (reason := stopping.satisfied(len(indices), trace[0], after)):
            stopped = reason
            break
        if len(indices) < n:
            if in_use is None:
                belief.observe(index)
            gains = steps.send(index)
    steps.close()
    # Rounding can take a variance below zero; a variance cannot be.
    return GreedyResult(np.array(indices, np.int64), np.array(values), np.maximum(trace, 0.0), stopped)


def _checked_steps(steps: Steps, problem: Problem) -> Steps:
    """The same gains, checked to be one number for each candidate: a method may come from anywhere."""
    index: int | None = None
    while True:
        try:
            given = next(steps) if index is None else steps.send(index)
        except StopIteration:
            raise InvalidInput("the method stopped yielding gains; it must go on as long as it is asked") from None
        if type(given) is not np.ndarray or given.dtype != np.float64:
            try:
                given = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"the method must yield an array of numbers, not {type(given).__name__}") from error
        if given.shape != (problem.space.size,):
            raise InvalidInput(f"the method must yield ({problem.space.size},) gains, got shape {given.shape}")
        index = yield given
