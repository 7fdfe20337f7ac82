"""Where the language model lies that comes with siftlm."""

from __future__ import annotations

from pathlib import Path

TINY = "siftlm-tiny"


def bundled() -> Path:
    """The folder of ``siftlm-tiny``."""
    return Path(__file__).parent / "controller" / TINY
