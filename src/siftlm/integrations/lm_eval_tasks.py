"""Tasks for lm-evaluation-harness from local texts: bits per byte by domain, instead of its ``pile_*`` tasks.

python -m siftlm.integrations.lm_eval_tasks test.jsonl --into tasks --name mine --domain pile_set_name

writes a task for each domain, and a group of all tasks. ``--include_path tasks`` makes them available to any model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput, SiftlmError, setting
from siftlm.evaluation import read

# A module beside the tasks, which finds their texts wherever the folder is, and registers the model.
LOADER_SOURCE = '''\
"""Loads the texts of the tasks in this folder, and makes `--model siftlm` known where siftlm is installed."""

import contextlib
import json
from pathlib import Path

import datasets

with contextlib.suppress(ImportError):
    from siftlm.integrations import lm_eval

    lm_eval.register()


def load(file, **_):
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").split("\\n")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}
'''

TASK_TEMPLATE = """\
task: {task}
custom_dataset: !function texts.load
dataset_kwargs:
  file: {file}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
  - metric: word_perplexity
metadata:
  version: 1.0
"""

# The mean over domains, whatever their numbers of texts.
GROUP_TEMPLATE = """\
group: {name}
task: {tasks}
aggregate_metric_list:
  - metric: bits_per_byte
    aggregation: mean
    weight_by_size: false
metadata:
  version: 1.0
"""


@dataclass(frozen=True)
class WrittenTasks:
    """A folder of tasks."""

    path: Path
    tasks: tuple[str, ...]
    """The names of the tasks; the group of several tasks has the name passed to `write_tasks`."""
    texts: int


def write_tasks(
    corpus: Any, into: str | os.PathLike[str], *, name: str = "local", domain: str | None = None, **settings: Any
) -> WrittenTasks:
    """Write a folder of tasks, including the texts.

    Args:
        corpus: a file of texts, such as JSON lines, or anything else that `siftlm.evaluation.read` reads.
        into: a new or an empty folder.
        name: the name of the group; tasks are called ``name_domain``.
        domain: the field that names the domain; see `siftlm.evaluation.read`.
        **settings: ``per_domain``, ``longest``, ``shortest``, ``seed``, …, of `siftlm.evaluation.read`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
        raise InvalidInput(
            f"{setting('name')} must consist of letters, digits, _ and -, as files are named after it; got {name!r}"
        )
    folder = Path(into)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is not empty: choose a new folder for the tasks")
    texts = read(corpus, domain=domain, **settings)
    by_task: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        by_task[f"{name}_{_slug(text.domain)}"].append(text.text)
    if len(by_task) < len({text.domain for text in texts}):
        raise InvalidInput(
            "two domains differ only in characters that the name of a task cannot contain: rename one of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.py").write_text(LOADER_SOURCE, encoding="utf-8")
    for task, own in by_task.items():
        lines = "".join(json.dumps({"text": one}) + "\n" for one in own)
        (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
        (folder / f"{task}.yaml").write_text(TASK_TEMPLATE.format(task=task, file=f"{task}.jsonl"), encoding="utf-8")
    if len(by_task) > 1:
        # In a subfolder: `--tasks FOLDER` takes every file beside the texts for a task.
        (folder / "group").mkdir()
        (folder / "group" / f"{name}.yaml").write_text(
            GROUP_TEMPLATE.format(name=name, tasks=json.dumps(list(by_task))), encoding="utf-8"
        )
    return WrittenTasks(folder, tuple(by_task), len(texts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `write_tasks` from the command line."""
    parser = argparse.ArgumentParser(prog="python -m siftlm.integrations.lm_eval_tasks", description=__doc__)
    parser.add_argument("corpus", help="a file of texts, such as JSON lines")
    parser.add_argument("--into", required=True, help="a new folder for the tasks")
    parser.add_argument("--name", default="local", help="the name of the group of tasks (default: local)")
    parser.add_argument("--domain", help="the field that names a text's domain")
    parser.add_argument("--per-domain", type=int, help="take at most this many texts of each domain")
    parser.add_argument("--longest", type=int, help="keep at most this many characters of each text")
    options = parser.parse_args(arguments)
    try:
        written = write_tasks(
            options.corpus,
            options.into,
            name=options.name,
            domain=options.domain,
            per_domain=options.per_domain,
            longest=options.longest,
        )
    except (SiftlmError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{written.texts} texts in {written.path}: --include_path {written.path} --tasks {','.join(written.tasks)}\n"
    )
    return 0


def _slug(domain: str) -> str:
    """A domain as part of the name of a task.

    >>> _slug("Pile-CC (en)")
    'pile-cc_en'
    """
    return re.sub(r"[^a-z0-9-]+", "_", domain.lower()).strip("_") or "all"


if __name__ == "__main__":
    sys.exit(main())
