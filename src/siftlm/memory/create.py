"""Creating the folder of a new memory, and checking its settings."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, InvalidInput, NotAMemory, SiftlmError, WrongEmbedder, setting
from siftlm.memory import database, durability, manifest, vectors
from siftlm.memory.manifest import Manifest
from siftlm.types import IntArray, Vectors
from siftlm.validation import choice, flag, number, whole_number

# Tokens of a passage where neither the caller nor the embedder sets a limit.
DEFAULT_PASSAGE_TOKENS = 256
# One in eight tokens of a passage is also in the next.
DEFAULT_OVERLAP_DIVISOR = 8
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
    )


def create_folder(path: Path, new: Manifest) -> None:
    """Create the folder. It becomes a memory with its manifest, which is written last."""
    _check_no_memory(path)
    if path.exists() and not path.is_dir():
        raise NotAMemory(f"{path}: is a file, and a memory is a folder")
    foreign = [name for name in os.listdir(path) if not UNFINISHED_NAMES.fullmatch(name)] if path.exists() else []
    if foreign:
        raise Conflict(f"{path}: is not empty (it holds {foreign[0]!r}); choose another folder")
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
        durability.sync_folder(path)
        manifest.write_manifest(path, _with_origin(new))


def _check_no_memory(path: Path) -> None:
    if (path / manifest.MANIFEST_FILE).exists():
        raise Conflict(f"{path}: is a memory already; open it with Memory.open, or choose another folder")


def _with_origin(new: Manifest) -> Manifest:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return replace(new, created=now, made_by=f"siftlm {version('siftlm')}")


def matching_embedder(embedder: Embedder, known: Manifest, path: Path) -> Embedder:
    """The embedder, if it is the one that the memory was built with."""
    if embedder.fingerprint == known.fingerprint and embedder.width == known.width:
        return embedder
    same_name = " of that name, with other weights or settings," if embedder.name == known.embedder else ""
    raise WrongEmbedder(
        f"{path}: was built with embedder {known.embedder!r} ({known.fingerprint}, width {known.width}); "
        f"{embedder.name!r}{same_name} ({embedder.fingerprint}, width {embedder.width}) gives vectors that cannot be "
        "compared"
    )


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
