"""Input checks of the torch twin, and what follows from the inputs before the first step.

Each check waits for the device at most once, and only here does anything wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from siftlm import validation
from siftlm.errors import InvalidInput
from siftlm.extras import load
from siftlm.selection.numerics import MIN_FLOAT32_NOISE

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")


def dense(name: str, value: object, *dimensions: int) -> None:
    """Is this a dense tensor with one of these numbers of dimensions?"""
    if not isinstance(value, torch.Tensor):
        raise InvalidInput(f"{name} must be a torch tensor, got {type(value).__name__}; siftlm.select takes arrays")
    if value.layout != torch.strided:
        raise InvalidInput(f"{name} must be a dense tensor, got {value.layout}")
    if value.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise InvalidInput(f"{name} must have {wanted} dimensions, got shape {tuple(value.shape)}")


def inputs(queries: Tensor, candidates: Tensor, mask: Tensor | None) -> None:
    """Do shapes, dtypes and devices go together? Does not read the numbers."""
    for name, value in (("queries", queries), ("candidates", candidates)):
        dense(name, value, 2, 3)
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
        dense("mask", mask, 1, 2)
        fitting = (candidates.shape[-2],) if mask.ndim == 1 else (len(queries), candidates.shape[-2])
        if mask.dtype != torch.bool or mask.shape != fitting:
            raise InvalidInput(f"mask must be bool of shape {fitting}, got {mask.dtype} of shape {tuple(mask.shape)}")
    for name, other in (("candidates", candidates), ("mask", mask)):
        if other is not None and other.device != queries.device:
            raise InvalidInput(f"queries are on {queries.device} and {name} on {other.device}; bring them to one")


def widened(vectors: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The vectors in this dtype, some at a time: on a processor so few that they stay in its cache."""
    numbers = 1 << (16 if vectors.device.type == "cpu" else 26)
    for block in vectors.split(max(1, numbers // vectors[0].numel())):
        yield block.to(dtype)


def lengths(name: str, vectors: Tensor, mask: Tensor | None, dtype: torch.dtype, *, zero_ok: bool) -> Tensor:
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
        raise InvalidInput(f"{name} {where} is all zeros and has no direction; mask it out or pass normalize=False")
    wrong = (~vector.isfinite()).nonzero()
    detail = f"its length overflows {dtype}"
    if len(wrong):
        detail = f"column {int(wrong[0])} is {float(vector[wrong[0]])}"
    raise InvalidInput(f"{name} {where} is not finite: {detail}")


def state_dtype(device: torch.device, wanted: torch.dtype | None) -> torch.dtype:
    """Of what is carried from pick to pick: float64 wherever there is any."""
    if wanted not in (None, torch.float32, torch.float64):
        raise InvalidInput(f"precision must be torch.float32, torch.float64 or None, got {wanted!r}")
    if device.type != "mps":
        return wanted or torch.float64
    if wanted == torch.float64:
        raise InvalidInput("precision: MPS devices have no float64")
    return torch.float32


def product_dtype(
    given: torch.dtype,
    norms: Tensor,
    mask: Tensor | None,
    noise: float,
    *,
    normalize: bool,
    wanted: torch.dtype | None,
) -> torch.dtype:
    """Of inner products: float32 for anything narrower than float64, unless that would blur a decision."""
    narrow = norms.dtype == torch.float32  # of the state too: somebody asked for it, or the device has nothing else
    if not narrow and torch.float64 in (given, wanted):
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
    """Has somebody allowed float32 products to be rounded to ten bits or fewer? Their setting stays."""
    backends = (torch.backends, torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    said = [getattr(backend, "fp32_precision", None) for backend in backends]
    if any(word not in (None, "none", "ieee") for word in said):
        return True
    # Older torch knows this one setting alone; newer torch refuses to read it once the others were used.
    return all(word is None for word in said) and bool(torch.get_float32_matmul_precision() != "highest")


def repeats(by_default: bool, replacement: bool | int | None) -> int | None:
    """How often one candidate may be picked; ``None`` for no limit."""
    if replacement is None or isinstance(replacement, bool):
        allowed = by_default if replacement is None else replacement
        return None if allowed else 1
    return validation.whole_number("replacement", replacement, least=1)


def available(mask: Tensor | None, size: int) -> list[int]:
    """How many candidates there are to pick from: one number for all prompts, or one for each."""
    have: list[int] = [size] if mask is None else mask.sum(-1, keepdim=mask.ndim == 1).tolist()
    if 0 in have:
        raise InvalidInput(f"mask leaves no candidate{_owner(have, 0)} to pick from")
    return have


def how_many(n: int | None, have: list[int], cap: int | None, *, replacement: bool | int | None) -> list[int]:
    """n for each entry of ``have``, checked against it."""
    if n is None:
        return [min(50, each) for each in have]
    n = validation.whole_number("n", n, least=1)
    fewest = min(have, default=n)
    owner = _owner(have, fewest)
    if replacement is None and n > fewest:
        raise InvalidInput(
            f"n={n} is more than the {fewest} candidates{owner}; ask for fewer, pass n=None for as many as "
            "there are, or replacement=True to allow repeats"
        )
    if cap is not None and n > fewest * cap:
        times = "once" if cap == 1 else f"at most {cap} times"
        raise InvalidInput(
            f"n={n} is more than {fewest} candidates{owner} picked {times} each can give ({fewest * cap})"
        )
    return [n] * len(have)


def _owner(have: list[int], value: int) -> str:
    return f" of prompt {have.index(value)}" if len(have) > 1 else ""
