"""Evidence found per passage and per token: SIFT, the nearest, MMR and DPP, at a fixed count and with their own stops.

    python benchmarks/retrieval.py prepare REPOSITORIES --work WORK     the questions; a minute
    python benchmarks/retrieval.py run --work WORK --part validation    picks of every setting; settings are chosen here
    python benchmarks/retrieval.py choose --work WORK                   the settings, into chosen.json
    python benchmarks/retrieval.py run --work WORK --part test          picks of the chosen settings
    python benchmarks/retrieval.py table [--work WORK]                  the tables; with WORK, its figures first

REPOSITORIES is a folder of checkouts, see `evidence.CORPORA`. Results go to benchmarks/results/retrieval.
docs/decisions/0058-retrieval-evidence.md says what was to be run, and what would count as success, before anything was
run on the test part.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from evidence import CORPORA, PARTS, QuestionSet
from machine import describe

import siftlm

RESULTS = Path(__file__).parent / "results" / "retrieval"
EMBEDDERS = ("hashing", "static")
K, PICKS, FIXED = 200, 40, 10
RESAMPLES, QUANTILES = 4000, (0.025, 0.975)
# Settings that are tried on the validation part; a method's first one is what siftlm has by default.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "nearest": [{}],
    "mmr": [{"balance": balance} for balance in (0.5, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)],
    "dpp": [{"balance": balance} for balance in (0.5, 0.15, 0.25, 0.35, 1.0)],
    "sift": [{"noise": noise} for noise in (1.0, 0.1, 0.3, 3.0)],
    # The same with the kernel exp(rate (cos − 1)).
    "sift rbf": [
        {"rbf": rate, "noise": noise} for rate, noise in ((4.0, 0.3), (2.0, 0.1), (4.0, 0.1), (8.0, 0.1), (8.0, 0.3))
    ],
}


Cell = tuple[str, str]
"""A corpus and an embedder."""


@dataclass(frozen=True)
class Traces:
    """The picks of one setting for Q questions, in their order."""

    facts: np.ndarray
    """(Q,) how many facts are to be found"""
    new: np.ndarray
    """(Q, PICKS) how many of them each pick is the first to hold"""
    tokens: np.ndarray
    """(Q, PICKS)"""
    gains: np.ndarray
    """(Q, PICKS) the method's own"""
    cosines: np.ndarray
    """(Q, PICKS) of pick and question"""
    left: np.ndarray
    """(Q, PICKS + 1) the uncertainty, in the kernel and with the noise of the method"""
    least: np.ndarray
    """(Q,) the uncertainty with all candidates known"""

    @property
    def recall(self) -> np.ndarray:
        """(Q, PICKS) the share of the facts that are found after each pick"""
        return np.cumsum(self.new, axis=1) / self.facts[:, None]

    @property
    def spent(self) -> np.ndarray:
        """(Q, PICKS) tokens up to each pick"""
        return np.cumsum(self.tokens, axis=1)


# --- picks


def rbf(rate: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """exp(rate (cos − 1)), the Gaussian kernel of vectors at unit length."""
    return lambda x, y: np.exp(rate * (x @ y.T - 1))


def label(method: str, settings: Mapping[str, Any]) -> str:
    """The name of a method with its settings."""
    return "+".join([method, *(f"{name}={value:g}" for name, value in settings.items())])


def token_count(text: str) -> int:
    """Words and marks of punctuation."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def path_of(work: Path, *parts: str) -> Path:
    return work / "-".join(part.replace(" ", "_") for part in parts)


def run(work: Path, corpus: str, embedder: str, part: str, labels: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Pick by each setting for all questions of a part, and keep what the tables need."""
    into = path_of(work, part, corpus, embedder).with_suffix(".npz")
    if into.exists():
        return
    texts = QuestionSet.read(path_of(work, corpus).with_suffix(".json"))
    questions = [one for one in texts.questions if one.part == part]
    embed = siftlm.embedder(embedder).embed
    pools = {one.pool for one in questions}
    vectors = {name: np.asarray(embed([one.text for one in texts.pools[name]]), np.float32) for name in pools}
    tokens = {name: np.array([token_count(one.text) for one in texts.pools[name]]) for name in pools}
    rows = {name: {one.text: row for row, one in enumerate(texts.pools[name])} for name in pools}
    targets = np.asarray(embed([one.text for one in questions], as_query=True), np.float32)
    found: dict[str, Any] = {"facts": np.array([len(one.facts) for one in questions])}
    reachable = np.zeros(len(questions))
    for at, question in enumerate(questions):
        cosines = vectors[question.pool] @ targets[at]
        cosines[[rows[question.pool][text] for text in question.without]] = -2
        nearest = np.argsort(-cosines, kind="stable")[:K]
        nearest = nearest[cosines[nearest] > -2]
        own = vectors[question.pool][nearest].astype(np.float64)
        facts = [set(question.facts) & set(texts.pools[question.pool][row].facts) for row in nearest]
        reachable[at] = len(set().union(*facts))
        for method, settings in labels:
            one = pick(targets[at].astype(np.float64), own, method, settings)
            rows_picked = nearest[one["picks"]]
            one |= {"new": new_facts(facts, one["picks"]), "cosines": cosines[rows_picked]}
            one["tokens"] = tokens[question.pool][rows_picked]
            for name in ("new", "tokens", "gains", "cosines", "left", "least"):
                key = f"{label(method, settings)}/{name}"
                values = np.atleast_1d(one[name])
                width = {"left": PICKS + 1, "least": 1}.get(name, PICKS)
                table = found.setdefault(key, np.zeros((len(questions), width)))
                table[at, : len(values)] = values
                if name == "left":
                    table[at, len(values) :] = values[-1]
    np.savez_compressed(into, reachable=reachable, **found)
    print(part, corpus, embedder, len(questions), "questions", file=sys.stderr, flush=True)


def pick(target: np.ndarray, candidates: np.ndarray, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The picks of one question, with the uncertainty after each and that with all candidates known."""
    own = {name: value for name, value in settings.items() if name != "rbf"}
    kernel = rbf(settings["rbf"]) if "rbf" in settings else None
    noise = own.pop("noise", 1.0)
    chosen = siftlm.select(
        target,
        candidates,
        min(PICKS, len(candidates)),
        method=method.split()[0],
        noise=noise,
        kernel=kernel,
        replacement=False,
        **own,
    )
    least = 0.0
    if method.startswith("sift"):
        compare = kernel or (lambda x, y: x @ y.T)
        cross = compare(candidates, target[None])[:, 0]
        least = 1 - cross @ np.linalg.solve(compare(candidates, candidates) + noise * np.eye(len(candidates)), cross)
    return {"picks": chosen.indices, "gains": chosen.gains, "left": chosen.uncertainty, "least": least}


def new_facts(facts: Sequence[set[str]], picks: Iterable[int]) -> list[int]:
    """How many facts each pick is the first to hold."""
    seen: set[str] = set()
    counts = []
    for index in picks:
        counts.append(len(facts[index] - seen))
        seen |= facts[index]
    return counts


# --- stops


def at_first(stops: np.ndarray) -> np.ndarray:
    """(Q,) how many picks are kept if pick j is refused where ``stops[:, j]``; the first is always kept."""
    stops = stops.copy()
    stops[:, 0] = False
    return np.where(stops.any(axis=1), stops.argmax(axis=1), stops.shape[1])


def up_to(enough: np.ndarray) -> np.ndarray:
    """(Q,) how many picks are kept if pick j is the last where ``enough[:, j]``."""
    return np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, enough.shape[1])


def fall(one: Traces) -> np.ndarray:
    """(Q, PICKS) by how much each pick lowers the uncertainty"""
    return -np.diff(one.left, axis=1)


def told(one: Traces) -> np.ndarray:
    """(Q, PICKS) by how much the picks before each lowered it"""
    return one.left[:, :1] - one.left[:, :-1]


Stop = Callable[[Traces, float], np.ndarray]
# Rules by name, with the values that are tried. The first group reads the uncertainty, which every method has.
STOPS: dict[str, tuple[Stop, np.ndarray]] = {
    "fixed": (lambda one, n: np.full(len(one.facts), int(n)), np.arange(1, PICKS + 1)),
    "min_growth": (lambda one, c: at_first(fall(one) < c * told(one)), np.geomspace(0.005, 0.8, 90)),
    "min_gain": (lambda one, c: at_first(fall(one) < c * one.left[:, :-1]), np.geomspace(0.0005, 0.3, 90)),
    "share of the start": (lambda one, c: at_first(fall(one) < c * one.left[:, :1]), np.geomspace(0.0003, 0.3, 90)),
    "share of the first gain": (lambda one, c: at_first(fall(one) < c * fall(one)[:, :1]), np.geomspace(0.005, 1, 90)),
    "coverage": (
        lambda one, c: up_to(one.left[:, :1] - one.left[:, 1:] >= c * (one.left[:, :1] - one.least[:, None])),
        np.linspace(0.05, 0.99, 90),
    ),
    "until": (lambda one, c: up_to(one.left[:, 1:] <= c * one.left[:, :1]), np.linspace(0.1, 0.99, 90)),
    "adaptive": (
        lambda one, a: at_first(np.sqrt(np.maximum(one.left[:, 1:], 0)) > 1 / (a * np.arange(1, PICKS + 1))),
        np.geomspace(0.02, 1.5, 90),
    ),
    "share of the first cosine": (
        lambda one, c: at_first(one.cosines < c * one.cosines[:, :1]),
        np.linspace(0.1, 1, 90),
    ),
    "least cosine": (lambda one, c: at_first(one.cosines < c), np.linspace(0.02, 0.9, 90)),
    "cliff": (lambda one, c: at_first(after_before(one.cosines) < c), np.linspace(0.3, 1, 90)),
    "share of the first score": (
        lambda one, c: at_first(one.gains < c * one.gains[:, :1]),
        np.geomspace(0.001, 1, 120),
    ),
    "least score": (lambda one, c: at_first(one.gains < c), np.linspace(-0.8, 0.9, 120)),
}
# The stops of each method that are its own: the best of them on the validation part is compared on the test part.
OWN_STOPS = {
    "nearest": ("share of the first cosine", "least cosine", "cliff"),
    "mmr": ("least score", "share of the first cosine", "cliff"),
    "dpp": ("share of the first score", "cliff"),
    "sift": ("min_growth", "min_gain", "until", "coverage", "adaptive"),
    "sift rbf": ("min_growth", "min_gain", "until", "coverage", "adaptive"),
}
# Mean passages at which rules are compared, and the one at which a method's own stop is set.
MEAN_PASSAGES, OWN_PASSAGES = (3, 5, 8, 10, 15), 8


def after_before(cosines: np.ndarray) -> np.ndarray:
    """(Q, PICKS) each pick's cosine over that of the pick before; 1 for the first."""
    ratio = np.ones_like(cosines)
    ratio[:, 1:] = cosines[:, 1:] / np.maximum(cosines[:, :-1], 1e-9)
    return ratio


def recall_at(one: Traces, counts: np.ndarray) -> np.ndarray:
    """(Q,) the recall of so many picks."""
    return one.recall[np.arange(len(counts)), counts - 1]


@dataclass(frozen=True)
class Stopped:
    """A rule over all cells, set so that a mean number of passages is spent, the cells weighing the same."""

    value: float
    recalls: list[np.ndarray]
    """of each cell (Q,)"""
    counts: list[np.ndarray]


def stopped(cells: Sequence[Traces], rule: str, passages: float) -> Stopped:
    """The rule where it spends that many passages, mixed from the two nearest values that were tried."""
    stop, values = STOPS[rule]
    tried = [[stop(one, value) for one in cells] for value in values]
    means = np.array([np.mean([counts.mean() for counts in own]) for own in tried])
    order = np.argsort(means, kind="stable")
    above = int(np.clip(np.searchsorted(means[order], passages), 1, len(order) - 1))
    low, high = order[above - 1], order[above]
    share = float(np.clip((passages - means[low]) / max(means[high] - means[low], 1e-9), 0, 1))
    mixed = [
        ((1 - share) * recall_at(one, a) + share * recall_at(one, b), (1 - share) * a + share * b)
        for one, a, b in zip(cells, tried[low], tried[high], strict=True)
    ]
    value = values[high] if share > 0.5 else values[low]
    return Stopped(float(value), [recall for recall, _ in mixed], [counts for _, counts in mixed])


# --- intervals


@cache
def weights(corpus: str, questions: int) -> np.ndarray:
    """(RESAMPLES, Q) the share of each question in each resample; the same for both embedders of a corpus."""
    generator = np.random.default_rng([*corpus.encode()])
    return generator.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES) / questions


def interval(values: Sequence[np.ndarray], cells: Sequence[Cell]) -> list[float]:
    """The mean over cells of values (Q,), and its 95 % bootstrap interval over questions."""
    drawn = np.mean([weights(corpus, len(one)) @ one for one, (corpus, _) in zip(values, cells, strict=True)], axis=0)
    low, high = np.quantile(drawn, QUANTILES)
    return [round(float(value), 4) for value in (np.mean([one.mean() for one in values]), low, high)]


def rank_correlations(cells: Sequence[Traces], counts: Sequence[np.ndarray]) -> float | None:
    """The mean over cells of the rank correlation of passages spent with facts to be found."""
    from siftlm.evaluation.statistics import rank_correlation

    own = [rank_correlation(n.tolist(), one.facts.tolist()) for one, n in zip(cells, counts, strict=True)]
    known = [value for value in own if value is not None]
    return round(float(np.mean(known)), 3) if known else None


# --- what is run, chosen and reported


def all_settings() -> list[tuple[str, dict[str, Any]]]:
    """Every method with each of its settings."""
    return [(method, settings) for method, tried in SETTINGS.items() for settings in tried]


def prepare(repositories: Path, work: Path) -> None:
    """Write the questions of each corpus that are missing."""
    work.mkdir(parents=True, exist_ok=True)
    for name, corpus in CORPORA.items():
        path = path_of(work, name).with_suffix(".json")
        if not path.exists():
            corpus.read(repositories).write(path)


CELLS: list[Cell] = [(corpus, embedder) for corpus in CORPORA for embedder in EMBEDDERS]
REDUNDANT = [cell for cell in CELLS if CORPORA[cell[0]].redundant]
VARIED = [cell for cell in CELLS if not CORPORA[cell[0]].redundant]
GROUPS = {"redundant": REDUNDANT, "not redundant": VARIED, "all": CELLS}
SIFT = "sift rbf"
OTHERS = ("nearest", "mmr", "dpp", "sift")


def load(work: Path, part: str) -> dict[Cell, dict[str, Traces]]:
    """The traces of a part by cell and label."""
    loaded: dict[Cell, dict[str, Traces]] = {}
    for cell in CELLS:
        with np.load(path_of(work, part, *cell).with_suffix(".npz")) as file:
            labels = [name.removesuffix("/new") for name in file.files if name.endswith("/new")]
            loaded[cell] = {
                name: Traces(
                    file["facts"],
                    *(file[f"{name}/{one}"] for one in ("new", "tokens", "gains", "cosines", "left")),
                    file[f"{name}/least"][:, 0],
                )
                for name in labels
            }
    return loaded


def choose(work: Path) -> dict[str, Any]:
    """Settings and stops by the recall on the validation part."""
    traces = load(work, "validation")

    def recall(cell: Cell, name: str) -> float:
        return float(traces[cell][name].recall[:, FIXED - 1].mean())

    labels = {method: [label(method, one) for one in tried] for method, tried in SETTINGS.items()}
    overall = {name: float(np.mean([recall(cell, name) for cell in CELLS])) for own in labels.values() for name in own}
    one = {method: max(own, key=overall.__getitem__) for method, own in labels.items()}
    own = {
        " ".join(cell): {method: max(names, key=lambda name: recall(cell, name)) for method, names in labels.items()}
        for cell in CELLS
    }
    stops = {}
    for method, rules in OWN_STOPS.items():
        cells = [traces[cell][one[method]] for cell in CELLS]
        tried = {rule: stopped(cells, rule, OWN_PASSAGES) for rule in rules}
        best = max(rules, key=lambda rule: np.mean([values.mean() for values in tried[rule].recalls]))
        stops[method] = {"rule": best, "value": float(f"{tried[best].value:.4g}")}
    # Every rule on SIFT's order, as set for the same mean number of passages.
    rules = {
        rule: float(f"{stopped([traces[cell][one[SIFT]] for cell in CELLS], rule, OWN_PASSAGES).value:.4g}")
        for rule in STOPS
    }
    return {
        "recall at 10, mean over cells": {name: round(value, 4) for name, value in overall.items()},
        "one setting for all": one,
        "a setting for each": own,
        "stops": stops,
        "rules": rules,
        "rules compared": {
            name: compared_rules(traces, name) for name in (one[SIFT], label("sift", SETTINGS["sift"][0]))
        },
    }


def compared_rules(traces: Mapping[Cell, Mapping[str, Traces]], name: str) -> dict[str, Any]:
    """Each rule less a fixed count of as many passages, in points of recall, on the order of one setting."""
    cells, compared = [traces[cell][name] for cell in CELLS], {}
    for rule in STOPS:
        compared[rule] = {}
        for passages in MEAN_PASSAGES:
            own, fixed = stopped(cells, rule, passages), stopped(cells, "fixed", passages)
            differences = [100 * (a - b) for a, b in zip(own.recalls, fixed.recalls, strict=True)]
            means = [float(counts.mean()) for counts in own.counts]
            compared[rule][str(passages)] = {
                "value": float(f"{own.value:.3g}"),
                "difference": interval(differences, CELLS),
                "worst cell": round(min(float(one.mean()) for one in differences), 2),
                "passages": [round(min(means), 1), round(max(means), 1)],
                "rank correlation": rank_correlations(cells, [np.round(counts) for counts in own.counts]),
            }
    return compared


def chosen_labels(chosen: Mapping[str, Any], cell: Cell) -> list[tuple[str, dict[str, Any]]]:
    """The settings that the test part is run with."""
    wanted = {*chosen["one setting for all"].values(), *chosen["a setting for each"][" ".join(cell)].values()}
    wanted |= {label(method, tried[0]) for method, tried in SETTINGS.items()}
    return [(method, settings) for method, settings in all_settings() if label(method, settings) in wanted]


def report(traces: Mapping[Cell, Mapping[str, Traces]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the test part."""
    one = chosen["one setting for all"]
    same = {cell: {method: traces[cell][name] for method, name in one.items()} for cell in CELLS}
    each = {
        cell: {method: traces[cell][name] for method, name in chosen["a setting for each"][" ".join(cell)].items()}
        for cell in CELLS
    }
    default = {cell: {m: traces[cell][label(m, tried[0])] for m, tried in SETTINGS.items()} for cell in CELLS}
    groups = {" ".join(cell): [cell] for cell in CELLS} | GROUPS
    return {
        "questions": {" ".join(cell): len(same[cell][SIFT].facts) for cell in CELLS},
        "one setting for all": {name: fixed_figures(same, cells) for name, cells in groups.items()},
        "a setting for each": {name: fixed_figures(each, cells) for name, cells in groups.items()},
        "defaults": {name: fixed_figures(default, cells) for name, cells in groups.items()},
        "own stops": {name: stop_figures(same, cells, chosen["stops"]) for name, cells in groups.items()},
        "rules": {name: rule_figures(same, cells, chosen["rules"]) for name, cells in groups.items()},
    }


def fixed_figures(traces: Mapping[Cell, Mapping[str, Traces]], cells: Sequence[Cell]) -> dict[str, Any]:
    """Recall of each method at fixed counts, SIFT less each other one, and tokens at equal recall."""
    figures: dict[str, Any] = {}
    for method in SETTINGS:
        own = [traces[cell][method] for cell in cells]
        figures[method] = {
            **{f"recall at {n}": interval([one.recall[:, n - 1] for one in own], cells) for n in (5, FIXED, 20)},
            "tokens at 10": round(float(np.mean([one.spent[:, FIXED - 1].mean() for one in own]))),
        }
        if method != SIFT:
            sift = [traces[cell][SIFT] for cell in cells]
            for n in (5, FIXED, 20):
                pairs = [(a.recall - b.recall)[:, n - 1] for a, b in zip(sift, own, strict=True)]
                figures[method][f"sift rbf less this at {n}"] = interval(pairs, cells)
            figures[method]["tokens of sift rbf at equal recall"] = token_share(sift, own, cells)
    return figures


def token_share(sift: Sequence[Traces], other: Sequence[Traces], cells: Sequence[Cell]) -> list[float]:
    """Tokens that SIFT needs for the other's recall at 10, as a share of the other's; the mean over cells."""
    drawn, plain = [], []
    for a, b, (corpus, _) in zip(sift, other, cells, strict=True):
        at = weights(corpus, len(a.facts))
        goals, paid = (at @ values[:, FIXED - 1] for values in (b.recall, b.spent))
        pairs = zip(goals, at @ a.recall, at @ a.spent, paid, strict=True)
        drawn.append([np.interp(goal, recall, tokens) / spent for goal, recall, tokens, spent in pairs])
        whole = np.interp(b.recall[:, FIXED - 1].mean(), a.recall.mean(axis=0), a.spent.mean(axis=0))
        plain.append(whole / b.spent[:, FIXED - 1].mean())
    low, high = np.quantile(np.mean(drawn, axis=0), QUANTILES)
    return [round(float(value), 3) for value in (np.mean(plain), low, high)]


def stop_figures(
    traces: Mapping[Cell, Mapping[str, Traces]], cells: Sequence[Cell], stops: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Recall and cost of each method with its own stop, and SIFT less each."""
    found: dict[str, Any] = {}
    counts = {
        method: [STOPS[own["rule"]][0](traces[cell][method], own["value"]) for cell in cells]
        for method, own in stops.items()
    }
    recalls = {
        method: [recall_at(traces[cell][method], n) for cell, n in zip(cells, own, strict=True)]
        for method, own in counts.items()
    }
    for method, own in counts.items():
        tokens = [
            traces[cell][method].spent[np.arange(len(n)), n - 1].mean() for cell, n in zip(cells, own, strict=True)
        ]
        found[method] = {
            "recall": interval(recalls[method], cells),
            "passages": round(float(np.mean([n.mean() for n in own])), 2),
            "tokens": round(float(np.mean(tokens))),
        }
        if method != SIFT:
            pairs = [a - b for a, b in zip(recalls[SIFT], recalls[method], strict=True)]
            found[method]["sift rbf less this"] = interval(pairs, cells)
    return found


def rule_figures(
    traces: Mapping[Cell, Mapping[str, Traces]], cells: Sequence[Cell], rules: Mapping[str, float]
) -> dict[str, Any]:
    """Each rule, as set on the validation part, less a fixed count of as many passages, on SIFT's order."""
    found: dict[str, Any] = {}
    own = [traces[cell][SIFT] for cell in cells]
    # A fixed count is the same for all cells, so that a rule may win by spending more where more is to be found.
    for rule, value in rules.items():
        counts = [STOPS[rule][0](one, value) for one in own]
        passages = float(np.mean([n.mean() for n in counts]))
        fixed = stopped(own, "fixed", passages)
        recalls = [recall_at(one, n) for one, n in zip(own, counts, strict=True)]
        found[rule] = {
            "value": value,
            "passages": round(passages, 2),
            "recall": interval(recalls, cells),
            "less a fixed count": interval([a - b for a, b in zip(recalls, fixed.recalls, strict=True)], cells),
            "rank correlation": rank_correlations(own, counts),
        }
    return found


# --- tables


def points(values: Sequence[float]) -> str:
    """A difference in points of recall with its interval; bold where the interval excludes 0."""
    mean, low, high = (100 * value for value in values)
    text = f"{mean:+.1f}".replace("-", "−")
    ends = f" [{low:.1f}, {high:.1f}]".replace("-", "−")
    return (f"**{text}**" if low > 0 or high < 0 else text) + ends


def tables(figures: Mapping[str, Any]) -> str:
    """Markdown: recall at 10 with one setting for all and with one for each, own stops, and rules."""
    lines: list[str] = []
    for kind in ("one setting for all", "a setting for each", "defaults"):
        lines += [f"\n{kind}: recall at {FIXED}, and sift rbf less each, in points\n"]
        lines += ["| | sift rbf | nearest | mmr | dpp | sift | tokens for nearest's recall |", "|---" * 7 + "|"]
        for name, own in figures[kind].items():
            row = [f"{100 * own[SIFT][f'recall at {FIXED}'][0]:.1f}"]
            row += [points(own[other][f"sift rbf less this at {FIXED}"]) for other in OTHERS]
            share = own["nearest"]["tokens of sift rbf at equal recall"]
            row += [f"{100 * share[0]:.0f} % [{100 * share[1]:.0f}, {100 * share[2]:.0f}]"]
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += ["\nown stops: recall (passages, tokens), and sift rbf less each, in points\n"]
    lines += ["| | sift rbf | nearest | mmr | dpp | sift |", "|---" * 6 + "|"]
    for name, own in figures["own stops"].items():
        row = [f"{100 * own[SIFT]['recall'][0]:.1f} ({own[SIFT]['passages']:.1f}, {own[SIFT]['tokens']})"]
        row += [
            f"{points(own[other]['sift rbf less this'])} ({own[other]['passages']:.1f}, {own[other]['tokens']})"
            for other in OTHERS
        ]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += ["\nrules on the picks of sift rbf, less a fixed count of as many passages, in points of recall\n"]
    names = list(figures["rules"])
    lines += [
        "| rule | value | passages | ρ | " + " | ".join(GROUPS) + " | worst corpus |",
        "|---" * (5 + len(GROUPS)) + "|",
    ]
    for rule, own in figures["rules"]["all"].items():
        by_cell = [figures["rules"][name][rule] for name in names if name not in GROUPS]
        spent = [one["passages"] for one in by_cell]
        row = [f"{own['value']:g}", f"{own['passages']:.1f} ({min(spent):.1f} to {max(spent):.1f})"]
        row += [
            str(own["rank correlation"]),
            *(points(figures["rules"][name][rule]["less a fixed count"]) for name in GROUPS),
        ]
        row += [f"{100 * min(one['less a fixed count'][0] for one in by_cell):.1f}"]
        lines.append(f"| {rule} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def write(name: str, result: Mapping[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text(json.dumps(result, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "choose", "table"))
    parser.add_argument("repositories", nargs="?", type=Path, help="the folder of checkouts")
    parser.add_argument("--work", type=Path, help="the folder of questions and picks; a table needs none")
    parser.add_argument("--part", choices=PARTS, default="validation")
    arguments = parser.parse_args()
    work = arguments.work
    if arguments.what == "table":
        if work is not None:
            chosen = json.loads((RESULTS / "chosen.json").read_text("utf-8"))
            write("test.json", {"machine": describe(), **report(load(work, "test"), chosen)})
        print(tables(json.loads((RESULTS / "test.json").read_text("utf-8"))))
    elif work is None:
        parser.error("--work is missing")
    elif arguments.what == "prepare":
        if arguments.repositories is None:
            parser.error("the folder of repositories is missing")
        prepare(arguments.repositories, work)
    elif arguments.what == "choose":
        write("chosen.json", choose(work))
    else:
        known = arguments.part == "validation"
        chosen = None if known else json.loads((RESULTS / "chosen.json").read_text("utf-8"))
        for cell in CELLS:
            run(work, *cell, arguments.part, all_settings() if chosen is None else chosen_labels(chosen, cell))


if __name__ == "__main__":
    main()
