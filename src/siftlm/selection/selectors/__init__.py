"""The selection methods: SIFT and its peers from retrieval, active learning and data selection, one function each."""

from siftlm.selection.selectors import (  # noqa: F401  # each declares its methods when it is imported
    clustered,
    coverage,
    goracs,
    got_d,
    hull,
    information,
    mig,
    retrieval,
    scored,
    sift,
    similar,
    variance,
)
