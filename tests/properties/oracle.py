"""Slow, obvious selection: every method from its formula, on the whole joint covariance.

Shares no code with the package. The joint covariance of candidates, known items and targets is conditioned as
a whole, one item at a time, in the widest float that numpy has, so that the rounding seen in a comparison is
the package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

WIDE = np.longdouble
Array = np.ndarray[Any, Any]


def unit(rows: Any) -> Array:
    rows = np.atleast_2d(np.asarray(rows)).astype(WIDE)
    return np.array([row / np.sqrt((row * row).sum()) for row in rows], dtype=WIDE).reshape(rows.shape)


def linear(x: Array, y: Array) -> Array:
    return np.array([[(a * b).sum() for b in y] for a in x], dtype=WIDE).reshape(len(x), len(y))


class World:
    """Candidates, known items and targets with their joint covariance before anything is picked."""

    def __init__(self, joint: Array, size: int, targets: int, noise: float) -> None:
        self.joint = np.asarray(joint, dtype=WIDE)
        self.noise = WIDE(noise)
        self.candidates = np.arange(size)
        self.known = list(range(size, len(self.joint) - targets))
        self.targets = np.arange(len(self.joint) - targets, len(self.joint))
        self.rows: Array = self.joint[:size]  # what tells candidates apart
        self._after: dict[tuple[tuple[int, ...], bool], Array] = {}
        self.probabilities: Array | None = None

    def after(self, picks: Sequence[int], *, noiseless: bool = False) -> Array:
        """The joint covariance once the known items and the picks have been observed."""
        key = (tuple(picks), noiseless)
        if key not in self._after:
            if picks:
                before, item = self.after(picks[:-1], noiseless=noiseless), picks[-1]
                self._after[key] = self.condition(before, [item], 0 if noiseless else self.noise)
            else:
                self._after[key] = self.condition(self.joint, self.known, 0 if noiseless else self.noise)
        return self._after[key]

    def before_anything(self) -> World:
        """The same without the known items."""
        if not self.known:
            return self
        keep = [*self.candidates, *self.targets]
        return World(self.joint[np.ix_(keep, keep)], len(self.candidates), len(self.targets), float(self.noise))

    def condition(self, covariance: Array, items: Iterable[int], noise: Any) -> Array:
        for item in items:
            pivot = covariance[item, item] + noise
            if noise == 0 and pivot <= 1e-13 * self.joint[item, item]:
                continue  # known already: nothing is left to observe
            if pivot > 0:
                covariance = covariance - np.outer(covariance[:, item], covariance[item]) / pivot
        return covariance

    def uncertainty(self, picks: Sequence[int]) -> float:
        """The targets' mean variance after these picks."""
        if not len(self.targets):
            return float("nan")
        return float(np.mean([self.after(picks)[t, t] for t in self.targets]))

    def state(self, picks: Sequence[int], *, noiseless: bool = False) -> tuple[Array, Array, Array]:
        """a (m, K), v (K,), T (m, m) after these picks."""
        now = self.after(picks, noiseless=noiseless)
        return (
            now[np.ix_(self.targets, self.candidates)],
            np.maximum(np.diagonal(now)[self.candidates], 0),
            now[np.ix_(self.targets, self.targets)],
        )

    def cosine(self, left: Sequence[int], right: Sequence[int]) -> Array:
        result = np.zeros((len(left), len(right)), dtype=WIDE)
        for r, i in enumerate(left):
            for c, j in enumerate(right):
                length = np.sqrt(self.joint[i, i]) * np.sqrt(self.joint[j, j])
                if length > 0:
                    result[r, c] = self.joint[i, j] / length
        return result

    def relevance(self) -> Array:
        if not len(self.targets):
            return np.zeros(len(self.candidates), dtype=WIDE)
        return self.cosine(self.targets, self.candidates).mean(axis=0)  # type: ignore[no-any-return]

    def picked(self, picks: Sequence[int]) -> list[int]:
        """Known items count as picked before the first pick."""
        return [*self.known, *picks]


def world(
    query: Any,
    candidates: Any,
    *,
    noise: float = 0.01,
    normalize: bool = True,
    known: Any = None,
    kernel: Callable[[Array, Array], Array] = linear,
) -> World:
    """The joint covariance of vectors under a kernel; ``kernel`` sees unit vectors when ``normalize``."""
    prepare = unit if normalize else (lambda rows: np.atleast_2d(np.asarray(rows)).astype(WIDE))
    parts = [prepare(candidates)]
    if known is not None and len(known):
        parts.append(prepare(known))
    targets = 0
    if query is not None:
        parts.append(prepare(query))
        targets = len(parts[-1])
    everything = np.concatenate(parts)
    made = World(kernel(everything, everything), len(parts[0]), targets, noise)
    made.rows = np.atleast_2d(np.asarray(candidates))
    return made


def centred_on(mean: Array) -> Callable[[Array, Array], Array]:
    """cos(x − μ, y − μ); a vector equal to μ has similarity 0 to all."""

    def move(rows: Array) -> Array:
        moved = rows - mean
        for row in moved:
            length = np.sqrt((row * row).sum())
            row[:] = row / length if length > 1e-12 else 0
        return moved

    return lambda x, y: linear(move(x), move(y))


# --- the methods: (world, picks so far, options) -> the score of every candidate


def sift(w: World, picks: list[int]) -> Array:
    a, v, _ = w.state(picks)
    return np.array([np.mean(a[:, x] ** 2) / (v[x] + w.noise) for x in w.candidates])


def itl(w: World, picks: list[int]) -> Array:
    _, v, _ = w.state(picks)
    told = w.condition(w.after(picks), w.targets, w.noise)
    return np.array([np.log((v[x] + w.noise) / (told[x, x] + w.noise)) / 2 for x in w.candidates])


def mm_itl(w: World, picks: list[int]) -> Array:
    a, v, t = w.state(picks)
    scores = np.zeros(len(v), dtype=WIDE)
    for x in w.candidates:
        for m in range(len(a)):
            if t[m, m] > 0:
                scores[x] += -np.log(1 - a[m, x] ** 2 / ((v[x] + w.noise) * t[m, m])) / 2 / len(a)
    return scores


def noiseless_itl(w: World, picks: list[int]) -> Array:
    _, v, _ = w.state(picks, noiseless=True)
    told = w.condition(w.after(picks, noiseless=True), w.targets, 0)
    largest = np.diagonal(w.joint)[w.candidates].max()
    scores = np.zeros(len(v), dtype=WIDE)
    for x in w.candidates:
        if v[x] > 1e-12 * largest:  # else the picks imply it
            left = told[x, x]
            scores[x] = np.log(v[x] / left) / 2 if left > 1e-12 * largest else np.inf  # inf: it fixes a target
    return scores


def ctl(w: World, picks: list[int]) -> Array:
    a, v, t = w.state(picks)
    scores = np.zeros(len(v), dtype=WIDE)
    for x in w.candidates:
        for m in range(len(a)):
            if t[m, m] > 0 and v[x] > 0:
                scores[x] += a[m, x] / np.sqrt(v[x] * t[m, m]) / len(a)
    return scores


def undirected_vtl(w: World, picks: list[int]) -> Array:
    now = w.after(picks)
    _, v, _ = w.state(picks)
    return np.array([np.mean(now[x, w.candidates] ** 2) / (v[x] + w.noise) for x in w.candidates])


def undirected_itl(w: World, picks: list[int]) -> Array:
    return np.log(1 + w.state(picks)[1] / w.noise) / 2  # type: ignore[no-any-return]


def uncertainty(w: World, picks: list[int]) -> Array:
    return w.state(picks)[1]


def max_dist(w: World, picks: list[int]) -> Array:
    k = w.joint
    if not w.picked(picks):
        return np.diagonal(k)[w.candidates]
    return np.array([min(k[x, x] + k[p, p] - 2 * k[x, p] for p in w.picked(picks)) for x in w.candidates])


def nearest(w: World, picks: list[int]) -> Array:
    return (1 + w.relevance()) / 2  # type: ignore[no-any-return]


def rds(w: World, picks: list[int]) -> Array:
    return (1 + w.cosine(w.targets, w.candidates)[len(picks) % len(w.targets)]) / 2  # type: ignore[no-any-return]


def less(w: World, picks: list[int]) -> Array:
    return (1 + w.cosine(w.targets, w.candidates).max(axis=0)) / 2  # type: ignore[no-any-return]


def mmr(w: World, picks: list[int], balance: float = 0.5) -> Array:
    likeness = w.cosine(w.candidates, w.picked(picks))
    closest = likeness.max(axis=1) if w.picked(picks) else np.zeros(len(w.candidates), dtype=WIDE)
    return balance * w.relevance() - (1 - balance) * closest  # type: ignore[no-any-return]


def max_sum(w: World, picks: list[int], balance: float = 0.5) -> Array:
    apart = (1 - w.cosine(w.candidates, w.picked(picks))).sum(axis=1)
    return balance * w.relevance() + (1 - balance) * apart  # type: ignore[no-any-return]


def dpp(w: World, picks: list[int], balance: float = 0.5) -> Array:
    relevance = w.relevance()
    spread = relevance.std()
    z = (relevance - relevance.mean()) / spread if spread > 1e-12 else np.zeros_like(relevance)
    items = [*w.candidates, *w.known]
    left = World(w.cosine(items, items), len(w.candidates), 0, 0).after(picks, noiseless=True)
    variance = np.maximum(np.diagonal(left)[w.candidates], 0)
    return np.exp(balance * z) ** 2 * variance  # type: ignore[no-any-return]


def pursuit(w: World, picks: list[int], step: float = 0.3) -> Array:
    """A linear learner on the joint features that takes one step of this size on each pick, relative to its length."""
    residual = w.joint.copy()  # row t: k(q_t, ·) for a target t
    for item in w.picked(picks):
        for target in w.targets:
            share = step / w.joint[item, item] if w.joint[item, item] > 0 else 0
            residual[target] = residual[target] - share * residual[target, item] * w.joint[item]
    gains = []
    for x in w.candidates:
        share = step / w.joint[x, x] if w.joint[x, x] > 0 else 0
        # ‖q‖² − ‖q − share (q·x) x‖², written out
        falls = [2 * share * residual[t, x] ** 2 - share**2 * residual[t, x] ** 2 * w.joint[x, x] for t in w.targets]
        gains.append(np.mean(falls))
    return np.array(gains)


def facility_location(w: World, picks: list[int]) -> Array:
    likeness = np.maximum(w.cosine(w.candidates, w.candidates), 0)
    reached = np.maximum(w.cosine(w.candidates, w.picked(picks)), 0).max(axis=1, initial=0)
    weight = np.maximum(w.relevance(), 0) if len(w.targets) else np.ones(len(w.candidates))
    return np.array([sum(weight[j] * max(0, likeness[x, j] - reached[j]) for j in w.candidates) for x in w.candidates])


def cover(w: World, picks: list[int], balance: float = 0.5, gamma: float = 0.5) -> Array:
    likeness = np.maximum(w.cosine(w.candidates, w.candidates), 0)
    covered = np.maximum(w.cosine(w.candidates, w.picked(picks)), 0).sum(axis=1)
    more = [((covered + likeness[x]) ** gamma - covered**gamma).sum() for x in w.candidates]
    return balance * w.relevance() + (1 - balance) * np.array(more)  # type: ignore[no-any-return]


def entropy(p: Array) -> Array:
    return np.array([-sum(q * np.log(q) for q in row if q > 0) for row in p], dtype=WIDE)


def min_margin(p: Array) -> Array:
    top = np.sort(p, axis=1)
    second = top[:, -2] if p.shape[1] > 1 else 0
    return 1 - (top[:, -1] - second)  # type: ignore[no-any-return]


def least_confidence(p: Array) -> Array:
    return 1 - p.max(axis=1)  # type: ignore[no-any-return]


def information_density(w: World, p: Array, beta: float) -> Array:
    return entropy(p) * np.maximum(w.relevance(), 0) ** beta  # type: ignore[no-any-return]


def eig(w: World, own: Array, prompt: Array, rate: float) -> Array:
    """Try one gradient step for every candidate and class, and see what becomes of the targets' outputs."""
    scores = np.zeros(len(own), dtype=WIDE)
    for x in w.candidates:
        for label in range(own.shape[1]):
            for m, target in enumerate(w.targets):
                logits = np.array([np.log(max(p, 1e-300)) for p in prompt[m]], dtype=WIDE)
                for c in range(own.shape[1]):
                    logits[c] -= rate * (own[x, c] - (c == label)) * w.joint[x, target]
                after = np.exp(logits - logits.max())
                after = after / after.sum()
                scores[x] += own[x, label] * (entropy(prompt[m : m + 1])[0] - entropy(after[None])[0])
    return scores


SCORES: dict[str, Callable[..., Array]] = {
    "sift": sift,
    "vtl": sift,
    "pursuit": pursuit,
    "itl": itl,
    "mm-itl": mm_itl,
    "noiseless-itl": noiseless_itl,
    "ctl": ctl,
    "undirected-vtl": undirected_vtl,
    "undirected-itl": undirected_itl,
    "uncertainty": uncertainty,
    "max-dist": max_dist,
    "nearest": nearest,
    "nn-f": nearest,
    "rds": rds,
    "less": less,
    "mmr": mmr,
    "max-sum": max_sum,
    "dpp": dpp,
    "facility-location": facility_location,
    "cover": cover,
}
ON_PROBABILITIES: dict[str, Callable[[Array], Array]] = {
    "max-entropy": entropy,
    "min-margin": min_margin,
    "least-confidence": least_confidence,
}
