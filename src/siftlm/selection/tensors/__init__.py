"""Selection on torch tensors: thousands of prompts at once, on whatever device they live.

`siftlm.select_many` comes here when queries and candidates are tensors; the result is a sequence of `Selection` like
any other, and its tensors stay on the device.

    >>> import siftlm
    >>> import torch
    >>> found = siftlm.select_many(torch.eye(3)[:2], torch.eye(3), n=2, until=0.5)
    >>> found.indices, found.counts
    (tensor([[ 0, -1],
            [ 1, -1]]), tensor([1, 1]))
    >>> [selection.indices.tolist() for selection in found]
    [[0], [1]]

The same formulas and the same picks as ``siftlm.select``; every array has the prompts in front. Two forms of the
posterior, as in ``siftlm.selection.posterior``: rows of a Cholesky factor for few candidates, and directions in feature
space for many, where the prompts share each scan as one matrix–matrix product.

Precision. Products are formed in the inputs' dtype (half precision is widened to float32), or in
float64 where λ is below 1e-3 of the kernel's size or torch has been told to multiply float32 carelessly
(TF32). What is carried from pick to pick is float64 wherever the device has it: those arrays are read
and written once a step, so that costs memory traffic, not arithmetic. MPS has no float64 and gets
float32, and no λ below 1e-3.

Nothing global is changed: no thread count, no generator, no default dtype; autocast is off inside.
Importing this package imports torch; ``import siftlm.selection`` does not come here.
"""

# ruff: noqa: E402 - a missing torch is an error of ours, which names the extra
from __future__ import annotations

from siftlm.extras import load

load("torch", "torch")

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.selection import checks
from siftlm.selection.explain import VectorEvidence
from siftlm.selection.kernels import Linear
from siftlm.selection.numerics import MIN_FLOAT32_NOISE
from siftlm.selection.posterior import CANDIDATES_PER_FEATURE
from siftlm.selection.rules import NO_LIMITS, NO_STOPPING, Limits, Stopping, rules_in
from siftlm.selection.tensors.posterior import TensorCandidates, TensorPlan, widened
from siftlm.selection.tensors.steps import METHODS, REASONS, TensorChunk, TensorMethod, TensorPicks, TensorView
from siftlm.types import Selection
from siftlm.validation import flag, number, whole_number

__all__ = ["METHODS", "BatchSelection", "TensorMethod", "TensorView", "select_many"]

# What a chunk of prompts may hold on a processor: about a cache's worth (benchmarks/tensors.py).
CPU_BYTES = 64 << 20
# All products at once are a matrix product; a row at a time they are a pass over memory, and much slower.
GRAM_PER_PICK = 4
TENSOR_GRAM_CANDIDATES = 8192

# Settings of `select` that need arrays.
ARRAY_SETTINGS = ("kernel", "known", "prior", "sources", "source_cap", "costs", "budget")


@dataclass(frozen=True, eq=False)
class BatchSelection(Sequence[Selection]):
    """The picks of B prompts, on the device of the inputs; as a sequence, the `Selection` of each prompt in numpy."""

    indices: Tensor
    """(B, n) the picks, most informative first; −1 after an early stop"""
    gains: Tensor
    """(B, n) what the method computed for each pick; 0 after an early stop"""
    uncertainty: Tensor
    """(B, n + 1) mean variance left, from before the first pick on; constant after an early stop"""
    counts: Tensor
    """(B,) how many picks there are"""
    reasons: Tensor
    """(B,) why each ended: 0 for n, 1 for adaptive, 2 for until, 3 for min_gain, 4 for min_growth"""
    method: str
    noise: float
    queries: Tensor = field(repr=False)
    """(B, m, d) as given, like the candidates: a `Selection` explains itself with them"""
    candidates: Tensor = field(repr=False)
    """(K, d) or (B, K, d)"""
    normalize: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, at: int) -> Selection: ...

    @overload
    def __getitem__(self, at: slice) -> list[Selection]: ...

    def __getitem__(self, at: int | slice) -> Selection | list[Selection]:
        if isinstance(at, slice):
            return [self[b] for b in range(*at.indices(len(self)))]
        kept = int(self.counts[at])
        picks = self.indices[at, :kept]
        vectors = (self.candidates if self.candidates.ndim == 2 else self.candidates[at])[picks]
        unit = [v.detach().double() if v.device.type != "mps" else v.detach() for v in (vectors, self.queries[at])]
        if self.normalize:
            unit = [v / v.norm(dim=-1, keepdim=True) for v in unit]
        return Selection(
            indices=picks.cpu().numpy(),
            gains=self.gains[at, :kept].cpu().numpy().astype(np.float64),
            uncertainty=self.uncertainty[at, : kept + 1].cpu().numpy().astype(np.float64),
            stopped=REASONS[int(self.reasons[at])],
            method=self.method,
            noise=self.noise,
            evidence=VectorEvidence(unit[0].cpu().numpy(), None, unit[1].cpu().double().numpy(), None),
        )


def select_many(
    queries: Tensor,
    candidates: Tensor,
    n: int | None = None,
    *,
    method: str = "sift",
    noise: float = 0.01,
    kernel: Linear | None = None,
    normalize: bool = True,
    limits: Limits | None = None,
    stopping: Stopping | None = None,
    seed: int = 0,
    mask: Tensor | None = None,
    precision: torch.dtype | None = None,
    form: Literal["rows", "features"] | None = None,
    memory: int | None = None,
    **settings: Any,
) -> BatchSelection:
    """Select for many prompts at once; ``siftlm.select_many`` comes here with tensors.

    Args:
        queries: (B, d), one embedding a prompt, or (B, m, d).
        candidates: (K, d), shared by all prompts, or (B, K, d), a set for each; dtype and device as queries.
        n, noise, normalize, stopping: as for ``siftlm.select``.
        method: one of ``METHODS``.
        kernel: the inner product; others need arrays.
        limits: ``replacement`` and ``exclude``; the others need arrays.
        seed: of the method ``random``.
        mask: (K,) or (B, K), ``True`` where a candidate may be picked. The vectors elsewhere don't matter, so
            sets of different sizes can be padded to one K.
        precision: ``torch.float32`` or ``torch.float64`` for everything, instead of what fits the inputs.
        form: ``"rows"`` or ``"features"`` for the posterior, instead of what should be faster.
        memory: bytes to use beside the inputs; prompts are worked off in chunks that fit. Changes no pick.
        **settings: the fields of `Limits` and `Stopping`, as keywords.
    """
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    if form not in (None, "rows", "features"):
        raise InvalidInput(f"form must be 'rows', 'features' or None, got {form!r}")
    noise, normalize = number("noise", noise, above=0), flag("normalize", normalize)
    limits, stopping = _rules(settings, limits, stopping, kernel)
    _check_inputs(queries, candidates, mask)
    mask = _without_excluded(mask, limits, candidates)
    cap = limits.cap(repeats=METHODS[method].repeats)
    targets = queries if queries.ndim == 3 else queries[:, None]
    with torch.inference_mode(), torch.autocast(queries.device.type, enabled=False):
        state = _state_dtype(queries.device, precision)
        steps = _pick_counts(
            n, _available(mask, candidates.shape[-2]), cap, repeats_meant=limits.replacement is not None
        )
        target_lengths = _lengths("queries", targets, None, state, zero_ok=not normalize)
        lengths = _lengths("candidates", candidates, mask, state, zero_ok=not normalize)
        products = product_dtype(queries.dtype, lengths, mask, noise, normalize=normalize, precision=precision)
    most = max(steps, default=0)
    plan = TensorPlan(
        method=method,
        looks_at=METHODS[method].looks_at,
        n=most,
        noise=noise,
        rounding=torch.finfo(products).eps,
        cap=cap,
        stopping=stopping,
        seed=whole_number("seed", seed, least=0),
        state=state,
        products=products,
        normalize=normalize,
        **_cheaper_form(METHODS[method].looks_at, most, queries, candidates, form),
    )
    # Made outside of inference mode, so that the caller may use the results in a graph of their own.
    batch = _empty(plan, targets, candidates)
    with torch.inference_mode(), torch.autocast(queries.device.type, enabled=False):
        counts = None if len(set(steps)) < 2 else torch.tensor(steps, device=queries.device)
        shared = None
        if candidates.ndim == 2:
            allowed_to_any = mask if mask is None or mask.ndim == 1 else mask.any(0)
            shared = TensorCandidates(candidates, lengths, allowed_to_any, plan)
        finite = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
        for part in _parts(len(queries), _bytes_each(plan, targets, candidates), queries.device, memory):
            prompts = targets[part].to(state)
            if normalize:
                prompts = prompts / target_lengths[part, :, None]
            allowed = mask if mask is None or mask.ndim == 1 else mask[part]
            own = shared or TensorCandidates(candidates[part], lengths[part], allowed, plan)
            chunk = TensorChunk(plan, own, prompts, allowed)
            finite[part] = _record(batch, part, chunk.run(None if counts is None else counts[part]))
        if not bool(finite.all()):
            prompt = int((~finite).nonzero()[0])
            raise InvalidInput(
                f"prompt {prompt}: a gain is not a finite number; its vectors are huge, or huge beside noise"
            )
    return batch


def _rules(
    settings: dict[str, Any], limits: Limits | None, stopping: Stopping | None, kernel: object
) -> tuple[Limits, Stopping]:
    """The rules that tensors can follow; whatever needs arrays is an error."""
    limits, stopping = rules_in(settings, limits, NO_LIMITS), rules_in(settings, stopping, NO_STOPPING)
    foreign = [name for name in (*limits.specified(), *settings) if name not in ("replacement", "exclude")]
    if kernel is not None and not isinstance(kernel, Linear):
        foreign.append("kernel")
    known = [name for name in foreign if name in ARRAY_SETTINGS]
    if known:
        raise Conflict(f"{setting(known[0])} does not apply to tensors; pass arrays: queries.cpu().numpy(), …")
    if foreign:
        raise InvalidInput(f"on tensors there is no setting {foreign[0]!r}; pass arrays for a method's own settings")
    return limits, stopping


def _without_excluded(mask: Tensor | None, limits: Limits, candidates: Tensor) -> Tensor | None:
    """The mask, less what is excluded."""
    if limits.exclude is None:
        return mask
    size = candidates.shape[-2]
    exclude = limits.exclude.cpu() if isinstance(limits.exclude, Tensor) else limits.exclude
    allowed = torch.ones(size, dtype=torch.bool)
    allowed[torch.from_numpy(checks.item_indices("exclude", exclude, size))] = False
    allowed = allowed.to(candidates.device)
    return allowed if mask is None else mask & allowed


def _cheaper_form(
    looks_at: frozenset[str], n: int, queries: Tensor, candidates: Tensor, form: str | None
) -> dict[str, bool]:
    """``features`` and ``gram`` of the plan."""
    size, width = candidates.shape[-2:]
    # Where the method looks at no posterior of the candidates, the form in feature space is always the cheaper one.
    features = "posterior" not in looks_at or n > width or size > CANDIDATES_PER_FEATURE * width
    if form is not None and "posterior" in looks_at:
        features = form == "features"
    rows = n * (len(queries) if candidates.ndim == 2 else 1)
    gram = (not features or "closest" in looks_at) and size <= min(GRAM_PER_PICK * rows, TENSOR_GRAM_CANDIDATES)
    return {"features": features, "gram": gram}


def _empty(plan: TensorPlan, targets: Tensor, candidates: Tensor) -> BatchSelection:
    prompts, device = len(targets), targets.device
    return BatchSelection(
        indices=torch.full((prompts, plan.n), -1, dtype=torch.int64, device=device),
        gains=torch.zeros((prompts, plan.n), dtype=plan.state, device=device),
        uncertainty=torch.zeros((prompts, plan.n + 1), dtype=plan.state, device=device),
        counts=torch.zeros(prompts, dtype=torch.int64, device=device),
        reasons=torch.zeros(prompts, dtype=torch.int64, device=device),
        method=plan.method,
        noise=plan.noise,
        queries=targets,
        candidates=candidates,
        normalize=plan.normalize,
    )


def _record(batch: BatchSelection, part: slice, picks: TensorPicks) -> Tensor:
    """Enter the picks of some prompts; they may have ended before n. Returns whether they are finite."""
    steps = picks.indices.shape[1]
    batch.indices[part, :steps] = picks.indices
    batch.gains[part, :steps] = picks.gains
    batch.uncertainty[part, : steps + 1] = picks.uncertainty
    batch.uncertainty[part, steps + 1 :] = picks.uncertainty[:, -1:]
    batch.counts[part] = picks.counts
    batch.reasons[part] = picks.reasons
    return picks.all_finite


def _bytes_each(plan: TensorPlan, targets: Tensor, candidates: Tensor) -> int:
    """What one prompt needs beside the inputs, about."""
    (size, width), several = candidates.shape[-2:], targets.shape[1]
    kept = width * min(plan.n, width) if plan.features else plan.n * size
    each: int = (kept + (several + 8) * size) * plan.state.itemsize
    if candidates.ndim == 3 and plan.gram:
        each += size * size * plan.products.itemsize
    if candidates.ndim == 3 and candidates.dtype != plan.products:
        each += size * width * plan.products.itemsize
    return each


def _parts(prompts: int, each: int, device: torch.device, memory: int | None) -> list[slice]:
    """Chunks of prompts that fit."""
    if memory is not None:
        memory = whole_number("memory", memory, least=1)
    elif device.type == "cpu":
        memory = CPU_BYTES
    elif device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0] // 4
    else:
        memory = 1 << 30
    step = max(1, memory // each)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]


# --- input checks


def _check_dense(name: str, value: object, *dimensions: int) -> None:
    """Is this a dense tensor with one of these numbers of dimensions?"""
    if not isinstance(value, torch.Tensor):
        raise InvalidInput(f"{name} must be a torch tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise InvalidInput(f"{name} must be a dense tensor, got {value.layout}")
    if value.ndim not in dimensions:
        fitting = " or ".join(map(str, dimensions))
        raise InvalidInput(f"{name} must have {fitting} dimensions, got shape {tuple(value.shape)}")


def _check_inputs(queries: Tensor, candidates: Tensor, mask: Tensor | None) -> None:
    """Do shapes, dtypes and devices go together? Does not read the numbers."""
    for name, value in (("queries", queries), ("candidates", candidates)):
        _check_dense(name, value, 2, 3)
        if not value.dtype.is_floating_point or value.dtype.itemsize == 1:
            raise InvalidInput(f"{name} must hold real numbers of 16, 32 or 64 bits, got {value.dtype}")
        if 0 in value.shape[1:] or (name == "candidates" and value.ndim == 2 and not len(value)):
            raise InvalidInput(f"{name} is empty: shape {tuple(value.shape)}")
    if queries.dtype != candidates.dtype:
        raise InvalidInput(f"queries are {queries.dtype} and candidates {candidates.dtype}; bring them to one dtype")
    if queries.shape[-1] != candidates.shape[-1]:
        raise InvalidInput(
            f"queries have vectors of width {queries.shape[-1]}, candidates of width {candidates.shape[-1]}: "
            f"shapes {tuple(queries.shape)} and {tuple(candidates.shape)}"
        )
    if candidates.ndim == 3 and len(candidates) != len(queries):
        raise InvalidInput(f"{len(queries)} queries but {len(candidates)} sets of candidates")
    if mask is not None:
        _check_dense("mask", mask, 1, 2)
        fitting = (candidates.shape[-2],) if mask.ndim == 1 else (len(queries), candidates.shape[-2])
        if mask.dtype != torch.bool or mask.shape != fitting:
            raise InvalidInput(f"mask must be bool of shape {fitting}, got {mask.dtype} of shape {tuple(mask.shape)}")
    for name, other in (("candidates", candidates), ("mask", mask)):
        if other is not None and other.device != queries.device:
            raise InvalidInput(f"queries are on {queries.device} and {name} on {other.device}; bring them to one")


def _lengths(name: str, vectors: Tensor, mask: Tensor | None, dtype: torch.dtype, *, zero_ok: bool) -> Tensor:
    """(…) length of each vector. Those that the mask allows must be finite and (unless ok) not zero."""
    if not len(vectors):
        return torch.zeros(vectors.shape[:-1], dtype=dtype, device=vectors.device)
    norms = torch.cat([torch.linalg.vector_norm(wide, dim=-1) for wide in widened(vectors, dtype)])
    good = norms.square().isfinite()
    if not zero_ok:
        good &= norms > 0
    if mask is not None:
        good = good | ~mask
    if bool(good.all()):
        return norms
    at = (~good).nonzero()[0].tolist()[-norms.ndim :]  # a mask for each prompt is about the same shared rows
    where = f"row {at[0]}" if len(at) == 1 else f"[{', '.join(map(str, at))}]"
    vector, norm = vectors[tuple(at)], float(norms[tuple(at)])
    if norm == 0:
        raise InvalidInput(
            f"{name} {where} is all zeros and has no direction; mask it out or pass {setting('normalize', False)}"
        )
    wrong = (~vector.isfinite()).nonzero()
    detail = f"its length overflows {dtype}"
    if len(wrong):
        detail = f"column {int(wrong[0])} is {float(vector[wrong[0]])}"
    raise InvalidInput(f"{name} {where} is not finite: {detail}")


def _state_dtype(device: torch.device, precision: torch.dtype | None) -> torch.dtype:
    """Of what is carried from pick to pick: float64 wherever there is any."""
    if precision not in (None, torch.float32, torch.float64):
        raise InvalidInput(f"precision must be torch.float32, torch.float64 or None, got {precision!r}")
    if device.type != "mps":
        return precision or torch.float64
    if precision == torch.float64:
        raise InvalidInput("precision: MPS devices have no float64")
    return torch.float32


def product_dtype(
    dtype: torch.dtype,
    norms: Tensor,
    mask: Tensor | None,
    noise: float,
    *,
    normalize: bool,
    precision: torch.dtype | None,
) -> torch.dtype:
    """Of inner products: float32 for anything narrower than float64, unless that would blur a decision."""
    narrow = norms.dtype == torch.float32  # as ``precision`` has it, or the only one of the device
    if not narrow and torch.float64 in (dtype, precision):
        return torch.float64
    blurred = noise < MIN_FLOAT32_NOISE
    if not normalize:
        squared = norms.square() if mask is None else torch.where(mask, norms, torch.nan).square()
        blurred = bool((squared.nanmean(-1) * MIN_FLOAT32_NOISE > noise).any())
    if narrow and blurred:
        raise InvalidInput(
            f"noise={noise:g} is below {MIN_FLOAT32_NOISE:g} of the kernel's size, which takes float64: raise it, "
            "leave out precision=torch.float32, or move the tensors off MPS, which has no float64"
        )
    return torch.float32 if narrow or not (blurred or _careless()) else torch.float64


def _careless() -> bool:
    """Does torch round float32 products to ten bits or fewer? The setting stays as it is."""
    backends = (torch.backends, torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    precisions = [getattr(backend, "fp32_precision", None) for backend in backends]
    if any(word not in (None, "none", "ieee") for word in precisions):
        return True
    # Older torch knows this one setting alone; newer torch refuses to read it once the others were used.
    return all(word is None for word in precisions) and torch.get_float32_matmul_precision() != "highest"


def _available(mask: Tensor | None, size: int) -> list[int]:
    """How many candidates there are to pick from: one number for all prompts, or one for each."""
    have: list[int] = [size] if mask is None else mask.sum(-1, keepdim=mask.ndim == 1).tolist()
    if 0 in have:
        raise InvalidInput(f"mask leaves no candidate{_owner(have, 0)} to pick from")
    return have


def _pick_counts(n: int | None, have: list[int], cap: int | None, *, repeats_meant: bool) -> list[int]:
    """n for each entry of ``have``, checked against it."""
    if n is None:
        return [min(50, each) for each in have]
    n = whole_number("n", n, least=1)
    fewest = min(have, default=n)
    owner = _owner(have, fewest)
    if not repeats_meant and n > fewest:
        raise InvalidInput(
            f"n={n} is more than the {fewest} candidates{owner}; ask for fewer, pass n=None for as many as "
            f"there are, or {setting('replacement', True)} to allow repeats"
        )
    if cap is not None and n > fewest * cap:
        times = "once" if cap == 1 else f"at most {cap} times"
        raise InvalidInput(
            f"n={n} is more than {fewest} candidates{owner} picked {times} each can give ({fewest * cap})"
        )
    return [n] * len(have)


def _owner(have: list[int], value: int) -> str:
    return f" of prompt {have.index(value)}" if len(have) > 1 else ""
