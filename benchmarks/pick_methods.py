"""Every method of `siftlm.pick` on one pool: is a small model trained on its choice better than on random records?

    python benchmarks/pick_methods.py run ../shared/minipile --work WORK            some minutes a method and domain
    python benchmarks/pick_methods.py run ../shared/minipile --work WORK --method rds --method sift --domain Github
    python benchmarks/pick_methods.py table --work WORK                             differences, with intervals
    python benchmarks/pick_methods.py pack --work WORK                              results/pick_methods.json

The pool is the first --records of train.jsonl.gz, all domains mixed. For each domain, the targets are its first
--targets documents of test.jsonl.gz and the tests as many that follow; of each document the first --characters, and no
text twice. A method chooses --picks records for the targets, by the static embedder, with its default options and no
labels, scores or quality: the verdict of `siftlm.Picks.verdict` is taken on the tests. Each pair of method and
domain is a file in WORK/cells: a command that was stopped goes on where it was. Figures only, none of the texts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

import siftlm
from siftlm.errors import SiftlmError

RESULT = Path(__file__).parent / "results" / "pick_methods.json"
DOMAINS = ("Github", "ArXiv", "DM Mathematics", "USPTO Abstracts", "Ubuntu IRC")
# Of a verdict, what the result keeps.
KEPT = ("verdict", "difference", "chosen", "random", "won", "tests", "records", "proxy")


def documents(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield {"text": record["text"], "domain": record["meta"]["pile_set_name"]}


def read(corpus: Path, settings: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The pool, and of each domain the targets and then the tests."""
    pool = []
    for record in documents(corpus / "train.jsonl.gz"):
        pool.append({**record, "text": record["text"][: settings.characters]})
        if len(pool) == settings.records:
            break
    goals: dict[str, list[str]] = {domain: [] for domain in settings.domain or DOMAINS}
    for record in documents(corpus / "test.jsonl.gz"):
        texts, text = goals.get(record["domain"]), record["text"][: settings.characters]
        if texts is not None and len(texts) < 2 * settings.targets and text not in texts:
            texts.append(text)
    if few := [domain for domain, texts in goals.items() if len(texts) < 2 * settings.targets]:
        sys.exit(f"{few[0]}: has fewer than {2 * settings.targets} test documents; lower --targets")
    return pool, goals


def cell(pool: list[Any], goals: list[str], vectors: Any, method: str, settings: argparse.Namespace) -> dict[str, Any]:
    """The verdict on one choice; or why the method makes none."""
    targets, tests = goals[: settings.targets], goals[settings.targets :]
    embedder = siftlm.embedder("static")
    began = time.monotonic()
    try:
        picks = siftlm.pick(
            pool, targets, settings.picks, method=method, vectors=vectors, embedder=embedder, progress=False
        )
        chosen = time.monotonic() - began
        verdict = picks.verdict(tests, records=settings.picks, progress=False)
    except SiftlmError as error:
        return {"refused": str(error)}
    domains = [record["domain"] for record in picks.records]
    return {
        **{name: value for name, value in verdict.to_dict().items() if name in KEPT},
        "picks": len(picks),
        "left": float(picks.uncertainty[-1] / picks.uncertainty[0]),
        "domains": {name: domains.count(name) for name in sorted(set(domains))},
        "seconds": {"choice": round(chosen, 2), "verdict": round(time.monotonic() - began - chosen, 1)},
    }


def run(settings: argparse.Namespace) -> None:
    cells: Path = settings.work / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    own = {name: getattr(settings, name) for name in ("records", "targets", "picks", "characters")}
    job = settings.work / "settings.json"
    if job.exists() and json.loads(job.read_text(encoding="utf-8")) != own:
        sys.exit(f"{job}: is of a run with other settings; use another --work")
    job.write_text(json.dumps(own), encoding="utf-8")
    pool, goals = read(settings.corpus, settings)
    file = settings.work / "pool.npy"
    if not file.exists():
        made = siftlm.embedder("static").embed([record["text"] for record in pool])
        np.save(settings.work / "part.npy", made)
        (settings.work / "part.npy").replace(file)
    vectors = np.load(file)
    for domain, texts in goals.items():
        for method in settings.method or siftlm.methods():
            path = cells / f"{domain.replace(' ', '-')}+{method}.json"
            if path.exists():
                continue
            found = {"domain": domain, "method": method, **cell(pool, texts, vectors, method, settings)}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(path)
            print(f"{domain:20} {method:20} {found.get('difference', found.get('refused'))}", flush=True)


def found_in(work: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "cells").glob("*.json"))]


def table(settings: argparse.Namespace) -> None:
    """The methods by their mean difference to random records, in % of the base model's bits; lower is better."""
    some = [one for one in found_in(settings.work) if "difference" in one]
    domains = sorted({one["domain"] for one in some})
    by = {(one["method"], one["domain"]): one["difference"] for one in some}
    means = {
        method: float(np.mean([own["mean"] for (name, _), own in by.items() if name == method]))
        for method in {one["method"] for one in some}
    }
    print("| method | mean | " + " | ".join(domains) + " |\n|---|---|" + "---|" * len(domains))
    for method in sorted(means, key=lambda name: means[name]):
        row = [by.get((method, domain)) for domain in domains]
        words = [
            "–" if one is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(one["mean"], *one["interval"]) for one in row
        ]
        print(f"| `{method}` | {means[method]:+.1f} | " + " | ".join(words) + " |")


# Of each method and domain, in this order.
COLUMNS = ("difference", "low", "high", "won", "uncertainty left", "share of the domain", "picks", "seconds")


def pack(settings: argparse.Namespace) -> None:
    cells = found_in(settings.work)
    methods: dict[str, dict[str, list[float]]] = {}
    for one in cells:
        if "difference" in one:
            own = one["domains"].get(one["domain"], 0) / max(1, one["picks"])
            values = [one["difference"]["mean"], *one["difference"]["interval"], one["won"], one["left"], own]
            values = [float(f"{value:.4g}") for value in values]
            methods.setdefault(one["method"], {})[one["domain"]] = [*values, one["picks"], one["seconds"]["choice"]]
    result = {
        "settings": json.loads((settings.work / "settings.json").read_text(encoding="utf-8")),
        "machine": describe("torch"),
        "refused": sorted({one["method"] for one in cells if "refused" in one}),
        "columns": COLUMNS,
    }
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(own)}" for name, own in methods.items())
    RESULT.write_text(f'{json.dumps(result)[:-1]}, "methods": {{\n{rows}\n}}}}\n', encoding="utf-8")
    print(f"{RESULT}: {RESULT.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("corpus", type=Path)
    running.add_argument("--records", type=int, default=8000)
    running.add_argument("--targets", type=int, default=40)
    running.add_argument("--picks", type=int, default=300)
    running.add_argument("--characters", type=int, default=1000)
    running.add_argument("--method", action="append", help="only this one; repeatable")
    running.add_argument("--domain", action="append", help="only this one; repeatable")
    for name, command in (("run", running), *((name, commands.add_parser(name)) for name in ("table", "pack"))):
        command.add_argument("--work", type=Path, required=True)
        command.set_defaults(do=globals()[name])
    settings = parser.parse_args()
    settings.do(settings)


if __name__ == "__main__":
    main()
