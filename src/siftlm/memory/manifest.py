"""What a memory is: the one small file that a person reads first, and that decides which data count."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from siftlm.errors import Damaged, NotAMemory
from siftlm.memory import disk

MANIFEST_FILE = "manifest.json"
# The folders of data, one of which counts.
GENERATION_NAME = re.compile(r"g\d{4,}")
MANIFEST_FORMAT = 1
SIMILARITY_METRIC = "cosine"


@dataclass(frozen=True)
class Manifest:
    """The settings that all texts and vectors of a memory share."""

    embedder: str
    """The name that makes it again."""
    embedder_settings: dict[str, Any]
    fingerprint: str
    """Of the embedder: vectors of another one cannot be compared with these."""
    width: int
    storage: str
    """``float32``, ``float16`` or ``int8``."""
    passage_tokens: int
    overlap: int
    full_text: bool
    near_duplicates: float | None
    generation: int = 1
    """Which of the folders ``g0001``, ``g0002``, … holds the data; compaction makes the next."""
    format: int = MANIFEST_FORMAT
    metric: str = SIMILARITY_METRIC
    created: str = ""
    made_by: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)
    """Settings that were found to work well on this memory, with the evidence."""

    def folder(self, memory: Path) -> Path:
        """Where the data are."""
        return memory / f"g{self.generation:04d}"

    def next_generation(self) -> Manifest:
        """The same memory, its data one folder further."""
        return replace(self, generation=self.generation + 1)


def write_manifest(memory: Path, manifest: Manifest) -> None:
    """Make ``manifest`` the one that counts."""
    content = asdict(manifest)
    content["checksum"] = _manifest_checksum(content)
    disk.atomic_replace(memory / MANIFEST_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_manifest(memory: Path) -> Manifest:
    """The memory's manifest, or an error that says what is there instead."""
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
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotAMemory):
            raise
        raise Damaged(f"{path}: cannot be read: {error}") from error


def _no_manifest_error(memory: Path) -> str:
    if not memory.exists():
        return "there is no such folder; build a memory with Memory.build(…) or siftlm index"
    if not memory.is_dir():
        return "is a file, and a memory is a folder"
    return f"holds no {MANIFEST_FILE}, so it is no memory; build one with Memory.build(…) or siftlm index"


def _format_advice(version: object) -> str:
    if isinstance(version, int) and version > MANIFEST_FORMAT:
        return "install a newer siftlm"
    return "it cannot be brought up to date"


def _manifest_checksum(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"{zlib.crc32(plain.encode()):08x}"
