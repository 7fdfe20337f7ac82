"""Where the language model lies that comes with siftlm."""

from __future__ import annotations

from pathlib import Path

TINY_MODEL = "siftlm-tiny"


def bundled_model() -> Path:
    """The folder of ``siftlm-tiny``."""
    return Path(__file__).parent / "controller" / TINY_MODEL
