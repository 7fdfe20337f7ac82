"""Ways to use a memory for a text, one function in one file each.

    from siftlm.evaluation.ways import Case, Measured, way

    @way("longest", "the base model, on nothing but hope")
    def longest(case: Case, **settings: Any) -> Measured:
        score = case.model.controller.likelihood(case.scored, after=case.before)
        ...

Every method of selection is a way already: it chooses what is learned from. A file of your own is named by its path
(``--methods base,./mine.py``); another package names its function under ``siftlm.ways`` in its entry points.
"""

from siftlm.evaluation.measured import Measured
from siftlm.evaluation.ways.registry import Baseline, Case, baseline, baseline_names, find_baseline

__all__ = ["Baseline", "Case", "Measured", "baseline", "baseline_names", "find_baseline"]
