"""A memory: texts and their vectors in a folder, built once, searched often, never half-written."""

from __future__ import annotations

import contextlib
import inspect
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

from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, InvalidInput, MissingExtra, SiftlmError, UnknownName, setting
from siftlm.memory import ann, ann_build, durability, ingest, inputs, manifest, reading
from siftlm.memory import writer as writing
from siftlm.memory.ann import Description
from siftlm.memory.create import create_folder, matching_embedder, new_manifest
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

    def __init__(self, path: str | os.PathLike[str], *, embedder: str | Embedder | None = None) -> None:
        # Absolute: whoever changes the working directory later still means this folder.
        self._path = Path(path).absolute()
        if manifest.outdated(self._path):
            manifest.upgrade(self._path)
        self._readers = SnapshotPool(self._path)
        self._embedder: Embedder | None = None
        # Pickled along; one that was named is made again from its name.
        self._own_embedder = None if isinstance(embedder, str) else embedder
        if embedder is not None:
            self._embedder = matching_embedder(make_embedder(embedder), self._readers.manifest, self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), embedder=self._own_embedder), (self._path,)

    # --- making one

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, embedder: str | Embedder | None = None) -> Memory:
        """A memory that is there.

        Args:
            path: of its folder.
            embedder: left out, the one that it was built with is made from the manifest when a text must be
                embedded. Another one is an error: its vectors could not be compared.
        """
        return cls(path, embedder=embedder)

    @classmethod
    def create(
        cls,
        into: str | os.PathLike[str],
        *,
        embedder: str | Embedder = "hashing",
        storage: str = "float32",
        passage_tokens: int | None = None,
        overlap: int | None = None,
        full_text: bool = True,
        near_duplicates: float | None = None,
    ) -> Memory:
        """An empty memory.

        Args:
            into: its folder, which must not be there yet, or be empty.
            embedder: a name, such as ``hashing`` (the default: numpy alone), ``sentence-transformers/…``, or
                any Hugging Face encoder; or an `Embedder`. It is the memory's for good.
            storage: ``float32``, ``float16`` (half the size) or ``int8`` (a quarter).
            passage_tokens: longer texts are cut; left out, what the embedder reads, and at most 256.
            overlap: tokens that neighbouring passages share; left out, an eighth of a passage.
            full_text: also index the words, for ``candidates="words"`` and ``"both"``.
            near_duplicates: a similarity from 0 to 1; texts that share so much with one that is there are not
                stored again but counted with it. Left out, only equal texts are.
        """
        made = make_embedder(embedder)
        wanted = new_manifest(
            made,
            storage=storage,
            passage_tokens=passage_tokens,
            overlap=overlap,
            full_text=full_text,
            near_duplicates=near_duplicates,
        )
        path = Path(into)
        with durability.translate_write_errors(path):
            create_folder(path, wanted)
        memory = cls(path, embedder=made)
        memory._own_embedder = None if isinstance(embedder, str) else embedder
        return memory

    @classmethod
    def build(
        cls,
        corpus: Any,
        into: str | os.PathLike[str],
        *,
        embedder: str | Embedder = "hashing",
        bad: str = "skip",
        progress: bool | Report | None = None,
        storage: str = "float32",
        passage_tokens: int | None = None,
        overlap: int | None = None,
        full_text: bool = True,
        near_duplicates: float | None = None,
        **reading_settings: Any,
    ) -> Memory:
        """Create a memory and read a corpus into it; the same call again goes on where a killed one stopped.

        Args:
            corpus: files, folders, Hugging Face data sets or any iterable: see `siftlm.memory.reading.open_source`,
                which also takes the settings that are not named here (``text=``, ``meta=``, ``id=``, ``vector=``, …).
            into: the memory's folder.
            embedder, storage, passage_tokens, overlap, full_text, near_duplicates: see `create`.
            bad: ``skip`` bad records and count them, or ``fail`` at the first.
            progress: draw it (``True``), don't (``False``), hand it to a function, or draw it where a person
                is watching (left out).
        """
        source = _open_corpus(corpus, reading_settings)
        made = make_embedder(embedder)
        path = Path(into)
        settings: dict[str, Any] = {
            "embedder": made,
            "storage": storage,
            "passage_tokens": passage_tokens,
            "overlap": overlap,
            "full_text": full_text,
            "near_duplicates": near_duplicates,
        }
        if (path / manifest.MANIFEST_FILE).exists():
            memory = cls.open(path, embedder=made)
            memory._check_same_build(source, settings)
        else:
            memory = cls.create(path, **settings)
        memory._own_embedder = None if isinstance(embedder, str) else embedder
        memory._read_in(source, _source_recipe(source), bad=bad, progress=progress)
        return memory

    # --- what is in it

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """The settings that all of its texts and vectors share."""
        return self._readers.manifest

    @property
    def embedder(self) -> Embedder:
        """Made from the manifest, unless it was given."""
        if self._embedder is None:
            known = self._readers.manifest
            self._embedder = matching_embedder(
                make_embedder(known.embedder, **known.embedder_settings), known, self._path
            )
        return self._embedder

    def __len__(self) -> int:
        """Passages, each counted once however often it was given."""
        with self._readers.snapshot() as snapshot:
            return len(snapshot)

    def __repr__(self) -> str:
        known = self._readers.manifest
        return f"<Memory {str(self._path)!r}: {len(self):,} passages, {known.embedder}, {known.storage}>"

    def info(self) -> Info:
        """Counts, sizes, settings, inputs, and what the metadata of a sample of its documents look like."""
        return collect_info(self._path)

    def rows(self, where: FilterInput = None) -> IntArray:
        """The rows of all passages, or of those that meet a filter, in ascending order."""
        with self._readers.snapshot() as snapshot:
            allowed = snapshot.allowed(parse_filter(where))
            return np.arange(snapshot.view.rows) if allowed is None else np.flatnonzero(allowed)

    @property
    def version(self) -> str:
        """Another one after each `add`, `delete` and `compact`: what was made from an older one may be out of date."""
        with self._readers.snapshot() as snapshot:
            return f"{snapshot.view.generation}.{snapshot.view.version}"

    def documents(self, after: int = -1, limit: int = 100) -> list[Listed]:
        """The next documents by their numbers, each with how it begins; ``after`` is the last number that was seen."""
        after, limit = whole_number("after", after, least=-1), whole_number("limit", limit)
        with self._readers.snapshot() as snapshot:
            return snapshot.documents(after, limit)

    def texts(self, rows: npt.ArrayLike) -> list[str]:
        """Of these rows, in their order."""
        with self._readers.snapshot() as snapshot:
            return snapshot.texts(inputs.existing_rows(rows, snapshot).tolist())

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """(len(rows), d) float32, of unit length."""
        with self._readers.snapshot() as snapshot:
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
        """How often passages nearly repeat each other: will diversity matter here?

        Args:
            sample: so many random passages are compared with each other, or all if there are fewer. More find
                more, so compare memories by samples of equal size.
            neighbours: from so many others in the sample on a passage counts as redundant.
            threshold: others whose cosine is above this.
            seed: of the sample.
            progress: as for `build`.
        """
        with self._readers.snapshot() as snapshot:
            allowed = snapshot.allowed(None)
            rows = np.arange(snapshot.view.rows) if allowed is None else np.flatnonzero(allowed)
            return redundancy_of(
                snapshot, rows, sample, neighbours=neighbours, threshold=threshold, seed=seed, report=reporter(progress)
            )

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The memory at this moment, for several reads that must agree; it does not change inside the block."""
        with self._readers.snapshot() as snapshot:
            yield snapshot

    # --- searching: search and search_many, as `Searcher` has them

    @property
    def width(self) -> int:
        """d, of its vectors."""
        return self._readers.manifest.width

    def _store(self) -> AbstractContextManager[Snapshot]:
        return self._readers.snapshot()

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
            metadata: one dict a text, of whatever JSON can hold.
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
        """Read one more corpus in, as `build` does; the same call again goes on where a killed one stopped.

        A file is known again by its path, size and time of change, a list by what is in it. After a change all
        that an input gives is read as new, and so is all that an iterator gives: texts that are there already
        are then counted again, and not stored again.

        Args:
            corpus, bad, progress: see `build`.
            wait: seconds to wait while another process writes.
            **reading_settings: see `siftlm.memory.reading.open_source`.
        """
        source = _open_corpus(corpus, reading_settings)
        recipe = _source_recipe(source)
        if not _is_resumable(source):
            recipe = f"{recipe} {uuid.uuid4().hex}"
        return self._read_in(source, recipe, bad=bad, progress=progress, wait=wait)

    def delete(self, where: FilterInput = None, *, numbers: Sequence[int] | None = None, wait: float = 0.0) -> Deleted:
        """Delete the documents that meet a filter, or those of these numbers (see `documents`), which all have one.

        From now on no search finds them. A text that other documents share stays until the last of them is
        gone. What was deleted leaves the disk with the next `compact`.
        """
        sql = deletion_condition(where, numbers)
        with writing.open_writer(self._path, "delete", wait=wait) as writer, writer.transaction():
            return writer.delete(sql.condition, sql.parameters)

    def compact(self, *, progress: bool | Report | None = None, wait: float = 0.0) -> Compacted:
        """Take what was deleted off the disk, and close the gaps.

        Everything that lives is copied, so it needs as much free space again for as long as it takes. Rows get
        new numbers; documents keep theirs. Searches go on meanwhile. An index is built again.
        """
        known = self._readers.manifest
        with self._readers.snapshot() as snapshot:
            index = ann.index_state(known.folder(self._path), known, snapshot.view.rows)
        done = compact(self._path, reporter(progress), wait=wait)
        moved = self._readers.manifest.generation != known.generation
        if moved and index is not None and index.kind is not None and done.passages:
            with contextlib.suppress(MissingExtra):  # without FAISS nobody misses the index
                fitting = ann_build.settings_for_fewer(index.settings, done.passages)
                self.build_index(index.kind, progress=progress, wait=wait, **fitting)
        return done

    def build_index(
        self, kind: str = "ivf", *, progress: bool | Report | None = None, wait: float = 0.0, **settings: int
    ) -> Description:
        """Build a FAISS index, for when scans take too long; an index that is there is replaced.

        Searches use it from then on, unless they are told ``exact=True``. Passages that come later are found by
        a scan of just those, until the next `build_index`; a compaction builds the index again.

        Args:
            kind: ``ivf`` looks into the lists whose centres are nearest, ``hnsw`` follows a graph of neighbours
                (faster to search, slower to build, and larger), ``flat`` looks at every vector.
            progress: draw it (``True``), don't (``False``), hand it to a function, or draw it where a person
                is watching (left out).
            wait: seconds to wait while another process writes.
            **settings: as FAISS names them: ``nlist`` and ``nprobe``, or ``M``, ``efConstruction`` and
                ``efSearch``; what is left out suits the number of passages.
        """
        checked = ann_build.check_index_settings(kind, settings)
        with writing.open_writer(self._path, "build an index", wait=wait) as writer:
            return ann_build.build_index(writer, checked, settings, reporter(progress))

    def drop_index(self, *, wait: float = 0.0) -> bool:
        """Remove the index, if there is one: was there?"""
        with writing.open_writer(self._path, "drop the index", wait=wait) as writer:
            return ann.drop_index(writer.folder)

    def note_calibration(self, name: str, record: Mapping[str, Any], *, wait: float = 0.0) -> None:
        """Write down what `siftlm.calibrate` found for a model; what was known of that model is replaced.

        Args:
            name: of the model.
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
        """Look at every text, document and vector: is it what was written?"""
        return verify(self._path, reporter(progress))

    def close(self) -> None:
        """Let go of all files; using the memory again opens them again."""
        self._readers.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside

    def _writing_embedder(self, needed: bool) -> Embedder:
        # Where all vectors are given, the model need not be there.
        return self.embedder if needed or self._embedder is not None else _SuppliedVectors(self._readers.manifest)

    def _read_in(
        self, source: reading.Source, recipe: str, *, bad: str, progress: bool | Report | None, wait: float = 0.0
    ) -> Added:
        if bad not in ("skip", "fail"):
            raise InvalidInput(f"bad must be 'skip' or 'fail', got {bad!r}")
        with writing.open_writer(self._path, f"reading {source.name}", wait=wait) as writer:
            return ingest.ingest_source(
                writer, self.embedder, source, recipe, fatal=bad == "fail", report=reporter(progress)
            )

    def _check_same_build(self, source: reading.Source, settings: Mapping[str, Any]) -> None:
        """Is this the call that the memory came from? Then it goes on, or is done already."""
        known, asked = self._readers.manifest, new_manifest(**settings)
        for name in ("storage", "passage_tokens", "overlap", "full_text", "near_duplicates"):
            if getattr(known, name) != getattr(asked, name):
                built = setting(name, getattr(known, name))
                raise Conflict(f"{self._path}: was built with {built}, not {getattr(asked, name)!r}")
        with self._readers.snapshot() as snapshot:
            inputs = snapshot.inputs()
        if inputs and _source_recipe(source) not in inputs:
            names = ", ".join(sorted(inputs.values()))
            raise Conflict(
                f"{self._path}: already holds {names}; this is another input, or the same after a change (a file is "
                "known by its path, size and time of change): "
                "use siftlm index --append (in Python: Memory.ingest) to add to it, or another folder"
            )


def _open_corpus(corpus: Any, settings: Mapping[str, Any]) -> reading.Source:
    known = [name for name in inspect.signature(reading.open_source).parameters if name != "corpus"]
    for name in settings:
        if name not in known:
            raise UnknownName("setting of a corpus", name, known)
    return reading.open_source(corpus, **settings)


def _is_resumable(source: reading.Source) -> bool:
    """Is the next call with the same input seen to be that?"""
    return all(part.get("resumable", True) for part in source.identity()["parts"])


def _source_recipe(source: reading.Source) -> str:
    return json.dumps(source.identity(), sort_keys=True, ensure_ascii=False)


class _SuppliedVectors:
    """Stands in for the embedder where every text comes with its vector."""

    def __init__(self, known: Manifest) -> None:
        self.name, self.settings, self.fingerprint = known.embedder, known.embedder_settings, known.fingerprint
        self.width, self.max_tokens = known.width, None

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:  # noqa: ARG002
        """Never called."""
        raise SiftlmError(f"{len(texts)} texts were said to have vectors")

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Never called."""
        raise SiftlmError(f"{len(texts)} texts were said to have vectors")
