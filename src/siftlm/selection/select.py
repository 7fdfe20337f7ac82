"""`select`: arrays in, a named result out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, did_you_mean, setting
from siftlm.selection import checks, sift_engine
from siftlm.selection.gram import Gram
from siftlm.selection.kernels import FeatureKernel, KernelFunction
from siftlm.selection.numerics import smallest_noise, ties_of
from siftlm.selection.posterior import belief_of, uncertainty_of
from siftlm.selection.problem import Method, MethodFunction, NextPick, Problem, Steps, find_method
from siftlm.selection.rules import NO_LIMITS, NO_PICK, NO_STOPPING, Limits, PickRules, Stopping, rules_in
from siftlm.selection.space import FeatureSpace, Space, space_of
from siftlm.types import BoolArray, FloatArray, IntArray, Selection

Prior = npt.ArrayLike | Callable[[FloatArray], npt.ArrayLike]


def select(
    query: npt.ArrayLike | None,
    candidates: npt.ArrayLike | Gram,
    n: int | None = None,
    *,
    method: str | MethodFunction = "sift",
    noise: float = 0.01,
    kernel: KernelFunction | FeatureKernel | None = None,
    normalize: bool = True,
    known: npt.ArrayLike | None = None,
    prior: Prior | None = None,
    limits: Limits | None = None,
    stopping: Stopping | None = None,
    seed: int = 0,
    **options: Any,
) -> Selection:
    """Select the candidates that together tell most about the query.

    Args:
        query: (d,) the prompt's embedding, or (m, d) for several; ``None`` for methods that need no prompt.
        candidates: (K, d) embeddings, float16, float32 or float64; never changed, never split. Or a
            `Gram`, if the kernel's values are known already; the query is then k(x*, x), (K,) or (m, K).
        n: how many to pick. Left out: 50, or K if that is less; with a budget, whatever it buys.
        method: a name (``siftlm.methods()`` lists them) or a function declared with ``siftlm.selection.method``.
        noise: λ > 0, and at least 1e-12 of the largest k(x, x). What is sensible depends on the spread of the
            kernel: ask ``siftlm.spread(candidates)``.
        kernel: the similarity of two vectors; the inner product unless given. See ``siftlm.kernels``.
        normalize: bring all vectors to unit length first, so that the inner product is the cosine.
        known: (j, d) vectors of texts that are known already: they count as picked before the first pick.
        prior: one number ≥ 0 per candidate that multiplies its gains, or a function of the similarities to the
            prompt such as ``siftlm.kernels.relevance()``.
        limits: what may be picked, and how often. The fields of `Limits` are accepted as keywords too:
            ``replacement``, ``exclude``, ``sources`` with ``source_cap``, ``costs`` with ``budget``.
        stopping: when to stop before n. The fields of `Stopping` are accepted as keywords too: ``adaptive``,
            ``until``, ``min_gain``, ``min_growth``, ``at_least``.
        seed: the random seed of methods that involve chance.
        **options: the method's own settings.

    >>> import numpy as np
    >>> prompt = np.array([1.0, 1.0, 0.0])
    >>> texts = np.array([[1, 0.2, 0], [1, 0.21, 0], [0, 1, 0.1], [0, 0, 1]])
    >>> select(prompt, texts, n=2, method="nearest").indices.tolist()   # the same fact twice
    [1, 0]
    >>> select(prompt, texts, n=2, method="sift").indices.tolist()      # one of each
    [1, 2]
    >>> select(prompt, texts, exclude=[1], until=0.1).indices.tolist()
    [0, 2]
    """
    # 1. Settings.
    entry = find_method(method)
    noise, seed = validation.number("noise", noise, above=0), validation.whole_number("seed", seed, least=0)
    normalize = validation.flag("normalize", normalize)
    limits, stopping = rules_in(options, limits, NO_LIMITS), rules_in(options, stopping, NO_STOPPING)
    # 2. How query, candidates and known items look to each other.
    probabilities = None
    if isinstance(candidates, Gram):
        size, space = len(candidates.values), _gram_space(entry, query, candidates, known=known, kernel=kernel)
    else:
        vectors = checks.matrix("candidates", candidates)
        if entry.reads == "probabilities":
            if query is not None or known is not None or kernel is not None:
                given = {"query": query, "known": known, "kernel": kernel}
                names = _listed([name for name, value in given.items() if value is not None])
                raise Conflict(f"method {entry.name!r} reads softmax outputs as candidates: leave out {names}")
            probabilities, normalize = checks.probabilities("candidates", vectors), False
        size = len(vectors)
        space = space_of(vectors, query, known=known, kernel=kernel, normalize=normalize, noise=noise)
    _check_method(entry, space, options, prior=prior, limits=limits, stopping=stopping)
    # 3. How many picks, and of what.
    blocked = np.zeros(space.size, np.bool_)
    available = size
    if limits.exclude is not None:
        blocked[checks.item_indices("exclude", limits.exclude, size)] = True
        available -= int(np.count_nonzero(blocked))
    blocked[size:] = True  # known items follow the candidates, and are not picked again
    cap = limits.cap(repeats=entry.repeats)
    n = pick_count(
        n,
        available,
        cap,
        # More picks than candidates are likely a slip, unless counting repeats is all that the method does.
        repeats_meant=(entry.whole and entry.repeats) or limits.replacement is not None,
        budgeted=limits.budget is not None,
    )
    known_count = space.size - size
    # 4. Pick: plain SIFT in a loop of its own, all else in the one that every method runs in.
    if (
        method in sift_engine.METHODS
        and isinstance(space, FeatureSpace)
        and space.targets == 1
        and sift_engine.by_rows(space, n)
        and cap in (None, 1)
        and not (known_count or prior is not None or limits.between_picks or stopping.active)
    ):
        excluded = None if limits.exclude is None else np.flatnonzero(blocked)
        picks = sift_engine.pick_one(space, space.cross()[0], n, noise, sift_engine.PickLimits(excluded, cap == 1))
        return picks.selections([space.evidence(picks.indices[0])], entry.name, noise)[0]
    problem = Problem(space, n + known_count, noise, probabilities, seed=seed, known=known_count)
    problem.rules = _pick_rules(problem, limits, prior, cap=cap, blocked=blocked)
    picked = greedy_select(problem, entry.run(problem, **options), n, stopping)
    return Selection(
        indices=picked.indices,
        gains=picked.gains,
        uncertainty=picked.uncertainty,
        stopped=picked.stopped,
        method=entry.name,
        noise=noise,
        certified=None if problem.certified is None else np.array(problem.certified[: len(picked.indices)], np.bool_),
        evidence=space.evidence(np.concatenate([np.arange(size, space.size), picked.indices]), known_count),
    )


def _gram_space(
    entry: Method,
    query: npt.ArrayLike | None,
    gram: Gram,
    *,
    known: npt.ArrayLike | None,
    kernel: KernelFunction | FeatureKernel | None,
) -> Space:
    """The space of a Gram matrix."""
    if entry.reads == "probabilities":
        raise Conflict(f"method {entry.name!r} reads softmax outputs, not a Gram matrix")
    if known is not None or kernel is not None:
        raise Conflict(
            f"a Gram matrix already holds the kernel's values: {setting('kernel')} and {setting('known')} don't apply"
        )
    return gram.space(query)


def _check_method(
    entry: Method, space: Space, options: dict[str, Any], *, prior: Prior | None, limits: Limits, stopping: Stopping
) -> None:
    """Does every setting mean something to this method?"""
    if options:
        check_options(entry, options)
    if entry.targeted and not space.targets:
        raise InvalidInput(
            f"method {entry.name!r} needs a prompt: pass {setting('query')}, or try 'undirected-vtl', without one"
        )
    given = ["prior"] * (prior is not None) + (list(limits.specified()) if entry.signed or entry.whole else [])
    if entry.signed and (prior is not None or limits.costs is not None):
        factors = _listed([name for name in ("prior", "costs") if name in given])
        raise Conflict(f"method {entry.name!r} may have negative gains: leave out {factors}, which would multiply them")
    if limits.replacement is False and not entry.repeats and "replacement" in given:
        given.remove("replacement")  # it picks none twice anyway
    if entry.whole and (between := [name for name in ("prior", "costs", "sources", "replacement") if name in given]):
        act = "acts" if len(between) == 1 else "act"
        raise Conflict(
            f"method {entry.name!r} decides on all picks at once: leave out {_listed(between)}, which {act} between "
            "picks"
        )
    if not space.targets and stopping.active:
        raise Conflict(
            f"leave out {_listed(stopping.specified())}, or pass {setting('query')}: there is no uncertainty to follow"
        )


def _listed(names: Sequence[str]) -> str:
    """The settings of these names, joined by "and"."""
    return " and ".join(setting(name) for name in names)


def check_options(entry: Method, options: Iterable[str]) -> None:
    """Is each of these a setting of the method's own?"""
    for name in options:
        if name not in entry.options:
            own = ", ".join(entry.options) or "none"
            common = [p.name for p in signature(select).parameters.values() if p.kind is p.KEYWORD_ONLY]
            hint = did_you_mean(name, [*entry.options, *common, *Limits.names(), *Stopping.names()])
            owns = f"{hint} Its own are" if hint else "; its own are"
            raise InvalidInput(f"method {entry.name!r} has no setting {name!r}{owns}: {own}")


def pick_count(n: int | None, available: int, cap: int | None, *, repeats_meant: bool, budgeted: bool = False) -> int:
    """n, checked against what there is to pick from."""
    if available == 0:
        raise InvalidInput(f"{setting('exclude')} leaves no candidate to pick from")
    most = available * cap if cap is not None else None
    if n is None:
        if budgeted:
            return most if most is not None else 1 << 31
        return min(50, available)
    n = validation.whole_number("n", n, least=1)
    if not repeats_meant and n > available:
        raise InvalidInput(
            f"{setting('n', n)} is more than the {available} candidates; "
            f"ask for fewer, or pass {setting('replacement', True)} to allow repeats"
        )
    if most is not None and n > most:
        times = "once" if cap == 1 else f"at most {cap} times"
        raise InvalidInput(
            f"{setting('n', n)} is more than {available} candidates picked {times} each can give ({most})"
        )
    return n


def _pick_rules(
    problem: Problem, limits: Limits, prior: Prior | None, *, cap: int | None, blocked: BoolArray
) -> PickRules:
    """The limits and the prior, checked, with one value per row of the space."""
    size = problem.space.size - problem.known
    sources = costs = weights = None
    if limits.sources is not None:
        sources = np.append(checks.labels("sources", limits.sources, size), np.full(problem.known, -1))
    if prior is not None:
        if isinstance(prior, str):
            raise InvalidInput(f"{setting('prior')} is a name: pass siftlm.kernels.named_prior({prior!r})")
        if callable(prior):
            if not problem.space.targets:
                raise Conflict(f"{setting('prior')} by relevance needs {setting('query')}")
            prior = prior(problem.similarity()[:, :size])
        weights = problem.padded(checks.per_item("prior", prior, size, positive=False))
    if limits.costs is not None:
        # Known items are never picked, so any cost will do for them.
        costs = np.append(checks.per_item("costs", limits.costs, size, positive=True), np.ones(problem.known))
    return PickRules(
        problem.space.size,
        cap=cap,
        blocked=blocked if blocked.any() else None,
        sources=sources,
        source_cap=limits.source_cap,
        prior=weights,
        costs=costs,
        budget=None if limits.budget is None else float(limits.budget),
        ties=ties_of(problem.space, problem.noise),
    )


# --- the loop that every method runs in: get gains, choose, record, go on until there is a reason to stop


@dataclass(frozen=True)
class GreedyResult:
    """The picks of the loop, which `select` makes a `Selection` of."""

    indices: IntArray
    gains: FloatArray
    uncertainty: FloatArray
    stopped: str


def greedy_select(problem: Problem, steps: Steps, n: int, stopping: Stopping) -> GreedyResult:
    """Pick until ``n``, a stopping rule, the budget or the candidates end it.

    The known items count as picked before the first pick. After the last pick nothing more is computed.
    """
    steps = _checked_steps(steps, problem)
    step = next(steps)
    in_use, space = problem.posterior_in_use, problem.space
    # Methods that never look at the posterior still get the uncertainty of their picks, so that they compare: all of it
    # at the end, unless a stopping rule looks at it.
    may_stop = stopping is not NO_STOPPING
    noise = problem.noise if in_use else max(problem.noise, smallest_noise(space))
    belief = in_use or (belief_of(space, noise) if may_stop else None)
    known = list(range(space.size - problem.known, space.size))
    start = first = space.target_trace / space.targets if space.targets else float("nan")
    for index in known:
        if belief is not None:
            first -= belief.look(index).drop
            if in_use is None:
                belief.observe(index)
        step = steps.send(index)
    indices: list[int] = []
    values: list[float] = []
    trace = [first]
    stopped, rules = "n", problem.rules
    while len(indices) < n:
        pick = step if isinstance(step, NextPick) else NextPick(index := rules.choose(step), float(step[index]))
        if pick.index == NO_PICK:
            stopped = "budget" if rules.out_of_budget else "exhausted"
            break
        after = trace[-1]
        if belief is not None:
            after -= belief.look(pick.index).drop
            if may_stop and (reason := stopping.refuses(len(indices), start, trace[-1], after)):
                stopped = reason
                break
        indices.append(pick.index)
        values.append(pick.gain)
        trace.append(after)
        rules.record(pick.index)
        if may_stop and (reason := stopping.satisfied(len(indices), trace[0], after)):
            stopped = reason
            break
        if len(indices) < n:
            if in_use is None and belief is not None:
                belief.observe(pick.index)
            step = steps.send(pick.index)
    steps.close()
    uncertainty = np.array(trace) if belief is not None else uncertainty_of(space, noise, known + indices)[len(known) :]
    # Rounding can take a variance below zero; a variance cannot be.
    return GreedyResult(np.array(indices, np.int64), np.array(values), np.maximum(uncertainty, 0.0), stopped)


def _checked_steps(steps: Steps, problem: Problem) -> Steps:
    """The same gains, checked to be one number for each candidate: a method may come from anywhere."""
    index: int | None = None
    while True:
        try:
            gains = next(steps) if index is None else steps.send(index)
        except StopIteration:
            raise InvalidInput("the method stopped yielding gains; it must yield again after every pick") from None
        if isinstance(gains, NextPick):
            index = yield gains
            continue
        if type(gains) is not np.ndarray or gains.dtype != np.float64:
            try:
                gains = np.asarray(gains, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"the method must yield an array of numbers, not {type(gains).__name__}") from error
        if gains.shape != (problem.space.size,):
            raise InvalidInput(f"the method must yield ({problem.space.size},) gains, got shape {gains.shape}")
        index = yield gains
