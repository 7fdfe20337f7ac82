"""`select_many`: the same as `select` for each prompt, in input order, with shared work done once.

Plain SIFT goes through an engine of its own: where every prompt has one embedding and no more is asked for than λ,
normalisation and simple limits, the numbers are those of one at a time, with the overhead shared. There, arrays
have the prompts in front: ``cross`` and ``noisy`` are (B, K), Cholesky rows (B, n, K).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.selection import checks, sift_engine
from siftlm.selection.gram import Gram
from siftlm.selection.problem import find_method
from siftlm.selection.rules import NO_LIMITS, Limits, Stopping, rules_in
from siftlm.selection.select import check_options, pick_count, select
from siftlm.selection.space import FeatureSpace
from siftlm.types import Selection

# What any method takes; all else must be a setting of the method's own.
COMMON_SETTINGS = {p.name for p in inspect.signature(select).parameters.values() if p.kind is p.KEYWORD_ONLY}
RULE_SETTINGS = {field.name for kind in (Limits, Stopping) for field in fields(kind)}


def select_many(
    queries: npt.ArrayLike | Sequence[npt.ArrayLike],
    candidates: npt.ArrayLike | Sequence[npt.ArrayLike],
    n: int | None = None,
    **settings: Any,
) -> Sequence[Selection]:
    """`select` for many prompts; the answers come in the order of the queries.

    Args:
        queries: (B, d), one embedding a prompt; or (B, m, d), or a list of (d,) and (m, d) arrays.
        candidates: (K, d), shared by all prompts; or (B, K, d), or a list of B arrays, one set for each.
        n, **settings: as for `select`, the same for all prompts.

    Where both are torch tensors, everything stays on their device, and the result is a `BatchSelection`: a sequence
    of `Selection` that holds the picks of all prompts as tensors. Ten of the methods are there, with ``replacement``,
    ``exclude`` and the rules of `Stopping`; ``mask`` (K,) or (B, K) is ``True`` where a candidate may be picked, so
    that sets of different sizes can be padded to one K. See ``siftlm.selection.tensors``.

    >>> import numpy as np
    >>> texts = np.eye(3)
    >>> [s.indices.tolist() for s in select_many([[1, 0.1, 0], [0, 0.1, 1]], texts, n=2)]
    [[0, 1], [2, 1]]
    """
    if _are_tensors(queries, candidates):
        from siftlm.selection import tensors

        return tensors.select_many(queries, candidates, n, **settings)
    prompts = _checked_list("queries", queries)
    shared = not _is_one_set_each(candidates)
    if not prompts:
        return []
    engine = _engine_settings(n, settings, prompts, shared=shared and not isinstance(candidates, Gram))
    if shared and engine is not None and not isinstance(candidates, Gram):
        return _select_shared(prompts, candidates, engine)
    sets = [candidates] * len(prompts) if shared else _checked_list("candidates", candidates)
    if len(sets) != len(prompts):
        raise InvalidInput(f"{len(prompts)} queries but {len(sets)} sets of candidates")
    if not shared and engine is not None:
        return _select_separate(prompts, sets, engine)
    return [
        _select_one(at, prompt, own, n, settings) for at, (prompt, own) in enumerate(zip(prompts, sets, strict=True))
    ]


def _select_one(at: int, prompt: Any, candidates: Any, n: int | None, settings: dict[str, Any]) -> Selection:
    try:
        return select(prompt, candidates, n, **settings)
    except UnknownName:
        raise
    except InvalidInput as error:
        kind = Conflict if isinstance(error, Conflict) else InvalidInput
        raise kind(f"prompt {at}: {error.marked}") from error


@dataclass(frozen=True)
class _EngineSettings:
    """The settings that the engine understands, checked."""

    n: int | None
    method: str
    noise: float
    normalize: bool
    limits: Limits

    def count(self, available: int) -> int:
        return pick_count(self.n, available, self.limits.cap(repeats=True), repeats_meant=False)

    def pick_limits(self, size: int) -> sift_engine.PickLimits:
        exclude = self.limits.exclude
        excluded = None if exclude is None else np.unique(checks.item_indices("exclude", exclude, size))
        return sift_engine.PickLimits(excluded, once=self.limits.cap(repeats=True) == 1)


def _engine_settings(
    n: int | None, settings: dict[str, Any], prompts: list[Any], *, shared: bool
) -> _EngineSettings | None:
    """The settings for the engine, or ``None`` where prompts have to go one by one."""
    method = settings.get("method", "sift")
    entry = find_method(method)
    check_options(entry, [name for name in settings if name not in COMMON_SETTINGS and name not in RULE_SETTINGS])
    specified = {name for name, value in settings.items() if value is not None}
    limits = settings.get("limits")
    if isinstance(limits, Limits):
        specified = specified - {"limits"} | {*limits.specified()}
    understood = {"method", "noise", "normalize", "seed", "replacement"} | ({"exclude"} if shared else set())
    if method not in ("sift", "vtl") or not specified <= understood or any(np.ndim(prompt) != 1 for prompt in prompts):
        return None
    limits = rules_in(dict(settings), limits, NO_LIMITS)
    if limits.replacement not in (None, False):
        return None
    validation.whole_number("seed", settings.get("seed", 0), least=0)
    return _EngineSettings(
        n,
        entry.name,
        noise=validation.number("noise", settings.get("noise", 0.01), above=0),
        normalize=validation.flag("normalize", settings.get("normalize", True)),
        limits=limits,
    )


def _checked_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, np.ndarray) and value.ndim not in (2, 3):
        raise InvalidInput(f"{name} must be (B, d), (B, m, d) or a list, got shape {value.shape}")
    try:
        return list(value)
    except TypeError as error:
        raise InvalidInput(f"{name} must be an array or a list, got {type(value).__name__}") from error


def _are_tensors(*values: object) -> bool:
    """Are these torch tensors? Whoever has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and all(isinstance(value, torch.Tensor) for value in values)


def _is_one_set_each(candidates: Any) -> bool:
    """Is this one set of candidates for each prompt, rather than one set for all?"""
    if isinstance(candidates, Gram):
        return False
    if hasattr(candidates, "ndim"):
        return int(candidates.ndim) == 3
    return (
        isinstance(candidates, Sequence)
        and len(candidates) > 0
        and (isinstance(candidates[0], Gram) or np.ndim(candidates[0]) == 2)
    )


def _select_shared(prompts: list[Any], candidates: Any, engine: _EngineSettings) -> list[Selection]:
    vectors = checks.matrix("candidates", candidates)
    targets = np.concatenate([_query_vector(at, p, vectors.shape[1]) for at, p in enumerate(prompts)])
    space = FeatureSpace(vectors, targets, normalize=engine.normalize, noise=engine.noise)
    limits = engine.pick_limits(space.size)
    n = engine.count(space.size - (0 if limits.excluded is None else len(limits.excluded)))
    picks = sift_engine.pick_shared(space, n, engine.noise, limits)
    return picks.selections(sift_engine.shared_evidence(space, picks), engine.method, engine.noise)


def _select_separate(prompts: list[Any], sets: list[Any], engine: _EngineSettings) -> list[Selection]:
    """Sets of equal size go together."""
    spaces: list[FeatureSpace] = []
    for at, (prompt, own) in enumerate(zip(prompts, sets, strict=True)):
        vectors = checks.matrix(f"candidates of prompt {at}", own)
        target = _query_vector(at, prompt, vectors.shape[1])
        try:
            spaces.append(FeatureSpace(vectors, target, normalize=engine.normalize, noise=engine.noise))
        except InvalidInput as error:
            raise InvalidInput(f"prompt {at}: {error.marked}") from error
    answers: dict[int, Selection] = {}
    for size in dict.fromkeys(space.size for space in spaces):
        members = [at for at, space in enumerate(spaces) if space.size == size]
        group = [spaces[at] for at in members]
        picks = sift_engine.pick_separate(group, engine.count(size), engine.noise, engine.pick_limits(size))
        evidence = [space.evidence(indices) for space, indices in zip(group, picks.indices, strict=True)]
        answers |= zip(members, picks.selections(evidence, engine.method, engine.noise), strict=True)
    return [answers[at] for at in range(len(prompts))]


def _query_vector(at: int, prompt: Any, width: int) -> checks.RealArray:
    return checks.matrix(f"query of prompt {at}", prompt, width=width)
