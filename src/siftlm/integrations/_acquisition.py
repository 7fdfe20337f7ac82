"""activeft's acquisition functions: which method each is here, at which λ, and what its values mean."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, UnknownName
from siftlm.selection import Method, Problem, Steps, checks, select, select_many
from siftlm.selection.problem import MethodFunction, find_method
from siftlm.types import Selection

# The variance left about the query (or about everything), below zero; by how much it fell; a mean cosine; the
# method's own gain.
ValueMeaning = Literal["left", "left of all", "fall", "cosine", "gain"]

DEFAULT_LAMBDA = 0.01
# activeft's own λ where its acquisition function has noise_std=None.
DEFAULT_NOISE = 0.01

# By class name, so that activeft need not be installed.
ACQUISITION_CLASSES: dict[str, tuple[str, ValueMeaning]] = {
    "VTL": ("sift", "left"),
    "LazyVTL": ("sift-fast", "fall"),
    "ITL": ("itl", "gain"),
    "MMITL": ("mm-itl", "gain"),
    "CTL": ("ctl", "gain"),
    "CosineSimilarity": ("nearest", "cosine"),
    "UndirectedVTL": ("undirected-vtl", "left of all"),
    # What activeft computes under these two names is k_n(x, x); the second never conditions on its picks.
    "UndirectedITL": ("uncertainty", "gain"),
    "UncertaintySampling": ("uncertainty", "gain"),
    "Random": ("random", "gain"),
    "MaxDist": ("max-dist", "gain"),
    "KMeansPP": ("k-means++", "gain"),
}
METHOD_MEANINGS: dict[str, ValueMeaning] = {
    "sift": "left",
    "vtl": "left",
    "sift-fast": "fall",
    "undirected-vtl": "left of all",
}
# Methods that draw by lot.
RANDOM_METHODS = {"random", "k-means++"}


@dataclass(frozen=True)
class AcquisitionRecipe:
    """How to select, and what to report of it."""

    method: str | MethodFunction
    noise: float
    meaning: ValueMeaning
    once: bool = False
    """Is ``method`` one that ranks once (see `rank_once`)?"""
    replacement: bool | None = None

    def select(self, queries: list[checks.RealArray], candidates: Any, n: int) -> list[Selection]:
        """One selection for each query, in order; ``candidates`` as for ``select_many``."""
        # Unlike elsewhere in siftlm: activeft never normalises, so its users did so or don't want to.
        settings: dict[str, Any] = {"method": self.method, "noise": self.noise, "normalize": False}
        if self.replacement is not None:
            settings["replacement"] = self.replacement
        if self.method not in RANDOM_METHODS:
            return select_many(queries, candidates, n, **settings)
        # Another draw for another query, and the same for the same one wherever it stands.
        sets = candidates if isinstance(candidates, list) else [candidates] * len(queries)
        return [
            select(query, own, n, seed=zlib.crc32(query.tobytes()), **settings)
            for query, own in zip(queries, sets, strict=True)
        ]

    def values(self, picks: Selection, targets: int, candidates: checks.RealArray) -> npt.NDArray[np.float32]:
        """(N,) activeft sums over targets where siftlm takes the mean."""
        gains = picks.gains
        if self.meaning == "left":
            numbers = targets * (gains - picks.uncertainty[0] if self.once else -picks.uncertainty[1:])
        elif self.meaning == "left of all":
            falls = len(candidates) * (gains if self.once else np.cumsum(gains))
            numbers = falls - float(checks.squared_norms("candidates", candidates, zero_ok=True).sum())
        elif self.meaning == "fall":
            numbers = targets * gains
        elif self.meaning == "cosine":
            numbers = 2 * gains - 1
        else:
            numbers = gains
        return numbers.astype(np.float32)


def resolve_lambda(llambda: float | None, lambda_: float | None) -> float:
    """The λ that was given under either name."""
    if llambda is not None and lambda_ is not None and llambda != lambda_:
        raise Conflict(f"llambda={llambda} and lambda_={lambda_} are two names of one setting: give one of them")
    given = lambda_ if llambda is None else llambda
    return checks.number("llambda", DEFAULT_LAMBDA if given is None else given, above=0)


def acquisition_recipe(acquisition: Any, noise: float, *, fast: bool) -> AcquisitionRecipe:
    """The recipe for what was passed as ``acquisition_function``."""
    if acquisition is None:
        return _recipe_by_name("LazyVTL" if fast else "VTL", noise, once=False)
    if isinstance(acquisition, str) or hasattr(acquisition, "method"):
        return AcquisitionRecipe(acquisition, noise, METHOD_MEANINGS.get(find_method(acquisition).name, "gain"))
    # What else it holds (subsample, mini_batch_size, max_target_size, …) saves work at the price of
    # the exact answer, and is not needed here.
    own = getattr(acquisition, "noise_std", None)
    noise = DEFAULT_NOISE if own is None else checks.number("noise_std", float(own), above=0) ** 2
    return _recipe_by_name(type(acquisition).__name__, noise, once=getattr(acquisition, "force_nonsequential", False))


def _recipe_by_name(name: str, noise: float, *, once: bool) -> AcquisitionRecipe:
    if name not in ACQUISITION_CLASSES:
        raise UnknownName("acquisition function", name, ACQUISITION_CLASSES)
    method, meaning = ACQUISITION_CLASSES[name]
    if once or name == "UncertaintySampling":
        return AcquisitionRecipe(rank_once(method), noise, meaning, once=True)
    # activeft lets CTL repeat itself, siftlm only if asked.
    return AcquisitionRecipe(method, noise, meaning, replacement=True if name == "CTL" else None)


def rank_once(name: str) -> MethodFunction:
    """The method, blind to its own picks: the n largest of its first gains (``force_nonsequential``)."""
    entry = find_method(name)

    def run(problem: Problem) -> Steps:
        gains = next(entry.run(problem)).copy()
        while True:
            yield gains

    # Not declared to the registry: this is nobody else's method.
    run.method = Method(  # type: ignore[attr-defined]
        f"{name}, ranked once", entry.summary, run, entry.targeted, signed=entry.signed
    )
    return run
