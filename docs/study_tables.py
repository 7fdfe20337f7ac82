"""The tables and the picture of the study, from its packed records."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from siftlm.evaluation import gather, statistics
from siftlm.evaluation.comparison import difference
from siftlm.evaluation.figures import Chart, against_steps
from siftlm.evaluation.html import Series, line_chart, standalone_svg
from siftlm.evaluation.labels import describe_question
from siftlm.evaluation.report import Report, report
from siftlm.evaluation.results import Results
from siftlm.evaluation.tables import Cell, Column, Table, to_markdown
from siftlm.types import FloatArray, IntArray

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def untitled(table: Table) -> str:
    """The table in Markdown without its title, for the page has headings."""
    return to_markdown(table).split("\n", 2)[2].strip()


@functools.cache
def study_report(runs: str) -> Report:
    """The report of one run, or of several joined by plus signs."""
    return report([RESULTS / "study" / run for run in runs.split("+")])


def study_table(name: str) -> str:
    """``study RUN[+RUN] TABLE``: a table of `siftlm report`, from the records of the study."""
    _, runs, table_name = name.split()
    for _, parts in study_report(runs).sections:
        for part in parts:
            if part.name == table_name:
                return untitled((part.wide() or part.table()) if isinstance(part, Chart) else part)
    raise SystemExit(f"{name}: the report of {runs} has no {table_name}")


VECTORS_OF_RUN = {
    "noise-gradients": "gradients, small memory",
    "noise-minilm": "MiniLM, small memory",
    "noise-small": "lexical, small memory",
    "noise-lexical": "lexical",
    "noise-hashing": "hashing",
    "noise-states": "the model's states, small memory",
}


def cosines_table() -> str:
    """SIFT's difference to nearest neighbour by the vectors' mean cosine, from ``benchmarks/study.py cosines``."""
    known = json.loads((RESULTS / "cosines.json").read_text())
    drawn = f"mean cosine of {known['passages']:,} random passages"
    rows = [
        f"| vectors | {drawn} | difference SIFT − NN | NN, % of base |",
        "|---|---:|---:|---:|",
    ]
    for run, mean in sorted(known["mean"].items(), key=lambda one: one[1]):
        cells = {
            line.split(" | ")[0].strip("| "): [cell.split(" ")[0] for cell in line.split(" | ")]
            for line in study_table(f"study {run} differences").splitlines()
        }
        rows.append(f"| {VECTORS_OF_RUN[run]} | {mean:.2f} | {cells['sift+noise=1+k=200'][2]} | {cells['nn'][1]} |")
    return "\n".join(rows)


REPEATS = ("sift", "sift+replacement=True")
# The number of steps on the nearest text after which repeats are allowed or not.
DECIDING_STEPS = 2


def again_table() -> str:
    """Repeats allowed only where the first steps on the nearest text lower the loss of the scored text."""
    columns = (
        Column("corpus"),
        Column("repeats allowed where the loss falls by"),
        Column("on texts"),
        Column("difference to no repeats, % of base", interval=True, signed=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for corpus, run in (("minipile", "published"), ("sample", "sample")):
        (results,) = gather([RESULTS / "study" / run], ["base", "nn-f", *REPEATS])
        once, repeated = (results.tuned(method) for method in REPEATS)
        gain = 100 * (1 - results.tuned("nn-f", DECIDING_STEPS) / results.base)
        for condition, least in (("– (always)", -np.inf), *((f"more than {least} %", least) for least in (0, 1, 2))):
            tuned = np.where(gain > least, repeated, once)
            rule = statistics.percent_of_base(tuned, results.base, results.bytes)
            gap = statistics.over_domains(statistics.less(rule, results.percent(REPEATS[0])), results.draws())
            rows.append((corpus, condition, f"{(gain > least).sum()} of {len(gain)}", gap))
    return untitled(Table("again", "", "", columns, tuple(rows)))


# The runs of the study's summary: SIFT and nearest neighbour on texts that chose nothing.
SUMMARY_RUNS = ("sample", "published-pairs", "hashing", "split", "larger-pairs", "larger-split")
VECTOR_NAMES = {"lexical:lexical": "lexical"}


def summary_results() -> list[Results]:
    """The summary's runs, each on the texts that all of its methods have."""
    return [study_report(run).results for run in SUMMARY_RUNS]


def setting_name(results: Results) -> str:
    """Corpus, protocol and vectors of a run."""
    words = describe_question(results.question)
    embedder = str(results.question["memory"]["embedder"])
    return f"{words['corpus']}, {words['protocol']}, {VECTOR_NAMES.get(embedder, embedder)}"


def model_name(results: Results) -> str:
    """The model of a run, without its size."""
    return describe_question(results.question)["model"].split(" (")[0].replace("smollm2-135m", "SmolLM2-135M")


def summary_table() -> str:
    """SIFT against nearest neighbour, one run a row."""
    columns = (
        Column("corpus, protocol, vectors"),
        Column("model, steps"),
        Column("nearest, % of base", interval=True),
        Column("SIFT less nearest", interval=True, signed=True),
        Column("verdict on SIFT"),
        Column("worse than base after SIFT, % of texts", 0),
        Column("texts"),
    )
    rows: list[tuple[Cell, ...]] = []
    for results in summary_results():
        draws = results.draws()
        lead = difference(results, "sift", "nn", draws)
        nearest = statistics.over_domains(results.percent("nn"), draws)
        worse = 100 * float(np.mean(results.tuned("sift") > results.base))
        model = f"{model_name(results)}, {describe_question(results.question)['n']}"
        rows.append((setting_name(results), model, nearest, lead.mean, lead.verdict, worse, len(results.texts)))
    note = (
        "Bits per byte in % of the base model's, mean over domains with equal weights; below zero SIFT is better. "
        "Intervals: 95 %, paired bootstrap over the texts of each domain. Inconclusive: some domain has fewer than 5 "
        "texts."
    )
    return untitled(Table("summary", "", note, columns, tuple(rows)))


def summary_picture() -> str:
    """The curves of the summary's runs over steps as SVG: nearest neighbour solid, SIFT dashed."""
    series = []
    for colour, results in zip("abcdef", summary_results(), strict=True):
        lines = against_steps(results, "").lines
        name = setting_name(results) + ("" if model_name(results) == "siftlm-tiny" else f", {model_name(results)}")
        series += [Series(name, lines["nn"], colour), Series("", lines["sift"], colour, dashed=True)]
    drawn = line_chart(series, title="Bits per byte against steps", x_name="steps", y_name="% of base", size=(800, 440))
    return standalone_svg(drawn)


def correlation_gap(results: Results, one: FloatArray, other: FloatArray, gains: FloatArray) -> statistics.Mean:
    """The difference of two rank correlations with the gain, paired, over all texts."""

    def gap(at: IntArray) -> float:
        first, second = (statistics.rank_correlation(values[at], gains[at]) for values in (one, other))
        return (first or 0.0) - (second or 0.0)

    draws = results.draws()
    resamples = np.concatenate([draws.drawn[name] for name in draws.domains], axis=1)
    low, high = np.quantile([gap(at) for at in resamples], statistics.INTERVAL_QUANTILES)
    return statistics.Mean(gap(np.arange(len(gains))), float(low), float(high))


def predictors_table() -> str:
    """How well the uncertainty that SIFT removed and the top cosine rank the texts by their gain."""
    columns = (
        Column("corpus, protocol, vectors"),
        Column("model"),
        Column("uncertainty removed", 2, signed=True),
        Column("top cosine", 2, signed=True),
        Column("uncertainty less cosine", 2, interval=True, signed=True),
        Column("the two with each other", 2, signed=True),
        Column("texts"),
    )
    rows: list[tuple[Cell, ...]] = []
    for results in summary_results():
        some = results.measured["sift"]
        gains = 1 - results.tuned("sift") / results.base
        removed = np.array([1 - one.uncertainty[-1] / one.uncertainty[0] for one in some])
        cosines = np.array([max(one.scores) for one in results.measured["nn"]])
        rows.append(
            (
                setting_name(results),
                model_name(results),
                statistics.rank_correlation(removed, gains),
                statistics.rank_correlation(cosines, gains),
                correlation_gap(results, removed, cosines, gains),
                statistics.rank_correlation(removed, cosines),
                len(results.texts),
            )
        )
    note = (
        "Spearman's correlation with the gain of SIFT's texts, over all texts. Uncertainty removed: the share that the "
        "picks took away. Top cosine: of the prompt and its nearest passage. Difference: with a 95 % interval, paired "
        "bootstrap over the texts of each domain; below zero the cosine predicts better."
    )
    return untitled(Table("predictors", "", note, columns, tuple(rows)))


STUDY_TABLES = {
    "again": again_table,
    "cosines": cosines_table,
    "predictors": predictors_table,
    "summary": summary_table,
}
STUDY_PICTURES = {"study.svg": summary_picture}
