"""Random projections of outer products that are never formed: TensorSketch (Pham and Pagh, 2013).

Entry (i, j) of δ hᵀ goes, with the sign s(i) s'(j), into bucket b(i) + b'(j) modulo the width. So the sketch of an
outer product is the circular convolution of the sketches of its sides, and that of a sum is the sum. Since the signs
are independent, inner products of sketches are unbiased for inner products of what was sketched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.extras import load
from siftlm.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class SketchHash:
    """Buckets and signs of one side's coordinates: of each ``width`` consecutive ones no two share a bucket."""

    buckets: IntArray
    """(n,)"""
    signs: FloatArray
    """(n,) 1 or −1."""
    width: int


def sketch_hash(key: str, size: int, width: int) -> SketchHash:
    """Drawn from ``key``, the same ones on every machine.

    >>> side_of("an example", 5, 3).buckets.tolist()
    [2, 1, 0, 1, 2]
    """
    chunks = -(-size // width)
    words = hashlib.shake_256(f"buckets {key}".encode()).digest(chunks * width * 8)
    places = np.frombuffer(words, dtype="<u8").reshape(chunks, width).argsort(axis=1, kind="stable")
    bits = np.frombuffer(hashlib.shake_256(f"signs {key}".encode()).digest(-(-size // 8)), dtype=np.uint8)
    signs: FloatArray = 1.0 - 2.0 * np.unpackbits(bits)[:size].astype(np.float64)
    return SketchHash(places.reshape(-1)[:size].astype(np.int64), signs, width)


class CountSketch:
    """A `SketchHash` on a device: (tokens, n) -> (tokens, width)."""

    def __init__(self, side: SketchHash, device: Any) -> None:
        torch = load("torch", "hf")
        self._width = side.width
        self._signs = torch.tensor(side.signs, dtype=torch.float32, device=device)
        # Gathering is faster than scattering: which coordinate each bucket takes from each run of coordinates. Past
        # the end of a short last run there are zeros to take.
        self._sources = []
        for start in range(0, len(side.buckets), side.width):
            taken = side.buckets[start : start + side.width]
            free = np.setdiff1d(np.arange(side.width), taken)
            source = np.argsort(np.concatenate([taken, free]))
            self._sources.append(torch.tensor(source, device=device))

    def __call__(self, values: Any) -> Any:
        """Σ over the coordinates of each bucket, signed."""
        torch = load("torch", "hf")
        found = None
        for run, source in enumerate(self._sources):
            part = slice(run * self._width, (run + 1) * self._width)
            signed = values[:, part].float() * self._signs[part]
            if signed.shape[1] < self._width:
                signed = torch.nn.functional.pad(signed, (0, self._width - signed.shape[1]))
            moved = signed.index_select(1, source)
            found = moved if found is None else found.add_(moved)
        return found


class TensorSketch:
    """The sketches of δ hᵀ for one layer, in the frequency domain, where convolving is multiplying."""

    def __init__(self, layer: str, outputs: int, inputs: int, width: int, seed: int, device: Any) -> None:
        self._outputs = CountSketch(sketch_hash(f"{seed} {layer} out", outputs, width), device)
        self._inputs = CountSketch(sketch_hash(f"{seed} {layer} in", inputs, width), device)

    def add(self, total: Any, rows: Any, deltas: Any, states: Any) -> None:
        """total[rows[t]] += the sketch of deltas[t] states[t]ᵀ; ``total`` is (texts, width // 2 + 1, 2)."""
        torch = load("torch", "hf")
        product = torch.fft.rfft(self._outputs(deltas)) * torch.fft.rfft(self._inputs(states))
        total.index_add_(0, rows, torch.view_as_real(product))


def from_frequency_domain(total: Any, width: int) -> Any:
    """(texts, width) out of the frequency domain."""
    torch = load("torch", "hf")
    return torch.fft.irfft(torch.view_as_complex(total), n=width)
