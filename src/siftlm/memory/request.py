"""A search's settings, and the request that they make together with the prompts: everything but where to look."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.memory import near_duplicates
from siftlm.memory.filter_sql import SqlCondition
from siftlm.memory.filters import All, Expression, parse
from siftlm.selection import Limits, Stopping, kernels
from siftlm.selection.checks import as_array
from siftlm.selection.kernels import FeatureKernel, KernelFunction
from siftlm.selection.problem import find_method
from siftlm.selection.rules import STOPPING_RULES
from siftlm.settings import Settings
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import flag, number, whole_number

FilterInput = Mapping[str, Any] | str | Expression | None
# A prompt: its text, several texts, or (d,) or (m, d) vectors.
Query = str | Sequence[str] | npt.NDArray[Any]

CANDIDATE_SOURCES = ("vectors", "words", "both")
# Methods whose gains are the same for x and −x, so that what points away from the prompt can win.
SIGN_BLIND_METHODS = frozenset({"sift", "sift-fast", "vtl", "pursuit", "itl", "mm-itl", "noiseless-itl", "ctl", "eig"})
# Settings that the search itself reads. All others are handed to the selection.
SEARCH_SETTINGS = frozenset(
    {"k", "candidates", "opposites", "where", "residual", "without_copies", "per_document", "exclude", "exact"}
)
# Settings of the selection that a search at each step takes; `siftlm.select_from` says what they mean.
RESIDUAL_SETTINGS = frozenset({"noise", "certify", "max_norm", "normalize", "replacement", *STOPPING_RULES, "at_least"})
# What `siftlm.select` takes as an object, and a search by the fields.
RULES: Mapping[str, type[Settings]] = {"limits": Limits, "stopping": Stopping}
# Settings with a value for each candidate, so that only the search itself can tell whether they fit.
PER_CANDIDATE_SETTINGS = frozenset({"costs", "prior", "sources"})
# λ where nobody chose one: smaller ones, on embeddings as spread as those of sentence models, soon prefer what has
# little to do with the prompt. `siftlm.spread` and trying a few say more about a given memory.
DEFAULT_NOISE = 1.0
NO_ROWS: IntArray = np.zeros(0, np.int64)


def query_texts(query: Query) -> list[str] | None:
    """The prompt's texts, or None where it consists of vectors."""
    if isinstance(query, str):
        return [query]
    if isinstance(query, Sequence) and len(query) and all(isinstance(text, str) for text in query):
        return list(query)
    return None


def _check_kernel(kernel: object) -> None:
    if not (kernel is None or isinstance(kernel, (str, FeatureKernel)) or callable(kernel)) or isinstance(kernel, type):
        raise InvalidInput(
            f"{setting('kernel')} must be a name such as 'power:4', or a kernel such as siftlm.kernels.power(4), "
            f"got {kernel!r:.60}"
        )


def _check_prior(prior: Any) -> None:
    if prior is None or isinstance(prior, str) or callable(prior):
        return
    if as_array("prior", prior).ndim != 1:
        raise InvalidInput(
            f"{setting('prior')} must be a name such as 'relevance:2', a function of the similarities, or one number "
            f"per candidate, got {prior!r:.60}"
        )


def _check_known(known: Any) -> None:
    if known is None or isinstance(known, str) or (isinstance(known, (list, tuple)) and not known):
        return
    if query_texts(known) is None:
        array = as_array("known", known)
        if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
            raise InvalidInput(f"{setting('known')} must be a text, texts, or vectors, got {known!r:.60}")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Search(Settings):
    """How a memory is searched: what may be found, and how it is selected from.

    Every field is also a keyword argument of `Memory.search`, `Memory.search_many` and `LocalModel`; keywords win over
    an object. What belongs to one method alone, such as ``balance`` of MMR, is a keyword only.

    >>> search = Search(k=50, where="year >= 2000", kernel="power:4")
    >>> search
    Search(k=50, where='year >= 2000', kernel=Power(exponent=4, base=Linear()))
    >>> Search.from_dict(search.to_dict()) == search
    True
    >>> Search(candidates="vector")
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: candidates must be one of vectors, words, both, got 'vector'
    """

    k: int | None = 200
    """Select among this many nearest passages of each of the prompt's vectors; ``None``: among the whole memory."""
    candidates: str = "vectors"
    """Found by ``vectors``, by ``words`` (BM25) or by ``both`` (their scores, fused). Words count in the selection too:
    the nearest are in the order of these scores, and other methods see the words beside the vectors."""
    opposites: bool = False
    """For SIFT and its relatives: may what points away from all vectors of the prompt be picked? If so, the k nearest
    of each vector's opposite are candidates too. To these methods a vector opposite to the prompt is as informative as
    one near it; to a reader it rarely is."""
    where: FilterInput = None
    """Only passages of documents whose metadata meet this, ``{"source": "wiki"}`` or
    ``'source = "wiki" and year >= 2000'``; see `siftlm.memory.filters`."""
    residual: bool = False
    """Search again at each step, for what the prompt still lacks; see `siftlm.select_from`."""
    without_copies: bool | float = False
    """Leave out the prompt itself and whatever shares 80 % (or a given share) of its five-word sequences, such as when
    the prompt may be part of the memory."""
    per_document: int | None = None
    """At most this many picks from one document."""
    exclude: npt.ArrayLike | None = None
    """Rows that must not be picked."""
    exact: bool = False
    """Compare every vector, even where there is an index that is faster and may miss some."""
    noise: float = DEFAULT_NOISE
    """λ: smaller values ask for more variety. The fields from here on are those of `siftlm.select`."""
    kernel: KernelFunction | FeatureKernel | str | None = None
    """The similarity of two vectors, such as ``"power:4"``; the inner product unless given."""
    normalize: bool = True
    """Bring all vectors to unit length first."""
    replacement: bool | int | None = None
    """May a passage be picked again? ``True``, ``False`` or at most this many times in all. Left out: not by SIFT and
    its relatives, since hits are for reading; by other methods, as each has it. Choose ``True`` for training, where a
    text that is seen twice can be worth more than another text."""
    known: Query | None = None
    """Texts, or vectors, that are known already: they count as picked before the first pick."""
    sources: Sequence[object] | npt.NDArray[Any] | None = None
    """A label for each candidate; with ``source_cap``, at most that many picks share a label."""
    source_cap: int | None = None
    costs: npt.ArrayLike | None = None
    """A number > 0 for each candidate; gains are then compared per cost."""
    budget: float | None = None
    """The picks' costs add up to no more than this."""
    prior: npt.ArrayLike | Callable[[FloatArray], npt.ArrayLike] | str | None = None
    """A factor for each candidate's gains, or a function of the similarities such as ``"relevance:2"``."""
    adaptive: float | None = None
    """α of the published stopping rule: keep pick n only while σ_n ≤ 1 / (α n)."""
    until: float | None = None
    """Stop when the uncertainty is at most this fraction of what it was at first."""
    min_gain: float | None = None
    """Stop when the best pick lowers the uncertainty by less than this fraction of what is left."""
    min_growth: float | None = None
    """Stop when the best pick adds less than this fraction to what the picks before it and ``known`` tell."""
    at_least: int = 1
    """Picks that are kept whatever the stopping rules say."""
    seed: int = 0
    """The random seed of methods that involve chance."""
    certify: bool | int = False
    """For ``residual``: prove each pick; see `siftlm.select_from`."""
    max_norm: float | None = None
    """For ``residual``: no vector of the store is longer; left out, all have unit length."""
    filter: Expression | None = field(init=False)
    """``where``, parsed; None for a filter that everything meets."""
    excluded: IntArray = field(init=False)
    """``exclude``, as distinct rows."""
    copy_similarity: float | None = field(init=False)
    """``without_copies`` as a threshold; None where copies may stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        candidates: Any = self.candidates
        if not isinstance(candidates, str) or candidates not in CANDIDATE_SOURCES:
            raise InvalidInput(
                f"{setting('candidates')} must be one of {', '.join(CANDIDATE_SOURCES)}, got {self.candidates!r}"
            )
        for name in ("opposites", "residual", "exact", "normalize"):
            flag(name, getattr(self, name))
        for name in ("k", "per_document"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        whole_number("seed", self.seed, least=0)
        number("noise", self.noise, above=0)
        if self.max_norm is not None:
            number("max_norm", self.max_norm, above=0)
        if not isinstance(self.certify, bool):
            whole_number("certify", self.certify, least=0)
        # What `siftlm.select` would refuse.
        Limits(
            replacement=self.replacement,
            sources=self.sources,
            source_cap=self.source_cap,
            costs=self.costs,
            budget=self.budget,
        )
        Stopping(**{name: getattr(self, name) for name in Stopping.names()})
        _check_kernel(self.kernel)
        _check_prior(self.prior)
        _check_known(self.known)
        self._check_combination()
        made = {
            "kernel": kernels.named(self.kernel) if isinstance(self.kernel, str) else self.kernel,
            "prior": kernels.named_prior(self.prior) if isinstance(self.prior, str) else self.prior,
            "filter": None if self.where is None else parse_filter(self.where),
            "excluded": NO_ROWS if self.exclude is None else _distinct_rows(self.exclude),
            "copy_similarity": None if self.without_copies is False else _copy_similarity(self.without_copies),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def _check_combination(self) -> None:
        """Raise where one field excludes another, or would do nothing beside it, whatever the method is."""
        if (self.certify is not False or self.max_norm is not None) and not self.residual:
            raise Conflict(f"{setting('certify')} and {setting('max_norm')} need {setting('residual', True)}")
        if (self.k is None or self.residual) and self.candidates != "vectors":
            raise Conflict(
                f"{setting('candidates', self.candidates)} needs a limited {setting('k')}, and excludes "
                f"{setting('residual', True)}"
            )
        if self.residual and (self.k is None or self.per_document):
            raise Conflict(
                f"{setting('residual', True)} needs a limited {setting('k')}, and excludes {setting('per_document')}"
            )
        if self.k is None and self.per_document is not None:
            raise Conflict(
                f"{setting('per_document')} needs a number of candidates: pass {setting('k')}, not {setting('k', None)}"
            )
        if self.opposites and self.candidates != "vectors":
            raise Conflict(
                f"{setting('opposites', True)} compares vectors, and has no effect on "
                f"{setting('candidates', self.candidates)}"
            )
        if self.exact and self.candidates == "words":
            raise Conflict(
                f"{setting('exact', True)} compares vectors, and has no effect on {setting('candidates', 'words')}"
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, ready for ``json.dumps``; a function without a name cannot be written."""
        return {name: _named(name, value) for name, value in super().to_dict().items()}


DEFAULT_SEARCH = Search()


@dataclass(frozen=True)
class SearchRequest:
    """A checked search: the prompts, how many passages to pick for each, and how."""

    n: int = 10
    method: Any = "sift"
    search: Search = DEFAULT_SEARCH
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method's own."""
    prompts: Sequence[Query] = ()
    selection: dict[str, Any] = field(init=False)
    """The keyword arguments of `siftlm.select`, or of `siftlm.select_from`, that differ from their defaults."""
    sign_blind: bool = field(init=False)
    """Are the method's gains the same for x and −x?"""
    towards: bool = field(init=False)
    """Must a passage have a cosine above 0 to one of the prompt's vectors to be picked?"""

    def __post_init__(self) -> None:
        search = self.search
        object.__setattr__(self, "n", whole_number("n", self.n))
        if search.residual and self.method not in ("sift", "vtl"):
            raise Conflict(
                f"{setting('residual', True)} needs a limited {setting('k')} and method sift or vtl, "
                f"not {setting('method', self.method)}"
            )
        selection = {name: value for name, value in search.chosen().items() if name not in SEARCH_SETTINGS}
        if search.residual:
            refuse_residual([*selection, *self.options])
        if search.known is not None and not isinstance(search.known, str) and not len(search.known):
            selection.pop("known", None)  # nothing is known
        selection["noise"] = search.noise
        # Hits are for reading unless somebody chooses otherwise: no text is worth reading twice.
        sign_blind = isinstance(self.method, str) and self.method in SIGN_BLIND_METHODS
        if search.replacement is None and sign_blind:
            selection["replacement"] = False
        if search.opposites and not sign_blind:
            raise Conflict(
                f"{setting('opposites', True)} has no effect on {setting('method', self.method)}; it is for "
                f"{', '.join(sorted(SIGN_BLIND_METHODS))}"
            )
        object.__setattr__(self, "sign_blind", sign_blind)
        object.__setattr__(self, "towards", sign_blind and not search.opposites)
        object.__setattr__(self, "selection", {**selection, **self.options})

    @property
    def per_candidate(self) -> bool:
        """Is there a setting with a value for each candidate?"""
        return any(np.ndim(value) > 0 for name, value in self.selection.items() if name in PER_CANDIDATE_SETTINGS)


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt, embedded."""

    targets: Vectors
    """(m, d) at unit length."""
    text: str | None
    """None where only vectors were given."""

    @property
    def query(self) -> Vectors:
        """The vectors as `siftlm.select_many` takes them: (d,) for a single one, so that prompts share the work."""
        query: Vectors = self.targets[0] if len(self.targets) == 1 else self.targets
        return query


def search_request(
    n: int,
    method: Any,
    settings: Mapping[str, Any],
    *,
    search: Search | None = None,
    prompts: Sequence[Query] = (),
    also_known: Collection[str] = (),
) -> SearchRequest:
    """The request that keyword arguments mean: the one place where they are sorted, and where unknown names end.

    Args:
        n: how many passages to pick.
        method: how to select them.
        settings: fields of `Search`, and the method's own options.
        search: what counts where ``settings`` has nothing.
        prompts: what to search for.
        also_known: names that the caller takes besides, for the message about an unknown one.
    """
    search = DEFAULT_SEARCH if search is None else Search.checked("search", search)
    fields = Search.names()
    named = {name: value for name, value in settings.items() if name in fields}
    options = {name: value for name, value in settings.items() if name not in fields}
    if settings.get("residual", search.residual) is True:
        refuse_residual([name for name in settings if name not in SEARCH_SETTINGS])
    search = search.with_(named) if named else search
    entry = find_method(method)
    for name in options:
        if name not in entry.options:
            if (kind := RULES.get(name)) is not None:
                raise InvalidInput(
                    f"unknown setting {setting(name)}: here the fields of {kind.__name__} are settings themselves: "
                    f"{', '.join(map(setting, kind.names()))}"
                )
            raise UnknownName("setting", name, {*fields, *entry.options, "n", "method", *also_known})
    return SearchRequest(n, method, search, options, prompts)


def nearest_request(request: SearchRequest, n: int) -> SearchRequest:
    """The request for the n nearest passages of all that this one may find."""
    search = request.search
    nearest = Search(
        k=n if search.k is None else max(search.k, n),
        candidates=search.candidates,
        where=search.where,
        without_copies=search.without_copies,
        exclude=search.exclude,
        exact=search.exact,
    )
    return SearchRequest(n, "nearest", nearest, prompts=request.prompts)


def refuse_residual(names: Iterable[str]) -> None:
    """Raise if one of these settings of the selection is none of a search at each step."""
    if foreign := sorted(set(names) - RESIDUAL_SETTINGS):
        raise Conflict(
            f"{setting('residual', True)} does not go with {setting(foreign[0])}; it takes "
            f"{', '.join(map(setting, sorted(RESIDUAL_SETTINGS)))}"
        )


def parse_filter(where: FilterInput) -> Expression | None:
    """The filter, parsed; None for one that everything meets."""
    parsed = parse(where)
    return None if parsed == All() else parsed


def deletion_condition(where: FilterInput, numbers: Sequence[int] | None) -> SqlCondition:
    """The documents that a deletion means."""
    some = parse_filter(where)
    if some is not None and numbers is not None:
        raise Conflict(f"delete needs a filter or {setting('numbers')} of documents, not both")
    if numbers is not None:
        wanted = [whole_number("each of numbers", one, least=0) for one in numbers]
        return SqlCondition("(id IN (SELECT value FROM json_each(?)))", [json.dumps(wanted)])
    if some is None:
        raise InvalidInput("delete needs a filter; to delete everything, remove the memory's folder")
    return some.sql()


def _copy_similarity(without_copies: Any) -> float:
    if without_copies is True:
        return near_duplicates.COPY_THRESHOLD
    try:
        return number("without_copies", without_copies, above=0, most=1)
    except InvalidInput as error:
        raise InvalidInput(f"{error.marked} (or True or False)") from error


def _distinct_rows(exclude: npt.ArrayLike) -> IntArray:
    try:
        rows = np.asarray(exclude)
    except ValueError as error:
        raise InvalidInput(f"{setting('exclude')} must be a list of rows ≥ 0, got {exclude!r}") from error
    if not rows.size:
        return NO_ROWS
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows < 0).any():
        raise InvalidInput(f"{setting('exclude')} must be a list of rows ≥ 0, got {exclude!r}")
    distinct: IntArray = np.unique(rows).astype(np.int64)
    return distinct


def _named(name: str, value: Any) -> Any:
    """A setting as JSON can hold it: what is made of a text becomes that text."""
    if isinstance(value, Expression):
        return str(value)
    if callable(value) or isinstance(value, FeatureKernel):
        if (known := kernels.name_of(value)) is None:
            raise InvalidInput(f"{setting(name)} cannot be written down: {value!r} has no name such as 'power:4'")
        return known
    return value
