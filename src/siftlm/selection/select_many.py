"""`select_many`: the same as `select` for each prompt, in input order, with shared work done once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.selection import checks
from siftlm.selection.batch import BatchPicks, PickLimits, sift_separate, sift_shared
from siftlm.selection.gram import Gram
from siftlm.selection.problem import find_method
from siftlm.selection.select import pick_count, select
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, Selection

# What the shared engines understand; any other setting is worked off prompt by prompt.
BATCHED_SETTINGS = {"method", "noise", "normalize", "seed"}
BATCHED_SHARED_SETTINGS = BATCHED_SETTINGS | {"exclude"}
# What any method takes; all else must be a setting of the method's own.
COMMON_SETTINGS = {p.name for p in inspect.signature(select).parameters.values() if p.kind is p.KEYWORD_ONLY}


def select_many(
    queries: npt.ArrayLike | Sequence[npt.ArrayLike],
    candidates: npt.ArrayLike | Sequence[npt.ArrayLike],
    n: int | None = None,
    **settings: Any,
) -> list[Selection]:
    """`select` for many prompts; the answers come in the order of the queries.

    Args:
        queries: (B, d), one embedding a prompt; or (B, m, d), or a list of (d,) and (m, d) arrays.
        candidates: (K, d), shared by all prompts; or (B, K, d), or a list of B arrays, one set for each.
        n, **settings: as for `select`, the same for all prompts.

    >>> import numpy as np
    >>> texts = np.eye(3)
    >>> [s.indices.tolist() for s in select_many([[1, 0.1, 0], [0, 0.1, 1]], texts, n=2)]
    [[0, 1], [2, 1]]
    """
    prompts = _checked_list("queries", queries)
    shared = not _is_one_set_each(candidates)
    if not prompts:
        return []
    _check_names(settings)
    plain = _is_batched(settings, shared=shared) and all(np.ndim(prompt) == 1 for prompt in prompts)
    if shared and plain and not isinstance(candidates, Gram):
        return _select_shared(prompts, candidates, _checked_settings(n, settings))
    sets = [candidates] * len(prompts) if shared else _checked_list("candidates", candidates)
    if len(sets) != len(prompts):
        raise InvalidInput(f"{len(prompts)} queries but {len(sets)} sets of candidates")
    if not shared and plain:
        return _select_separate(prompts, sets, _checked_settings(n, settings))
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
        raise kind(f"prompt {at}: {error}") from error


def _check_names(settings: dict[str, Any]) -> None:
    """Is there such a method, and does each setting belong to it? ``None`` is no excuse."""
    entry = find_method(settings.get("method", "sift"))
    for name in settings:
        if name not in COMMON_SETTINGS and name not in entry.options:
            own = ", ".join(entry.options) or "none"
            raise InvalidInput(f"method {entry.name!r} has no setting {name!r}; its own are: {own}")


def _is_batched(settings: dict[str, Any], *, shared: bool) -> bool:
    given = {name for name, value in settings.items() if value is not None}
    if settings.get("replacement") is False:
        given.discard("replacement")
    return given <= (BATCHED_SHARED_SETTINGS if shared else BATCHED_SETTINGS) and settings.get("method", "sift") in (
        "sift",
        "vtl",
    )


def _checked_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, np.ndarray) and value.ndim not in (2, 3):
        raise InvalidInput(f"{name} must be (B, d), (B, m, d) or a list, got shape {value.shape}")
    try:
        return list(value)
    except TypeError as error:
        raise InvalidInput(f"{name} must be an array or a list, got {type(value).__name__}") from error


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


@dataclass(frozen=True)
class _BatchSettings:
    """The settings that the shared engine understands, checked."""

    n: int | None
    method: str
    noise: float
    normalize: bool
    once: bool
    exclude: npt.ArrayLike | None

    def count(self, size: int) -> int:
        return pick_count(self.n, size, 1 if self.once else None, replacement=None, budgeted=False)

    def limits(self, size: int) -> PickLimits:
        excluded = None if self.exclude is None else np.unique(checks.item_indices("exclude", self.exclude, size))
        return PickLimits(excluded, self.once)


def _checked_settings(n: int | None, settings: dict[str, Any]) -> _BatchSettings:
    noise = validation.number("noise", settings.get("noise", 0.01), above=0)
    validation.whole_number("seed", settings.get("seed", 0), least=0)
    normalize = validation.flag("normalize", settings.get("normalize", True))
    once = settings.get("replacement") is False
    return _BatchSettings(n, settings.get("method", "sift"), noise, normalize, once, settings.get("exclude"))


def _select_shared(prompts: list[Any], candidates: Any, plain: _BatchSettings) -> list[Selection]:
    vectors = checks.matrix("candidates", candidates)
    targets = np.concatenate([_query_vector(at, p, vectors.shape[1]) for at, p in enumerate(prompts)])
    space = FeatureSpace(vectors, targets, normalize=plain.normalize, noise=plain.noise)
    limits = plain.limits(space.size)
    n = plain.count(space.size - (0 if limits.excluded is None else len(limits.excluded)))
    found = sift_shared(space, n, plain.noise, limits)
    return [_to_selection(found, b, space, space.target_vectors[b : b + 1], plain) for b in range(len(prompts))]


def _select_separate(prompts: list[Any], sets: list[Any], plain: _BatchSettings) -> list[Selection]:
    """Sets of equal size go together."""
    spaces: list[FeatureSpace] = []
    for at, (prompt, own) in enumerate(zip(prompts, sets, strict=True)):
        vectors = checks.matrix(f"candidates of prompt {at}", own)
        target = _query_vector(at, prompt, vectors.shape[1])
        try:
            spaces.append(FeatureSpace(vectors, target, normalize=plain.normalize, noise=plain.noise))
        except InvalidInput as error:
            raise InvalidInput(f"prompt {at}: {error}") from error
    answers: dict[int, Selection] = {}
    for size in dict.fromkeys(space.size for space in spaces):
        members = [at for at, space in enumerate(spaces) if space.size == size]
        group = [spaces[at] for at in members]
        found = sift_separate(group, plain.count(size), plain.noise, plain.limits(size))
        for b, at in enumerate(members):
            answers[at] = _to_selection(found, b, group[b], group[b].target_vectors, plain)
    return [answers[at] for at in range(len(prompts))]


def _query_vector(at: int, prompt: Any, width: int) -> checks.RealArray:
    return checks.matrix(f"query of prompt {at}", prompt, width=width)


def _to_selection(
    found: BatchPicks, b: int, space: FeatureSpace, target: FloatArray, plain: _BatchSettings
) -> Selection:
    indices, gains = found.indices[b].copy(), found.gains[b].copy()
    # With one target, a gain is the fall in uncertainty.
    left = float(target[0] @ target[0]) - np.concatenate([[0.0], np.cumsum(gains)])
    return Selection(
        indices=indices,
        gains=gains,
        uncertainty=np.maximum(left, 0),
        stopped="n",
        method=plain.method,
        noise=plain.noise,
        evidence=replace(space.evidence(indices), targets=target),
    )
