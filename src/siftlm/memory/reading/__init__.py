"""Corpora in, records out: one file per kind of input."""

from siftlm.memory.reading.columns import DocumentBatch
from siftlm.memory.reading.open import open_source
from siftlm.memory.reading.records import ReadAhead, Record, RecordBatch, RecordProblem, Source

__all__ = ["DocumentBatch", "ReadAhead", "Record", "RecordBatch", "RecordProblem", "Source", "open_source"]
