"""Corpora in, records out: one file per kind of input."""

from siftlm.memory.reading.open import open_source
from siftlm.memory.reading.records import Record, Source

__all__ = ["Record", "Source", "open_source"]
