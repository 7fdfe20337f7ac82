"""Search by words: how texts are split into words, the query of a prompt for SQLite's full-text index (FTS5), and the
fusion of its scores (BM25) with those of vectors."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from siftlm.types import FloatArray, Vectors
from siftlm.validation import whole_number

# The share of passages beyond which a word distinguishes them too little to be worth its time.
MAX_DOCUMENT_FREQUENCY = 0.3
# The share of words in a relevance that vectors have the rest of; docs/decisions/0055-hybrid-ranking.md says how it was
# chosen.
WORDS_SHARE = 0.4
# Frequent words of English, which do not explain why a passage matches.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "about and are because been but can could did does for from had has have how into its may more most not one "
        "only other our out over should some such than that the their them then there these they this those was were "
        "what when where which who why will with would you your",
    )
)

# --- words of a text

# What a reader takes for one sign in scripts that put no spaces between words: a character of Chinese or Japanese, and
# in Thai, Lao, Khmer and Burmese a consonant with its vowels and marks.
_SIGN = (
    "[々〇\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff][\u3099\u309a]?"
    "|[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e30-\u0e3a\u0e45\u0e47-\u0e4e]*|[\u0e2f\u0e40-\u0e44\u0e46]"
    "|[\u0ec0-\u0ec4]?[\u0e81-\u0eae\u0edc-\u0edf][\u0eb0-\u0ebd\u0ec8-\u0ece]*|[\u0ec0-\u0ec6]"
    "|[\u1780-\u17b3](?:\u17d2[\u1780-\u17b3]|[\u17b4-\u17d1\u17d3\u17dd])*"
    "|[\u1000-\u102a\u103f\u1050-\u1055](?:\u1039[\u1000-\u102a]|[\u102b-\u1038\u103a-\u103e\u1056-\u1059])*"
)
SIGN, SIGNS = re.compile(_SIGN), re.compile(f"(?:{_SIGN})+")
# Where there is nothing of these blocks, there is no sign; and that is found out faster.
SIGN_BLOCKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u9fff\uf900-\uffff\U00020000-\U0003ffff]")


def spaced(text: str) -> str:
    """The text with each sign, and each pair of neighbours, of scripts without spaces as a word of its own.

    >>> spaced("Python言語の本")
    'Python 言 語 の 本 言語 語の の本 '
    >>> spaced("ที่กรุงเทพ").split()
    ['ที่', 'ก', 'รุ', 'ง', 'เท', 'พ', 'ที่ก', 'กรุ', 'รุง', 'งเท', 'เทพ']
    """
    return SIGNS.sub(_spaced_run, text) if not text.isascii() and SIGN_BLOCKS.search(text) else text


def _spaced_run(run: re.Match[str]) -> str:
    signs = SIGN.findall(run[0])
    return f" {' '.join([*signs, *map(''.join, pairwise(signs))])} "


@dataclass(frozen=True)
class Tokenizer:
    """How texts are split into words."""

    fts5: str
    """FTS5's part of it."""
    prepare: Callable[[str], str]
    """What happens to a text before FTS5 sees it."""


SPACED, UNSPACED = "spaced", "unicode61"
TOKENIZERS = {
    # Of memories before there was another: what is written without spaces is one long word.
    UNSPACED: Tokenizer("unicode61 remove_diacritics 2", str),
    # Marks are parts of words, as vowels are in Thai and Hindi; but for those that say how an emoji is drawn.
    SPACED: Tokenizer("unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc' separators '\ufe0e\ufe0f'", spaced),
}
"""Name in a manifest -> tokenizer."""
# The function by which SQL prepares a text.
PREPARE_FUNCTION = "spaced"


def add_prepare_function(connection: sqlite3.Connection, tokenizer: str) -> None:
    """Let SQL on this connection prepare texts as a tokenizer does, which a view needs that FTS5 reads texts from."""
    connection.create_function(PREPARE_FUNCTION, 1, TOKENIZERS[tokenizer].prepare, deterministic=True)


def query_terms(
    prompt: str,
    document_frequency: Callable[[list[str]], dict[str, int]],
    total: int,
    most: int = 32,
    tokenizer: str = SPACED,
) -> list[str]:
    """The rarest words of a prompt that occur at all, rarest first.

    ``document_frequency`` says in how many of the ``total`` passages each term occurs, where it does; a table of
    fts5vocab knows. Words that occur in more than 30 % of the passages are used only where there are no others.

    >>> query_terms("The café AND the NEAR* bar", lambda terms: {"the": 90, "cafe": 2, "near": 3}, 100)
    ['cafe', 'near']
    """
    whole_number("most", most)
    distinct = terms(prompt, tokenizer)
    counts = document_frequency(distinct) if distinct else {}
    # Python's sort keeps the order of the prompt among equals.
    known = sorted((term for term in distinct if counts.get(term, 0) > 0), key=lambda term: counts[term])
    rare = [term for term in known if counts[term] <= MAX_DOCUMENT_FREQUENCY * total]
    return (rare or known)[:most]


def match_any(terms: Sequence[str]) -> str:
    """The query for MATCH that finds any of these words. Each is quoted, so that none is taken for an operator.

    >>> match_any(["cafe", "near"])
    '"cafe" OR "near"'
    """
    return " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)


def terms(text: str, tokenizer: str = SPACED) -> list[str]:
    """The distinct words of a text, as FTS5 writes them, in order of appearance.

    SQLite itself splits the text, in a table in memory: which characters make a word, and what is left of their
    accents, differs between the versions of Unicode that Python and SQLite know.

    >>> terms("Crème brûlée, 2 €: it's_done")
    ['creme', 'brulee', '2', 'it', 's', 'done']
    """
    kind = TOKENIZERS[tokenizer]
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute(f'CREATE VIRTUAL TABLE words USING fts5(text, tokenize="{kind.fts5}")')
        scratch.execute("CREATE VIRTUAL TABLE found USING fts5vocab('words', 'instance')")
        # Half a surrogate pair is no word, and SQLite cannot take it.
        plain = text.encode("utf-8", "replace").decode("utf-8")
        scratch.execute("INSERT INTO words VALUES (?)", (kind.prepare(plain),))
        rows = scratch.execute("SELECT term FROM found GROUP BY term ORDER BY min(offset)")
        return [term for (term,) in rows]


# --- words beside vectors


def fused_scores(cosines: FloatArray, words: FloatArray) -> FloatArray:
    """(K,) 0.6 cosine + 0.4 w,  w the score by words as a share of the best one's

    >>> fused_scores(np.array([0.5, 0.5, 0.0]), np.array([0.0, 2.0, 4.0])).tolist()
    [0.3, 0.5, 0.4]
    """
    fused: FloatArray = (1 - WORDS_SHARE) * cosines + WORDS_SHARE * relative_scores(words)
    return fused


def relative_scores(words: FloatArray) -> FloatArray:
    """(K,) each score as a share of the best; 0 where there is no score above 0."""
    best = words.max(initial=0.0)
    return words / best if best > 0 else np.zeros(len(words))


@dataclass(frozen=True, eq=False)
class WordFeatures:
    """A prompt and passages by the prompt's words: the inner product of the two is the relative score by words.

    With S (K, T) what each word adds to the score of each passage, b_t = max_x S_xt the most that a word adds, and
    s = max_x Σ_t S_xt the best score: the prompt is √(b_t / s), and a passage is S_xt / √(b_t s), at most of length 1.
    Two passages are alike as far as they hold the same words of the prompt. The prompt is the longer, the less of its
    words the best passage has.
    """

    prompt: FloatArray
    """(T,)"""
    passages: FloatArray
    """(K, T)"""

    @classmethod
    def of(cls, parts: FloatArray) -> WordFeatures:
        """The features for the parts S (K, T) of scores."""
        most = parts.max(axis=0, initial=0.0)
        parts, most = parts[:, most > 0], most[most > 0]
        if not len(most):
            return cls(np.zeros(0), np.zeros((len(parts), 0)))
        best = parts.sum(axis=1).max()
        return cls(np.sqrt(most / best), parts / np.sqrt(most * best))

    def prompt_beside(self, targets: Vectors) -> Vectors:
        """(m, d) vectors of the prompt -> (m, d + T), of which the words are 40 %."""
        return _beside(targets, np.broadcast_to(self.prompt, (len(targets), len(self.prompt))))

    def passages_beside(self, vectors: Vectors) -> Vectors:
        """(K, d) vectors of the passages -> (K, d + T)."""
        return _beside(vectors, self.passages)

    def others_beside(self, vectors: Vectors) -> Vectors:
        """(j, d) vectors of texts whose words are not known -> (j, d + T)."""
        return _beside(vectors, np.zeros((len(vectors), len(self.prompt))))


def _beside(vectors: Vectors, words: FloatArray) -> Vectors:
    mixed: Vectors = np.hstack([(1 - WORDS_SHARE) ** 0.5 * vectors, WORDS_SHARE**0.5 * words])
    return mixed.astype(np.float32)
