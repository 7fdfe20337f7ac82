"""Random selection problems for the property tests, meant to be awkward: ties, duplicates, low rank, tiny λ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
KINDS = ("gaussian", "lattice", "clusters", "near-duplicates", "low-rank", "one-hot", "lines", "cone")
NOISES = (1e-8, 1e-6, 1e-4, 1e-2, 0.3, 1.0, 30.0, 1e3)


@dataclass(frozen=True)
class Case:
    """One selection problem, as a user would hand it in."""

    query: Array
    candidates: Array
    n: int
    noise: float
    normalize: bool = True

    def __repr__(self) -> str:
        return (
            f"Case(n={self.n}, noise={self.noise}, normalize={self.normalize},\n"
            f" query={self.query.tolist()!r},\n"
            f" candidates=np.array({self.candidates.tolist()!r}, dtype={self.candidates.dtype}))"
        )

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)


def draw_rows(rng: np.random.Generator, kind: str, rows: int, width: int) -> Array:
    """(rows, width) without zero rows."""
    if kind == "gaussian":
        return rng.normal(size=(rows, width))
    if kind == "lattice":  # exact ties and exact orthogonality
        made = rng.integers(-1, 2, size=(rows, width)).astype(np.float64)
    elif kind == "clusters":  # exact duplicates
        centres = rng.normal(size=(max(1, rows // 5), width))
        made = centres[rng.integers(len(centres), size=rows)]
    elif kind == "near-duplicates":
        centres = rng.normal(size=(max(1, rows // 8), width))
        made = centres[rng.integers(len(centres), size=rows)]
        made = made + rng.choice([1e-2, 1e-4, 1e-7]) * rng.normal(size=(rows, width))
    elif kind == "low-rank":
        rank = max(1, width // 3)
        made = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width))
    elif kind == "one-hot":
        made = np.eye(width)[rng.integers(width, size=rows)] * rng.choice([-1.0, 1.0], size=(rows, 1))
    elif kind == "lines":  # two directions, both signs
        made = rng.normal(size=(2, width))[rng.integers(2, size=rows)] * rng.choice([-1.0, 1.0], size=(rows, 1))
    else:  # cone: all similarities close together
        made = 3.0 + 0.3 * rng.normal(size=(rows, width))
    made[~made.any(axis=1), 0] = 1.0
    return made


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    dtypes: tuple[Any, ...] = (np.float64,),
    noises: tuple[float, ...] = NOISES,
    kinds: tuple[str, ...] = KINDS,
    most: int = 80,
    widest: int = 20,
    picks: int = 30,
    targets: int = 4,
    scaled: bool = True,
) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, widest))
    size = draw(st.integers(1, most))
    m = draw(st.integers(1, targets) | st.just(width + 2)) if targets > 1 else 1
    candidates = draw_rows(rng, draw(st.sampled_from(kinds)), size, width)
    query = draw_rows(rng, draw(st.sampled_from(("gaussian", "lattice"))), m, width)
    if draw(st.booleans()):  # a prompt that some candidates do resemble
        query[0] = candidates[rng.integers(size)] + draw(st.sampled_from((0.0, 0.3))) * query[0]
        if not query[0].any():
            query[0, 0] = 1.0
    normalize = True
    if scaled and draw(st.booleans()):  # of all lengths; and sometimes these lengths count
        candidates = candidates * 10.0 ** rng.uniform(-1.5, 1.5, size=(size, 1))
        query = query * 10.0 ** rng.uniform(-1, 1)
        normalize = draw(st.booleans())
    dtype = draw(st.sampled_from(dtypes))
    n = draw(st.integers(1, min(size, picks)))
    # Not so small beside k(x, x) that it is refused; see posterior.check_noise.
    least = 0.0 if normalize else 1e-11 * float((candidates**2).sum(axis=1).max())
    noise = max(draw(st.sampled_from(noises)), least)
    case = Case(query[0] if m == 1 else query, candidates.astype(dtype), n, noise, normalize)
    # float16 can take the last digit from a row
    rows = case.candidates if case.candidates.any(axis=1).all() else np.where(case.candidates == 0, 1, case.candidates)
    return case.but(candidates=rows.astype(dtype))


def softmax(rng: np.random.Generator, rows: int, classes: int) -> Array:
    logits = rng.normal(size=(rows, classes)) * rng.choice([0.1, 1.0, 20.0])
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)
