"""Everything about a search but where it looks: what may be asked for, checked, and the prompt, embedded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory import near_duplicates
from siftlm.memory.filter_sql import SqlCondition
from siftlm.memory.filters import All, Expression, parse
from siftlm.types import IntArray, Vectors
from siftlm.validation import flag, number, whole_number

FilterInput = Mapping[str, Any] | str | Expression | None
# A prompt: its text, several texts, or (d,) or (m, d) vectors.
Query = str | Sequence[str] | npt.NDArray[Any]

CANDIDATE_SOURCES = ("vectors", "words", "both")
# Methods whose gains are the same for x and −x, so that what points away from the prompt can win.
SIGN_BLIND_METHODS = frozenset({"sift", "sift-fast", "vtl", "itl", "mm-itl", "noiseless-itl", "ctl", "eig"})
# What a search at each step can be told besides; `siftlm.select_from` says what it means.
RESIDUAL_SETTINGS = frozenset(
    {"noise", "certify", "max_norm", "normalize", "replacement", "adaptive", "until", "min_gain", "at_least"}
)
# What has a value for each candidate, so that only the search itself can tell whether it fits.
PER_CANDIDATE_SETTINGS = frozenset({"costs", "prior", "sources", "probabilities"})
# λ where nobody chose one: smaller ones, on embeddings as spread as those of sentence models, soon prefer what has
# little to do with the prompt. `siftlm.spread` and trying a few say more about a given memory.
DEFAULT_NOISE = 1.0


@dataclass(frozen=True)
class SearchRequest:
    """Everything about a search but the prompt, checked."""

    n: int
    method: Any
    k: int | None
    candidates: str
    opposites: bool
    where: Expression | None
    residual: bool
    without_copies: float | None
    per_document: int | None
    exclude: IntArray
    settings: dict[str, Any]
    """For the selection."""

    @property
    def per_candidate(self) -> bool:
        """Is there a setting that has a value for each candidate?"""
        return any(np.ndim(self.settings[name]) > 0 for name in PER_CANDIDATE_SETTINGS & set(self.settings))

    @property
    def signs(self) -> tuple[float, ...]:
        """Is −q searched as well?"""
        even = isinstance(self.method, str) and self.method in SIGN_BLIND_METHODS
        return (1.0, -1.0) if self.opposites and even else (1.0,)


def search_request(
    n: int,
    *,
    method: Any,
    k: int | None,
    candidates: str,
    opposites: bool,
    where: FilterInput,
    residual: bool,
    without_copies: bool | float,
    per_document: int | None,
    exclude: npt.ArrayLike | None,
    settings: dict[str, Any],
) -> SearchRequest:
    """Check what was asked for."""
    if candidates not in CANDIDATE_SOURCES:
        raise InvalidInput(f"candidates must be one of {', '.join(CANDIDATE_SOURCES)}, got {candidates!r}")
    if (k is None or residual) and candidates != "vectors":
        raise Conflict(
            f"{setting('candidates', candidates)} needs a number of them: {setting('k', None)} and "
            f"{setting('residual', True)} search by vectors"
        )
    if residual and (k is None or method not in ("sift", "vtl") or per_document is not None):
        raise Conflict(
            f"{setting('residual', True)} is SIFT with a search at each step: it takes a k, and no other method or cap"
        )
    if residual and (foreign := sorted(set(settings) - RESIDUAL_SETTINGS)):
        raise Conflict(
            f"{setting('residual', True)} does not go with {setting(foreign[0])}; "
            f"it takes {', '.join(sorted(RESIDUAL_SETTINGS))}"
        )
    if k is None and per_document is not None:
        raise Conflict(
            f"{setting('per_document')} needs a number of candidates: pass {setting('k')}, not {setting('k', None)}"
        )
    if without_copies is True:
        without_copies = near_duplicates.COPY_THRESHOLD
    n = whole_number("n", n)
    return SearchRequest(
        n=n,
        method=method,
        k=None if k is None else whole_number("k", k),
        candidates=candidates,
        opposites=flag("opposites", opposites),
        where=parse_filter(where),
        residual=residual,
        without_copies=_copy_similarity(without_copies),
        per_document=None if per_document is None else min(n, whole_number("per_document", per_document)),
        exclude=_excluded_rows(exclude),
        settings=with_defaults(method, settings),
    )


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt, embedded."""

    targets: Vectors
    """(m, d) at unit length."""
    text: str | None
    """None where only vectors were given."""


def with_defaults(method: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hits are for reading unless somebody says otherwise: no text is worth reading twice."""
    once = {"replacement": False} if isinstance(method, str) and method in SIGN_BLIND_METHODS else {}
    return {"noise": DEFAULT_NOISE, **once, **settings}


def parse_filter(where: FilterInput) -> Expression | None:
    """None for one that everything meets."""
    parsed = parse(where)
    return None if parsed == All() else parsed


def deletion_condition(where: FilterInput, numbers: Sequence[int] | None) -> SqlCondition:
    """Which documents a deletion means."""
    some = parse_filter(where)
    if some is not None and numbers is not None:
        raise InvalidInput("delete needs a filter or numbers of documents, not both")
    if numbers is not None:
        found = [whole_number("each of numbers", one, least=0) for one in numbers]
        return SqlCondition("(id IN (SELECT value FROM json_each(?)))", [json.dumps(found)])
    if some is None:
        raise InvalidInput("delete needs a filter; to delete everything, remove the memory's folder")
    return some.sql()


def _copy_similarity(without_copies: Any) -> float | None:
    if without_copies is False:
        return None
    try:
        return number("without_copies", without_copies, above=0, most=1)
    except InvalidInput as error:
        raise InvalidInput(f"{error} (or True or False)") from error


def _excluded_rows(exclude: npt.ArrayLike | None) -> IntArray:
    try:
        rows = np.asarray([] if exclude is None else exclude)
    except ValueError as error:
        raise InvalidInput(f"exclude must be a list of rows ≥ 0, got {exclude!r}") from error
    if not rows.size:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows < 0).any():
        raise InvalidInput(f"exclude must be a list of rows ≥ 0, got {exclude!r}")
    distinct: IntArray = np.unique(rows).astype(np.int64)
    return distinct
