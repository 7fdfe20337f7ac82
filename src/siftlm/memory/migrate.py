"""Bringing a memory of an older format up to date: a copy is changed, and takes the old one's place when it is whole.

A new format adds one function to `MIGRATIONS`. It gets the folder of the copied data and the manifest's content,
changes both, and returns the content; the format's number is raised for it. A crash on the way leaves the old memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siftlm.errors import NotAMemory
from siftlm.memory import disk, lock, manifest

Migration = Callable[[Path, dict[str, Any]], dict[str, Any]]
# Old format -> what makes it the next one. Format 1 is the first.
MIGRATIONS: dict[int, Migration] = {}


def outdated(memory: Path) -> bool:
    """Is this a memory of an older format, which `upgrade` can bring up to date?"""
    try:
        version = json.loads((memory / manifest.MANIFEST_FILE).read_bytes())["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # whoever opens it will say what is wrong
    return isinstance(version, int) and version < manifest.MANIFEST_FORMAT and version in MIGRATIONS


def upgrade(memory: Path) -> None:
    """Do so. It needs as much free space again as the memory takes."""
    with disk.translate_write_errors(memory), lock.writer_lock(memory, "upgrade", wait=60):
        if not outdated(memory):  # another process was faster
            return
        content = json.loads((memory / manifest.MANIFEST_FILE).read_bytes())
        content.pop("checksum", None)
        old = memory / f"g{content['generation']:04d}"
        content["generation"] += 1
        new = memory / f"g{content['generation']:04d}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            shutil.copytree(old, new)
            while content["format"] < manifest.MANIFEST_FORMAT:
                content = MIGRATIONS[content["format"]](new, content) | {"format": content["format"] + 1}
            _sync_files(new)
            upgraded = _migrated_manifest(memory, content)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        disk.sync_folder(memory)
        manifest.write_manifest(memory, upgraded)
        shutil.rmtree(old, ignore_errors=True)


def _migrated_manifest(memory: Path, content: dict[str, Any]) -> manifest.Manifest:
    try:
        return manifest.Manifest(**content)
    except TypeError as error:
        raise NotAMemory(f"{memory}: its manifest cannot be brought up to date: {error}") from error


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "r+b") as file:
            disk.sync_file(file)
    disk.sync_folder(folder)
