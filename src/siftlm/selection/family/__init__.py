"""The family of SIFT and its peers from retrieval and active learning: one method, one function, one file."""

from siftlm.selection.family import nearest, sift

__all__ = ["nearest", "sift"]
