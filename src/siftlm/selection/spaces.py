"""The space that fits a kernel."""

from __future__ import annotations

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection.checks import RealArray
from siftlm.selection.kernels import FeatureKernel, KernelFunction, Linear
from siftlm.selection.pairs import KernelSpace
from siftlm.selection.space import MAX_COPY_BYTES, FeatureSpace, Space, unit_rows


def space_of(
    vectors: RealArray,
    targets: RealArray,
    *,
    kernel: KernelFunction | FeatureKernel | None,
    normalize: bool,
    noise: float,
    own: int | None = None,
) -> Space:
    """The space that fits the kernel: scanning where the kernel has features, a row at a time where it has none.

    Only the first ``own`` vectors are candidates, which features may depend on; known items follow them.
    """
    if kernel is None or isinstance(kernel, Linear):
        return FeatureSpace(vectors, targets, normalize=normalize, noise=noise)
    if isinstance(kernel, FeatureKernel):
        candidates = unit_rows("candidates", vectors, normalize=normalize)
        prompt = unit_rows("query", targets, normalize=normalize)
        features = kernel.features(candidates, candidates[:own])
        if features.size * 8 > MAX_COPY_BYTES:
            features = features.astype(np.float32)
        return FeatureSpace(features, kernel.features(prompt, candidates[:own]), normalize=False, noise=noise)
    if not callable(kernel):
        raise InvalidInput(f"kernel must be a function of two sets of vectors, got {kernel!r}")
    return KernelSpace(kernel, vectors, targets, normalize=normalize)
