"""Labels for texts, chosen by the classifier that learns from them, against labels at random.

    pip install 'siftlm[torch,plot]'
    python examples/active_text.py --into texts                    # some minutes; ends with a table
    python examples/active_text.py --into texts-quick --seeds 2 --rounds 5

The texts are the sample corpus that ships with siftlm, embedded once by the bundled table; a classifier with one hidden
layer learns on top, and the loader chooses by what that has learned. ``all``: which of 38 kinds of mathematics is a
problem? The pool has as many of each. ``some``: only eight kinds of algebra matter, the pool has all kinds and Python's
code and prose as well, 40 classes, and the loader is shown unlabelled problems of the eight as its target. Options and
output are those of ``active_digits.py``, which has the loop.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from active_digits import Network, Problem, compare, options
from torch import Tensor

from siftlm import sample
from siftlm.embedding import embedder

SOME = (
    "linear_equation", "two_equations", "quadratic_equation", "evaluate", "derivative", "expand", "collect_terms",
    "line_through",
)  # fmt: skip
TEST_TEXTS, TARGET_TEXTS = 8, 4
"""Of each class"""


def main() -> None:
    vectors, _, names = corpus()
    compare(texts, lambda: Network(vectors.shape[1], len(names), hidden=64), options(__doc__).parse_args())


@cache
def corpus() -> tuple[Tensor, Tensor, list[str]]:
    """Vectors, classes and the names of the classes: the kind of problem, or code or prose."""
    documents = list(sample.documents())
    kinds = [str(one.meta["source" if one.meta["kind"] == "mathematics" else "kind"]) for one in documents]
    names = sorted(set(kinds))
    vectors = embedder("static").embed([one.text for one in documents])
    return torch.tensor(vectors, dtype=torch.float32), torch.tensor([names.index(kind) for kind in kinds]), names


def texts(task: str, seed: int) -> Problem:
    """Of each class that matters some texts are the test and some the target; the others are the pool."""
    vectors, classes, names = corpus()
    mathematics = [name for name in names if name not in ("code", "prose")]
    wanted = SOME if task == "some" else mathematics
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(classes)))
    if task == "all":
        order = order[torch.isin(classes[order], torch.tensor([names.index(name) for name in mathematics]))]
    test, shown = [], []
    for name in wanted:
        own = order[classes[order] == names.index(name)]
        test.append(own[:TEST_TEXTS])
        shown.append(own[TEST_TEXTS : TEST_TEXTS + TARGET_TEXTS])
    tested, target = torch.cat(test), torch.cat(shown)
    pool = order[~torch.isin(order, torch.cat([tested, target]))]
    return (vectors[pool], classes[pool]), vectors[target], (vectors[tested], classes[tested])


if __name__ == "__main__":
    main()
