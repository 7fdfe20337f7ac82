"""The manifest: a memory's settings on disk, and the upgrade of older formats."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from siftlm.errors import Damaged, NotAMemory
from siftlm.memory import durability, keywords

MANIFEST_FILE = "manifest.json"
# The folders of data, of which one is current.
GENERATION_NAME = re.compile(r"g\d{4,}")
MANIFEST_FORMAT = 1
SIMILARITY_METRIC = "cosine"


@dataclass(frozen=True)
class Manifest:
    """The settings that all texts and vectors of a memory share."""

    embedder: str
    """The name that it is made from."""
    embedder_settings: dict[str, Any]
    fingerprint: str
    """The embedder's fingerprint: vectors of another embedder cannot be compared with these."""
    width: int
    storage: str
    """``float32``, ``float16`` or ``int8``."""
    passage_tokens: int
    overlap: int
    full_text: bool
    near_duplicates: float | None
    tokenizer: str = keywords.UNSPACED
    """How the full-text index splits texts into words; one of `siftlm.memory.keywords.TOKENIZERS`."""
    generation: int = 1
    """Which of the folders ``g0001``, ``g0002``, … holds the data; compaction makes the next."""
    format: int = MANIFEST_FORMAT
    metric: str = SIMILARITY_METRIC
    created: str = ""
    made_by: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)
    """Model -> settings that work well on this memory, with the evidence."""

    def folder(self, memory: Path) -> Path:
        """The folder of the data."""
        return memory / f"g{self.generation:04d}"

    def next_generation(self) -> Manifest:
        """The manifest of the same memory with its data in the next folder."""
        return replace(self, generation=self.generation + 1)


def write_manifest(memory: Path, manifest: Manifest) -> None:
    """Make ``manifest`` the memory's own."""
    content = asdict(manifest)
    content["checksum"] = _manifest_checksum(content)
    durability.atomic_replace(
        memory / MANIFEST_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    )


def read_manifest(memory: Path) -> Manifest:
    """The memory's manifest, or an error that describes what is there instead."""
    path = memory / MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotAMemory(f"{memory}: {_no_manifest_error(memory)}") from None
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw)
        # The version decides what everything else means, so it is looked at before the checksum.
        version = content["format"]
        if version != MANIFEST_FORMAT:
            raise NotAMemory(
                f"{path}: is of format {version}, and this siftlm reads {MANIFEST_FORMAT}; {_format_advice(version)}"
            )
        expected = content.pop("checksum")
        if expected != _manifest_checksum(content):
            raise Damaged(f"{path}: its checksum does not match: it was edited or damaged")
        known = Manifest(**content)
        if known.tokenizer not in keywords.TOKENIZERS:
            raise NotAMemory(
                f"{path}: its words are split by {known.tokenizer!r}, which this siftlm does not know; "
                "install a newer siftlm"
            )
        return known
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotAMemory):
            raise
        raise Damaged(f"{path}: cannot be read: {error}") from error


def _no_manifest_error(memory: Path) -> str:
    if not memory.exists():
        return "there is no such folder; build a memory with siftlm index (in Python: Memory.build)"
    if not memory.is_dir():
        return "is a file, and a memory is a folder"
    return f"holds no {MANIFEST_FILE}, so it is no memory; build one with siftlm index (in Python: Memory.build)"


def _format_advice(version: object) -> str:
    if isinstance(version, int) and version > MANIFEST_FORMAT:
        return "install a newer siftlm"
    return "it cannot be brought up to date"


def _manifest_checksum(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"{zlib.crc32(plain.encode()):08x}"


Migration = Callable[[Path, dict[str, Any]], dict[str, Any]]
# Old format -> the function that upgrades it to the next. Format 1 is the first.
MIGRATIONS: dict[int, Migration] = {}


def outdated(memory: Path) -> bool:
    """Whether this is a memory of an older format that `upgrade` can bring up to date."""
    try:
        version = json.loads((memory / MANIFEST_FILE).read_bytes())["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # opening it raises the error that says what is wrong
    return isinstance(version, int) and version < MANIFEST_FORMAT and version in MIGRATIONS


def upgrade(memory: Path) -> None:
    """Bring a memory of an older format up to date. It needs as much free space again as the memory takes."""
    with durability.translate_write_errors(memory), durability.writer_lock(memory, "upgrade", wait=60):
        if not outdated(memory):  # another process was faster
            return
        content = json.loads((memory / MANIFEST_FILE).read_bytes())
        content.pop("checksum", None)
        old = memory / f"g{content['generation']:04d}"
        content["generation"] += 1
        new = memory / f"g{content['generation']:04d}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            shutil.copytree(old, new)
            while content["format"] < MANIFEST_FORMAT:
                content = MIGRATIONS[content["format"]](new, content) | {"format": content["format"] + 1}
            sync_files(new)
            upgraded = _migrated_manifest(memory, content)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        durability.sync_folder(memory)
        write_manifest(memory, upgraded)
        shutil.rmtree(old, ignore_errors=True)


def _migrated_manifest(memory: Path, content: dict[str, Any]) -> Manifest:
    try:
        return Manifest(**content)
    except TypeError as error:
        raise NotAMemory(f"{memory}: its manifest cannot be brought up to date: {error}") from error


def sync_files(folder: Path) -> None:
    """Flush a folder and its files to the disk."""
    for path in folder.iterdir():
        with open(path, "r+b") as file:
            durability.sync_file(file)
    durability.sync_folder(folder)
