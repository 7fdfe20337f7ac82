"""Texts to evaluate on: read from any corpus, each in its domain, a random sample of each domain.

texts = read("test.jsonl.gz", domain="pile_set_name", per_domain=12, longest=3000)
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftlm import sample
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.memory.reading import open_source
from siftlm.validation import whole_number

# Fields that may name the domain, as in corpora made like the Pile.
DOMAIN_FIELDS = ("pile_set_name", "domain", "subset")
# The domain of texts without such a field, or with an empty one.
NO_DOMAIN = "no domain"
SAMPLE_CORPUS = "sample"
SAMPLE_TEXTS_PER_DOMAIN = 20
# A shorter text has no two halves worth scoring.
MIN_TEXT_CHARACTERS = 40


@dataclass(frozen=True)
class Text:
    """One text to score."""

    id: str
    """A digest of domain and contents, so that a text in two domains has a record in each."""
    text: str
    domain: str
    exclude: tuple[int, ...] = ()
    """Rows of the memory that must not be used for it."""

    @property
    def bytes(self) -> int:
        """The text's bytes in UTF-8."""
        return len(self.text.encode())


@dataclass
class SkippedRecords:
    """Records of a corpus that `read` could not use."""

    unreadable: int = 0
    problem: str = ""
    """The first unreadable record's problem."""
    short: int = 0
    """Records shorter than ``shortest``."""

    def sentence(self, shortest: int = MIN_TEXT_CHARACTERS) -> str:
        """The counts in words; empty if nothing was skipped."""
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
    """The texts of a corpus, domain by domain.

    >>> texts = read([{"text": "Of tea and other leaves, a short story.  ", "meta": {"domain": "prose"}}], shortest=10)
    >>> [(one.domain, one.bytes) for one in texts]
    [('prose', 41)]

    Args:
        corpus: anything that `siftlm.memory.Memory.build` can read, or ``"sample"``: the texts that the sample memory
            holds out.
        domain: the field of the metadata that names the domain; by default the first of ``pile_set_name``, ``domain``
            and ``subset`` that a text has. Texts for which it is empty are a domain of their own.
        per_domain: draw so many texts of each domain, in an order that depends on the text and the seed alone: a larger
            sample contains the smaller one, whatever else the corpus holds and whatever ``longest`` cuts off.
        skip: leave out the first so many of each domain: those that settings were chosen on.
        longest: keep so many characters of each text, up to the last white space.
        shortest: leave out shorter texts.
        seed: the seed of the order.
        domains: read only these.
        left_out: counts the records that were skipped.
        **fields: how to read the corpus; see `siftlm.memory.reading.open_source`.
    """
    for name, value in (("per_domain", per_domain), ("longest", longest)):
        if value is not None:
            whole_number(name, value)
    whole_number("seed", seed, least=0)
    whole_number("skip", skip, least=0)
    last = None if per_domain is None else skip + per_domain
    whole_number("shortest", shortest, least=0)
    by_domain: dict[str, dict[str, tuple[str, Text]]] = defaultdict(dict)
    skipped = left_out or SkippedRecords()
    for text, meta, place in _documents(corpus, fields, last, seed, skipped):
        where = _domain(meta, domain)
        kept = _truncate(text, longest)
        if len(kept.strip()) >= max(shortest, 1):
            one = Text(text_id(f"{where} {kept}"), kept, where)
            order = text_id(f"{seed} {text_id(text)}") if place is None else f"{place:012}"
            # Texts may be equal once they are cut; their order must not depend on which came first.
            if one.id not in by_domain[where] or order < by_domain[where][one.id][0]:
                by_domain[where][one.id] = order, one
        else:
            skipped.short += 1
    if not by_domain:
        why = f"; {skipped.sentence(shortest)}" if skipped.unreadable else ""
        raise InvalidInput(f"the corpus {corpus!r:.80} holds no text of {shortest} characters or more{why}")
    names = sorted(by_domain) if domains is None else list(domains)
    for name in names:
        if name not in by_domain:
            raise UnknownName("domain", name, sorted(by_domain))
    drawn = {name: sorted(by_domain[name].values(), key=lambda pair: pair[0])[skip:last] for name in names}
    if not any(drawn.values()):
        raise InvalidInput(
            f"{setting('skip', skip)} leaves nothing: the largest domain has {max(map(len, by_domain.values()))} texts"
        )
    return [one for name in names for _, one in drawn[name]]


def _documents(
    corpus: Any, fields: dict[str, Any], last: int | None, seed: int, skipped: SkippedRecords
) -> Iterator[tuple[str, Mapping[str, Any], int | None]]:
    """Texts with their metadata, and their place in the order where the source has drawn one."""
    if isinstance(corpus, str) and corpus == SAMPLE_CORPUS:
        for kind in sample.KINDS:
            # The sample's own order spreads over modules; a larger count begins with the smaller one too.
            for place, one in enumerate(sample.prompts(kind, last or SAMPLE_TEXTS_PER_DOMAIN, seed=seed)):
                yield one.text, {"domain": kind}, place
        return
    for record in open_source(corpus, **fields).read():
        if record.document is not None:
            yield record.document.text, record.document.meta, None
        else:
            skipped.unreadable += 1
            skipped.problem = skipped.problem or f"{record.where}: {record.problem}"


def _domain(meta: Mapping[str, Any], name: str | None) -> str:
    if name is not None and name not in meta:
        raise InvalidInput(f"a text has no field {name!r} that names its domain; it has {', '.join(meta) or 'none'}")
    values = (meta.get(field) for field in (DOMAIN_FIELDS if name is None else (name,)))
    names = (str(value).strip() for value in values if value is not None)
    return next(filter(None, names), NO_DOMAIN)


def _truncate(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    end = next((at for at in range(longest, longest // 2, -1) if text[at].isspace()), longest)
    return text[:end]


def text_id(text: str) -> str:
    """A digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
