"""Selection on torch tensors: thousands of prompts at once, on whatever device they live.

    from siftlm.selection import tensors
    found = tensors.select_many(queries, candidates, n=50)     # (B, d) and (K, d) or (B, K, d), any device
    picks_of_the_first = found.indices[0, : found.counts[0]]
    results = found.to_list()                                  # the Selection objects of siftlm.select

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

from siftlm.selection.tensors.front import BatchSelection, select, select_many
from siftlm.selection.tensors.methods import METHODS, TensorMethod, TensorView

__all__ = ["METHODS", "BatchSelection", "TensorMethod", "TensorView", "select", "select_many"]
