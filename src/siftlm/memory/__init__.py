"""Texts and their vectors on disk, and the search that selects among them."""

from __future__ import annotations

from siftlm.memory.ann import IndexDescription, IndexState
from siftlm.memory.ingest import Added
from siftlm.memory.maintenance import Compacted, Info
from siftlm.memory.memory import Memory
from siftlm.memory.outside import ArrayStore, CheckedStore, Outside
from siftlm.memory.redundancy import Redundancy
from siftlm.memory.request import Search, SearchRequest
from siftlm.memory.results import Found, Hit
from siftlm.memory.searcher import Searcher
from siftlm.memory.snapshot import Snapshot
from siftlm.memory.store import Listed, Neighbours, Passage, Store
from siftlm.memory.verify import Verification
from siftlm.memory.writer import Deleted

__all__ = [
    "Added",
    "ArrayStore",
    "CheckedStore",
    "Compacted",
    "Deleted",
    "Found",
    "Hit",
    "IndexDescription",
    "IndexState",
    "Info",
    "Listed",
    "Memory",
    "Neighbours",
    "Outside",
    "Passage",
    "Redundancy",
    "Search",
    "SearchRequest",
    "Searcher",
    "Snapshot",
    "Store",
    "Verification",
]
