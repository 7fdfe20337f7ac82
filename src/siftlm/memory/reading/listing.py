"""The files of a folder in an order that never changes, and what tells one state of them from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def file_identity(path: Path) -> dict[str, Any]:
    """What changes when the file does."""
    status = path.stat()
    return {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
