"""A small corpus, the memory of it, and a screen to print on."""

from __future__ import annotations

import io
import json
from pathlib import Path

TOPICS = ("tea is brewed with hot water", "lists are sorted by a key", "the moon moves around the earth")


# With this behind each text, 600 texts are more than is committed at once.
LONG = ", and so it was heard by everybody who was there" * 6


class Screen(io.StringIO):
    """A terminal; its width is that of COLUMNS."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text.encode(self._encoding)  # as a real one, which would fail
        return super().write(text)


def corpus(path: Path, size: int = 30, bad: int = 0, rest: str = "") -> Path:
    """JSON lines with a text, a source and a year."""
    lines = [
        json.dumps(
            {"text": f"{TOPICS[n % 3]}, said witness {n}{rest}", "meta": {"source": f"book{n % 2}", "year": 2000 + n}}
        )
        for n in range(size)
    ]
    path.write_text("\n".join(lines + ["nonsense"] * bad) + "\n", encoding="utf-8")
    return path
