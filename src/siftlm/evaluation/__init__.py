"""Evaluation: corpora, protocol, methods and baselines, results, statistics, reports.

from siftlm.evaluation import Protocol, evaluate, read

model = siftlm.LocalModel("siftlm-tiny", "memory/")
evaluate(model, read("test.jsonl.gz", per_domain=12), "base,nn,sift", into="runs/a", protocol=Protocol(n=20))
"""

from siftlm.evaluation.corpus import Text, read
from siftlm.evaluation.evaluate import Evaluation, evaluate
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.methods import Baseline, Case, baseline, parse_methods
from siftlm.evaluation.protocol import Protocol
from siftlm.evaluation.results import Results, gather
from siftlm.evaluation.run_folder import question_of, records_of

__all__ = [
    "Baseline",
    "Case",
    "Evaluation",
    "Measured",
    "Protocol",
    "Results",
    "Text",
    "baseline",
    "evaluate",
    "gather",
    "parse_methods",
    "question_of",
    "read",
    "records_of",
]
