"""Bringing a memory of an older format up to date: a copy is changed, and takes the old one's place when it is whole.

A new format adds one function to `STEPS`. It gets the folder of the copied data and the manifest's content, changes
both, and returns the content; the format's number is raised for it. A crash on the way leaves the old memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siftlm.errors import NotAMemory
from siftlm.memory import disk, lock, manifest

Step = Callable[[Path, dict[str, Any]], dict[str, Any]]
# Old format -> what makes it the next one. Format 1 is the first.
STEPS: dict[int, Step] = {}


def outdated(memory: Path) -> bool:
    """Is this a memory of an older format, which `upgrade` can bring up to date?"""
    try:
        version = json.loads((memory / manifest.NAME).read_bytes())["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # whoever opens it will say what is wrong
    return isinstance(version, int) and version < manifest.FORMAT and version in STEPS


def upgrade(memory: Path) -> None:
    """Do so. It needs as much free space again as the memory takes."""
    with disk.refusals_named(memory), lock.writing(memory, "upgrade", wait=60):
        if not outdated(memory):  # another process was faster
            return
        content = json.loads((memory / manifest.NAME).read_bytes())
        content.pop("checksum", None)
        old = memory / f"g{content['generation']:04d}"
        content["generation"] += 1
        new = memory / f"g{content['generation']:04d}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            shutil.copytree(old, new)
            while content["format"] < manifest.FORMAT:
                content = STEPS[content["format"]](new, content) | {"format": content["format"] + 1}
            _sync(new)
            upgraded = _manifest(memory, content)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        disk.sync_folder(memory)
        manifest.write(memory, upgraded)
        shutil.rmtree(old, ignore_errors=True)


def _manifest(memory: Path, content: dict[str, Any]) -> manifest.Manifest:
    try:
        return manifest.Manifest(**content)
    except TypeError as error:
        raise NotAMemory(f"{memory}: its manifest cannot be brought up to date: {error}") from error


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "r+b") as file:
            disk.sync_file(file)
    disk.sync_folder(folder)
