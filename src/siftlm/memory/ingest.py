"""Ingestion: documents are cut into passages, new passages are embedded, and everything is written.

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
from siftlm.memory.passages import split_passages
from siftlm.memory.reading import ReadAhead, Record, Source, open_source
from siftlm.memory.reading.fields import MAX_METADATA_DEPTH, too_deep
from siftlm.memory.writer import InputProgress, PendingDocument, PendingPassage, StoredText, Writer
from siftlm.progress import Meter, Report
from siftlm.types import Document, Vectors

# Seconds that a batch should take: long enough to be worth a commit, short enough to lose.
BATCH_SECONDS = (2.0, 8.0)
# Characters of a batch: the first one's, and bounds of the later ones'.
INITIAL_BATCH_CHARACTERS, MIN_BATCH_CHARACTERS, MAX_BATCH_CHARACTERS = 1 << 17, 1 << 14, 16 << 20
# Documents of a batch, however short they are.
MAX_BATCH_DOCUMENTS = 4096
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

    def __add__(self, other: Added) -> Added:
        return Added(
            self.documents + other.documents,
            self.passages + other.passages,
            self.duplicates + other.duplicates,
            self.near_duplicates + other.near_duplicates,
            self.bad + other.bad,
            (self.complaints + other.complaints)[:KEPT_COMPLAINTS],
        )


@dataclass
class IngestBatch:
    """Documents that are ready to be written."""

    entries: list[PendingDocument]
    digests: list[list[bytes]]
    """The digests of each entry's parts."""
    texts: list[str]
    """New texts, each once."""
    text_digests: list[bytes]
    embedded: Vectors
    homes: dict[bytes, int]
    """Digest -> row, for texts that are stored already."""
    nearly: dict[bytes, StoredText | bytes] = field(default_factory=dict)
    """Digest -> the stored text that is nearly the same, or the digest of a new one."""
    bands: dict[bytes, list[int]] = field(default_factory=dict)


class Ingester:
    """Prepares batches of documents, and writes them."""

    def __init__(self, writer: Writer, embedder: Embedder) -> None:
        self._writer, self._embedder = writer, embedder
        manifest = writer.manifest
        self._size, self._overlap = manifest.passage_tokens, manifest.overlap

    def prepare(self, documents: Sequence[Document]) -> IngestBatch:
        """Cut and embed the documents, which takes long; reads the database and writes nothing."""
        entries = cut_documents(documents, self._embedder, self._size, self._overlap)
        digests = [[database.text_digest(part.text) for part in entry.parts] for entry in entries]
        first: dict[bytes, tuple[str, Vectors | None]] = {}
        for document, entry, own in zip(documents, entries, digests, strict=True):
            for part, digest in zip(entry.parts, own, strict=True):
                first.setdefault(digest, (part.text, document.vector))
        homes = self._writer.known(list(first))
        new = {digest: content for digest, content in first.items() if digest not in homes}
        nearly, bands = self._near(new)
        fresh = [(digest, *content) for digest, content in new.items() if digest not in nearly]
        return IngestBatch(
            entries=entries,
            digests=digests,
            texts=[text for _, text, _ in fresh],
            text_digests=[digest for digest, _, _ in fresh],
            embedded=self._embed([text for _, text, _ in fresh], [vector for _, _, vector in fresh]),
            homes=homes,
            nearly=nearly,
            bands=bands,
        )

    def write(self, batch: IngestBatch) -> Added:
        """Write a batch, inside a transaction."""
        writer = self._writer
        rows = writer.append(batch.texts, batch.text_digests, batch.embedded)
        homes = {**batch.homes, **dict(zip(batch.text_digests, rows, strict=True))}
        near: dict[bytes, StoredText] = {}
        for digest, target in batch.nearly.items():
            near[digest] = StoredText(homes[target], True, target) if isinstance(target, bytes) else target
        places = [[near[d] if d in near else StoredText(homes[d], False, d) for d in own] for own in batch.digests]
        writer.place(batch.entries, places)
        writer.remember_bands({homes[digest]: keys for digest, keys in batch.bands.items()})
        passages = sum(len(own) for own in batch.digests)
        near_ones = sum(stand.near for own in places for stand in own)
        return Added(len(batch.entries), len(rows), passages - near_ones - len(rows), near_ones)

    def _near(
        self, new: Mapping[bytes, tuple[str, Any]]
    ) -> tuple[dict[bytes, StoredText | bytes], dict[bytes, list[int]]]:
        """The new texts that are nearly there already, in the database or earlier in the batch; the others' keys."""
        near, nearly, kept = self._writer.near, {}, {}
        if near is None or not new:
            return {}, {}
        holders: dict[int, list[bytes]] = {}
        stored = near.bands([text for text, _ in new.values()])
        for (digest, (text, _)), keys in zip(new.items(), stored.tolist(), strict=True):
            target = self._nearest(text, keys, holders, new)
            if target is not None:
                nearly[digest] = target
                continue
            kept[digest] = keys
            for key in keys:
                holders.setdefault(key, []).append(digest)
        return nearly, kept

    def _nearest(
        self, text: str, keys: Sequence[int], holders: Mapping[int, list[bytes]], new: Mapping[bytes, tuple[str, Any]]
    ) -> StoredText | bytes | None:
        near = self._writer.near
        if near is None:
            return None
        for row, other in self._writer.banded(keys):
            if near.similarity(text, other) >= near.threshold:
                return StoredText(row, True, database.text_digest(other))
        for digest in dict.fromkeys(d for key in keys for d in holders.get(key, ())):
            if near.similarity(text, new[digest][0]) >= near.threshold:
                return digest
        return None

    def _embed(self, texts: Sequence[str], known: Sequence[Vectors | None]) -> Vectors:
        """(n, d) at unit length."""
        width = self._writer.manifest.width
        unknown = [at for at, vector in enumerate(known) if vector is None]
        if len(unknown) == len(texts):
            embedded = vectors.embed_checked(self._embedder, texts, width)
        else:
            embedded = np.stack(
                [np.zeros(width) if vector is None else _check_width(vector, width) for vector in known]
            )
            if unknown:
                embedded[unknown] = vectors.embed_checked(self._embedder, [texts[at] for at in unknown], width)
        scaled = vectors.unit_rows(embedded)
        if np.isnan(scaled).any():
            at = int(np.argmax(np.isnan(scaled).any(axis=1)))
            raise InvalidInput(f"the vector of the text {texts[at][:60]!r} is zero or not finite: it has no direction")
        return scaled


def cut_documents(documents: Sequence[Document], embedder: Embedder, size: int, overlap: int) -> list[PendingDocument]:
    """The documents cut into passages; a text has no more tokens than characters, so short ones are not counted."""
    long = [d.text for d in documents if d.vector is None and len(d.text) > size]
    tokens = iter(embedder.tokens(long) if long else [])
    entries = []
    for document in documents:
        text = document.text
        if document.vector is None and len(text) > size:
            spans = split_passages(text, next(tokens), size=size, overlap=overlap)
            parts = [PendingPassage(text[span.start : span.end], span.start) for span in spans]
        else:
            tail = text.lstrip()
            parts = [PendingPassage(tail.rstrip(), len(text) - len(tail))]
        entries.append(PendingDocument(document.id, _meta_of(document) if document.meta else None, parts))
    return entries


def _check_width(vector: Vectors, width: int) -> Vectors:
    array = np.asarray(vector)
    if array.shape != (width,):
        raise InvalidInput(f"a vector has shape {array.shape}, and the memory holds vectors of width {width}")
    return array


def _meta_of(document: Document) -> str | None:
    try:
        return meta_json(document.meta)
    except InvalidInput as error:
        raise InvalidInput(f"of the text {document.text[:60]!r}: {error}") from error.__cause__


def meta_json(meta: Mapping[str, Any]) -> str | None:
    """Metadata as they are stored; None where there are none."""
    if not meta:
        return None
    try:
        text = json.dumps(meta, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
        deep = too_deep(meta)
    except RecursionError:
        deep = True
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"metadata must be what JSON can hold: {error}") from error
    if deep:
        raise InvalidInput(f"metadata is nested too deeply, in more than {MAX_METADATA_DEPTH} levels")
    return text


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
            documents = [Document(text) for text in self.texts[start : start + FIT_BATCH_DOCUMENTS]]
            for entry in cut_documents(documents, embedder, size, overlap):
                for part in entry.parts:
                    digest = database.text_digest(part.text)
                    if part.text and digest not in seen:
                        seen.add(digest)
                        yield part.text


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
    for record in source.read():
        meter.at(record.position)
        if record.document is None or (number := draw.random()) >= largest:
            continue
        text = _fit_text(record.document)
        heapq.heappush(kept, (-number, record.number, text))
        characters += len(text)
        while len(kept) > FIT_DOCUMENTS or characters > FIT_CHARACTERS:
            negative, _, dropped = heapq.heappop(kept)
            largest, characters = -negative, characters - len(dropped)
    return [text for _, text in sorted((at, text) for _, at, text in kept)]


def _first_texts(ahead: ReadAhead, meter: Meter) -> list[str]:
    texts: list[str] = []
    characters = 0
    for records, record in enumerate(ahead.first(), 1):
        meter.at(record.position)
        if record.document is not None:
            texts.append(_fit_text(record.document))
            characters += len(record.document.text)  # the whole record is kept
        if records >= FIT_DOCUMENTS or characters >= FIT_CHARACTERS:
            break
    return texts


def _fit_text(document: Document) -> str:
    if document.vector is not None:
        raise Conflict(
            f"the text {document.text[:60]!r} comes with a vector, which an embedder that is still to be fitted cannot "
            "have made: leave the vectors out, or choose the embedder that made them"
        )
    return document.text[:FIT_DOCUMENT_CHARACTERS]


def ingest_source(
    writer: Writer, embedder: Embedder, source: Source, recipe: str, *, fatal: bool, report: Report | None
) -> Added:
    """Ingest a whole input, with a commit every few seconds, from where the last attempt stopped."""
    ingester, progress = Ingester(writer, embedder), writer.input_progress(recipe)
    meter = Meter(f"reading {source.name}", source.unit, report, source.size)
    added = Added()
    pace = _BatchSizer()
    for records in _batches(source.read(progress.next), pace):
        began = time.monotonic()
        records = [_reject_zero_vector(record) for record in records]
        documents = [record.document for record in records if record.document is not None]
        wrong = [record for record in records if record.document is None]
        if wrong and fatal:
            raise BadRecord(f"{wrong[0].where}: {wrong[0].problem}")
        batch = ingester.prepare(documents)
        progress = _advance_progress(progress, records, wrong)
        with writer.transaction():
            added += ingester.write(batch) + Added(bad=len(wrong), complaints=_complaints(wrong))
            writer.remember_input(recipe, source.name, progress)
        meter.at(records[-1].position)
        pace.adapt(time.monotonic() - began)
    with writer.transaction():
        writer.remember_input(recipe, source.name, replace(progress, finished=True))
    meter.finish()
    return added


def _reject_zero_vector(record: Record) -> Record:
    """The record, or a bad one where its vector is zero: that is no reason to stop."""
    vector = None if record.document is None else record.document.vector
    if vector is None or not np.isnan(vectors.unit_rows(np.atleast_2d(vector))).any():
        return record
    return replace(record, document=None, problem="the vector is zero or not finite: it has no direction")


def _complaints(wrong: Sequence[Record]) -> tuple[str, ...]:
    return tuple(f"{record.where}: {record.problem}" for record in wrong[:KEPT_COMPLAINTS])


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


def _batches(records: Iterable[Record], pace: _BatchSizer) -> Iterator[list[Record]]:
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.document.text) if record.document is not None else 0
        if characters >= pace.characters or len(batch) >= MAX_BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _advance_progress(progress: InputProgress, records: Sequence[Record], wrong: Sequence[Record]) -> InputProgress:
    return InputProgress(
        next=records[-1].number + 1,
        documents=progress.documents + len(records) - len(wrong),
        bad=progress.bad + len(wrong),
        complaints=(progress.complaints + _complaints(wrong))[:KEPT_COMPLAINTS],
    )
