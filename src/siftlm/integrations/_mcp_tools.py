"""The tools of the MCP server: functions of memories and arguments, and the schemas that a client sees of them.

A tool's docstring is its description, written for an assistant. Its arguments and its answer are dataclasses: their
fields become JSON schemas, and a printed answer is the text that the assistant reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from siftlm.errors import InvalidInput
from siftlm.integrations.ranking import DEFAULT_N, Ranking, memory_settings, rank, ranking_of
from siftlm.memory import Found, Hit, Memory, keywords, vectors
from siftlm.types import json_number
from siftlm.validation import choice, text_with_content

MAX_PASSAGES = 100
MAX_QUERIES, MAX_TEXTS, MAX_TEXT_CHARACTERS = 20, 2000, 100_000
MAX_SAMPLE_PASSAGES = 20_000
# Characters that a line of text shows of a passage and of its metadata; the structured answer holds all.
SNIPPET_CHARACTERS, META_CHARACTERS = 160, 300
# Letters of a word that an explanation names; signs of scripts without spaces count at any length.
MIN_WORD_LETTERS = 3


# --- arguments


def _parsed_list(value: Any) -> Any:
    """A list of texts that was written as JSON into a string, as some clients do."""
    parsed = _parsed(value, "[")
    return parsed if isinstance(parsed, list) and all(isinstance(one, str) for one in parsed) else value


def _parsed_object(value: Any) -> Any:
    """An object that was written as JSON into a string."""
    parsed = _parsed(value, "{")
    return parsed if isinstance(parsed, dict) else value


def _parsed(value: Any, begin: str) -> Any:
    if isinstance(value, str) and value.lstrip().startswith(begin):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return None


STRICT = ConfigDict(extra="forbid")
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
Texts = Annotated[list[Text], BeforeValidator(_parsed_list)]
MemoryName = Annotated[
    str | None, Field(description="The memory's name; the tool's description lists them. Left out: the first.")
]
ABOUT_QUERY = "What the passages should tell about: any text, or a list of sub-questions, which count equally."
ABOUT_N = "At most this many; usually fewer come, because the selection stops by itself."
ABOUT_KNOWN = (
    "Texts that are known already, such as passages of earlier answers; what they tell is not looked for again."
)
ABOUT_MIN_GROWTH = (
    "Stop when the next one would add less than this share to what the picks before it tell. Left out: a share that "
    "suits most questions; larger: fewer passages; 0: go on up to n."
)
ABOUT_CANDIDATES = (
    "Find by meaning (vectors), by words, or by both. Left out: by both, but by vectors where texts are known."
)
ABOUT_WHERE = (
    "Only passages of documents whose metadata match, such as 'source = \"wiki\" and year >= 2000'. Operators: = != < "
    '<= > >= in ["a", "b"], not in, contains, starts, ends, exists FIELD, and, or, not, ( ). Or an object: '
    '{"source": "wiki", "year": {">=": 2000}}.'
)


@dataclass(frozen=True, kw_only=True)
class QueryArguments:
    """What all selections take."""

    __pydantic_config__ = STRICT
    query: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES)],
        BeforeValidator(_parsed_list),
        Field(description=ABOUT_QUERY),
    ]
    memory: MemoryName = None
    n: Annotated[int, Field(ge=1, le=MAX_PASSAGES, description=ABOUT_N)] = DEFAULT_N
    known: Annotated[Texts, Field(max_length=MAX_TEXTS, description=ABOUT_KNOWN)] = field(default_factory=list)
    min_growth: Annotated[float | None, Field(ge=0, le=1, description=ABOUT_MIN_GROWTH)] = None


@dataclass(frozen=True, kw_only=True)
class SearchArguments(QueryArguments):
    """Arguments of `search` and `explain`."""

    where: Annotated[str | dict[str, Any] | None, BeforeValidator(_parsed_object), Field(description=ABOUT_WHERE)] = (
        None
    )
    candidates: Annotated[Literal["vectors", "words", "both"] | None, Field(description=ABOUT_CANDIDATES)] = None


@dataclass(frozen=True, kw_only=True)
class SelectArguments(QueryArguments):
    """Arguments of `select`."""

    texts: Annotated[Texts, Field(min_length=1, max_length=MAX_TEXTS, description="The texts to choose among.")]


@dataclass(frozen=True, kw_only=True)
class RedundancyArguments:
    """Arguments of `redundancy`."""

    __pydantic_config__ = STRICT
    memory: MemoryName = None
    sample: Annotated[
        int, Field(ge=2, le=MAX_SAMPLE_PASSAGES, description="Random passages that are compared with each other.")
    ] = 10_000
    threshold: Annotated[
        float, Field(ge=-1, lt=1, description="The cosine above which two passages count as near-copies.")
    ] = 0.9


# --- answers: printed, they are what an assistant reads


@dataclass(frozen=True)
class PassageAnswer:
    """A passage, in the order of picking."""

    text: str
    id: str | None
    document: int
    """The number of its document."""
    part: int
    """Its place in the document, from 1."""
    parts: int
    meta: dict[str, Any]
    relevance: float | None
    """Cosine to the query."""
    left: float | None
    """The share of the uncertainty that is left after it."""

    def __str__(self) -> str:
        return f"{_head(self)}; relevance {_number(self.relevance)}, then {_share(self.left)} left\n{self.text}"


@dataclass(frozen=True)
class ReasonAnswer(PassageAnswer):
    """A passage, shortened, and why it was picked."""

    overlap: float | None
    """Similarity to the passage before it that is most like it."""
    alone: float | None
    """The share of the initial uncertainty that would come back without this passage."""
    only_words: list[str]
    """Words of the query that no other picked passage has."""
    serves: str | None
    """Of several sub-questions, the one that it told most about."""

    def __str__(self) -> str:
        lines = [
            super().__str__(),
            f"overlap with earlier ones {_number(self.overlap)}; without it, {_share(self.alone)} more would be left",
        ]
        lines += [f"the only one with: {', '.join(self.only_words)}"] if self.only_words else []
        lines += [f"serves: {_snippet(self.serves, SNIPPET_CHARACTERS)}"] if self.serves is not None else []
        return "\n".join(lines)


@dataclass(frozen=True)
class SearchAnswer:
    """The passages that together tell most about the query, and why there are no more."""

    memory: str
    passages: list[PassageAnswer]
    considered: int
    """The number of candidates that were selected from."""
    left: float | None
    """The share of the uncertainty about the query that is left."""
    stopped: str
    """The rule that ended it: min_growth, n or exhausted."""
    verdict: str

    def __str__(self) -> str:
        return _listed([f"{self.memory}: {self.verdict}"], self.passages)


@dataclass(frozen=True)
class PickAnswer:
    """A text that was chosen."""

    index: int
    """Its place among the texts, from 0."""
    text: str
    relevance: float | None
    left: float | None
    """The share of the uncertainty that is left after it."""

    def __str__(self) -> str:
        return f"texts[{self.index}]; relevance {_number(self.relevance)}, then {_share(self.left)} left\n{self.text}"


@dataclass(frozen=True)
class SelectAnswer:
    """The texts that together tell most about the query, and why there are no more."""

    picks: list[PickAnswer]
    left: float | None
    stopped: str
    verdict: str

    def __str__(self) -> str:
        return _listed([self.verdict], self.picks)


@dataclass(frozen=True)
class ExplainAnswer(SearchAnswer):
    """Why each passage of a search was picked."""

    passages: list[ReasonAnswer]  # type: ignore[assignment]


@dataclass(frozen=True)
class RedundancyAnswer:
    """Whether a memory repeats itself."""

    memory: str
    recommendation: str | None
    """``top-k is enough``, ``use SIFT`` or ``use SIFT and stop early``; none where passages are too few."""
    advice: str
    passages: int
    sample: int
    """Passages that were compared with each other."""
    threshold: float
    neighbours: int
    redundant: float
    """The share of the sample that has at least ``neighbours`` others above the threshold."""
    copies: float
    """The share of added texts that equal an earlier one and are stored once."""
    mean_nearest: float | None
    """Cosine of a passage and the nearest other one, on average."""
    examples: list[list[str]]
    """Passages that nearly repeat each other."""

    def __str__(self) -> str:
        head = "" if self.recommendation is None else f"{self.recommendation}. "
        lines = [f"{self.memory}: {head}{self.advice}"]
        nearest, copies = _number(self.mean_nearest), _share(self.copies)
        compared = f"{self.sample:,} of {self.passages:,} passages were compared"
        lines += [f"{compared}; cosine to the nearest other: {nearest}; equal texts, stored once: {copies}"]
        return _listed(lines, ["\n".join(group) for group in self.examples])


def _listed(head: list[str], items: list[Any]) -> str:
    return "\n\n".join(["\n".join(head), *(f"[{at}] {item}" for at, item in enumerate(items, start=1))])


def _head(passage: PassageAnswer) -> str:
    """The origin of a passage, on one line."""
    parts = [] if passage.id is None else [passage.id]
    parts += [_snippet(json.dumps(passage.meta, ensure_ascii=False), META_CHARACTERS)] if passage.meta else []
    parts += [f"document {passage.document}" + (f", part {passage.part} of {passage.parts}" * (passage.parts > 1))]
    return ", ".join(parts)


def _snippet(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{100 * value:.3g} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


# --- tools


def search(memories: Mapping[str, Memory], asked: SearchArguments) -> SearchAnswer:
    """Find the passages of a memory that together tell most about a query.

    Passages that repeat an earlier one are passed over, so each one adds something. The search stops by itself: n is a
    maximum. The answer says how much of the uncertainty about the query is left (a share; near 100 % means that this
    memory says little about it), and whether more passages would add anything. To go on after reading, pass what you
    have read as `known`. Use `where` to restrict the search by metadata.
    """
    name, memory = _chosen_memory(memories, asked.memory)
    found, ranking = _search(memory, asked)
    passages = [
        PassageAnswer(**_passage(hit), relevance=_rounded(one.relevance), left=_rounded(one.left))
        for hit, one in zip(found, ranking, strict=True)
    ]
    verdict = _verdict(ranking) if passages else _no_passage(memory, asked)
    return SearchAnswer(name, passages, ranking.considered, _rounded(ranking.left), ranking.stopped, verdict)


def explain(memories: Mapping[str, Memory], asked: SearchArguments) -> ExplainAnswer:
    """Explain why `search` picks each of its passages. Takes the arguments of `search`, and makes the same picks.

    For each: its relevance to the query; its overlap with the passages before it; how much of the uncertainty would
    come back without it, which is what no other pick tells; and the words of the query that it alone has. Texts are
    shortened; `search` gives them whole.
    """
    name, memory = _chosen_memory(memories, asked.memory)
    found, ranking = _search(memory, asked)
    left = _rounded(ranking.left)
    if not len(found):
        return ExplainAnswer(name, [], ranking.considered, left, ranking.stopped, _no_passage(memory, asked))
    why, queries = found.selection.explain(), _list_of_queries(asked.query)
    alone = why.alone / (found.selection.uncertainty[0] or 1.0)
    words = _only_words(queries, found.texts)
    reasons = [
        ReasonAnswer(
            **_passage(hit, SNIPPET_CHARACTERS),
            relevance=_rounded(one.relevance),
            left=_rounded(one.left),
            overlap=_rounded(one.overlap),
            alone=_rounded(float(alone[at])),
            only_words=words[at],
            serves=queries[int(why.served[at])] if len(queries) > 1 else None,
        )
        for at, (hit, one) in enumerate(zip(found, ranking, strict=True))
    ]
    return ExplainAnswer(name, reasons, ranking.considered, left, ranking.stopped, _verdict(ranking))


def select(memories: Mapping[str, Memory], asked: SelectArguments) -> SelectAnswer:
    """Choose, among texts that you pass, those that together tell most about a query, the most informative first.

    Made for results of other tools (web pages, log lines, search hits) of which many repeat each other: it returns the
    few that are worth reading, and says when the others would add nothing. Nothing is stored; `memory` only names the
    memory whose embedder compares the texts.
    """
    _, memory = _chosen_memory(memories, asked.memory)
    embed = partial(vectors.embed_checked, memory.embedder, width=memory.width)
    targets = embed(_list_of_queries(asked.query), as_query=True)
    if not targets.any(axis=1).all():
        raise InvalidInput("query has no word that the memory's embedder knows")
    settings = _stopping(asked)
    if asked.known:
        known = embed(asked.known)
        settings["known"] = known[known.any(axis=1)]
    # Texts without any word have no direction.
    candidates = embed(asked.texts)
    places = np.flatnonzero(candidates.any(axis=1))
    ranking = rank(targets, candidates[places], asked.n, **settings)
    picks = [
        PickAnswer(at, asked.texts[at], _rounded(one.relevance), _rounded(one.left))
        for one in ranking
        for at in [int(places[one.index])]
    ]
    return SelectAnswer(picks, _rounded(ranking.left), ranking.stopped, _verdict(ranking))


def redundancy(memories: Mapping[str, Memory], asked: RedundancyArguments) -> RedundancyAnswer:
    """Tell whether a memory repeats itself: how many passages of a random sample have near-copies, with examples.

    Where many do, a list of nearest neighbours would show the same thing again and again, and `search` saves reading.
    """
    name, memory = _chosen_memory(memories, asked.memory)
    found = memory.redundancy(asked.sample, threshold=asked.threshold, progress=False)
    return RedundancyAnswer(
        name,
        found.recommendation,
        found.advice,
        found.passages,
        found.sample,
        found.threshold,
        found.neighbours,
        found.redundant,
        found.copies,
        _rounded(found.mean_nearest),
        [list(group.snippets) for group in found.groups],
    )


def _chosen_memory(memories: Mapping[str, Memory], name: str | None) -> tuple[str, Memory]:
    known = name if name is not None else next(iter(memories))
    return known, memories[choice("memory", known, memories)]


def _list_of_queries(query: str | list[str]) -> list[str]:
    queries = [query] if isinstance(query, str) else query
    return [text_with_content("query", one) for one in queries]


def _stopping(asked: QueryArguments) -> dict[str, Any]:
    """The stopping rule that a call names; without one, that of `siftlm.integrations.ranking` applies."""
    return {} if asked.min_growth is None else {"min_growth": asked.min_growth}


def _search(memory: Memory, asked: SearchArguments) -> tuple[Found, Ranking]:
    # Known texts count by their vectors alone: beside words, what they tell would be found again.
    default = "both" if memory.manifest.full_text and not asked.known else "vectors"
    given = {"where": asked.where, "candidates": asked.candidates or default, "known": asked.known or None}
    settings = memory_settings("sift", {**given, **_stopping(asked)})
    found = memory.search(_list_of_queries(asked.query), asked.n, **settings)
    return found, ranking_of(found, settings)


def _verdict(ranking: Ranking) -> str:
    """The verdict, and what an assistant can do about it."""
    if ranking.enough:
        return f"{ranking.verdict} More of them would add little."
    more = ranking.stopped == "n" and len(ranking) < ranking.considered
    return f"{ranking.verdict} A larger n may add something." if more else ranking.verdict


def _rounded(value: float) -> float | None:
    return json_number(value, 4)


def _no_passage(memory: Memory, asked: SearchArguments) -> str:
    """Why nothing was found."""
    if not len(memory):
        return "No passage: the memory is empty."
    if asked.where is not None and not len(memory.rows(asked.where)):
        fields = ", ".join(field.name for field in memory.info().fields)
        return f"No passage: no document matches where; fields of the metadata: {fields or 'none'}."
    if asked.candidates == "words":
        return "No passage has a word of the query; candidates='vectors' finds by meaning."
    return "No passage: none of them points towards the query."


def _passage(hit: Hit, characters: int | None = None) -> dict[str, Any]:
    """What a passage is and where it comes from, as arguments of `PassageAnswer`."""
    return {
        "text": hit.text if characters is None else _snippet(hit.text, characters),
        "id": hit.id,
        "document": hit.document,
        "part": hit.part + 1,
        "parts": hit.parts,
        "meta": dict(hit.meta),
    }


def _only_words(queries: Sequence[str], texts: Sequence[str]) -> list[list[str]]:
    """For each text, the words of the queries that no other text has."""
    own_words = [word for word in keywords.terms("\n".join(queries)) if word not in keywords.STOP_WORDS]
    asked = [word for word in own_words if len(word) >= MIN_WORD_LETTERS or not word.isascii()]
    found = [set(keywords.terms(text)) for text in texts]
    return [[word for word in asked if word in own and sum(word in other for other in found) == 1] for own in found]
