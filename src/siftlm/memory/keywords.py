"""Search by words: the query of a prompt for SQLite's full-text index (FTS5), and the fusion of rankings."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from siftlm.types import IntArray
from siftlm.validation import whole_number

# The share of passages beyond which a word distinguishes them too little to be worth its time.
MAX_DOCUMENT_FREQUENCY = 0.3
FTS5_TOKENIZER = "unicode61 remove_diacritics 2"
"""The tokenizer of the full-text index."""


def match_query(
    prompt: str, document_frequency: Callable[[list[str]], dict[str, int]], total: int, most: int = 32
) -> str | None:
    """The query for MATCH: any of the rarest words of a prompt that occur at all.

    ``document_frequency`` says in how many of the ``total`` passages each term occurs, where it does; a table of
    fts5vocab knows. Words that occur in more than 30 % of the passages are used only where there are no others.
    ``None`` when no word occurs. Every word is quoted, so that nothing in a prompt is taken for an operator.

    >>> match_query("The café AND the NEAR* bar", lambda terms: {"the": 90, "cafe": 2, "near": 3}, 100)
    '"cafe" OR "near"'
    """
    whole_number("most", most)
    distinct = terms(prompt)
    counts = document_frequency(distinct) if distinct else {}
    # Python's sort keeps the order of the prompt among equals.
    known = sorted((term for term in distinct if counts.get(term, 0) > 0), key=lambda term: counts[term])
    rare = [term for term in known if counts[term] <= MAX_DOCUMENT_FREQUENCY * total]
    return " OR ".join('"' + term.replace('"', '""') + '"' for term in (rare or known)[:most]) or None


def terms(text: str) -> list[str]:
    """The distinct words of a text, as FTS5 writes them, in order of appearance.

    SQLite itself splits the text, in a table in memory: which characters make a word, and what is left of their
    accents, differs between the versions of Unicode that Python and SQLite know.

    >>> terms("Crème brûlée, 2 €: it's_done")
    ['creme', 'brulee', '2', 'it', 's', 'done']
    """
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{FTS5_TOKENIZER}')")
        scratch.execute("CREATE VIRTUAL TABLE found USING fts5vocab('words', 'instance')")
        # Half a surrogate pair is no word, and SQLite cannot take it.
        scratch.execute("INSERT INTO words VALUES (?)", (text.encode("utf-8", "replace").decode("utf-8"),))
        rows = scratch.execute("SELECT term FROM found GROUP BY term ORDER BY min(offset)")
        return [term for (term,) in rows]


def reciprocal_rank_fusion(rankings: Sequence[IntArray], k: int, constant: int = 60) -> IntArray:
    """The k best of several rankings, each best first and without repeats: largest sum of 1 / (constant + rank).

    Ties go to whichever stood higher in one of them, then to the smaller id.

    >>> reciprocal_rank_fusion([np.array([5, 7, 9]), np.array([7, 5, 2])], k=3).tolist()
    [5, 7, 2]
    """
    whole_number("k", k, least=0)
    whole_number("constant", constant, least=0)
    if not rankings:
        return np.zeros(0, dtype=np.int64)
    listed = np.concatenate([np.asarray(ranking, dtype=np.int64) for ranking in rankings])
    ranks = np.concatenate([np.arange(1, len(ranking) + 1) for ranking in rankings])
    ids, owner = np.unique(listed, return_inverse=True)
    best = np.full(len(ids), len(listed) + 1)
    np.minimum.at(best, owner, ranks)
    # Rounded, so that sums that are equal on paper are so here, whatever order they were added up in.
    sums = np.round(np.bincount(owner, 1 / (constant + ranks), minlength=len(ids)), 12)
    answer: IntArray = ids[np.lexsort((ids, best, -sums))][:k]
    return answer
