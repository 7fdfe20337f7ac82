"""Answers instead of bits per byte: which answer a model gives that was tuned on solved questions of the same kind.

    python benchmarks/answers.py prepare REPOSITORIES --work WORK            memories and items; a minute
    python benchmarks/answers.py run --work WORK --part dev --model MODEL    settings are chosen on these items
    python benchmarks/answers.py run --work WORK --part test --model MODEL   and reported on these
    python benchmarks/answers.py table [--work WORK] --part dev              answers, and paired differences
    python benchmarks/answers.py votes --work WORK --part dev                what the memory's answers alone would say
    python benchmarks/answers.py pack --work WORK                            results/answers/*/records.jsonl.gz
    python benchmarks/answers.py unpack --work WORK                          and back, where a run is to go on from them

A run goes on where it stopped, and any number of processes may share it. REPOSITORIES is a folder of checkouts, see
`corpora.CORPORA`; MODEL is ``siftlm-tiny``, a GGUF file, or any other that `siftlm.Controller` opens. The memory holds
solved questions, of which only the answer is learned (``Tuning.completion``). The split by document
(`corpora.part_of`) keeps every item's own question out of it. docs/decisions/0053-answers.md says what was tried on the
dev part, what is to be run on the test part, and what would count as success.

**BIG-Bench-Hard (bbh).** The choices of a question are the options that it lists, else the answers that its task has in
the memory, if those are `MAX_ANSWERS` or fewer; the three tasks with more are left out. The answer is the choice with
the highest log-likelihood (`LocalModel.score_choices`). Nothing is generated and no reasoning is written down.

This is not the protocol of the published test-time training on BBH (arXiv 2411.07279: 50.5 to 57.8 % with an 8B model).
There 10 random solved questions of the *same task* are given; adapters are trained on leave-one-out prompts made of
them (nine solved questions before the tenth); the ten stand before the question when it is answered, and the other
questions of the task are the test. Here the memory holds 70 % of the questions of *all* tasks; the question alone
selects from it, without the name of its task; the model is tuned for each question, on single solved questions, one
step each; and it answers without examples before the question, except in ``context`` and ``both``. ``task`` is the
method nearest to the published one: as many random solved questions of the item's own task. Figures of the two
protocols cannot be compared.

**Grade-school mathematics (gsm8k).** The answer is the number behind ``####`` in a greedy continuation (``--generate``
tokens; 0, the default, generates nothing). Small models rarely find it, so the solution's bits per byte are reported as
well.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from corpora import CORPORA, Passage, part_of

from siftlm import Document, LocalModel, Memory, Score
from siftlm.controller import Controller
from siftlm.evaluation import Protocol
from siftlm.evaluation.fingerprints import run_question
from siftlm.evaluation.measured import Measured, measured_from_score
from siftlm.evaluation.run_folder import RunFolder, question_of, records_of
from siftlm.evaluation.statistics import Mean, mean
from siftlm.types import Likelihood

RESULTS = Path(__file__).parent / "results" / "answers"
# What stands between question and answer. The space behind it belongs to the answer, as tokenizers have it.
MARKERS = {"bbh": "\nA:", "gsm8k": "\nAnswer:"}
# Longer texts are neither remembered nor asked: a step on one takes seconds.
LONGEST_CHARACTERS = 1500
MAX_ANSWERS = 20
# Method -> settings of `LocalModel`; None is the model as it is.
METHODS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "context": {"method": "nearest", "use": "context"},
    "nn": {"method": "nearest"},
    "sift": {"method": "sift"},
    "auto": {"method": "auto"},
    "both": {"method": "nearest", "use": "both"},
    "task": {"method": "random"},
}
TUNED_ONLY = "weights"
# Texts to tune on, and after how many the answers are also looked at.
STEPS, AT = 10, (5,)
ITEMS = {"dev": 24, "test": 480}
OPTION = re.compile(r"^\(([A-Z])\) ", re.MULTILINE)
# What no table needs of a record. The same memory gives the same texts again, so they are not kept either.
IN_NO_TABLE = {"uncertainty", "losses", "seconds", "scores", "rows", "considered", "ended", "kept"}
FINAL_NUMBER = re.compile(r"####\s*\$?(-?[\d,]*\.?\d+)")


# --- memories and items


def prepare(repositories: Path, work: Path) -> None:
    """Build the memories and write the items that are missing."""
    for name, marker in MARKERS.items():
        if (work / name / "memory").exists():
            continue
        folder = repositories / CORPORA[name].repository.split("/")[1]
        passages = [one for one in CORPORA[name].read(folder) if len(one.text) <= LONGEST_CHARACTERS]
        remembered = [one for one in passages if part_of(name, one.document) == "memory"]
        known: dict[str, Counter[str]] = defaultdict(Counter)
        for one in remembered:
            known[one.domain][one.text.split(marker, 1)[1]] += 1
        (work / name).mkdir(parents=True, exist_ok=True)
        for part in ("dev", "test"):
            items = [item_of(one, marker, known[one.domain]) for one in passages if part_of(name, one.document) == part]
            with open(work / name / f"{part}.jsonl", "w", encoding="utf-8") as file:
                for item in filter(None, items):
                    file.write(json.dumps(item, ensure_ascii=False) + "\n")
        documents = (Document(one.text, meta={"task": one.domain}) for one in remembered)
        building = work / name / "memory.part"
        settings = {"embedder": "hashing", "passage_tokens": LONGEST_CHARACTERS, "overlap": 0, "full_text": False}
        Memory.build(documents, building, **settings).close()
        building.rename(work / name / "memory")


def item_of(passage: Passage, marker: str, known: Counter[str]) -> dict[str, Any] | None:
    """A question with its answer and, where the corpus has choices, those; None where its answer is not among them.

    >>> text = "Q: Which?\\nOptions:\\n(A) one\\n(B) two\\nA: (B)"
    >>> item_of(Passage("d", text, "t"), "\\nA:", Counter())["choices"]
    [' (A)', ' (B)']
    """
    question, answer = passage.text.split(marker, 1)
    item = {"id": passage.document, "task": passage.domain, "prompt": question + marker, "answer": answer}
    if marker != MARKERS["bbh"]:
        return item
    options = [f" ({letter})" for letter in OPTION.findall(question)]
    choices = options if len(options) > 1 else sorted(known) if 1 < len(known) <= MAX_ANSWERS else []
    if answer not in choices or len(set(choices)) < len(choices):
        return None
    return {**item, "choices": choices, "usual": max(choices, key=lambda one: known[one])}


def items_of(work: Path, name: str, part: str, count: int) -> list[dict[str, Any]]:
    """The first items of a part in an order that depends on their names alone; tasks take turns."""
    with open(work / name / f"{part}.jsonl", encoding="utf-8") as file:
        items = [json.loads(line) for line in file]
    by_task = defaultdict(list)
    for item in sorted(items, key=lambda one: hashlib.sha256(one["id"].encode()).digest()):
        by_task[item["task"]].append(item)
    turns = itertools.zip_longest(*(by_task[task] for task in sorted(by_task)))
    return [item for turn in turns for item in turn if item is not None][:count]


# --- one method on one item


def choose(
    model: LocalModel, item: Mapping[str, Any], settings: Mapping[str, Any] | None, at: Sequence[int]
) -> Measured:
    """The likelihood of each choice on the way and at the end; bits per byte are those of the right one."""
    right, choices, prompt = item["choices"].index(item["answer"]), item["choices"], item["prompt"]
    usual = choices.index(item["usual"])
    if settings is None:
        seen = model.controller.likelihoods([(choice, prompt) for choice in choices])
        curve, own = {0: seen}, seen[right]
        measured = Measured(own.bits_per_byte, {0: own.bits_per_byte}, own.bytes, own.tokens)
        found: list[str] = []
    else:
        points = at if settings.get("use", TUNED_ONLY) == TUNED_ONLY else ()
        made = model.score_choices(prompt, choices, at=points, **settings)
        base, tuned = ([getattr(one, name) for one in made.choices] for name in ("base", "tuned"))
        curve = {0: base, **{steps: list(them) for steps, them in made.curve}, at[-1]: tuned}
        bits = tuple((steps, them[right].bits_per_byte) for steps, them in made.curve)
        one, other = tuned[right], base[right]
        score = Score(
            other.bits_per_byte, one.bits_per_byte, "split", one, other, made.found, made.trace, bits, made.seconds
        )
        measured, found = measured_from_score(score, at), made.found.texts
    answers = [text.split(MARKERS["bbh"], 1)[1] for text in found]
    extra = {
        "right": right,
        "usual": usual,
        "nats": [[steps, [round(one.nats, 5) for one in them]] for steps, them in curve.items()],
        "sizes": [one.bytes for one in curve[0]],
        # Of each text that was found, the choice that is its answer.
        "answers": [choices.index(one) if one in choices else None for one in answers],
    }
    return replace(measured, extra=extra)


def solve(
    model: LocalModel, item: Mapping[str, Any], settings: Mapping[str, Any] | None, at: Sequence[int], most: int
) -> Measured:
    """The solution's bits per byte on the way and at the end, and whether a greedy continuation of ``most`` tokens ends
    with the right number."""
    controller, prompt, text = model.controller, item["prompt"], item["answer"]
    base = controller.likelihood(text, after=prompt)
    curve: dict[int, Likelihood] = {}
    taken = 0

    def after(_: object) -> None:
        nonlocal taken
        taken += 1
        if taken in at:
            curve[taken] = controller.likelihood(text, after=prompt)

    def answered(texts: Sequence[str]) -> dict[str, Any]:
        if not most:
            return {}
        made = controller.generate(prompt, texts=texts, max_new_tokens=most, stop=["\n\n", "\nQuestion:"])
        given, right = final_number(made.text), final_number(text)
        return {"answered": given is not None, "correct": given is not None and given == right}

    if settings is None:
        measured = Measured(base.bits_per_byte, {0: base.bits_per_byte}, base.bytes, base.tokens)
        return replace(measured, extra=answered(()))
    on_the_way = after if settings.get("use", TUNED_ONLY) == TUNED_ONLY else None
    with model.learned(prompt, after=on_the_way, **settings) as learned:
        tuned = controller.likelihood(text, after=prompt, texts=learned.context)
        extra = answered(learned.context)
    bits = tuple((steps, one.bits_per_byte) for steps, one in curve.items())
    score = Score(base.bits_per_byte, tuned.bits_per_byte, "split", tuned, base, learned.found, learned.trace, bits)
    return replace(measured_from_score(score, at), extra=extra)


def final_number(text: str) -> float | None:
    """The number behind ``####``.

    >>> final_number("2 + 2 = 4\\n#### 1,004"), final_number("four")
    (1004.0, None)
    """
    found = FINAL_NUMBER.search(text)
    return float(found[1].replace(",", "")) if found else None


# --- a run


def run(
    work: Path,
    part: str,
    model: str,
    only: Sequence[str],
    methods: Sequence[str],
    *,
    count: int | None,
    steps: int,
    rate: float | None,
    most: int,
    order: str,
    label: str,
) -> None:
    """Start or resume the runs of a part."""
    controller = Controller(model)
    at = (*(point for point in AT if point < steps), steps)
    tuning = {"n": steps, "order": order, **({} if rate is None else {"rate": rate})}
    for name in only or MARKERS:
        items = items_of(work, name, part, ITEMS[part] if count is None else count)
        with Memory.open(work / name / "memory") as memory:
            local = LocalModel(controller, memory, completion=MARKERS[name], calibrated=False, **tuning)
            described = {
                "corpus": {"name": name, "repository": CORPORA[name].repository, "part": part},
                "tuning": local.tuning_settings().to_dict(),
                "generate": most,
            }
            question = run_question(local, Protocol("split", n=steps, at=at), described)
            folder = "-".join(filter(None, [part, name, Path(model).stem, label]))
            print(f"{folder}: {len(items)} items", file=sys.stderr)
            with RunFolder.begin(work / "runs" / folder, question) as records:
                for item, method in itertools.product(items, methods):
                    settings = METHODS[method]
                    if method == "task":
                        settings = {**(settings or {}), "where": {"task": item["task"]}}
                        settings["selection_seed"] = int(hashlib.sha256(item["id"].encode()).hexdigest()[:8], 16)
                    with records.claim(item["id"], method) as mine:
                        if not mine:
                            continue
                        if "choices" in item:
                            measured = choose(local, item, settings, at)
                        else:
                            measured = solve(local, item, settings, at, most)
                        about = {"text": item["id"], "method": method, "domain": item["task"]}
                        records.add({**about, **measured.to_dict()})


def unpack(work: Path) -> None:
    """Copy the committed records of runs that are not there, so that a run goes on from them."""
    for packed in sorted(RESULTS.glob("*/records.jsonl.gz")):
        folder = work / "runs" / packed.parent.name
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.copy(packed.parent / "run.json", folder / "run.json")
            (folder / "records.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))


def pack(work: Path) -> None:
    """Copy the questions and the compressed records into the results that are committed."""
    for folder in sorted(work.glob("runs/*")):
        target = RESULTS / folder.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "run.json", target / "run.json")
        # Of what tables need, and without a date, so that the same records give the same file.
        lines = (
            json.dumps({name: value for name, value in record.items() if name not in IN_NO_TABLE}) + "\n"
            for record in records_of(folder)
        )
        (target / "records.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
        print(target.name, (target / "records.jsonl.gz").stat().st_size, "bytes")


# --- the tables

RIGHT, RIGHT_PER_BYTE, NATS, PERCENT, BITS = "right, %", "right per byte, %", "nats", "% of base", "bits per byte"
CHANCE, USUAL, VOTE = "chance", "usual answer", "vote of nn's texts"


def figures(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of a record: at its end under the method's name, and on the way under ``method @steps``.

    ``nats`` is −log p(right answer) where p is the share of its likelihood among that of all choices.
    """
    method, measured = record["method"], Measured.of(record)
    extra = measured.extra
    if "nats" not in extra:
        for steps, bits in sorted(measured.curve.items()):
            last = steps == max(measured.curve)
            own = {PERCENT: 100 * bits / measured.base, BITS: bits}
            if last and "correct" in extra:
                own[RIGHT] = 100.0 * extra["correct"]
            if last or (steps and measured.learned):
                yield method if last else f"{method} @{steps}", own
        return
    right, sizes = extra["right"], np.array(extra["sizes"])
    points = sorted(extra["nats"])
    for steps, values in points:
        nats, last = np.array(values), steps == points[-1][0]
        figure = {
            RIGHT: 100.0 * (nats.argmin() == right),
            RIGHT_PER_BYTE: 100.0 * ((nats / sizes).argmin() == right),
            NATS: float(nats[right] - nats.min() + np.log(np.exp(nats.min() - nats).sum())),
        }
        if last:
            figure[BITS] = measured.tuned
        if steps or last:
            yield method if last else f"{method} @{steps}", figure
    yield CHANCE, {RIGHT: 100 / len(sizes), NATS: float(np.log(len(sizes)))}
    yield USUAL, {RIGHT: 100.0 * (extra["usual"] == right)}
    if method == "nn":
        yield VOTE, {RIGHT: 100.0 * (vote(extra["answers"]) == right)}


def vote(answers: Sequence[Any]) -> Any:
    """The most frequent answer of texts, the nearest first, and of equals that of the nearest; None is no answer.

    >>> vote([None, 2, 1, 1, 2])
    2
    """
    known = Counter(one for one in answers if one is not None)
    return known.most_common(1)[0][0] if known else None


def votes(work: Path, part: str, steps: int) -> str:
    """Markdown: how often the most frequent answer of the nearest solved questions is right. No model takes part."""
    rows: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    with Memory.open(work / "bbh" / "memory") as memory:
        for item in items_of(work, "bbh", part, sys.maxsize):
            found = memory.search(item["prompt"], n=steps, method="nearest")
            answers = [text.split(MARKERS["bbh"], 1)[1] for text in found.texts]
            right = vote([one if one in item["choices"] else None for one in answers]) == item["answer"]
            same = float(np.mean([hit.meta["task"] == item["task"] for hit in found]))
            usual = item["usual"] == item["answer"]
            rows[item["task"]].append((100.0 * right, 100.0 * usual, 100 / len(item["choices"]), 100 * same))
    rows["all"] = [row for own in rows.values() for row in own]
    lines = [
        f"| task | items | vote of {steps} | usual | chance | vote less chance | texts of the task, % |",
        "|---|" + "---:|" * 6,
    ]
    for task, own in rows.items():
        right, usual, chance, same = np.array(own).T
        cells = [f"{values.mean():.1f}" for values in (right, usual, chance)]
        gap = mean((right - chance).tolist())
        cells.append(f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]")
        lines.append(f"| {task} | {len(own)} | " + " | ".join([*cells, f"{same.mean():.0f}"]) + " |")
    return "\n".join(lines)


def table(root: Path, part: str) -> str:
    """Markdown: of each run the figures of each method, and the paired differences to nn, base and chance."""
    lines: list[str] = []
    for folder in sorted(root.glob(f"{part}-*")):
        found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for record in records_of(folder):
            for label, own in figures(record):
                for name, value in own.items():
                    found[name][label][record["text"]] = value
        question = question_of(folder)
        tuning = question["tuning"]
        lines += [
            f"\n**{folder.name}**: {question['protocol']['n']} texts, rate {tuning['rate']:g}, {tuning['order']}\n",
            "| figure | method | items | mean | less nn | less base | less chance |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for name, methods in found.items():
            digits = 3 if name in (NATS, BITS) else 1
            for label, values in methods.items():
                cells = [f"{mean(list(values.values())).value:.{digits}f}"]
                cells += [difference(values, methods.get(other, {}), digits) for other in ("nn", "base", CHANCE)]
                lines.append(f"| {name} | {label} | {len(values)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def difference(values: Mapping[str, float], others: Mapping[str, float], digits: int) -> str:
    """The mean paired difference with its 95 % bootstrap interval over items, bold where that excludes zero."""
    both = sorted(values.keys() & others.keys())
    if not both or values is others:
        return ""
    gap: Mean = mean([values[item] - others[item] for item in both])
    mark = "**" if gap.sign else ""
    return f"{mark}{gap.value:+.{digits}f}{mark} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "table", "votes", "pack", "unpack"))
    parser.add_argument("repositories", nargs="?", type=Path, help="the folder of checkouts")
    parser.add_argument("--work", type=Path, help="the folder of memories, items and runs; a table needs none")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--model", default="siftlm-tiny")
    parser.add_argument("--only", action="append", default=[], choices=list(MARKERS), metavar="CORPUS")
    parser.add_argument("--method", action="append", default=[], choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--items", type=int, help="at most so many of each corpus")
    parser.add_argument("--steps", type=int, default=STEPS, help="texts to tune on")
    parser.add_argument("--order", choices=("picked", "reversed"), default="picked")
    parser.add_argument("--rate", type=float, help="left out, the one for models of this size")
    parser.add_argument("--generate", type=int, default=0, metavar="TOKENS", help="continue each problem of gsm8k")
    parser.add_argument("--label", default="", help="ends the name of the run's folder")
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(table(RESULTS if arguments.work is None else arguments.work / "runs", arguments.part))
    elif arguments.work is None:
        parser.error("--work is missing")
    elif arguments.what == "prepare":
        if arguments.repositories is None:
            parser.error("the folder of repositories is missing")
        prepare(arguments.repositories, arguments.work)
    elif arguments.what == "votes":
        print(votes(arguments.work, arguments.part, arguments.steps))
    elif arguments.what == "run":
        run(
            arguments.work,
            arguments.part,
            arguments.model,
            arguments.only,
            arguments.method or list(METHODS),
            count=arguments.items,
            steps=arguments.steps,
            rate=arguments.rate,
            most=arguments.generate,
            order=arguments.order,
            label=arguments.label,
        )
    elif arguments.what == "unpack":
        unpack(arguments.work)
    else:
        pack(arguments.work)


if __name__ == "__main__":
    main()
