"""Input checks. Every message names the argument, what it holds, and what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput, setting
from siftlm.types import BoolArray, FloatArray, IntArray

# Real vectors; float16 is read but never computed in.
RealArray = npt.NDArray[Any]
# Squared lengths beyond these leave float64 no room for products: of directions, and of lengths that count.
MIN_SQUARED_NORM, MAX_SQUARED_NORM = 1e-280, 1e280
MAX_KERNEL_DIAGONAL = 1e140
MAX_INDEX = 2**63 - 1


def as_array(name: str, value: object) -> npt.NDArray[Any]:
    """``value`` as an array of whatever kind it holds."""
    if isinstance(value, np.ma.MaskedArray) and np.any(value.mask):
        raise InvalidInput(f"{setting(name)} has masked entries; fill or drop them first")
    try:
        # RuntimeError: a torch tensor that requires grad.
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"{setting(name)} is not an array of numbers: {error}") from error


def matrix(name: str, value: object, *, width: int | None = None, empty_ok: bool = False) -> RealArray:
    """``value`` as a float array (rows, width); a single vector becomes one row. Does not read the numbers."""
    array = as_array(name, value)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise InvalidInput(f"{setting(name)} must hold real numbers, got dtype {array.dtype}")
    if array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, which a later check reports
            array = array.astype(np.float64)
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2:
        raise InvalidInput(f"{setting(name)} must be (rows, width) or one vector, got shape {array.shape}")
    if array.shape[0] == 0 and not empty_ok:
        raise InvalidInput(f"{setting(name)} is empty: shape {array.shape}")
    if array.shape[1] == 0:
        raise InvalidInput(f"{setting(name)} has vectors of width 0: shape {array.shape}")
    if width is not None and array.shape[1] != width:
        raise InvalidInput(
            f"{setting(name)} has vectors of width {array.shape[1]}, expected {width}: shape {array.shape}"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


# Squared lengths between these raise none of the questions that `squared_norms` asks.
MIN_SAFE_SQUARED_NORM, SAFE_SQUARED_NORM = 1e-30, 1e30


def squared_norms(name: str, array: RealArray, *, zero_ok: bool) -> FloatArray:
    """Squared length of each row (rows,), float64.

    Refuses rows that are not finite, too long to square, or (unless ok) zero or too short to square. One pass
    does three jobs: a row with a NaN or an infinity has a squared norm that is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if array.dtype == np.float16:
            squared = np.concatenate([row_products(block.astype(np.float32)) for block in blocks(array)])
        else:
            squared = row_products(array)
        squared = squared.astype(np.float64)
        if squared.size and float(squared.min()) >= MIN_SAFE_SQUARED_NORM and float(squared.max()) <= SAFE_SQUARED_NORM:
            return squared  # as nearly always; a NaN would have failed the comparison
        suspicious = ~np.isfinite(squared) | (squared < MIN_SAFE_SQUARED_NORM)
        if suspicious.any():
            # Either really bad, or too long or short to be squared in its own precision.
            rows = np.flatnonzero(suspicious)
            squared[rows] = row_squares(array[rows])
    finite = np.isfinite(squared)
    if not finite.all():
        row = int(np.argmin(finite))
        column = np.flatnonzero(~np.isfinite(array[row]))
        where = f"column {column[0]} is {array[row, column[0]]}" if column.size else "its length overflows float64"
        raise InvalidInput(f"{setting(name)} row {row} is not finite: {where}")
    if (squared > MAX_SQUARED_NORM).any():
        row = int(np.argmax(squared))
        length = f"length {np.sqrt(squared[row]):g}"
        raise InvalidInput(f"{setting(name)} row {row} has {length}: products with it overflow float64")
    if not zero_ok and (squared < MIN_SQUARED_NORM).any():
        row = int(np.argmin(squared))
        what = "is too short for float64" if array[row].any() else "is all zeros"
        what += " and has no direction"
        raise InvalidInput(f"{setting(name)} row {row} {what}; drop it or pass {setting('normalize', False)}")
    return squared


def within_product_range(name: str, squared: FloatArray) -> FloatArray:
    """``squared``, the k(x, x) of each row, none so large that the squares of products overflow."""
    if squared.size and squared.max() > MAX_KERNEL_DIAGONAL:
        row = int(np.argmax(squared))
        own = f"k(x, x) = {squared[row]:g}"
        raise InvalidInput(f"{setting(name)} row {row} has {own}: its products overflow when squared; rescale")
    return squared


def row_squares(array: RealArray) -> FloatArray:
    """Squared length of each row (rows,), computed in float64."""
    wide = array.astype(np.float64)
    return row_products(wide)


def row_products(array: RealArray) -> RealArray:
    """Each row's product with itself (rows,), by BLAS: half the time of einsum."""
    products: RealArray = np.matmul(array[:, None, :], array[:, :, None])[:, 0, 0]
    return products


def blocks(array: RealArray, rows: int = 16384) -> list[RealArray]:
    """Views of at most ``rows`` rows each: what is converted at a time must stay small."""
    return [array[start : start + rows] for start in range(0, len(array), rows)] or [array]


def finite_matrix(name: str, value: object, *, shape: tuple[int | None, int | None]) -> FloatArray:
    """A float64 matrix of the given shape (``None`` = any), all entries finite."""
    array = matrix(name, value)
    want = tuple(have if need is None else need for need, have in zip(shape, array.shape, strict=True))
    if array.shape != want:
        raise InvalidInput(f"{setting(name)} has shape {array.shape}, expected {want}")
    result = array.astype(np.float64)
    finite = np.isfinite(result)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InvalidInput(f"{setting(name)} row {row} is not finite: column {column} is {result[row, column]}")
    return result


def per_item(name: str, value: object, size: int, *, positive: bool) -> FloatArray:
    """One finite number per candidate (size,), above zero (``positive``) or at least zero."""
    array = as_array(name, value)
    if array.shape != (size,):
        raise InvalidInput(f"{setting(name)} must have one number per candidate ({size},), got shape {array.shape}")
    if array.dtype.kind not in "iubf":
        raise InvalidInput(f"{setting(name)} must hold numbers, got dtype {array.dtype}")
    if positive and array.dtype.kind == "b":  # a prior may well be a mask
        raise InvalidInput(f"{setting(name)} must hold numbers, got True and False (dtype bool): is it a mask?")
    result = array.astype(np.float64)
    bad = ~np.isfinite(result) | ((result <= 0) if positive else (result < 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidInput(
            f"{setting(name)}[{row}] is {result[row]}; it must be {'> 0' if positive else '>= 0'} and finite"
        )
    return result


def index_array(name: str, value: object) -> npt.NDArray[Any]:
    """A list of indices or a boolean mask as an array; whether there are as many candidates is not known here."""
    array = as_array(name, value)
    if array.dtype.kind == "b":
        return array
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype == object and array.ndim == 1 and all(isinstance(item, int) for item in array):
        array = np.clip(array, -1, MAX_INDEX).astype(np.int64)  # beyond 64 bits
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInput(
            f"{setting(name)} must be a list of indices or a mask, got {array.dtype} of shape {array.shape}"
        )
    return array


def item_indices(name: str, value: object, size: int) -> IntArray:
    """Indices of candidates, from a list of indices or a boolean mask; −1 is not an index here."""
    array = index_array(name, value)
    if array.dtype.kind == "b":
        if array.shape != (size,):
            raise InvalidInput(f"{setting(name)} as a mask must have shape ({size},), got {array.shape}")
        return np.flatnonzero(array).astype(np.int64)
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InvalidInput(f"{setting(name)}[{at}] is {array[at]}, but candidates are numbered 0 … {size - 1}")
    return array.astype(np.int64)


def labels(name: str, value: Sequence[object] | npt.NDArray[Any], size: int) -> IntArray:
    """One label per candidate, of any hashable kind, as integers 0, 1, … in order of appearance."""
    if not hasattr(value, "__len__") or (isinstance(value, np.ndarray) and value.ndim == 0):
        raise InvalidInput(f"{setting(name)} must be a list of labels, one per candidate, got {value!r}")
    if len(value) != size:
        raise InvalidInput(f"{setting(name)} must have one label per candidate ({size}), got {len(value)}")
    numbers: dict[object, int] = {}
    try:
        return np.array([numbers.setdefault(label, len(numbers)) for label in value], dtype=np.int64)
    except TypeError as error:
        raise InvalidInput(f"{setting(name)} must hold labels that can be compared: {error}") from error


def probabilities(name: str, value: object, *, rows: int | None = None, classes: int | None = None) -> FloatArray:
    """Softmax outputs (rows, classes): each row at least zero and summing to one."""
    array = finite_matrix(name, value, shape=(rows, classes))
    sums = array.sum(axis=1)
    bad = (array < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidInput(
            f"{setting(name)} row {row} is not a distribution: smallest {array[row].min():g}, sum {sums[row]:g}"
        )
    return array


def mask_of(indices: IntArray, size: int) -> BoolArray:
    """(size,) True at the indices."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[indices] = True
    return mask
