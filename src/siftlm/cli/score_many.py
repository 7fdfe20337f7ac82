"""``siftlm score --texts``: a JSON line for each text, as soon as it is known; what is done is not done again."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import local, scoring
from siftlm.cli.drawing import printable

if TYPE_CHECKING:
    from siftlm.cli.scoring import Plan


@dataclass(frozen=True)
class Task:
    """One text of the file."""

    line: int
    sha256: str
    """Of the text, so that a changed one is not taken for done."""
    text: str
    known: dict[str, Any]
    """Whatever else its line says."""


def run(arguments: argparse.Namespace, plan: Plan) -> int:
    """Score those that are not in ``--out`` yet."""
    tasks = list(_tasks(arguments.texts, plan.mode))
    asked = _asked(arguments, plan)
    done = {} if arguments.out is None else _done(arguments.out, asked)
    records = {task.line: done[task.sha256] for task in tasks if task.sha256 in done}
    left = [task for task in tasks if task.line not in records]
    if records and not arguments.quiet:
        local.note(f"{len(records)} of {len(tasks)} texts are in {arguments.out} already")
    if left:
        model = local.opened(arguments, plan.shared)
        stream = _appending(arguments.out)
        try:
            for task in left:
                scored = scoring.score(
                    model,
                    task.text,
                    plan,
                    quiet=arguments.quiet or not _watched(),
                    name=f"text {task.line} of {len(tasks)}, ",
                )
                record = {
                    **task.known,
                    "line": task.line,
                    "sha256": task.sha256,
                    **scored.to_dict(why=arguments.why),
                    "asked": asked,
                }
                stream.write(printable(json.dumps(record), stream) + "\n")
                stream.flush()
                records[task.line] = record
        except KeyboardInterrupt:
            if arguments.out is not None:
                local.note("stopped; the same command goes on from here")
            raise
        finally:
            if arguments.out is not None:
                stream.close()
    if not arguments.quiet:
        local.note(_summary(list(records.values())))
    return 0


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _tasks(path: str, mode: str) -> Iterator[Task]:
    """All texts, checked before the first one is scored."""
    from siftlm.cli import files
    from siftlm.errors import InvalidInput

    count = 0
    for where, value in files.json_lines(path):
        record = {"text": value} if isinstance(value, str) else value
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InvalidInput(f"{where}: is neither a text nor an object with a 'text'")
        try:
            scoring.check(record["text"], mode)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error
        count += 1
        sha = hashlib.sha256(record["text"].encode("utf-8", "surrogatepass")).hexdigest()[:16]
        yield Task(count, sha, record["text"], {name: value for name, value in record.items() if name != "text"})
    if not count:
        raise InvalidInput(f"{path}: holds no texts")


def _asked(arguments: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """What decides about the figures: those of two different questions do not belong into one file."""
    model = {
        name: value
        for name in ("model", "engine", "rank", "alpha", "targets", "dtype", "context_tokens")
        if (value := getattr(arguments, name)) is not None
    }
    how = {
        "mode": plan.mode,
        "at": list(plan.at),
        "watch": plan.watch,
        "context": plan.context,
        "compare": list(plan.compare),
    }
    settings = {
        name: value if isinstance(value, (bool, int, float, str, list, type(None))) else repr(value)
        for name, value in sorted({**plan.shared, **plan.own}.items())
    }
    return {"memory": os.path.basename(os.path.abspath(arguments.folder)), **model, **how, "settings": settings}


def _done(path: str, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """sha256 -> the record, of those that the file holds; a line that was cut short is taken out of it."""
    from siftlm.cli import files
    from siftlm.errors import Conflict, InvalidInput

    if not os.path.isfile(path):
        return {}
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
    found = {}
    for where, record in files.json_lines(path):
        if not isinstance(record, dict) or "sha256" not in record or not isinstance(record.get("asked"), dict):
            raise InvalidInput(f"{where}: was not written by siftlm score; choose another --out")
        names = {*asked, *record["asked"]}
        other = sorted(name for name in names if record["asked"].get(name) != asked.get(name))
        if other:
            was, now = (json.dumps(one.get(other[0])) for one in (record["asked"], asked))
            raise Conflict(
                f"{where}: was asked for something else ({other[0]}: {was}, and now {now}); choose another --out"
            )
        found[record["sha256"]] = record
    return found


def _appending(path: str | None) -> IO[str]:
    return sys.stdout if path is None else open(path, "a", encoding="utf-8", newline="\n")


def _summary(records: list[dict[str, Any]]) -> str:
    """``12 texts, mean: base 2.105 bits per byte; nearest 91.3 %, sift 90.2 % of it``."""
    base = _mean([record["base"] for record in records])
    shares = (
        f"{name} {_mean([record['scores'][name]['percent'] for record in records]):.1f} %"
        for name in records[0]["scores"]
    )
    return f"{len(records)} texts, means: base {base:.3f} bits per byte; {', '.join(shares)} of the text's own base"


def _mean(values: list[float | None]) -> float:
    """Of those that are numbers: a model whose logits are no numbers has none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
