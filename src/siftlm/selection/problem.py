"""One selection problem, as a method sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from siftlm.errors import Conflict
from siftlm.selection.posterior import Posterior, posterior_of
from siftlm.selection.rules import Rules
from siftlm.selection.space import FeatureSpace, Space
from siftlm.types import FloatArray


@dataclass
class Problem:
    """Everything a method may read. Made anew for each selection, so nothing leaks from one to the next."""

    space: Space
    """The candidates and the prompt."""
    expected: int
    """About how many picks there will be, known items included."""
    noise: float
    """λ"""
    probabilities: FloatArray | None = None
    """(K, C) for methods that read softmax outputs as candidates."""
    seed: int = 0
    certified: list[bool] | None = None
    """A method that searches only a part appends, per pick, whether it is provably that of a full search."""
    known: int = 0
    """How many of the space's last rows are known items: sent to the method before the first pick, never picked."""
    rules: Rules = field(init=False)
    """What may be picked; ``rules.choose(gains)`` is what the loop will do with the gains."""
    posterior_in_use: Posterior | None = field(default=None, init=False)
    """What :meth:`posterior` made; the loop reads the uncertainty from it."""

    def posterior(self, *, trace_only: bool = False) -> Posterior:
        """The posterior over all candidates. ``trace_only`` allows a form that cannot tell targets apart."""
        self.posterior_in_use = posterior_of(self.space, self.noise, self.expected, trace_only=trace_only)
        return self.posterior_in_use

    @property
    def candidates(self) -> int:
        """How many rows of the space may be picked; the known items stand behind them."""
        return self.space.size - self.known

    @property
    def picks(self) -> int:
        """About how many picks there will be, known items not counted."""
        return self.expected - self.known

    def padded(self, values: FloatArray) -> FloatArray:
        """One number per candidate as one per row of the space: 0 for known items, which are never picked."""
        return np.concatenate([values, np.zeros(self.known)])

    def everything(self, method: str, *, most: int = 8192) -> Space:
        """The same space with every candidate as a target, known items not included."""
        # Vectors sum up any number of targets in a d × d matrix; a kernel without features has to list the pairs.
        if not isinstance(self.space, FeatureSpace):
            self._check_pairs(method, most)
        return self.space.everything(self.candidates)

    def relevance(self) -> FloatArray:
        """(K,) mean similarity to the targets, scaled to 1 for equal texts."""
        return self.similarity().mean(axis=0)

    def similarity(self) -> FloatArray:
        """(m, K) k(x*, x) / sqrt(k(x*, x*) k(x, x))"""
        own = np.sqrt(np.outer(np.diagonal(self.space.target_gram()), self.space.diagonal()))
        cross = self.space.cross()
        return np.divide(cross, own, out=np.zeros_like(cross), where=own > 0)

    def similarity_to(self, index: int) -> FloatArray:
        """(K,) k(x_index, x) / sqrt(k(x_index, x_index) k(x, x))"""
        diagonal = self.space.diagonal()
        own = np.sqrt(diagonal * diagonal[index])
        row = self.space.row(index).astype(np.float64)
        return np.divide(row, own, out=np.zeros_like(row), where=own > 0)

    def generator(self) -> np.random.Generator:
        """The source of chance of this selection."""
        return np.random.default_rng(self.seed)

    def pairs(self, method: str, *, most: int = 8192) -> FloatArray:
        """(K, K) all similarities, scaled to 1 for equal texts, for methods that compare every pair."""
        self._check_pairs(method, most)
        size = self.space.size
        length = np.sqrt(self.space.diagonal())
        own = np.outer(length, length)
        gram = self.space.rows(np.arange(size, dtype=np.int64)).astype(np.float64)
        return np.divide(gram, own, out=np.zeros_like(gram), where=own > 0)

    def _check_pairs(self, method: str, most: int) -> None:
        size = self.space.size
        if size > most:
            raise Conflict(
                f"method {method!r} compares every pair of candidates: {size} of them would need "
                f"{8 * size**2 / 2**30:.0f} GiB; preselect at most {most}"
            )
