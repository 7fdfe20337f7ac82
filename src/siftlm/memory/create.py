"""Creating the folder of a new memory, with an embedder that is fitted for it; and checking its settings."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from siftlm.embedding.lexical import LEXICAL, UNFITTED_MESSAGE, LexicalEmbedder, UnfittedLexicalEmbedder
from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, Damaged, InvalidInput, NotAMemory, SiftlmError, WrongEmbedder, setting
from siftlm.extras import load
from siftlm.memory import database, durability, ingest, keywords, manifest, vectors
from siftlm.memory.manifest import Manifest
from siftlm.memory.reading import Source
from siftlm.progress import Report
from siftlm.types import IntArray, Vectors
from siftlm.validation import choice, flag, number, whole_number

# Tokens of a passage where neither the caller nor the embedder sets a limit.
DEFAULT_PASSAGE_TOKENS = 256
# One in eight tokens of a passage is also in the next.
DEFAULT_OVERLAP_DIVISOR = 8
# The folder of an embedder that was fitted to the memory's own texts.
FITTED_FOLDER = "embedder"
# The names that a build leaves in a folder before there is a manifest.
UNFINISHED_NAMES = re.compile(
    rf"{manifest.GENERATION_NAME.pattern}|{re.escape(durability.LOCK_FILE)}|{re.escape(manifest.MANIFEST_FILE)}\.new"
)


def new_manifest(
    embedder: Embedder,
    *,
    storage: str,
    passage_tokens: int | None,
    overlap: int | None,
    full_text: bool,
    near_duplicates: float | None,
) -> Manifest:
    """The manifest of a memory with these settings."""
    size = _passage_tokens(passage_tokens, embedder)
    return Manifest(
        embedder=embedder.name,
        embedder_settings=dict(embedder.settings),
        fingerprint=embedder.fingerprint,
        width=int(embedder.width),
        storage=choice("storage", storage, vectors.STORAGES),
        passage_tokens=size,
        overlap=_overlap(overlap, size),
        full_text=flag("full_text", full_text),
        near_duplicates=None
        if near_duplicates is None
        else number("near_duplicates", near_duplicates, above=0, most=1),
        tokenizer=keywords.SPACED,
    )


@dataclass(frozen=True)
class FirstPass:
    """What a build goes on with."""

    embedder: Embedder
    source: Source
    """The input, to be read from its front."""


def first_pass(path: Path, source: Source, settings: Mapping[str, Any], report: Report | None) -> FirstPass:
    """Fit an embedder that has to be fitted to what is indexed. Any other is ready, and nothing is read.

    Nothing is written yet: a build that is killed here begins anew, and makes the same embedder.
    """
    embedder = settings["embedder"]
    if not isinstance(embedder, UnfittedLexicalEmbedder):
        return FirstPass(embedder, source)
    # Everything that would stop the build later stops it now.
    load("scipy.sparse", "lexical")
    new = new_manifest(**settings)
    check_free(path)
    sample = ingest.sample_source(source, report)
    if not sample.texts:
        raise InvalidInput(f"{source.name}: holds no text that the embedder {LEXICAL!r} could be fitted to")
    fitted = embedder.fit(sample.passages(embedder, new.passage_tokens, new.overlap), report)
    return FirstPass(fitted, sample.source)


def check_bad(bad: str) -> None:
    """Raise unless this says what to do with bad records."""
    if bad not in ("skip", "fail"):
        raise InvalidInput(f"{setting('bad')} must be 'skip' or 'fail', got {bad!r}")


def check_free(path: Path) -> None:
    """Raise unless a memory can be created in this folder."""
    _check_no_memory(path)
    if path.exists() and not path.is_dir():
        raise NotAMemory(f"{path}: is a file, and a memory is a folder")
    names = os.listdir(path) if path.exists() else []
    # Of an attempt that was killed, which has the lock's file as well.
    left = {FITTED_FOLDER} if durability.LOCK_FILE in names else set()
    foreign = [name for name in names if not UNFINISHED_NAMES.fullmatch(name) and name not in left]
    if foreign:
        raise Conflict(f"{path}: is not empty (it holds {foreign[0]!r}); choose another folder")


def create_folder(path: Path, new: Manifest, embedder: Embedder) -> None:
    """Create the folder. It becomes a memory with its manifest, which is written last."""
    if isinstance(embedder, UnfittedLexicalEmbedder):
        raise InvalidInput(UNFITTED_MESSAGE)
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    with durability.writer_lock(path, "create"):
        _check_no_memory(path)  # another process may have created it meanwhile
        folder = new.folder(path)
        if folder.exists():  # of an attempt that was killed before there was a manifest
            for file in folder.iterdir():
                file.unlink()
        folder.mkdir(exist_ok=True)
        database.create_database(folder, full_text=new.full_text)
        form = vectors.VectorFormat(new.storage, new.width)
        (folder / form.file_name).touch()
        durability.sync_folder(folder)
        fitted = path / FITTED_FOLDER
        shutil.rmtree(fitted, ignore_errors=True)
        if isinstance(embedder, LexicalEmbedder) and new.embedder == LEXICAL:
            embedder.save(fitted)
            manifest.sync_files(fitted)
        durability.sync_folder(path)
        manifest.write_manifest(path, _with_origin(new))


def check_same_build(path: Path, known: Manifest, new: Manifest, inputs: Mapping[str, str], source: Source) -> None:
    """Raise unless this is the call that built the memory: then it goes on, or is done already.

    ``inputs`` are the names of those that were read, by their recipes.
    """
    for name in ("storage", "passage_tokens", "overlap", "full_text", "near_duplicates"):
        if getattr(known, name) != getattr(new, name):
            built = setting(name, getattr(known, name))
            raise Conflict(f"{path}: was built with {built}, not {getattr(new, name)!r}")
    if inputs and ingest.source_recipe(source) not in inputs:
        names = ", ".join(sorted(inputs.values()))
        raise Conflict(
            f"{path}: already holds {names}; this is another input, or the same after a change (a file is "
            "known by its path, size and time of change): "
            "use siftlm index --append (in Python: Memory.ingest) to add to it, or another folder"
        )


def _check_no_memory(path: Path) -> None:
    if (path / manifest.MANIFEST_FILE).exists():
        raise Conflict(f"{path}: is a memory already; open it with Memory.open, or choose another folder")


def _with_origin(new: Manifest) -> Manifest:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return replace(new, created=now, made_by=f"siftlm {version('siftlm')}")


def matching_embedder(embedder: Embedder, known: Manifest, path: Path) -> Embedder:
    """The embedder, if it is the one that the memory was built with; one that was fitted for it is read from it."""
    if (
        isinstance(embedder, UnfittedLexicalEmbedder)
        and known.embedder == LEXICAL
        and embedder.requested_width in (None, known.width)
    ):
        embedder = fitted_embedder(path)
    if embedder.fingerprint == known.fingerprint and embedder.width == known.width:
        return embedder
    same_name = " of that name, with other weights or settings," if embedder.name == known.embedder else ""
    raise WrongEmbedder(
        f"{path}: was built with embedder {known.embedder!r} ({known.fingerprint}, width {known.width}); "
        f"{embedder.name!r}{same_name} ({embedder.fingerprint}, width {embedder.width}) gives vectors that cannot be "
        "compared"
    )


def fitted_embedder(path: Path) -> LexicalEmbedder:
    """The embedder that was fitted to the memory's texts, and lies in it."""
    try:
        return LexicalEmbedder.read(LEXICAL, path / FITTED_FOLDER)
    except InvalidInput as error:
        raise Damaged(f"{path}: its embedder is gone: {error}") from error


class SuppliedVectors:
    """The memory's embedder where every text comes with its vector, so that the model need not be there."""

    def __init__(self, known: Manifest) -> None:
        self.name, self.settings, self.fingerprint = known.embedder, known.embedder_settings, known.fingerprint
        self.width, self.max_tokens = known.width, None

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:  # noqa: ARG002
        """Never called."""
        raise SiftlmError(f"{len(texts)} texts have no vectors")

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Never called."""
        raise SiftlmError(f"{len(texts)} texts have no vectors")


def _passage_tokens(passage_tokens: Any, embedder: Embedder) -> int:
    if passage_tokens is None:
        return min(DEFAULT_PASSAGE_TOKENS, embedder.max_tokens or DEFAULT_PASSAGE_TOKENS)
    tokens = whole_number("passage_tokens", passage_tokens)
    if embedder.max_tokens is not None and tokens > embedder.max_tokens:
        raise InvalidInput(
            f"{setting('passage_tokens', tokens)}, but embedder {embedder.name!r} reads {embedder.max_tokens} tokens: "
            "the end of each passage would not count"
        )
    return tokens


def _overlap(overlap: Any, size: int) -> int:
    if overlap is None:
        return size // DEFAULT_OVERLAP_DIVISOR
    if whole_number("overlap", overlap, least=0) > size // 2:
        half = f"at most half of {setting('passage_tokens')} ({size})"
        raise InvalidInput(f"{setting('overlap')} must be {half}, got {overlap!r}")
    return int(overlap)
