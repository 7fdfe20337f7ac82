"""The front door of the torch twin: tensors in, a named result of tensors out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftlm.errors import InvalidInput, UnknownName
from siftlm.extras import load
from siftlm.selection.rules import Stopping
from siftlm.selection.tensors import checks
from siftlm.selection.tensors.candidates import TensorCandidates, TensorPlan, prefers_features
from siftlm.selection.tensors.methods import METHODS
from siftlm.selection.tensors.steps import REASONS, TensorChunk, TensorPicks
from siftlm.types import Selection
from siftlm.validation import flag, fraction, number, whole_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")

# What a chunk of prompts may hold on a processor: about a cache's worth (benchmarks/tensors.py).
CPU_BYTES = 64 << 20
# All products at once are a matrix product; a row at a time they are a pass over memory, and much slower.
GRAM_PER_PICK = 4
TENSOR_GRAM_CANDIDATES = 8192


@dataclass(frozen=True, eq=False)
class BatchSelection:
    """The picks of B prompts, on the device of the inputs."""

    indices: Tensor
    """(B, n) the picks, most informative first; −1 after an early stop"""
    gains: Tensor
    """(B, n) what the method computed for each pick; 0 after an early stop"""
    uncertainty: Tensor
    """(B, n + 1) mean variance left, from before the first pick on; constant after an early stop"""
    counts: Tensor
    """(B,) how many picks there are"""
    reasons: Tensor
    """(B,) why each ended: 0 for n, 1 for adaptive, 2 for until"""
    method: str
    noise: float

    def __len__(self) -> int:
        return len(self.indices)

    def to_list(self) -> list[Selection]:
        """One `siftlm.types.Selection` a prompt, in numpy; they cannot ``explain`` themselves."""
        indices = self.indices.cpu().numpy()
        gains, trace = (t.cpu().numpy().astype(np.float64) for t in (self.gains, self.uncertainty))
        ends = zip(self.counts.tolist(), self.reasons.tolist(), strict=True)
        return [
            Selection(
                indices=indices[b, :kept].copy(),
                gains=gains[b, :kept].copy(),
                uncertainty=trace[b, : kept + 1].copy(),
                stopped=REASONS[reason],
                method=self.method,
                noise=self.noise,
            )
            for b, (kept, reason) in enumerate(ends)
        ]


def select(
    query: Tensor, candidates: Tensor, n: int | None = 50, *, mask: Tensor | None = None, **settings: Any
) -> Selection:
    """`select_many` for one prompt: query (d,) or (m, d), candidates (K, d), mask (K,)."""
    checks.dense("query", query, 1, 2)
    checks.dense("candidates", candidates, 2)
    return select_many(query[None], candidates, n, mask=mask, **settings).to_list()[0]


def select_many(
    queries: Tensor,
    candidates: Tensor,
    n: int | None = 50,
    *,
    method: str = "sift",
    noise: float = 0.01,
    normalize: bool = True,
    replacement: bool | int | None = None,
    mask: Tensor | None = None,
    adaptive: float | None = None,
    until: float | None = None,
    at_least: int = 1,
    seed: int = 0,
    precision: torch.dtype | None = None,
    form: Literal["rows", "features"] | None = None,
    memory: int | None = None,
) -> BatchSelection:
    """Select for many prompts at once. Settings not listed here mean what they mean to ``siftlm.select``.

    Args:
        queries: (B, d), one embedding a prompt, or (B, m, d).
        candidates: (K, d), shared by all prompts, or (B, K, d), a set for each; dtype and device as queries.
        n: how many to pick; ``None`` for 50, or as many as a prompt has candidates if those are fewer.
        method: one of ``METHODS``.
        mask: (K,) or (B, K), ``True`` where a candidate may be picked. The vectors elsewhere don't matter, so
            sets of different sizes can be padded to one K.
        seed: of the method ``random``.
        precision: ``torch.float32`` or ``torch.float64`` for everything, instead of what fits the inputs.
        form: ``"rows"`` or ``"features"`` for the posterior, instead of what should be faster.
        memory: bytes to use beside the inputs; prompts are worked off in chunks that fit. Changes no pick.
    """
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    if form not in (None, "rows", "features"):
        raise InvalidInput(f"form must be 'rows', 'features' or None, got {form!r}")
    noise, normalize = number("noise", noise, above=0), flag("normalize", normalize)
    stopping = Stopping(
        adaptive=None if adaptive is None else number("adaptive", adaptive, above=0),
        until=None if until is None else fraction("until", until),
        at_least=whole_number("at_least", at_least, least=0),
    )
    checks.inputs(queries, candidates, mask)
    cap = checks.repeats(METHODS[method].repeats, replacement)
    targets = queries if queries.ndim == 3 else queries[:, None]
    size, width = candidates.shape[-2:]
    with torch.inference_mode(), torch.autocast(queries.device.type, enabled=False):
        state = checks.state_dtype(queries.device, precision)
        steps = checks.how_many(n, checks.available(mask, size), cap, replacement=replacement)
        target_lengths = checks.lengths("queries", targets, None, state, zero_ok=not normalize)
        lengths = checks.lengths("candidates", candidates, mask, state, zero_ok=not normalize)
        products = checks.product_dtype(queries.dtype, lengths, mask, noise, normalize=normalize, wanted=precision)
    most = max(steps, default=0)
    features = prefers_features(METHODS[method], most, size, width)
    if form is not None and "posterior" in METHODS[method].looks_at:
        features = form == "features"
    rows_asked = most * (len(queries) if candidates.ndim == 2 else 1)
    plan = TensorPlan(
        method=METHODS[method],
        n=most,
        noise=noise,
        rounding=torch.finfo(products).eps,
        cap=cap,
        stopping=stopping,
        seed=whole_number("seed", seed, least=0),
        state=state,
        products=products,
        normalize=normalize,
        features=features,
        gram=(not features or METHODS[method].looks_at >= {"closest"})
        and size <= min(GRAM_PER_PICK * rows_asked, TENSOR_GRAM_CANDIDATES),
    )
    # Made outside of inference mode, so that the caller may use the results in a graph of their own.
    found = _empty(len(queries), most, queries.device, state, method=method, noise=noise)
    with torch.inference_mode(), torch.autocast(queries.device.type, enabled=False):
        limits = None if len(set(steps)) < 2 else torch.tensor(steps, device=queries.device)
        shared = None
        if candidates.ndim == 2:
            anybody = mask if mask is None or mask.ndim == 1 else mask.any(0)
            shared = TensorCandidates(candidates, lengths, anybody, plan)
        sound = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
        for part in _parts(len(queries), _bytes_each(plan, targets, candidates), queries.device, memory):
            prompts = targets[part].to(state)
            if normalize:
                prompts = prompts / target_lengths[part, :, None]
            allowed = mask if mask is None or mask.ndim == 1 else mask[part]
            own = shared or TensorCandidates(candidates[part], lengths[part], allowed, plan)
            chunk = TensorChunk(plan, own, prompts, allowed)
            sound[part] = _record(found, part, chunk.run(None if limits is None else limits[part]))
        if not bool(sound.all()):
            prompt = int((~sound).nonzero()[0])
            raise InvalidInput(
                f"prompt {prompt}: a gain is not a finite number; its vectors are huge, or huge beside noise"
            )
    return found


def _empty(
    prompts: int, most: int, device: torch.device, state: torch.dtype, *, method: str, noise: float
) -> BatchSelection:
    return BatchSelection(
        indices=torch.full((prompts, most), -1, dtype=torch.int64, device=device),
        gains=torch.zeros((prompts, most), dtype=state, device=device),
        uncertainty=torch.zeros((prompts, most + 1), dtype=state, device=device),
        counts=torch.zeros(prompts, dtype=torch.int64, device=device),
        reasons=torch.zeros(prompts, dtype=torch.int64, device=device),
        method=method,
        noise=noise,
    )


def _record(found: BatchSelection, part: slice, picks: TensorPicks) -> Tensor:
    """Enter the picks of some prompts; they may have ended before n. Returns whether they are sound."""
    made = picks.indices.shape[1]
    found.indices[part, :made] = picks.indices
    found.gains[part, :made] = picks.gains
    found.uncertainty[part, : made + 1] = picks.uncertainty
    found.uncertainty[part, made + 1 :] = picks.uncertainty[:, -1:]
    found.counts[part] = picks.counts
    found.reasons[part] = picks.reasons
    return picks.sound


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
