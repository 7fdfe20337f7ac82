"""The selection methods: SIFT and its peers from retrieval and active learning, one function each."""

from siftlm.selection.selectors import (  # noqa: F401  # each declares its methods when it is imported
    coverage,
    hull,
    information,
    retrieval,
    sift,
    variance,
)
