"""Corpora in, records out: one file per kind of input."""

from siftlm.memory.reading.front import open_source
from siftlm.memory.reading.record import Record, Source

__all__ = ["Record", "Source", "open_source"]
