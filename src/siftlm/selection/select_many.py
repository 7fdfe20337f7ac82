"""`select_many`: the same as `select` for each prompt, in input order, with shared work done once.

Plain SIFT goes through an engine of its own: where every prompt has one embedding and no more is asked for than λ,
normalisation and simple limits, the numbers are those of one at a time, with the overhead shared. There, arrays
have the prompts in front: ``cross`` and ``noisy`` are (B, K), Cholesky rows (B, n, K).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.selection import checks
from siftlm.selection.checks import RealArray
from siftlm.selection.numerics import Ties, check_noise, ties_of
from siftlm.selection.posterior import CANDIDATES_PER_FEATURE
from siftlm.selection.problem import find_method
from siftlm.selection.rules import NO_LIMITS, Limits, Stopping, rules_in
from siftlm.selection.select import check_options, pick_count, select
from siftlm.selection.space import FeatureSpace, Gram
from siftlm.types import FloatArray, IntArray, Selection

# Cholesky rows of a group of prompts should stay in the processor's cache.
ROW_GROUP_BYTES = 4 << 20
# What a scan keeps of each candidate for each prompt only has to fit into memory: it is worked off in blocks.
SCAN_GROUP_BYTES = 1 << 30
# Candidates of a block, for one prompt; of several prompts' blocks together.
SCAN_BLOCK_CANDIDATES = 1 << 16
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

    def pick_limits(self, size: int) -> PickLimits:
        exclude = self.limits.exclude
        excluded = None if exclude is None else np.unique(checks.item_indices("exclude", exclude, size))
        return PickLimits(excluded, once=self.limits.cap(repeats=True) == 1)


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
    picks = _sift_shared(space, n, engine.noise, limits)
    return [_to_selection(picks, b, space, space.target_vectors[b : b + 1], engine) for b in range(len(prompts))]


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
        picks = _sift_separate(group, engine.count(size), engine.noise, engine.pick_limits(size))
        for b, at in enumerate(members):
            answers[at] = _to_selection(picks, b, group[b], group[b].target_vectors, engine)
    return [answers[at] for at in range(len(prompts))]


def _query_vector(at: int, prompt: Any, width: int) -> checks.RealArray:
    return checks.matrix(f"query of prompt {at}", prompt, width=width)


def _to_selection(
    picks: BatchPicks, b: int, space: FeatureSpace, target: FloatArray, engine: _EngineSettings
) -> Selection:
    indices, gains = picks.indices[b].copy(), picks.gains[b].copy()
    # With one target, a gain is the fall in uncertainty.
    left = float(target[0] @ target[0]) - np.concatenate([[0.0], np.cumsum(gains)])
    return Selection(
        indices=indices,
        gains=gains,
        uncertainty=np.maximum(left, 0),
        stopped="n",
        method=engine.method,
        noise=engine.noise,
        evidence=replace(space.evidence(indices), targets=target),
    )


# --- the engine


@dataclass(frozen=True)
class BatchPicks:
    """The picks of B prompts."""

    indices: IntArray
    """(B, n)"""
    gains: FloatArray
    """(B, n)"""


@dataclass(frozen=True)
class PickLimits:
    """What may be picked."""

    excluded: IntArray | None = None
    """Indices that must not be picked."""
    once: bool = False
    """May each candidate be picked only once?"""


def _sift_shared(space: FeatureSpace, n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """One set of candidates for all prompts; the space's targets are the prompts, one each."""
    check_noise(space, noise)
    prompts, size = space.targets, space.size
    cross, diagonal = space.cross(), space.diagonal()
    space.expect(prompts * n)
    ties = [ties_of(space, noise)] * prompts
    if n > space.width or size > CANDIDATES_PER_FEATURE * space.width:
        many = _prompt_groups(prompts, 8 * size * 3, SCAN_GROUP_BYTES)
        return _join_picks([_pick_by_scan(space, cross[group], n, noise, ties, limits) for group in many])
    groups = _prompt_groups(prompts, 8 * size * n, ROW_GROUP_BYTES)
    return _join_picks(
        [_pick_by_rows(cross[g], diagonal, lambda i, _: space.rows(i), g, n, noise, ties, limits) for g in groups]
    )


def _sift_separate(spaces: Sequence[FeatureSpace], n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """A set of K candidates for each prompt, all of the same K and one target each."""

    def products(indices: IntArray, group: slice) -> RealArray:
        return np.stack([space.row(int(index)) for space, index in zip(spaces[group], indices, strict=True)])

    size = spaces[0].size
    for space in spaces:
        check_noise(space, noise)
        space.expect(n)
    cross = np.concatenate([space.cross() for space in spaces])
    diagonal = np.stack([space.diagonal() for space in spaces])
    ties = [ties_of(space, noise) for space in spaces]
    groups = _prompt_groups(len(spaces), 8 * size * n, ROW_GROUP_BYTES)
    return _join_picks([_pick_by_rows(cross[g], diagonal[g], products, g, n, noise, ties[g], limits) for g in groups])


def _prompt_groups(prompts: int, bytes_each: int, most: int) -> list[slice]:
    step = max(1, most // bytes_each)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]


def _join_picks(parts: list[BatchPicks]) -> BatchPicks:
    return BatchPicks(np.concatenate([p.indices for p in parts]), np.concatenate([p.gains for p in parts]))


def _pick_by_rows(
    cross: FloatArray,
    diagonal: FloatArray,
    products: Callable[[IntArray, slice], RealArray],
    group: slice,
    n: int,
    noise: float,
    ties: Sequence[Ties],
    limits: PickLimits,
) -> BatchPicks:
    """``RowPosterior`` with a prompt axis."""
    count, size = cross.shape
    cross, noisy = cross.copy(), np.broadcast_to(diagonal + noise, cross.shape).copy()
    rows, scratch, each = np.empty((count, n, size)), np.empty_like(cross), np.arange(count)
    picks = _BatchPicker(count, n, ties, limits)
    for step in range(n):
        index = picks.take(step, _score_gains(cross, noisy, scratch))
        if step == n - 1:
            break
        row = rows[:, step]
        np.copyto(row, products(index, group))
        if step:
            past = rows[:, :step]
            row -= np.matmul(past[each, :, index][:, None, :], past)[:, 0]
        _condition_on_picks(cross, noisy, row, scratch, each, index, noise)
    return picks.done()


def _pick_by_scan(
    space: FeatureSpace,
    cross: FloatArray,
    n: int,
    noise: float,
    ties: Sequence[Ties],
    limits: PickLimits,
) -> BatchPicks:
    """``FeaturePosterior`` with a prompt axis: the prompts share one scan, a matrix–matrix product.

    A block of candidates is multiplied, conditioned and scored before the next, while it is in the cache.
    """
    count, size = cross.shape
    cross, noisy = cross.copy(), np.broadcast_to(space.diagonal() + noise, cross.shape).copy()
    gains = _score_gains(cross, noisy, np.empty_like(cross))
    white, each = np.empty((count, n, space.width)), np.arange(count)
    picks, block = _BatchPicker(count, n, ties, limits), max(1024, SCAN_BLOCK_CANDIDATES // count)
    for step in range(n):
        index = picks.take(step, gains)
        if step == n - 1:
            break
        vectors, past = space.gather(index), white[:, :step]
        along = vectors - np.matmul(np.matmul(vectors[:, None, :], past.transpose(0, 2, 1)), past)[:, 0]
        own = np.maximum(np.einsum("bd,bd->b", vectors, along), 0) + noise
        noisy[each, index] = own  # the direction is exact, so its own variance is better than the running one
        white[:, step] = along / np.sqrt(own)[:, None]
        falls = (cross[each, index] / np.sqrt(own))[:, None]
        columns = np.ascontiguousarray(white[:, step].T)
        for start in range(0, size, block):
            part = slice(start, start + block)
            row = np.ascontiguousarray(space.scan(columns, part).T)
            cross[:, part] -= row * falls
            np.multiply(row, row, out=row)
            noisy[:, part] -= row
            np.maximum(noisy[:, part], noise, out=noisy[:, part])
            _score_gains(cross[:, part], noisy[:, part], gains[:, part])
    return picks.done()


def _score_gains(cross: FloatArray, noisy: FloatArray, gains: FloatArray) -> FloatArray:
    """cross² / noisy"""
    np.multiply(cross, cross, out=gains)
    np.divide(gains, noisy, out=gains)
    return gains


def _condition_on_picks(
    cross: FloatArray,
    noisy: FloatArray,
    row: FloatArray,
    scratch: FloatArray,
    each: IntArray,
    index: IntArray,
    noise: float,
) -> None:
    """Condition each prompt on its pick; ``row`` holds k_n(x_i, ·) and leaves as the Cholesky row."""
    root = np.sqrt(noisy[each, index])
    step = cross[each, index] / root
    row /= root[:, None]
    np.multiply(row, step[:, None], out=scratch)
    cross -= scratch
    np.multiply(row, row, out=scratch)
    noisy -= scratch
    np.maximum(noisy, noise, out=noisy)


class _BatchPicker:
    """Chooses for every prompt, by the same tie rule as ``Rules``, and keeps the record."""

    def __init__(self, count: int, n: int, ties: Sequence[Ties], limits: PickLimits) -> None:
        self._limits = limits
        self._indices = np.empty((count, n), dtype=np.int64)
        self._gains = np.empty((count, n))
        self._ties, self._each = ties, np.arange(count)
        self._keep = np.array([1 - one.loose for one in ties[:count]])

    def take(self, step: int, gains: FloatArray) -> IntArray:
        """The best of each prompt, ties to the smaller index; ``gains`` of what may not be picked are lost."""
        # −1 is below what any gain can be.
        if self._limits.excluded is not None:
            gains[:, self._limits.excluded] = -1
        if self._limits.once:
            gains[self._each[:, None], self._indices[:, :step]] = -1
        index: IntArray = gains.argmax(axis=1)
        best = gains[self._each, index]
        near = (gains >= (best * self._keep)[:, None]).argmax(axis=1)
        for prompt in np.flatnonzero(near < index).tolist():
            index[prompt] = self._ties[prompt].equals(gains[prompt], int(index[prompt]))[0]
        self._indices[:, step] = index
        self._gains[:, step] = gains[self._each, index]
        return index

    def done(self) -> BatchPicks:
        """The record."""
        return BatchPicks(self._indices, self._gains)
