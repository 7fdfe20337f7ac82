"""Selection on redundant and varied corpora: nearest neighbour, SIFT and pursuit, with the same budget of steps.

    python benchmarks/redundant.py prepare REPOSITORIES --work WORK      memories and texts; minutes
    python benchmarks/redundant.py run --work WORK --part dev            settings are chosen on these texts
    python benchmarks/redundant.py run --work WORK --part test           and reported on these; any number of processes
    python benchmarks/redundant.py run --work WORK --part test --protocol split --texts 60 --method auto+use=auto
    python benchmarks/redundant.py table [--work WORK] --part test       paired differences to nearest neighbour
    python benchmarks/redundant.py table --part test --skip 120          of the second test
    python benchmarks/redundant.py vectors --skip 120 --embedder static  the same texts with other vectors
    python benchmarks/redundant.py guard [--work WORK]                   what use="auto" prevents, costs and predicts
    python benchmarks/redundant.py pack --work WORK                      results/redundant/*/records.jsonl.gz

REPOSITORIES is a folder of checkouts, see `corpora.ALL_CORPORA`; what is not there is left out. What was to be run, and
what would count as success, was written down before anything was run on the test part: docs/decisions/0051 for the
first six corpora, 0067 for the others.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from corpora import ALL_CORPORA, CORPORA, part_of

from siftlm import Document, LocalModel, Memory
from siftlm.controller import Controller
from siftlm.evaluation import Protocol, evaluate, read
from siftlm.evaluation.statistics import rank_correlation

RESULTS = Path(__file__).parent / "results" / "redundant"
MODEL, EMBEDDER = "siftlm-tiny", "hashing"
STEPS, AT = 20, (2, 5, 10, 15)
# Words of a passage, so that a step is cheap and most passages are whole.
PASSAGE_TOKENS = 96
# Characters of a text: half of it is the prompt in mode split.
TEXT_CHARACTERS = 700
# Texts of a corpus, drawn from its domains in turns.
TEXTS = {"dev": 40, "test": 120}
PROTOCOLS = ("split", "transductive")
# Corpora in which five near-copies or more stand beside many passages.
REDUNDANT = ("loghub", "bbh", "t0")
LATER_REDUNDANT = ("advisories", "compat")
# The tests of the guard: their title, the end of the names of their runs, and the method.
GUARD_TESTS = (
    ("First test", "", "auto+use=auto"),
    ("Second test, deduction as it is without calibration", "-from-61", "auto+use=auto"),
    ("Second test, calibrated", "-from-61", "auto+use=auto+guard="),
    ("Six more corpora, without calibration", "-static", "auto+use=auto"),
)
# A text is worse where it needs more bits than the base model by more than this, in %.
HARM_PERCENT = 0.5
# What no table reads, and is most of a record; cosines are read of ``auto``.
OF_SINGLE_STEPS = {"uncertainty", "losses", "learned", "seconds"}
CHOICES = ("sift", "pursuit", "pursuit+replacement=True")
METHODS = {"dev": ("base", "nn", *CHOICES), "test": ("base", "nn", "sift", "auto")}
# What ``auto`` is where a text is its own prompt, by the name that is in the records.
TRANSDUCTIVE = {"auto": "sift+replacement=True"}


def memory_folder(work: Path, corpus: str, embedder: str) -> Path:
    """The memory of a corpus with these vectors."""
    return work / corpus / ("memory" if embedder == EMBEDDER else f"memory-{embedder}")


def prepare(repositories: Path, work: Path, embedder: str) -> None:
    """Build the memories and write the texts that are missing."""
    for name, corpus in ALL_CORPORA.items():
        folder = repositories / corpus.repository.split("/")[1]
        into = memory_folder(work, name, embedder)
        if into.exists():
            continue
        if not folder.exists():
            print(f"{folder}: there is no checkout of {corpus.repository}", file=sys.stderr)
            continue
        (work / name).mkdir(parents=True, exist_ok=True)
        passages = list(corpus.read(folder))
        for part in ("dev", "test"):
            with open(work / name / f"{part}.jsonl", "w", encoding="utf-8") as file:
                for one in passages:
                    if part_of(name, one.document) == part:
                        file.write(json.dumps({"text": one.text, "domain": one.domain}, ensure_ascii=False) + "\n")
        kept = (
            Document(one.text, meta={"domain": one.domain})
            for one in passages
            if part_of(name, one.document) == "memory"
        )
        building = into.with_suffix(".part")
        Memory.build(
            kept,
            building,
            embedder=embedder,
            passage_tokens=PASSAGE_TOKENS,
            overlap=0,
            full_text=False,
            progress=True,
        ).close()
        building.rename(into)


def run(
    work: Path,
    part: str,
    only: Sequence[str],
    protocols: Sequence[str],
    most: int | None,
    methods: Sequence[str],
    embedder: str,
    skip: int,
    model: str,
    tuning: dict[str, float],
) -> None:
    """Start or resume the runs of a part, from the records that are packed where the work folder has none."""
    unpack(work, part)
    controller = Controller(model)
    count = TEXTS[part] if most is None else most
    for name, protocol in itertools.product(only or CORPORA, protocols):
        texts = read(work / name / f"{part}.jsonl", per_domain=count, longest=TEXT_CHARACTERS, shortest=100)
        by_domain = defaultdict(list)
        for text in texts:
            by_domain[text.domain].append(text)
        turns = itertools.zip_longest(*by_domain.values())
        chosen = [text for turn in turns for text in turn if text is not None][skip:count]
        about = {"corpus": {"name": name, "repository": ALL_CORPORA[name].repository, "part": part}}
        print(f"{part} {name} {protocol}: {len(chosen)} texts", file=sys.stderr)
        suffix = run_ending(embedder, skip, model)
        with Memory.open(memory_folder(work, name, embedder)) as memory:
            evaluate(
                LocalModel(controller, memory, **tuning),
                chosen,
                [TRANSDUCTIVE.get(one, one) if protocol == "transductive" else one for one in methods],
                into=work / "runs" / f"{part}-{name}-{protocol}{suffix}",
                protocol=Protocol(protocol, n=STEPS, at=AT),
                about=about,
                progress=True,
            )


def run_ending(embedder: str, skip: int, model: str) -> str:
    """The end of the names of runs with these vectors and this model, from the text after so many."""
    parts = [Path(model).stem.lower() if model != MODEL else "", embedder if embedder != EMBEDDER else ""]
    return "".join(f"-{part}" for part in [*parts, f"from-{skip + 1}" if skip else ""] if part)


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a run, packed or not."""
    packed = folder / "records.jsonl.gz"
    if packed.exists():
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)
    else:
        with open(folder / "records.jsonl", encoding="utf-8") as file:
            yield from map(json.loads, file)


def unpack(work: Path, part: str) -> None:
    """Put the packed records of a part back where the work folder has none of their run."""
    for packed in sorted(RESULTS.glob(f"{part}-*/records.jsonl.gz")):
        folder = work / "runs" / packed.parent.name
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.copy(packed.parent / "run.json", folder / "run.json")
            (folder / "records.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))


def pack(work: Path) -> None:
    """Copy questions and compressed records into the results that are committed, where these have fewer."""
    for folder in sorted(work.glob("runs/*")):
        target = RESULTS / folder.name
        found = list(records(folder))
        if target.exists() and len(found) == sum(1 for _ in records(target)):
            continue
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "run.json", target / "run.json")
        lines = "".join(json.dumps(_for_tables(record)) + "\n" for record in found)
        # Without a date, so that the same records give the same file.
        (target / "records.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
        print(target.name, (target / "records.jsonl.gz").stat().st_size, "bytes")


def _for_tables(record: dict[str, Any]) -> dict[str, Any]:
    """What tables need of a record: all of one with the guard, and of others no figures of single steps."""
    left_out = set() if "extra" in record else OF_SINGLE_STEPS | ({"scores"} if record["method"] != "auto" else set())
    return {name: value for name, value in record.items() if name not in left_out}


@functools.cache
def percents(folder: Path) -> dict[str, dict[str, float]]:
    """Method -> text -> bits per byte after the last step, in % of the base model's."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records(folder):
        (_, last) = record["curve"][-1]
        found[record["method"]][record["text"]] = 100 * last / record["base"]
    return found


def paired(folders: Sequence[Path], method: str, other: str) -> tuple[int, float, float, float]:
    """Texts, and the mean difference over corpora with its 95 % interval; every corpus weighs the same."""
    both = [(percents(folder)[method], percents(folder)[other] if other != "base" else None) for folder in folders]
    return mean_difference(both)


def mean_difference(
    pairs: Sequence[tuple[dict[str, float], dict[str, float] | None]],
) -> tuple[int, float, float, float]:
    """`paired`, from a corpus' figures by text: one method's less another's, or one's alone where there is no other."""
    generator, means, drawn, count = np.random.default_rng(0), [], [], 0
    for one, other in pairs:
        both = sorted(one) if other is None else sorted(one.keys() & other.keys())
        values = np.array([one[text] - (0.0 if other is None else other[text]) for text in both])
        if len(values):
            means.append(values.mean())
            drawn.append(values[generator.integers(0, len(values), (4000, len(values)))].mean(axis=1))
            count += len(values)
    if not means:
        return 0, float("nan"), float("nan"), float("nan")
    low, high = np.percentile(np.mean(drawn, axis=0), (2.5, 97.5))
    return count, float(np.mean(means)), float(low), float(high)


def table(root: Path, part: str, end: str) -> str:
    """Markdown: nearest neighbour in % of base, and each method less nearest neighbour, in points of base.

    Of the runs whose names end so.
    """
    lines = []
    for protocol in PROTOCOLS:
        there = {name: root / f"{part}-{name}-{protocol}{end}" for name in ALL_CORPORA}
        there = {name: folder for name, folder in there.items() if folder.exists()}
        if not there:
            continue
        groups = {name: [folder] for name, folder in there.items()}
        repeating = {name for name in there if name in REDUNDANT + LATER_REDUNDANT}
        groups["redundant"] = [there[name] for name in there if name in repeating]
        groups["varied"] = [there[name] for name in there if name not in repeating]
        groups["all"] = list(there.values())
        names = [label for label in METHODS[part] if label not in ("base", "nn")]
        methods = [TRANSDUCTIVE.get(one, one) if protocol == "transductive" else one for one in names]
        lines += [
            f"\n{protocol}\n",
            "| corpus | texts | nn | " + " | ".join(names) + " |",
            "|---" * (3 + len(methods)) + "|",
        ]
        for name, folders in filter(itemgetter(1), groups.items()):
            count, nearest, _, _ = paired(folders, "nn", "base")
            if not count:
                continue
            cells = []
            for method in methods:
                common, value, low, high = paired(folders, method, "nn")
                if not common:
                    cells.append("–")
                    continue
                mark = "**" if low > 0 or high < 0 else ""
                cells.append(f"{mark}{value:+.2f}{mark} [{low:+.2f}, {high:+.2f}]")
            lines.append(f"| {name} | {count} | {nearest:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def vectors_table(root: Path, skip: int, embedder: str) -> str:
    """Markdown: what tuning leaves with these vectors less what it leaves with hashing, split mode, same texts."""
    lines = [
        "| corpus | texts | nearest, hashing | nearest, difference | `auto`, difference |",
        "|---|---:|---:|---:|---:|",
    ]
    there = {}
    for name in CORPORA:
        mine, plain = (root / f"test-{name}-split{run_ending(one, skip, MODEL)}" for one in (embedder, EMBEDDER))
        if mine.exists() and plain.exists():
            there[name] = (percents(mine), percents(plain))
    redundant = [name for name in there if name in REDUNDANT]
    groups = {**{name: [name] for name in there}, "redundant": redundant}
    groups |= {"varied": [name for name in there if name not in REDUNDANT], "all": list(there)}
    for title, names in groups.items():
        count, nearest, _, _ = mean_difference([(there[name][1]["nn"], None) for name in names])
        cells = []
        for method in ("nn", "auto"):
            _, value, low, high = mean_difference([tuple(one[method] for one in there[name]) for name in names])
            mark = "**" if low > 0 or high < 0 else ""
            cells.append(f"{mark}{value:+.2f}{mark} [{low:+.2f}, {high:+.2f}]")
        lines.append(f"| {title} | {count} | {nearest:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def guard_table(root: Path, ending: str, guarded: str) -> str:
    """Markdown: ``auto`` with the guard against ``auto`` on the same texts; see docs/decisions/0054-guard.md.

    Of the runs whose names end so; ``guarded`` is the beginning of the guarded method's name.
    """
    titles = "corpus | texts | gain | guarded | worse than base | guarded | used: weights, context, both, none"
    lines = [
        f"| {titles} | rank correlation of expected gain | of top cosine | difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    figures = {}
    for folder in sorted(root.glob(f"test-*-split{ending}")):
        with_guard = _records_of(folder, guarded)
        if with_guard:
            plain = _records_of(folder, "auto") or _records_of(root / folder.name.removesuffix(ending), "auto")
            both = sorted(plain.keys() & with_guard.keys())
            name = folder.name.split("-")[1]
            figures[name] = one = _guard_figures([(plain[text], with_guard[text]) for text in both])
            used = ", ".join(str(one["used"].get(use, 0)) for use in ("weights", "context", "both", "none"))
            lines.append(f"| {name} {_guard_cells({**one, 'used': used}, one['draws'])}")
    every = list(figures.values())
    gaining = [one for one in every if one["gain"] > 0]
    mean = {key: np.mean([one[key] for one in every]) for key in ("worse", "guarded_worse", "expected", "cosine")}
    mean |= {key: np.mean([one[key] for one in gaining]) for key in ("gain", "guarded")}
    mean |= {"texts": sum(one["texts"] for one in every), "used": ""}
    lines.append(f"| mean {_guard_cells(mean, np.mean([one['draws'] for one in every], axis=0))}")
    kept = mean["guarded"] / mean["gain"]
    lines.append(f"\nMean gains are those of the {len(gaining)} corpora in which auto gains; {kept:.1%} are kept.")
    return "\n".join(lines)


def _records_of(folder: Path, method: str) -> dict[str, dict[str, Any]]:
    """Text -> its record of this method, or of the method of this name up to the value of its last setting."""
    wanted = (one for one in records(folder) if method in (one["method"], str(one["method"]).partition("=(")[0] + "="))
    return {str(record["text"]): record for record in wanted}


def _guard_cells(one: dict[str, Any], draws: Any) -> str:
    low, high = np.percentile(draws, (2.5, 97.5))
    return (
        f"| {one['texts']} | {one['gain']:.1f} | {one['guarded']:.1f} | {one['worse']:.1f} % | "
        f"{one['guarded_worse']:.1f} % | {one['used']} | {one['expected']:.2f} | {one['cosine']:.2f} | "
        f"{one['expected'] - one['cosine']:+.2f} [{low:+.2f}, {high:+.2f}] |"
    )


def _guard_figures(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The figures of one corpus: gains in % of base, shares of texts in %, rank correlations and their resamples."""
    gain, guarded = (
        np.array([100 - 100 * pair[which]["curve"][-1][1] / pair[which]["base"] for pair in pairs]) for which in (0, 1)
    )
    expected = np.array([_expected_gain(pair[1]["extra"]) for pair in pairs])
    cosine = np.array([pair[0]["scores"][0] for pair in pairs])
    generator, draws = np.random.default_rng(0), []
    for _ in range(2000):
        some = generator.integers(0, len(pairs), len(pairs))
        draws.append(_rank_correlation(expected[some], gain[some]) - _rank_correlation(cosine[some], gain[some]))
    return {
        "texts": len(pairs),
        "gain": gain.mean(),
        "guarded": guarded.mean(),
        "worse": 100 * (gain < -HARM_PERCENT).mean(),
        "guarded_worse": 100 * (guarded < -HARM_PERCENT).mean(),
        "used": Counter(pair[1]["extra"]["use"] for pair in pairs),
        "expected": _rank_correlation(expected, gain),
        "cosine": _rank_correlation(cosine, gain),
        "draws": np.array(draws),
    }


def _expected_gain(extra: dict[str, Any]) -> float:
    """What held-out passages let expect at the first look, in % of base; 0 where nothing was held out."""
    return 100.0 - extra["expected"][0][1] if extra["expected"] else 0.0


def _rank_correlation(x: Any, y: Any) -> float:
    return rank_correlation(x, y) or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "table", "vectors", "guard", "pack"))
    parser.add_argument("repositories", nargs="?", type=Path, help="the folder of checkouts")
    parser.add_argument("--work", type=Path, help="the folder of memories, texts and runs; a table needs none")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--only", action="append", default=[], choices=list(ALL_CORPORA), metavar="CORPUS")
    parser.add_argument("--protocol", action="append", default=[], choices=PROTOCOLS)
    parser.add_argument("--method", action="append", default=[], help="left out: those of the part")
    parser.add_argument("--texts", type=int, help="so many of each corpus, if it has them")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many; a run of its own")
    parser.add_argument("--embedder", default=EMBEDDER, help="vectors; left out: hashing")
    parser.add_argument("--model", default=MODEL, help="a model for siftlm.Controller; left out: the bundled one")
    parser.add_argument("--rate", type=float, help="learning rate; left out: the usual one of the model's size")
    arguments = parser.parse_args()
    if arguments.what == "table":
        root = RESULTS if arguments.work is None else arguments.work / "runs"
        print(table(root, arguments.part, run_ending(arguments.embedder, arguments.skip, arguments.model)))
    elif arguments.what == "vectors":
        root = RESULTS if arguments.work is None else arguments.work / "runs"
        print(vectors_table(root, arguments.skip, arguments.embedder))
    elif arguments.what == "guard":
        root = RESULTS if arguments.work is None else arguments.work / "runs"
        for title, ending, method in GUARD_TESTS:
            if any(root.glob(f"test-*-split{ending}")):
                print(f"\n{title}\n\n{guard_table(root, ending, method)}")
    elif arguments.work is None:
        parser.error("--work is missing")
    elif arguments.what == "prepare":
        if arguments.repositories is None:
            parser.error("the folder of repositories is missing")
        prepare(arguments.repositories, arguments.work, arguments.embedder)
    elif arguments.what == "run":
        methods = arguments.method or METHODS[arguments.part]
        run(
            arguments.work,
            arguments.part,
            arguments.only,
            arguments.protocol or PROTOCOLS,
            arguments.texts,
            methods,
            arguments.embedder,
            arguments.skip,
            arguments.model,
            {} if arguments.rate is None else {"rate": arguments.rate},
        )
    else:
        pack(arguments.work)


if __name__ == "__main__":
    main()
