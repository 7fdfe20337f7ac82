"""Ingestion: documents are cut into passages, new passages are embedded, and everything is written, batch by batch.

A text that the memory has is not embedded again. A batch counts from its commit on, so a killed build repeats only
the batch that it was at.
"""

from __future__ import annotations

import heapq
import inspect
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from siftlm.embedding.protocol import Embedder
from siftlm.errors import BadRecord, Conflict, InvalidInput, UnknownName
from siftlm.memory import database, vectors
from siftlm.memory.near_duplicates import Near
from siftlm.memory.passages import PassageBatch, cut_documents
from siftlm.memory.reading import DocumentBatch, ReadAhead, RecordBatch, RecordProblem, Source, open_source
from siftlm.memory.writer import InputProgress, Stands, Writer
from siftlm.progress import Meter, Report
from siftlm.types import IntArray, Vectors

# Seconds that a batch should take: long enough to be worth a commit, short enough to lose.
BATCH_SECONDS = (2.0, 8.0)
# Characters of a batch: the first one's, and bounds of the later ones'.
INITIAL_BATCH_CHARACTERS, MIN_BATCH_CHARACTERS, MAX_BATCH_CHARACTERS = 1 << 17, 1 << 14, 16 << 20
# Documents of a batch, however short they are.
MAX_BATCH_DOCUMENTS = 4096
# Characters of the passages that are embedded and written together.
EMBEDDED_CHARACTERS = 1 << 18
# Complaints that are kept of an input; the rest is counted.
KEPT_COMPLAINTS = 20


@dataclass(frozen=True)
class Added:
    """The result of adding documents to a memory."""

    documents: int = 0
    passages: int = 0
    """New texts, each embedded once."""
    duplicates: int = 0
    """Passages whose text was there already."""
    near_duplicates: int = 0
    """Passages that were nearly there already, where near-duplicates are looked for."""
    bad: int = 0
    """Records that could not be used."""
    complaints: tuple[str, ...] = ()
    """The first of those: where, and what is wrong."""
    empty: int = 0
    """Files of a folder that hold nothing, and are no bad records."""

    def __add__(self, other: Added) -> Added:
        return Added(
            self.documents + other.documents,
            self.passages + other.passages,
            self.duplicates + other.duplicates,
            self.near_duplicates + other.near_duplicates,
            self.bad + other.bad,
            (self.complaints + other.complaints)[:KEPT_COMPLAINTS],
            self.empty + other.empty,
        )


@dataclass(frozen=True, eq=False)
class IngestBatch:
    """Documents that are ready to be written."""

    documents: DocumentBatch
    passages: PassageBatch
    digests: list[bytes]
    """The digest of each passage's text."""
    fresh: Sequence[int]
    """The passages whose texts are new, each text once."""
    embeds: bool
    """Whether some of these come without a vector."""
    homes: dict[bytes, int]
    """Digest -> row, for texts that are stored already."""
    nearly: dict[bytes, bytes] = field(default_factory=dict)
    """Digest -> that of the text that is nearly the same and stands for it, stored already or new."""
    bands: dict[bytes, list[int]] = field(default_factory=dict)

    @property
    def has_all_vectors(self) -> bool:
        """Whether there is nothing to embed because all texts come with their vectors."""
        return self.documents.vectors is not None and not self.embeds


class Ingester:
    """Prepares batches of documents, and writes them."""

    def __init__(self, writer: Writer, embedder: Embedder) -> None:
        self._writer, self._embedder = writer, embedder
        manifest = writer.manifest
        self._size, self._overlap = manifest.passage_tokens, manifest.overlap

    def prepare(self, documents: DocumentBatch) -> IngestBatch:
        """Cut the documents and find out what of them is new; reads the database and writes nothing."""
        passages = cut_documents(documents, self._embedder, self._size, self._overlap)
        digests = database.text_digests(passages.texts)
        # A text's first passage is the one that counts.
        first = dict(zip(reversed(digests), range(len(digests) - 1, -1, -1), strict=True))
        homes = self._writer.known(list(first))
        fresh = sorted(at for digest, at in first.items() if digest not in homes)
        nearly: dict[bytes, bytes] = {}
        bands: dict[bytes, list[int]] = {}
        if self._writer.near is not None and fresh:
            nearly, bands = self._near({digests[at]: passages.texts[at] for at in fresh}, homes)
            fresh = [at for at in fresh if digests[at] not in nearly]
        known = documents.known
        embeds = bool(fresh) and not (known.all() or known[passages.owners[fresh]].all())
        return IngestBatch(documents, passages, digests, fresh, embeds, homes, nearly, bands)

    def write(self, batch: IngestBatch) -> Added:
        """Embed and write a batch, inside a transaction."""
        writer, digests = self._writer, batch.digests
        first = writer.rows
        for block in self._blocks(batch):
            texts = [batch.passages.texts[at] for at in block]
            writer.append(texts, [digests[at] for at in block], self._vectors(batch, block, texts))
        rows = range(first, writer.rows)
        stands = Stands(digests, [0] * len(digests))
        if batch.nearly:
            nears = [int(digest in batch.nearly) for digest in digests]
            stands = Stands([batch.nearly.get(digest, digest) for digest in digests], nears)
        homes = {**batch.homes, **dict(zip((digests[at] for at in batch.fresh), rows, strict=True))}
        writer.place(batch.documents, batch.passages, [homes[digest] for digest in stands.digests], stands)
        writer.remember_bands({homes[digest]: keys for digest, keys in batch.bands.items()})
        near = sum(stands.nears)
        return Added(len(batch.documents), len(rows), len(digests) - near - len(rows), near)

    def _near(
        self, new: Mapping[bytes, str], homes: dict[bytes, int]
    ) -> tuple[dict[bytes, bytes], dict[bytes, list[int]]]:
        """The new texts that are nearly there already, in the database or earlier in the batch; the others' keys.

        The rows of the stored ones are added to ``homes``.
        """
        near = self._writer.near
        nearly: dict[bytes, bytes] = {}
        kept: dict[bytes, list[int]] = {}
        holders: dict[int, list[bytes]] = {}
        if near is None:
            return nearly, kept
        stored = near.bands(list(new.values()))
        for (digest, text), keys in zip(new.items(), stored.tolist(), strict=True):
            target = self._nearest(near, text, keys, homes)
            if target is None:
                among = dict.fromkeys(other for key in keys for other in holders.get(key, ()))
                target = next((o for o in among if near.similarity(text, new[o]) >= near.threshold), None)
            if target is not None:
                nearly[digest] = target
                continue
            kept[digest] = keys
            for key in keys:
                holders.setdefault(key, []).append(digest)
        return nearly, kept

    def _nearest(self, near: Near, text: str, keys: Sequence[int], homes: dict[bytes, int]) -> bytes | None:
        """The digest of the first stored text that is nearly this one."""
        for row, other in self._writer.banded(keys):
            if near.similarity(text, other) >= near.threshold:
                digest = database.text_digest(other)
                homes[digest] = row
                return digest
        return None

    def _blocks(self, batch: IngestBatch) -> Iterator[Sequence[int]]:
        """The new passages, so many at a time that their vectors and what is made for them take little memory."""
        if not batch.embeds:
            yield batch.fresh
            return
        start = characters = 0
        for end, at in enumerate(batch.fresh, 1):
            characters += len(batch.passages.texts[at])
            if characters >= EMBEDDED_CHARACTERS or end == len(batch.fresh):
                yield batch.fresh[start:end]
                start, characters = end, 0

    def _vectors(self, batch: IngestBatch, block: Sequence[int], texts: Sequence[str]) -> Vectors:
        """(len(block), d) at unit length."""
        width, documents = self._writer.manifest.width, batch.documents
        if documents.vectors is None:
            found = vectors.embed_checked(self._embedder, texts, width)
        else:
            if documents.vectors.shape[1] != width:
                raise InvalidInput(
                    f"a vector has shape {documents.vectors.shape[1:]}, and the memory holds vectors of width {width}"
                )
            owners = batch.passages.owners[list(block)]
            # As they are where each text is one new passage, which copies nothing.
            whole = batch.passages.counts is None and len(block) == len(documents)
            found = documents.vectors if whole else documents.vectors[owners]
            if batch.embeds:
                found = np.array(found)
                unknown = np.flatnonzero(~documents.known[owners]).tolist()
                found[unknown] = vectors.embed_checked(self._embedder, [texts[at] for at in unknown], width)
        scaled = vectors.unit_rows(found)
        wrong = np.isnan(scaled[:, 0])
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InvalidInput(f"the vector of the text {texts[at][:60]!r} is zero or not finite: it has no direction")
        return scaled


def open_corpus(corpus: Any, settings: Mapping[str, Any]) -> Source:
    """`siftlm.memory.reading.open_source`, with an error that names an unknown setting."""
    known = [name for name in inspect.signature(open_source).parameters if name != "corpus"]
    for name in settings:
        if name not in known:
            raise UnknownName("setting of a corpus", name, known)
    return open_source(corpus, **settings)


def is_resumable(source: Source) -> bool:
    """Whether the next call with the same input is recognized as such."""
    return all(part.get("resumable", True) for part in source.identity()["parts"])


def is_streamed(source: Source) -> bool:
    """Whether some of it is downloaded while it is read."""
    return any(part.get("kind") == "stream" for part in source.identity()["parts"])


def source_recipe(source: Source) -> str:
    """The key under which an input's progress is stored."""
    return json.dumps(source.identity(), sort_keys=True, ensure_ascii=False)


# What an embedder is fitted to: so many documents and characters at most, and so many characters of each document.
FIT_DOCUMENTS, FIT_CHARACTERS, FIT_DOCUMENT_CHARACTERS = 50_000, 1 << 25, 1 << 20
# Documents that are cut together while they are fitted to.
FIT_BATCH_DOCUMENTS = 64


@dataclass(frozen=True)
class FitSample:
    """The texts that an embedder is fitted to."""

    texts: list[str]
    source: Source
    """The input, to be read from its front."""

    def passages(self, embedder: Embedder, size: int, overlap: int) -> Iterator[str]:
        """The texts cut as they will be stored, each different passage once."""
        seen: set[bytes] = set()
        for start in range(0, len(self.texts), FIT_BATCH_DOCUMENTS):
            some = self.texts[start : start + FIT_BATCH_DOCUMENTS]
            nothing = [None] * len(some)
            texts = cut_documents(DocumentBatch(some, nothing, nothing), embedder, size, overlap).texts
            for text, digest in zip(texts, database.text_digests(texts), strict=True):
                if text and digest not in seen:
                    seen.add(digest)
                    yield text


def sample_source(source: Source, report: Report | None) -> FitSample:
    """Texts of an input within `FIT_DOCUMENTS` and `FIT_CHARACTERS`, the same ones each time.

    They are drawn from the whole input, which is read for that once more. An iterator cannot be read twice, and a
    stream of a data set is downloaded as it is read: of these they are the first ones, which are kept and stored later.
    """
    meter = Meter(f"sampling {source.name}", source.unit, report, source.size)
    if is_resumable(source) and not is_streamed(source):
        texts = _drawn_texts(source, meter)
    else:
        source = ahead = ReadAhead(source)
        texts = _first_texts(ahead, meter)
    meter.finish()
    return FitSample(texts, source)


def _drawn_texts(source: Source, meter: Meter) -> list[str]:
    """Each text draws a number, and those with the smallest stay, as many as the bounds allow; in their order."""
    draw, largest = random.Random(0), 1.0
    kept: list[tuple[float, int, str]] = []
    characters = 0
    for batch in source.batches():
        meter.at(batch.position)
        for at, text in zip(batch.numbers, _fit_texts(batch.documents), strict=True):
            if (number := draw.random()) >= largest:
                continue
            heapq.heappush(kept, (-number, at, text))
            characters += len(text)
            while len(kept) > FIT_DOCUMENTS or characters > FIT_CHARACTERS:
                negative, _, dropped = heapq.heappop(kept)
                largest, characters = -negative, characters - len(dropped)
    return [text for _, text in sorted((at, text) for _, at, text in kept)]


def _first_texts(ahead: ReadAhead, meter: Meter) -> list[str]:
    texts: list[str] = []
    records = characters = 0
    for batch in ahead.first():
        meter.at(batch.position)
        lengths = _record_lengths(batch)  # whole records are kept
        end = min(int(np.searchsorted(lengths, FIT_CHARACTERS - characters)), FIT_DOCUMENTS - records, batch.count)
        texts += _fit_texts(batch.slice(0, end).documents)
        records, characters = records + end, characters + int(lengths[end])
        if records >= FIT_DOCUMENTS or characters >= FIT_CHARACTERS:
            break
    return texts


def _fit_texts(documents: DocumentBatch) -> list[str]:
    if documents.known.any():
        text = documents.texts[int(np.argmax(documents.known))]
        raise Conflict(
            f"the text {text[:60]!r} comes with a vector, which an embedder that is still to be fitted cannot "
            "have made: leave the vectors out, or choose the embedder that made them"
        )
    return [text[:FIT_DOCUMENT_CHARACTERS] for text in documents.texts]


def ingest_source(
    writer: Writer, embedder: Embedder, source: Source, recipe: str, *, fatal: bool, report: Report | None
) -> Added:
    """Ingest a whole input, with a commit every few seconds, from where the last attempt stopped."""
    return _SourceIngestion(writer, embedder, source, recipe, fatal, report).run()


class _SourceIngestion:
    """One input on its way into a memory.

    A batch is committed at once. Only those that come with their vectors share a commit for a while, which spares the
    disk: digests have no order, so each commit writes most pages of their index.
    """

    def __init__(
        self, writer: Writer, embedder: Embedder, source: Source, recipe: str, fatal: bool, report: Report | None
    ) -> None:
        self._writer, self._source, self._recipe, self._fatal = writer, source, recipe, fatal
        self._ingester, self._progress = Ingester(writer, embedder), writer.input_progress(recipe)
        self._meter = Meter(f"reading {source.name}", source.unit, report, source.size)
        self._pace = _BatchSizer()
        self._batches = _sized_batches(source.batches(self._progress.next), self._pace)
        self._failure: Exception | None = None
        self._began, self._position = time.monotonic(), 0

    def run(self) -> Added:
        """Everything that is left of the input."""
        added, finished = Added(), self._progress.finished
        following = self._next()
        while following is not None:
            shared = following[1].has_all_vectors
            with self._writer.transaction():
                opened = time.monotonic()
                added += self._write(*following)
                while shared and (following := self._next()) is not None:
                    if not following[1].has_all_vectors or time.monotonic() - opened >= BATCH_SECONDS[0]:
                        break
                    added += self._write(*following)
            self._meter.at(self._position)
            if not shared:
                following = self._next()
        if self._failure is not None:
            raise self._failure
        with self._writer.transaction():
            self._writer.remember_input(self._recipe, self._source.name, replace(self._progress, finished=True))
        self._meter.finish()
        return added if finished else replace(added, empty=self._source.empty)

    def _next(self) -> tuple[RecordBatch, IngestBatch] | None:
        """The next batch, prepared. An error waits until what was before it is committed."""
        self._began = time.monotonic()
        try:
            records = next(self._batches, None)
            if records is None:
                return None
            if records.problems and self._fatal:
                raise BadRecord(f"{records.problems[0].where}: {records.problems[0].problem}")
            return records, self._ingester.prepare(records.documents)
        except Exception as error:  # noqa: BLE001  raised by run()
            self._failure = error
            return None

    def _write(self, records: RecordBatch, prepared: IngestBatch) -> Added:
        told = _complaints(records.problems)
        added = self._ingester.write(prepared) + Added(bad=len(records.problems), complaints=told)
        self._progress = InputProgress(
            next=records.first + records.count,
            documents=self._progress.documents + len(records.documents),
            bad=self._progress.bad + len(records.problems),
            complaints=(self._progress.complaints + told)[:KEPT_COMPLAINTS],
        )
        self._writer.remember_input(self._recipe, self._source.name, self._progress)
        self._position = records.position
        self._pace.adapt(time.monotonic() - self._began)
        return added


def _complaints(problems: Sequence[RecordProblem]) -> tuple[str, ...]:
    return tuple(f"{one.where}: {one.problem}" for one in problems[:KEPT_COMPLAINTS])


class _BatchSizer:
    """The size of a batch, adapted to how long the last ones took.

    In characters, because they are what takes time: a hundred documents may be lines or books.
    """

    def __init__(self) -> None:
        self.characters = INITIAL_BATCH_CHARACTERS

    def adapt(self, seconds: float) -> None:
        if seconds < BATCH_SECONDS[0]:
            self.characters = min(MAX_BATCH_CHARACTERS, self.characters * 2)
        elif seconds > BATCH_SECONDS[1]:
            self.characters = max(MIN_BATCH_CHARACTERS, self.characters // 2)


def _sized_batches(batches: Iterable[RecordBatch], pace: _BatchSizer) -> Iterator[RecordBatch]:
    """The records in batches of the pace's size; each of the batches that were read is cut or joined for that."""
    held: list[RecordBatch] = []
    records = characters = 0
    for read in batches:
        start = 0
        lengths = _record_lengths(read)
        while start < read.count:
            # The record with which the batch has characters enough, or else documents enough.
            enough = int(np.searchsorted(lengths, lengths[start] + pace.characters - characters))
            end = min(max(enough, start + 1), start + MAX_BATCH_DOCUMENTS - records, read.count)
            held.append(read.slice(start, end))
            records, characters = records + end - start, characters + int(lengths[end] - lengths[start])
            if characters >= pace.characters or records >= MAX_BATCH_DOCUMENTS:
                yield RecordBatch.joined(held)
                held, records, characters = [], 0, 0
            start = end
    if held:
        yield RecordBatch.joined(held)


def _record_lengths(batch: RecordBatch) -> IntArray:
    """(count + 1,) the characters of all texts before each record."""
    lengths = np.zeros(batch.count + 1, dtype=np.int64)
    numbers = np.fromiter(batch.numbers, np.int64, len(batch.numbers))
    lengths[numbers - batch.first + 1] = np.fromiter(map(len, batch.documents.texts), np.int64, len(batch.documents))
    return np.cumsum(lengths)
