"""Corpora in, records out: one file per kind of input."""

from siftlm.memory.reading.open import open_source
from siftlm.memory.reading.records import ReadAhead, Record, Source

__all__ = ["ReadAhead", "Record", "Source", "open_source"]
