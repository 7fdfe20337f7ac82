"""Corpora, protocol, methods, statistics, tables, figures.

from siftlm.evaluation import Protocol, evaluate, read

model = siftlm.LocalModel("siftlm-tiny", "memory/")
evaluate(model, read("test.jsonl.gz", per_domain=12), "base,nn,sift", into="runs/a", protocol=Protocol(n=20))
"""

from siftlm.evaluation.corpus import Text, read
from siftlm.evaluation.evaluate import Evaluation, evaluate
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.methods import Baseline, Case, baseline
from siftlm.evaluation.protocol import Protocol

__all__ = ["Baseline", "Case", "Evaluation", "Measured", "Protocol", "Text", "baseline", "evaluate", "read"]
