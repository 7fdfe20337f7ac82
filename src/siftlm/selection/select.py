"""`select`: arrays in, a named result out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection import checks, greedy
from siftlm.selection.gram import Gram, GramSpace, space_of
from siftlm.selection.kernels import FeatureKernel, KernelFunction
from siftlm.selection.problem import Method, MethodFunction, Problem, find_method
from siftlm.selection.rules import PickRules, StoppingRules, ties_of
from siftlm.selection.space import Space, unit_rows
from siftlm.types import BoolArray, FloatArray, Selection

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
    replacement: bool | int | None = None,
    known: npt.ArrayLike | None = None,
    exclude: npt.ArrayLike | None = None,
    sources: Sequence[object] | npt.NDArray[Any] | None = None,
    source_cap: int | None = None,
    costs: npt.ArrayLike | None = None,
    budget: float | None = None,
    prior: Prior | None = None,
    adaptive: float | None = None,
    until: float | None = None,
    min_gain: float | None = None,
    at_least: int = 1,
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
        kernel: what similar means; the inner product unless given. See ``siftlm.kernels``.
        normalize: bring all vectors to unit length first, so that the inner product is the cosine.
        replacement: may a candidate be picked again? ``True``, ``False`` or at most so many times in all. Left
            out: as the method has it (SIFT: yes, where that tells more than anything new), with n ≤ K.
        known: (j, d) vectors of texts that are known already: they count as picked before the first pick.
        exclude: indices (or a mask) of candidates that must not be picked.
        sources: one label per candidate; with ``source_cap``, at most that many picks share a label.
        costs: one number > 0 per candidate, such as its tokens; gains are then compared per cost.
        budget: the picks' costs add up to no more than this.
        prior: one number ≥ 0 per candidate that multiplies its gains, or a function of the similarities to the
            prompt such as ``siftlm.kernels.relevance()``.
        adaptive: α of the published stopping rule: keep pick n only while σ_n ≤ 1 / (α n).
        until: stop when the uncertainty is at most this fraction of what it was at first.
        min_gain: stop when the best pick lowers the uncertainty by less than this fraction of what is left.
        at_least: picks that are kept whatever the stopping rules say.
        seed: of the methods that involve chance.
        **options: the method's own settings.

    >>> import numpy as np
    >>> prompt = np.array([1.0, 1.0, 0.0])
    >>> texts = np.array([[1, 0.2, 0], [1, 0.21, 0], [0, 1, 0.1], [0, 0, 1]])
    >>> select(prompt, texts, n=2, method="nearest").indices.tolist()   # the same fact twice
    [1, 0]
    >>> select(prompt, texts, n=2, method="sift").indices.tolist()      # one of each
    [1, 2]
    """
    entry = find_method(method)
    noise = validation.number("noise", noise, above=0)
    normalize, seed = validation.flag("normalize", normalize), validation.whole_number("seed", seed, least=0)
    stopping = StoppingRules(
        adaptive=None if adaptive is None else validation.number("adaptive", adaptive, above=0),
        until=None if until is None else validation.fraction("until", until),
        min_gain=None if min_gain is None else validation.fraction("min_gain", min_gain),
        at_least=validation.whole_number("at_least", at_least, least=0),
    )
    if isinstance(candidates, Gram):
        size = len(candidates.values)
        space, probabilities = _given_space(entry, query, candidates, known=known, kernel=kernel), None
    else:
        vectors = checks.matrix("candidates", candidates)
        size = len(vectors)
        space, probabilities = _vector_space(
            entry, query, vectors, known=known, kernel=kernel, normalize=normalize, noise=noise
        )
    _check_method(entry, space, options, weighted=_any_given(prior, costs), stopping=stopping)
    if entry.whole and _any_given(prior, costs, sources, replacement):
        raise Conflict(
            f"method {entry.name!r} decides on all picks at once: prior, costs, sources, replacement don't apply"
        )
    cap = _max_repeats(entry, replacement)
    blocked = _excluded_mask(exclude, size, space.size)
    n = pick_count(
        n,
        size if blocked is None else int((~blocked).sum()),
        cap,
        # More picks than candidates are likely a slip, unless counting repeats is all that the method does.
        replacement=cap is None if entry.whole else replacement,
        budgeted=budget is not None,
    )
    known_items = space.size - size
    problem = Problem(
        space=space,
        expected=n + known_items,
        noise=noise,
        probabilities=probabilities,
        seed=seed,
        known=known_items,
    )
    if budget is not None and costs is None:
        raise Conflict("budget needs costs: one number per candidate, such as its tokens")
    if (source_cap is None) != (sources is None):
        raise Conflict(f"sources and {setting('source_cap')} go together: labels, and how many picks may share one")
    problem.rules = PickRules(
        space.size,
        cap=cap,
        blocked=blocked,
        sources=None if sources is None else _padded_for_known(checks.labels("sources", sources, size), space.size, -1),
        source_cap=None if source_cap is None else validation.whole_number("source_cap", source_cap, least=1),
        prior=None if prior is None else _padded_for_known(_prior_weights(prior, problem, size), space.size, 0),
        costs=None
        if costs is None
        else _padded_for_known(checks.per_item("costs", costs, size, positive=True), space.size, 1),
        budget=None if budget is None else validation.number("budget", budget, above=0),
        ties=ties_of(space, noise),
    )
    found = greedy.greedy_select(problem, entry.run(problem, **options), n, stopping, range(size, space.size))
    return Selection(
        indices=found.indices,
        gains=found.gains,
        uncertainty=found.uncertainty,
        stopped=found.stopped,
        method=entry.name,
        noise=noise,
        certified=None if problem.certified is None else np.array(problem.certified[: len(found.indices)], np.bool_),
        evidence=space.evidence(np.concatenate([np.arange(size, space.size), found.indices]), known_items),
    )


def _vector_space(
    entry: Method,
    query: npt.ArrayLike | None,
    vectors: checks.RealArray,
    *,
    known: npt.ArrayLike | None,
    kernel: KernelFunction | FeatureKernel | None,
    normalize: bool,
    noise: float,
) -> tuple[Space, FloatArray | None]:
    """The space of these vectors, known items behind the candidates; and the softmax outputs, if they are that."""
    width = vectors.shape[1]
    probabilities = None
    if entry.reads == "probabilities":
        if _any_given(query, known, kernel):
            raise Conflict(f"method {entry.name!r} reads softmax outputs: query, known and kernel mean nothing to it")
        probabilities, normalize = checks.probabilities("candidates", vectors), False
    targets = np.zeros((0, width)) if query is None else checks.matrix("query", query, width=width)
    own = len(vectors)
    if known is not None:
        more = checks.matrix("known", known, width=width, empty_ok=True)
        checks.squared_norms("known", more, zero_ok=not normalize)
        if normalize and more.dtype != vectors.dtype:
            # Cut to shorter floats only once they are unit, or large and small ones would be lost.
            more = unit_rows("known", more, normalize=True).astype(np.promote_types(vectors.dtype, np.float32))
        vectors = np.concatenate([vectors, more])
    return space_of(vectors, targets, kernel=kernel, normalize=normalize, noise=noise, own=own), probabilities


def _given_space(
    entry: Method,
    query: npt.ArrayLike | None,
    gram: Gram,
    *,
    known: npt.ArrayLike | None,
    kernel: KernelFunction | FeatureKernel | None,
) -> Space:
    """The space whose inner products are all given."""
    if entry.reads == "probabilities":
        raise Conflict(f"method {entry.name!r} reads softmax outputs, not a Gram matrix")
    if _any_given(known, kernel):
        raise Conflict("a Gram matrix already holds the kernel's values: kernel and known don't apply")
    size = len(gram.values)
    cross = np.zeros((0, size)) if query is None else checks.finite_matrix("query", query, shape=(None, size))
    if gram.targets is not None:
        targets = checks.finite_matrix("targets", gram.targets, shape=(len(cross), len(cross)))
    elif len(cross) > 1:
        raise InvalidInput(f"several targets need Gram(…, targets=) of shape ({len(cross)}, {len(cross)})")
    else:
        targets = np.ones((len(cross), len(cross)))
    most = np.sqrt(np.outer(np.diagonal(targets), np.diagonal(gram.values)))
    if (np.abs(cross) > most * (1 + 1e-6) + 1e-12).any():
        row, column = (int(at) for at in np.argwhere(np.abs(cross) > most * (1 + 1e-6) + 1e-12)[0])
        raise InvalidInput(
            f"query[{row}, {column}] is {cross[row, column]:g}, and no kernel gives more than "
            f"√(k(x*, x*) k(x, x)) = {most[row, column]:g}; pass k(x*, x*) as Gram(…, targets=)"
        )
    return GramSpace(gram.values, cross, targets)


def _check_method(
    entry: Method, space: Space, options: dict[str, Any], *, weighted: bool, stopping: StoppingRules
) -> None:
    """Does everything that was asked for mean something to this method?"""
    for name in options:
        if name not in entry.options:
            own = ", ".join(entry.options) or "none"
            raise InvalidInput(f"method {entry.name!r} has no setting {name!r}; its own are: {own}")
    if entry.targeted and not space.targets:
        raise InvalidInput(f"method {entry.name!r} needs a query; without one try 'undirected-vtl'")
    if entry.signed and weighted:
        raise Conflict(f"prior and costs multiply gains, and those of method {entry.name!r} may be negative")
    if stopping.active and not space.targets:
        raise Conflict(
            f"{setting('adaptive')}, {setting('until')} and {setting('min_gain')} follow the uncertainty about "
            f"a query, and there is none"
        )


def _excluded_mask(exclude: npt.ArrayLike | None, size: int, total: int) -> BoolArray | None:
    """(total,) what may never be picked: what is excluded, and the known items behind the candidates."""
    if exclude is None and size == total:
        return None
    blocked = np.arange(total) >= size
    if exclude is not None:
        blocked[checks.item_indices("exclude", exclude, size)] = True
    return blocked


def _any_given(*values: object) -> bool:
    """Was any of them given?"""
    return any(value is not None for value in values)


def _max_repeats(entry: Method, replacement: bool | int | None) -> int | None:
    """How often one candidate may be picked; ``None`` for no limit."""
    if replacement is None:
        replacement = entry.repeats
    if isinstance(replacement, (bool, np.bool_)):
        return None if replacement else 1
    return validation.whole_number("replacement", replacement, least=1)


def pick_count(
    n: int | None, available: int, cap: int | None, *, replacement: bool | int | None, budgeted: bool
) -> int:
    """n, checked against what there is to pick from."""
    if available == 0:
        raise InvalidInput("exclude leaves no candidate to pick from")
    most = available * cap if cap is not None else None
    if n is None:
        if budgeted:
            return most if most is not None else 1 << 31
        return min(50, available)
    n = validation.whole_number("n", n, least=1)
    if replacement is None and n > available:
        raise InvalidInput(
            f"{setting('n', n)} is more than the {available} candidates; ask for fewer, or pass "
            f"{setting('replacement', True)} to allow repeats"
        )
    if most is not None and n > most:
        times = "once" if cap == 1 else f"at most {cap} times"
        raise InvalidInput(f"n={n} is more than {available} candidates picked {times} each can give ({most})")
    return n


def _prior_weights(prior: Prior, problem: Problem, size: int) -> FloatArray:
    if callable(prior):
        if not problem.space.targets:
            raise Conflict("a prior on relevance needs a query")
        prior = prior(problem.similarity()[:, :size])
    return checks.per_item("prior", prior, size, positive=False)


def _padded_for_known(values: npt.NDArray[Any], size: int, fill: float) -> npt.NDArray[Any]:
    """Known items follow the candidates in the space; they are never picked, so any value will do for them."""
    if len(values) == size:
        return values
    return np.concatenate([values, np.full(size - len(values), fill, dtype=values.dtype)])
