"""The texts to evaluate on: read from anything that holds texts, each in its domain, a fair sample of each domain.

texts = read("test.jsonl.gz", domain="pile_set_name", per_domain=12, longest=3000)
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftlm import sample
from siftlm.errors import InvalidInput, UnknownName
from siftlm.memory.reading import open_source
from siftlm.validation import whole_number

# Where the domain is, in corpora made like the Pile; looked for unless another field is named.
DOMAIN_FIELDS = ("pile_set_name", "domain", "subset")
# Where no field tells, or one that is empty.
NO_DOMAIN = "no domain"
SAMPLE_CORPUS = "sample"
SAMPLE_TEXTS_PER_DOMAIN = 20
# A shorter text has no two halves worth the name.
MIN_TEXT_CHARACTERS = 40


@dataclass(frozen=True)
class Text:
    """One text to be scored."""

    id: str
    """Of its domain and contents, so that a text that is in two domains has a record in each."""
    text: str
    domain: str

    @property
    def bytes(self) -> int:
        """In UTF-8."""
        return len(self.text.encode())


@dataclass
class SkippedRecords:
    """Of a corpus, by `read`: what no text was made of."""

    unreadable: int = 0
    problem: str = ""
    """Of the first one that could not be read."""
    short: int = 0
    """Shorter than ``shortest``."""

    def sentence(self, shortest: int = MIN_TEXT_CHARACTERS) -> str:
        """In words; nothing if there is nothing."""
        parts = [f"{self.unreadable} could not be read ({self.problem})"] if self.unreadable else []
        if self.short:
            parts.append(f"{self.short} {'has' if self.short == 1 else 'have'} fewer than {shortest} characters")
        return f"left out of the corpus: {'; '.join(parts)}" if parts else ""


def read(
    corpus: Any,
    *,
    domain: str | None = None,
    per_domain: int | None = None,
    skip: int = 0,
    longest: int | None = None,
    shortest: int = MIN_TEXT_CHARACTERS,
    seed: int = 0,
    domains: Sequence[str] | None = None,
    left_out: SkippedRecords | None = None,
    **fields: Any,
) -> list[Text]:
    """The texts, domain by domain.

    >>> texts = read([{"text": "Of tea and other leaves, a short story.  ", "meta": {"domain": "prose"}}], shortest=10)
    >>> [(one.domain, one.bytes) for one in texts]
    [('prose', 41)]

    Args:
        corpus: whatever `siftlm.memory.Memory.build` can read, or ``"sample"``: what the sample memory holds out.
        domain: the field of the metadata that names the domain; left out, the first of ``pile_set_name``, ``domain``
            and ``subset`` that is there. Texts for which it is empty are a domain of their own.
        per_domain: take so many of each domain, by a lot that depends on the text and the seed alone: a larger sample
            holds the smaller one, whatever else is in the corpus and whatever ``longest`` cuts off.
        skip: leave out the first so many of each domain's lot: those that settings were chosen on.
        longest: keep so many characters of each text, up to the last white space.
        shortest: leave out shorter texts.
        seed: of the lot.
        domains: only these.
        left_out: is told of what no text was made of.
        **fields: how to read the corpus; see `siftlm.memory.reading.open_source`.
    """
    for name, value in (("per_domain", per_domain), ("longest", longest)):
        if value is not None:
            whole_number(name, value)
    whole_number("seed", seed, least=0)
    whole_number("skip", skip, least=0)
    last = None if per_domain is None else skip + per_domain
    whole_number("shortest", shortest, least=0)
    found: dict[str, dict[str, tuple[str, Text]]] = defaultdict(dict)
    missed = left_out or SkippedRecords()
    for text, meta, place in _documents(corpus, fields, last, seed, missed):
        where = _domain(meta, domain)
        kept = _truncate(text, longest)
        if len(kept.strip()) >= max(shortest, 1):
            one = Text(_text_id(f"{where} {kept}"), kept, where)
            lot = _text_id(f"{seed} {_text_id(text)}") if place is None else f"{place:012}"
            # Of several that are the same when they are cut, the lot must not depend on which came first.
            if one.id not in found[where] or lot < found[where][one.id][0]:
                found[where][one.id] = lot, one
        else:
            missed.short += 1
    if not found:
        why = f"; {missed.sentence(shortest)}" if missed.unreadable else ""
        raise InvalidInput(f"the corpus {corpus!r:.80} holds no text of {shortest} characters or more{why}")
    wanted = sorted(found) if domains is None else list(domains)
    for name in wanted:
        if name not in found:
            raise UnknownName("domain", name, sorted(found))
    drawn = {name: sorted(found[name].values(), key=lambda known: known[0])[skip:last] for name in wanted}
    if not any(drawn.values()):
        raise InvalidInput(f"skip={skip} leaves nothing: the largest domain has {max(map(len, found.values()))} texts")
    return [one for name in wanted for _, one in drawn[name]]


def _documents(
    corpus: Any, fields: dict[str, Any], last: int | None, seed: int, missed: SkippedRecords
) -> Iterator[tuple[str, Mapping[str, Any], int | None]]:
    """Text, metadata, and its place in the lot where that was drawn already."""
    if isinstance(corpus, str) and corpus == SAMPLE_CORPUS:
        for kind in sample.KINDS:
            # Its own lot spreads over modules; a larger count begins with the smaller one's as well.
            for place, one in enumerate(sample.prompts(kind, last or SAMPLE_TEXTS_PER_DOMAIN, seed=seed)):
                yield one.text, {"domain": kind}, place
        return
    for record in open_source(corpus, **fields).read():
        if record.document is not None:
            yield record.document.text, record.document.meta, None
        else:
            missed.unreadable += 1
            missed.problem = missed.problem or f"{record.where}: {record.problem}"


def _domain(meta: Mapping[str, Any], name: str | None) -> str:
    if name is not None and name not in meta:
        raise InvalidInput(f"a text has no field {name!r} that names its domain; it has {', '.join(meta) or 'none'}")
    given = (meta.get(known) for known in (DOMAIN_FIELDS if name is None else (name,)))
    names = (str(one).strip() for one in given if one is not None)
    return next(filter(None, names), NO_DOMAIN)


def _truncate(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    end = next((at for at in range(longest, longest // 2, -1) if text[at].isspace()), longest)
    return text[:end]


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
