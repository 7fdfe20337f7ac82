"""Making the folder of a new memory, and checking what it is to be."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, InvalidInput, NotAMemory, WrongEmbedder, setting
from siftlm.memory import database, durability, manifest, vectors
from siftlm.memory.manifest import Manifest
from siftlm.validation import flag, number, whole_number

# Passages of so many tokens where neither the caller nor the embedder says otherwise.
DEFAULT_PASSAGE_TOKENS = 256
# One of eight tokens of a passage is also in the next.
DEFAULT_OVERLAP_DIVISOR = 8
# What a build leaves in a folder before there is a manifest, and nothing else.
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
        storage=vectors.check_storage(storage),
        passage_tokens=size,
        overlap=_overlap(overlap, size),
        full_text=flag("full_text", full_text),
        near_duplicates=None
        if near_duplicates is None
        else number("near_duplicates", near_duplicates, above=0, most=1),
    )


def create_folder(path: Path, wanted: Manifest) -> None:
    """Make the folder. Only with the manifest, which comes last, is it a memory."""
    _check_no_memory(path)
    if path.exists() and not path.is_dir():
        raise NotAMemory(f"{path}: is a file, and a memory is a folder")
    foreign = [name for name in os.listdir(path) if not UNFINISHED_NAMES.fullmatch(name)] if path.exists() else []
    if foreign:
        raise Conflict(f"{path}: is not empty (it holds {foreign[0]!r}); choose another folder")
    path.mkdir(parents=True, exist_ok=True)
    with durability.writer_lock(path, "create"):
        _check_no_memory(path)  # another process may have made it while we were about to
        folder = wanted.folder(path)
        if folder.exists():  # of an attempt that was killed before there was a manifest
            for file in folder.iterdir():
                file.unlink()
        folder.mkdir(exist_ok=True)
        database.create_database(folder, full_text=wanted.full_text)
        form = vectors.VectorFormat(wanted.storage, wanted.width)
        (folder / form.file_name).touch()
        durability.sync_folder(folder)
        durability.sync_folder(path)
        manifest.write_manifest(path, _stamped(wanted))


def _check_no_memory(path: Path) -> None:
    if (path / manifest.MANIFEST_FILE).exists():
        raise Conflict(f"{path}: is a memory already; open it with Memory.open, or choose another folder")


def _stamped(wanted: Manifest) -> Manifest:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return replace(wanted, created=now, made_by=f"siftlm {version('siftlm')}")


def matching_embedder(made: Embedder, known: Manifest, path: Path) -> Embedder:
    """The embedder, if it is the memory's own."""
    if made.fingerprint == known.fingerprint and made.width == known.width:
        return made
    same_name = " of that name, with other weights or settings," if made.name == known.embedder else ""
    raise WrongEmbedder(
        f"{path}: was built with embedder {known.embedder!r} ({known.fingerprint}, width {known.width}); "
        f"{made.name!r}{same_name} ({made.fingerprint}, width {made.width}) gives vectors that cannot be compared"
    )


def _passage_tokens(given: Any, made: Embedder) -> int:
    if given is None:
        return min(DEFAULT_PASSAGE_TOKENS, made.max_tokens or DEFAULT_PASSAGE_TOKENS)
    tokens = whole_number("passage_tokens", given)
    if made.max_tokens is not None and tokens > made.max_tokens:
        raise InvalidInput(
            f"{setting('passage_tokens', tokens)}, but embedder {made.name!r} reads {made.max_tokens} tokens: "
            "the end of each passage would not count"
        )
    return tokens


def _overlap(given: Any, size: int) -> int:
    if given is None:
        return size // DEFAULT_OVERLAP_DIVISOR
    if whole_number("overlap", given, least=0) > size // 2:
        raise InvalidInput(f"overlap must be at most half of {setting('passage_tokens')} ({size}), got {given!r}")
    return int(given)


def _similarity(near_duplicates: Any) -> float | None:
    return None if near_duplicates is None else number("near_duplicates", near_duplicates, above=0, most=1)
