"""Selection on torch tensors: thousands of prompts at once, on whatever device they live.

`siftlm.select_many` comes here when queries and candidates are tensors; the result is a sequence of `Selection` like
any other, and its tensors stay on the device.

    >>> import siftlm
    >>> import torch
    >>> found = siftlm.select_many(torch.eye(3)[:2], torch.eye(3), n=2, until=0.5)
    >>> found.indices, found.counts
    (tensor([[ 0, -1],
            [ 1, -1]]), tensor([1, 1]))
    >>> [selection.indices.tolist() for selection in found]
    [[0], [1]]

The same formulas and the same picks as ``siftlm.select``; every array has the prompts in front. Two
forms of the posterior, as in ``siftlm.selection.posterior``: rows of a Cholesky factor for few
candidates, and directions in feature space for many, where the prompts share each scan as one
matrix–matrix product.

Precision. Products are formed in the inputs' dtype (half precision is widened to float32), or in
float64 where λ is below 1e-3 of the kernel's size or torch has been told to multiply float32 carelessly
(TF32). What is carried from pick to pick is float64 wherever the device has it: those arrays are read
and written once a step, so that costs memory traffic, not arithmetic. MPS has no float64 and gets
float32, and no λ below 1e-3.

Nothing global is changed: no thread count, no generator, no default dtype; autocast is off inside.
Importing this package imports torch; ``import siftlm.selection`` does not come here.
"""

from siftlm.extras import load

load("torch", "torch")

from siftlm.selection.tensors.front import BatchSelection, select_many  # noqa: E402
from siftlm.selection.tensors.steps import METHODS, TensorMethod, TensorView  # noqa: E402

__all__ = ["METHODS", "BatchSelection", "TensorMethod", "TensorView", "select_many"]
