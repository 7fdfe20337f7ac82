"""The memory: texts and their vectors in a folder, built once, searched often, never half-written."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding import DEFAULT_EMBEDDER
from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder, EmbedderSource
from siftlm.errors import InvalidInput, MissingExtra
from siftlm.memory import ann, ann_build, durability, ingest, inputs, manifest, reading
from siftlm.memory import writer as writing
from siftlm.memory.ann import IndexDescription
from siftlm.memory.create import (
    SuppliedVectors,
    check_bad,
    check_same_build,
    create_folder,
    first_pass,
    matching_embedder,
    new_manifest,
)
from siftlm.memory.ingest import Added
from siftlm.memory.maintenance import Compacted, Info, collect_info, compact
from siftlm.memory.manifest import Manifest
from siftlm.memory.redundancy import Redundancy
from siftlm.memory.redundancy import redundancy as redundancy_of
from siftlm.memory.request import FilterInput, deletion_condition, parse_filter
from siftlm.memory.searcher import Searcher
from siftlm.memory.snapshot import Snapshot, SnapshotPool
from siftlm.memory.store import Listed
from siftlm.memory.verify import Verification, verify
from siftlm.memory.writer import Deleted
from siftlm.progress import Report, reporter
from siftlm.types import IntArray, Vectors
from siftlm.validation import whole_number

# Documents that `Memory.add` embeds at a time.
EMBED_BATCH_DOCUMENTS = 4096


class Memory(Searcher):
    """Texts and their vectors on disk; `Memory.build`, `Memory.create` or `Memory.open` make one.

    Any number of processes and threads may search it while one at a time writes. A search sees the memory as
    it was when the search began.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> memory = Memory.create(folder.name + "/memory")
    >>> memory.add(["The age of Michael Jordan is 61 years.", "Michael Jordan has five children."]).passages
    2
    >>> [hit.text for hit in memory.search("How old is Michael Jordan?", n=1)]
    ['The age of Michael Jordan is 61 years.']
    >>> memory.close(); folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, embedder: EmbedderSource | None = None) -> None:
        # Absolute: a later change of the working directory must not change the folder.
        self._path = Path(path).absolute()
        if manifest.outdated(self._path):
            manifest.upgrade(self._path)
        self._pool = SnapshotPool(self._path)
        self._embedder: Embedder | None = None
        self.ingested: Added | None = None
        """What the last `build` or `ingest` of this object added; None before."""
        # Pickled with the memory; a named one is made again from its name.
        self._own_embedder = None if isinstance(embedder, str) else embedder
        if embedder is not None:
            self._embedder = matching_embedder(make_embedder(embedder), self._pool.manifest, self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), embedder=self._own_embedder), (self._path,)

    # --- creating one

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, embedder: EmbedderSource | None = None) -> Memory:
        """Open a memory.

        Args:
            path: its folder.
            embedder: left out, the one that it was built with is made from the manifest when a text must be
                embedded. Another one is an error: its vectors could not be compared.
        """
        return cls(path, embedder=embedder)

    @classmethod
    def create(
        cls,
        into: str | os.PathLike[str],
        *,
        embedder: EmbedderSource = DEFAULT_EMBEDDER,
        storage: str = "float32",
        passage_tokens: int | None = None,
        overlap: int | None = None,
        full_text: bool = True,
        near_duplicates: float | None = None,
    ) -> Memory:
        """Create an empty memory.

        Args:
            into: its folder, which must not exist yet, or be empty.
            embedder: a name, such as ``static`` (the default: numpy alone), ``hashing``, ``sentence-transformers/…``,
                or any Hugging Face encoder; an `Embedder`; a function of a list of texts; or LangChain's
                ``Embeddings``. It is the memory's for good. ``lexical`` needs texts to be fitted to: see `build`.
            storage: ``float32``, ``float16`` (half the size) or ``int8`` (a quarter).
            passage_tokens: longer texts are cut; left out, what the embedder reads, and at most 256.
            overlap: tokens that neighbouring passages share; left out, an eighth of a passage.
            full_text: also index the words, for ``candidates="words"`` and ``"both"``.
            near_duplicates: a similarity from 0 to 1; texts that are so similar to a stored one are counted with it
                and not stored again. Left out, only equal texts are.
        """
        made_embedder = make_embedder(embedder)
        new = new_manifest(
            made_embedder,
            storage=storage,
            passage_tokens=passage_tokens,
            overlap=overlap,
            full_text=full_text,
            near_duplicates=near_duplicates,
        )
        path = Path(into)
        with durability.translate_write_errors(path):
            create_folder(path, new, made_embedder)
        memory = cls(path, embedder=made_embedder)
        memory._own_embedder = None if isinstance(embedder, str) else embedder
        return memory

    @classmethod
    def build(
        cls,
        corpus: Any,
        into: str | os.PathLike[str],
        *,
        embedder: EmbedderSource | None = None,
        bad: str = "skip",
        progress: bool | Report | None = None,
        storage: str = "float32",
        passage_tokens: int | None = None,
        overlap: int | None = None,
        full_text: bool = True,
        near_duplicates: float | None = None,
        **reading_settings: Any,
    ) -> Memory:
        """Create a memory and ingest a corpus; the same call again goes on where a killed one stopped.

        Args:
            corpus: files, folders, Hugging Face data sets or any iterable: see `siftlm.memory.reading.open_source`,
                which also takes the settings that are not named here (``text=``, ``meta=``, ``id=``, ``vector=``, …).
            into: the memory's folder.
            embedder: see `create`; ``lexical`` is first fitted to a sample. Left out where there is a memory: its own.
            storage, passage_tokens, overlap, full_text, near_duplicates: see `create`.
            bad: ``skip`` bad records and count them, or ``fail`` at the first.
            progress: ``True`` draws it, ``False`` does not, a function receives it; left out: if a person is watching.
        """
        check_bad(bad)
        source = ingest.open_corpus(corpus, reading_settings)
        path = Path(into)
        there = (path / manifest.MANIFEST_FILE).exists()
        own = cls.open(path).embedder if there and embedder is None else None
        made_embedder = own or make_embedder(embedder or DEFAULT_EMBEDDER)
        settings: dict[str, Any] = {
            "embedder": made_embedder,
            "storage": storage,
            "passage_tokens": passage_tokens,
            "overlap": overlap,
            "full_text": full_text,
            "near_duplicates": near_duplicates,
        }
        if there:
            memory = cls.open(path, embedder=made_embedder)
            with memory._pool.snapshot() as snapshot:
                check_same_build(path, memory.manifest, new_manifest(**settings), snapshot.inputs(), source)
        else:
            first = first_pass(path, source, settings, reporter(progress))
            source, settings["embedder"] = first.source, first.embedder
            memory = cls.create(path, **settings)
        memory._own_embedder = None if isinstance(embedder, str) else embedder
        memory._ingest_source(source, ingest.source_recipe(source), bad=bad, progress=progress)
        return memory

    # --- reading it

    @property
    def path(self) -> Path:
        """The memory's folder."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """The settings that all of its texts and vectors share."""
        return self._pool.manifest

    @property
    def embedder(self) -> Embedder:
        """The embedder: made from the manifest, unless the memory was opened with one."""
        if self._embedder is None:
            known = self._pool.manifest
            made = make_embedder(known.embedder, **known.embedder_settings)
            self._embedder = matching_embedder(made, known, self._path)
        return self._embedder

    def __len__(self) -> int:
        """The number of passages, each counted once however often it was added."""
        with self._pool.snapshot() as snapshot:
            return len(snapshot)

    def __repr__(self) -> str:
        known = self._pool.manifest
        return f"<Memory {str(self._path)!r}: {len(self):,} passages, {known.embedder}, {known.storage}>"

    def info(self) -> Info:
        """Counts, sizes, settings, inputs, and what the metadata of a sample of its documents look like."""
        return collect_info(self._path)

    def rows(self, where: FilterInput = None) -> IntArray:
        """The rows of all passages, or of those that meet a filter, in ascending order."""
        with self._pool.snapshot() as snapshot:
            allowed = snapshot.allowed(parse_filter(where))
            return np.arange(snapshot.view.rows) if allowed is None else np.flatnonzero(allowed)

    @property
    def version(self) -> str:
        """Changed by each `add`, `delete` and `compact`: results from an older version may be out of date."""
        with self._pool.snapshot() as snapshot:
            return f"{snapshot.manifest.generation}.{snapshot.view.version}"

    def documents(self, after: int = -1, limit: int = 100) -> list[Listed]:
        """The next documents by their numbers, each with its beginning; ``after`` is the last number that was seen."""
        after, limit = whole_number("after", after, least=-1), whole_number("limit", limit)
        with self._pool.snapshot() as snapshot:
            return snapshot.documents(after, limit)

    def texts(self, rows: npt.ArrayLike) -> list[str]:
        """The texts of these rows, in their order."""
        with self._pool.snapshot() as snapshot:
            return snapshot.texts(inputs.existing_rows(rows, snapshot).tolist())

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """The vectors of these rows, (len(rows), d) float32 of unit length."""
        with self._pool.snapshot() as snapshot:
            return snapshot.vectors(inputs.existing_rows(rows, snapshot))

    def redundancy(
        self,
        sample: int = 10_000,
        *,
        neighbours: int = 5,
        threshold: float = 0.9,
        seed: int = 0,
        progress: bool | Report | None = None,
    ) -> Redundancy:
        """How often passages nearly repeat each other, and so whether diversity matters here.

        Args:
            sample: how many random passages are compared with each other. Larger samples find more, so compare
                memories by samples of equal size.
            neighbours: how many others in the sample make a passage redundant.
            threshold: the cosine above which others count.
            seed: of the sample.
            progress: as for `build`.
        """
        with self._pool.snapshot() as snapshot:
            rows, report = self.rows(), reporter(progress)
            return redundancy_of(
                snapshot, rows, sample, neighbours=neighbours, threshold=threshold, seed=seed, report=report
            )

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The memory at this moment, for several reads that must agree; it does not change inside the block."""
        with self._pool.snapshot() as snapshot:
            yield snapshot

    # --- searching: search and search_many, as `Searcher` has them

    @property
    def width(self) -> int:
        """d, the width of the vectors."""
        return self._pool.manifest.width

    def _store(self) -> AbstractContextManager[Snapshot]:
        return self._pool.snapshot()

    # --- changing it

    def add(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: npt.ArrayLike | None = None,
        wait: float = 0.0,
    ) -> Added:
        """Add texts, all of them or (if anything goes wrong) none.

        Args:
            texts: long ones are cut into passages, equal ones stored once.
            metadata: one dict a text, of whatever JSON can hold; dates become strings, numpy's numbers plain ones.
            ids: the caller's own names, to find or delete the texts by (``where={"@id": …}``).
            vectors: (len(texts), d), where they are known already; the texts are then not cut.
            wait: seconds to wait while another process writes.
        """
        documents = inputs.InputDocuments(texts, metadata, ids, vectors)
        added = Added()
        if not len(documents):
            return added
        embedder = self._writing_embedder(documents.vectors is None)
        with writing.open_writer(self._path, "add", wait=wait) as writer:
            taking = ingest.Ingester(writer, embedder)
            with writer.transaction():
                for start in range(0, len(documents), EMBED_BATCH_DOCUMENTS):
                    added += taking.write(taking.prepare(documents.slice(start, start + EMBED_BATCH_DOCUMENTS)))
        return added

    def ingest(
        self,
        corpus: Any,
        *,
        bad: str = "skip",
        progress: bool | Report | None = None,
        wait: float = 0.0,
        **reading_settings: Any,
    ) -> Added:
        """Ingest one more corpus, as `build` does; the same call again goes on where a killed one stopped.

        A file is recognized by its path, size and time of change, a list by its content. A changed input is read as
        a new one, and so is every iterator (`build` skips what it read): texts already there are counted, not stored.

        Args:
            corpus, bad, progress: see `build`.
            wait: seconds to wait while another process writes.
            **reading_settings: see `siftlm.memory.reading.open_source`.
        """
        source = ingest.open_corpus(corpus, reading_settings)
        recipe = ingest.source_recipe(source)
        if not ingest.is_resumable(source):
            recipe = f"{recipe} {uuid.uuid4().hex}"
        return self._ingest_source(source, recipe, bad=bad, progress=progress, wait=wait)

    def delete(self, where: FilterInput = None, *, numbers: Sequence[int] | None = None, wait: float = 0.0) -> Deleted:
        """Delete the documents that meet a filter, or those of these numbers (see `documents`).

        No search finds them any more. A text that other documents share stays until the last of them is deleted.
        Deleted texts leave the disk with the next `compact`.
        """
        sql = deletion_condition(where, numbers)
        with writing.open_writer(self._path, "delete", wait=wait) as writer, writer.transaction():
            return writer.delete(sql.condition, sql.parameters)

    def compact(self, *, progress: bool | Report | None = None, wait: float = 0.0) -> Compacted:
        """Remove deleted data from the disk.

        Everything else is copied, which needs as much free space again. Rows get new numbers; documents keep theirs.
        Searches go on meanwhile. An index is built again.
        """
        known = self._pool.manifest
        with self._pool.snapshot() as snapshot:
            index = ann.index_state(known.folder(self._path), known, snapshot.view.rows)
        done = compact(self._path, reporter(progress), wait=wait)
        moved = self._pool.manifest.generation != known.generation
        if moved and index is not None and index.kind is not None and done.passages:
            with contextlib.suppress(MissingExtra):  # without FAISS the index is of no use
                fitting = ann_build.settings_for_fewer(index.settings, done.passages)
                self.build_index(index.kind, progress=progress, wait=wait, **fitting)
        return done

    def build_index(
        self, kind: str = "ivf", *, progress: bool | Report | None = None, wait: float = 0.0, **settings: int
    ) -> IndexDescription:
        """Build a FAISS index, for when scans take too long; an index that is there is replaced.

        Searches use it from then on, but for those with ``exact=True``. Later passages are found by a scan of just
        those, until the next `build_index`; a compaction builds the index again.

        Args:
            kind: ``ivf`` looks into the lists whose centres are nearest, ``hnsw`` follows a graph of neighbours
                (faster to search, slower to build, and larger), ``flat`` looks at every vector.
            progress: as for `build`.
            wait: seconds to wait while another process writes.
            **settings: as FAISS names them: ``nlist`` and ``nprobe``, or ``M``, ``efConstruction`` and
                ``efSearch``; what is left out suits the number of passages.
        """
        checked = ann_build.check_index_settings(kind, settings)
        with writing.open_writer(self._path, "build an index", wait=wait) as writer:
            return ann_build.build_index(writer, checked, settings, reporter(progress))

    def drop_index(self, *, wait: float = 0.0) -> bool:
        """Remove the index; True if there was one."""
        with writing.open_writer(self._path, "drop the index", wait=wait) as writer:
            return ann.drop_index(writer.folder)

    def note_calibration(self, name: str, record: Mapping[str, Any], *, wait: float = 0.0) -> None:
        """Store the result of `siftlm.calibrate` for a model, in place of an earlier one.

        Args:
            name: the model's name.
            record: its ``settings``, and the evidence; whatever JSON can hold.
            wait: seconds to wait while another process writes.
        """
        try:
            kept = json.loads(json.dumps(dict(record), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the calibration of {name!r} cannot be written down as JSON: {error}") from error
        with writing.open_writer(self._path, "note a calibration", wait=wait) as writer:
            known = writer.manifest
            manifest.write_manifest(self._path, replace(known, calibration={**known.calibration, name: kept}))

    def verify(self, *, progress: bool | Report | None = None) -> Verification:
        """Compare every text, document and vector with what was written."""
        return verify(self._path, reporter(progress))

    def close(self) -> None:
        """Close all files; using the memory again opens them again."""
        self._pool.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside

    def _writing_embedder(self, needed: bool) -> Embedder:
        # Where all vectors are given, the model need not be there.
        return self.embedder if needed or self._embedder is not None else SuppliedVectors(self._pool.manifest)

    def _ingest_source(
        self, source: reading.Source, recipe: str, *, bad: str, progress: bool | Report | None, wait: float = 0.0
    ) -> Added:
        check_bad(bad)
        with writing.open_writer(self._path, f"reading {source.name}", wait=wait) as writer:
            fatal, report = bad == "fail", reporter(progress)
            self.ingested = ingest.ingest_source(writer, self.embedder, source, recipe, fatal=fatal, report=report)
        return self.ingested
