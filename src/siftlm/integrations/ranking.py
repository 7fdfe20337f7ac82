"""The core of the adapters: a prompt's vectors and those of retrieved passages in, a ranking with a verdict out.

Texts and metadata stay with the adapter; a ranking names passages by their place among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.memory import Found
from siftlm.memory.request import DEFAULT_NOISE, SIGN_BLIND_METHODS
from siftlm.selection import Limits, Stopping, checks, kernels, select
from siftlm.selection.diagnosis import UnitVectors
from siftlm.selection.problem import MethodFunction
from siftlm.selection.rules import NO_LIMITS, NO_STOPPING, STOPPING_RULES, rules_in
from siftlm.selection.space import unit_rows
from siftlm.types import BoolArray, FloatArray, IntArray, Selection, json_number

# How many passages at most, where nobody chose a number: the stop decides long before, as a rule.
DEFAULT_N = 20
# The nearest passages that are picked from, where the adapter itself fetches them.
DEFAULT_FETCH = 50
# When to stop where nobody chose a rule; docs/decisions/0058-retrieval-evidence.md compares rules.
DEFAULT_STOPPING = Stopping(min_growth=0.03)
# The key of a document's metadata under which an adapter keeps the figures of a ranking.
METADATA_KEY = "siftlm"


@dataclass(frozen=True)
class RankedPassage:
    """A picked passage, by its place among the candidates."""

    index: int
    """Of a memory's hits, the row of the memory."""
    gain: float
    """As the method defines it; for SIFT, by how much it lowered the uncertainty."""
    relevance: float
    """Cosine with the prompt; with the nearest of its vectors, if it has several."""
    overlap: float
    """Largest cosine with an earlier pick; 0 for the first."""
    left: float
    """Share of the uncertainty about the prompt that is left after it."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The picked passages, most informative first, and why there are no more of them."""

    passages: tuple[RankedPassage, ...]
    considered: int
    """The number of candidates."""
    stopped: str
    """The reason to stop, as in a `Selection`: a stopping rule, ``n``, ``budget``, or ``exhausted`` where there were no
    more to pick."""
    verdict: str
    """How many passages, why no more, and what is left, in words."""
    selection: Selection | None = None
    """The selection behind it, its indices places among the candidates (of a memory's hits, rows); None where there
    was nothing to select from."""

    def __len__(self) -> int:
        return len(self.passages)

    def __iter__(self) -> Iterator[RankedPassage]:
        return iter(self.passages)

    def __str__(self) -> str:
        lines = [f"{'pick':>4} {'index':>6} {'gain':>8} {'relevance':>9} {'overlap':>7} {'left':>7}"]
        lines += [
            f"{at:>4} {one.index:>6} {one.gain:>8.4f} {one.relevance:>9.3f} {one.overlap:>7.3f} {one.left:>7.1%}"
            for at, one in enumerate(self, start=1)
        ]
        return "\n".join([*lines, self.verdict])

    @property
    def indices(self) -> list[int]:
        """The places of the picked passages among the candidates, in order."""
        return [one.index for one in self]

    @property
    def left(self) -> float:
        """Share of the uncertainty about the prompt that is left; 1 where nothing was picked."""
        return self.passages[-1].left if self.passages else 1.0

    @property
    def enough(self) -> bool:
        """Did a stopping rule end it, so that more passages would tell little?"""
        return self.stopped in STOPPING_RULES

    def metadata(self, place: int) -> dict[str, Any]:
        """What a document in this place keeps under `METADATA_KEY`: its figures, and the verdict on all."""
        figures = asdict(self.passages[place])
        del figures["index"]
        shown = {name: json_number(value, 6) for name, value in figures.items()}
        return {"rank": place + 1, **shown, "stopped": self.stopped, "verdict": self.verdict}

    def to_dict(self) -> dict[str, Any]:
        """The ranking as a dict for ``json.dumps``."""
        return {
            "passages": [{"index": one.index, **self.metadata(at)} for at, one in enumerate(self)],
            "considered": self.considered,
            "stopped": self.stopped,
            "left": json_number(self.left),
            "verdict": self.verdict,
        }


def rank(
    query: npt.ArrayLike,
    candidates: npt.ArrayLike,
    n: int = DEFAULT_N,
    *,
    method: str | MethodFunction = "sift",
    noise: float = DEFAULT_NOISE,
    opposites: bool = False,
    **settings: Any,
) -> Ranking:
    """Rank the candidates that together tell most about the prompt, and stop when more would tell little.

    Args:
        query: (d,) the prompt's vector; or (m, d), such as its tokens' (late interaction) or its sub-questions'.
        candidates: (K, d) vectors of the retrieved passages, in any order; K may be 0. A vector of zeros, as some
            embedders make of an empty text, is not picked.
        n: at most so many.
        method: a name (``siftlm.methods()``), or a method of one's own.
        noise: λ > 0; smaller values ask for more variety.
        opposites: SIFT and its relatives may also pick a passage that points away from all vectors of the prompt.
        **settings: as for `siftlm.select`. A stopping rule, such as ``until``, takes the place of the default one
            (`DEFAULT_STOPPING`, for SIFT and its relatives); ``min_growth=0`` never stops before ``n``.
            ``kernel`` and ``prior`` may be names, such as ``"power:4"`` and ``"relevance:2"``. SIFT and its relatives
            pick no passage twice unless ``replacement=`` says so. ``costs`` are numbers here.

    >>> ranking = rank([1.0, 1.0, 0.0], [[1, 0.2, 0], [1, 0.21, 0], [0, 1, 0.1], [0, 0, 1]], noise=0.1)
    >>> ranking.indices
    [1, 2]
    >>> print(ranking.verdict)
    2 of 4 passages: the next would add less than 3% to what these tell. Left: 8% of the uncertainty about the prompt.
    """
    n, opposites = validation.whole_number("n", n), validation.flag("opposites", opposites)
    options, limits, stopping = _complete(method, settings)
    # 1. Which candidates may be picked.
    if np.size(candidates) == 0:
        return Ranking((), 0, "exhausted", _empty_verdict(0))
    vectors = checks.matrix("candidates", candidates)
    targets = checks.matrix("query", query, width=vectors.shape[1])
    directions = unit_rows("query", targets, normalize=validation.flag("normalize", options.get("normalize", True)))
    closed: BoolArray = np.logical_not(vectors.any(axis=1))
    if closed.any():  # without a direction, as that of an empty text: it is not picked, whatever stands in its place
        vectors = np.where(closed[:, None], directions[:1], vectors)
    if limits.exclude is not None:
        closed[checks.item_indices("exclude", limits.exclude, len(vectors))] = True
    if method in SIGN_BLIND_METHODS and not opposites:
        # A number that is not finite is left to the selection, which names it.
        closed |= (vectors.astype(np.float64) @ directions.T).max(axis=1) <= 0
    available = int(np.count_nonzero(~closed))
    if not available:
        return Ranking((), len(vectors), "exhausted", _empty_verdict(len(vectors), excluded=limits.exclude is not None))
    # 2. How many, and which.
    cap = 1 if limits.replacement is None else limits.cap(repeats=True)
    most = n if cap is None else min(n, cap * available)
    if closed.any():
        limits = limits.with_({"exclude": closed})
    chosen = select(targets, vectors, most, method=method, noise=noise, limits=limits, stopping=stopping, **options)
    # 3. What they tell, and the verdict.
    stopped = "exhausted" if chosen.stopped == "n" and most < n else chosen.stopped
    passages = _passages(chosen, vectors, targets)
    return Ranking(passages, len(vectors), stopped, _verdict(passages, len(vectors), stopped, stopping), chosen)


def rank_nearest(
    query: npt.ArrayLike, corpus: UnitVectors, n: int = DEFAULT_N, *, fetch: int = DEFAULT_FETCH, **settings: Any
) -> Ranking:
    """`rank` among the ``fetch`` nearest of a corpus to each of the prompt's vectors; indices are rows of the corpus.

    ``costs``, ``sources``, ``exclude`` and ``prior``, where it is an array, have a value for each row of the corpus.
    """
    targets = UnitVectors("query", query, width=corpus.width)
    fetch = min(validation.whole_number("fetch", fetch), len(corpus))
    rows = np.unique(corpus.nearest(targets.rows(slice(None)), fetch))
    ranking = rank(targets.array, corpus.rows(rows), n, **of_rows(settings, rows, len(corpus)))
    return with_indices(ranking, rows)


def with_indices(ranking: Ranking, names: IntArray) -> Ranking:
    """The ranking with ``names`` (K,) of the candidates in place of their numbers."""
    return replace(ranking, passages=tuple(replace(one, index=int(names[one.index])) for one in ranking))


def of_rows(settings: Mapping[str, Any], rows: IntArray, size: int) -> dict[str, Any]:
    """Settings with a value for each of ``size`` rows, for these rows alone."""
    own = {name: value for name, value in settings.items() if name != "limits"}
    own |= Limits.chosen_in("limits", settings.get("limits"))
    for name in ("costs", "prior"):
        value: Any = own.get(name)
        if np.ndim(value):
            own[name] = checks.per_item(name, value, size, positive=name == "costs")[rows]
    if own.get("sources") is not None:
        own["sources"] = checks.labels("sources", own["sources"], size)[rows]
    if own.get("exclude") is not None:
        own["exclude"] = checks.mask_of(checks.item_indices("exclude", own["exclude"], size), size)[rows]
    return own


def check_settings(
    n: int = DEFAULT_N, *, method: str | MethodFunction = "sift", noise: float = DEFAULT_NOISE, **settings: Any
) -> None:
    """Raise what `rank` would raise for these settings, whatever the prompt and the candidates are.

    Whether a value for each candidate fits is only known when there are some; ``costs`` may be a function of a text.
    """
    _, limits, _ = _complete(method, with_costs(settings, ["a"]))
    prior: Any = settings.get("prior")
    each = {"known", *Limits.names(), *(["prior"] if np.ndim(prior) else [])}
    rest = {name: value for name, value in settings.items() if name not in each}
    rank(np.eye(1, 2), np.eye(2), n, method=method, noise=noise, replacement=limits.replacement, **rest)


def with_costs(settings: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The settings with ``costs`` for each text where they are a function of a text, such as one that counts tokens.

    >>> with_costs({"costs": len, "budget": 100}, ["two", "words"])
    {'costs': [3, 5], 'budget': 100}
    """
    costs = settings.get("costs")
    return {**settings, "costs": [costs(text) for text in texts]} if callable(costs) else dict(settings)


def memory_settings(method: str | MethodFunction, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for `Memory.search` with the defaults of `rank`, the stop included, where they say nothing."""
    filled = {"noise": DEFAULT_NOISE, **settings}
    if method in SIGN_BLIND_METHODS and all(settings.get(name) is None for name in STOPPING_RULES):
        filled |= DEFAULT_STOPPING.chosen()
    return filled


def ranking_of(found: Found, settings: Mapping[str, Any]) -> Ranking:
    """The ranking that a memory's hits make, in their order; ``settings`` are those of the search."""
    chosen = found.selection
    overlap = chosen.explain().overlap if len(found) else np.zeros(0)
    left = chosen.uncertainty / (chosen.uncertainty[0] or 1.0)
    passages = tuple(
        RankedPassage(hit.row, hit.gain, hit.score, float(overlap[at]), float(left[at + 1]))
        for at, hit in enumerate(found)
    )
    rule = Stopping(**{name: settings[name] for name in Stopping.names() if name in settings})
    empty = not passages and chosen.stopped == "exhausted"
    verdict = _empty_verdict(found.considered) if empty else _verdict(passages, found.considered, chosen.stopped, rule)
    return Ranking(passages, found.considered, chosen.stopped, verdict, chosen)


def _complete(method: str | MethodFunction, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Limits, Stopping]:
    """The settings with names made to kernels and priors, the limits and the stopping rule, defaults filled in."""
    options = {name: value for name, value in settings.items() if value is not None}
    if isinstance(options.get("known"), (list, tuple)) and not options["known"]:
        del options["known"]  # nothing is known
    for name, named in (("kernel", kernels.named), ("prior", kernels.named_prior)):
        if isinstance(options.get(name), str):
            options[name] = named(options[name])
    limits = rules_in(options, options.pop("limits", None), NO_LIMITS)
    stopping = rules_in(options, options.pop("stopping", None), NO_STOPPING)
    if method in SIGN_BLIND_METHODS:
        if limits.replacement is None:
            limits = limits.with_({"replacement": False})
        if not stopping.active:
            stopping = DEFAULT_STOPPING.with_({"at_least": stopping.at_least})
    return options, limits, stopping


def _passages(chosen: Selection, vectors: checks.RealArray, targets: checks.RealArray) -> tuple[RankedPassage, ...]:
    picks, prompt = _unit(vectors[chosen.indices]), _unit(targets)
    relevance, similar = (picks @ prompt.T).max(axis=1, initial=-1.0), picks @ picks.T
    left = chosen.uncertainty / (chosen.uncertainty[0] or 1.0)
    return tuple(
        RankedPassage(
            index=int(index),
            gain=float(chosen.gains[at]),
            relevance=float(relevance[at]),
            overlap=float(similar[at, :at].max(initial=0.0)),
            left=float(left[at + 1]),
        )
        for at, index in enumerate(chosen.indices)
    )


def _unit(rows: checks.RealArray) -> FloatArray:
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    units: FloatArray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return units


def _verdict(passages: Sequence[RankedPassage], considered: int, stopped: str, rule: Stopping) -> str:
    """How many, why no more, and what is left."""
    reasons = {
        "n": "as many as were asked for",
        "until": f"no more than {_percent(rule.until)} of the uncertainty was to be left",
        "min_gain": f"the next would take away less than {_percent(rule.min_gain)} of what is left",
        "min_growth": f"the next would add less than {_percent(rule.min_growth)} to what these tell",
        "adaptive": f"the next would not pay by the adaptive rule (α = {rule.adaptive or 0:g})",
        "budget": "any other would exceed the budget",
        "exhausted": "there are no more to pick",
    }
    left = _percent(passages[-1].left if passages else 1.0)
    head = f"{len(passages)} of {considered} passages"
    return f"{head}: {reasons[stopped]}. Left: {left} of the uncertainty about the prompt."


def _empty_verdict(considered: int, *, excluded: bool = False) -> str:
    """Why no passage could be picked."""
    if not considered:
        return "0 passages: there were none to choose from."
    why = "may be picked" if excluded else "points towards the prompt"
    return f"0 of {considered} passages: none of them {why}."


def _percent(share: float | None) -> str:
    percent = 100 * (share or 0)
    return f"{percent:.2g}%" if percent < 99.5 else f"{percent:.0f}%"  # and not 1e+02%
