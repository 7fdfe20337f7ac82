"""The family of SIFT and its peers from retrieval and active learning: one method, one function, one file."""

from siftlm.selection.family import sift

__all__ = ["sift"]
