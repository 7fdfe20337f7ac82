"""``siftlm calibrate``: the best settings for a model and a memory, measured on held-out texts."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, choice, switch
from siftlm.cli.terminal import Terminal, indented, print_json, progress_line, resumable, status, table
from siftlm.cli.tuning import check_embedder, controller_settings, device_errors
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.calibration import Calibration
    from siftlm.controller import Controller
    from siftlm.memory import Memory

EPILOG = """\
examples:
  siftlm calibrate memory                              for siftlm-tiny, in two minutes
  siftlm calibrate memory --model gpt2 --minutes 60    on more texts
  siftlm calibrate memory --texts prompts.jsonl        on these texts instead of held-out texts of the memory
  siftlm calibrate memory -n 50                        up to 50 steps per prompt
  siftlm calibrate memory --methods sift,sift+noise=10,sift+replacement=True,nearest --minutes all
  siftlm calibrate memory --json | jq .settings
  siftlm report memory/calibration

Texts of the memory are held out, each with its document and all near-copies excluded from its search. The model is
fine-tuned for each of them with several learning rates, and then with several methods of selection at the best rate.
All take turns on the same texts, and what is clearly behind drops out. The first rate and the first method are the
defaults: another one replaces them only if it is better by more than chance explains (a sign-flip test over texts, all
that were tried counted), for which seven texts or more are needed. The number of steps comes from the same runs.

"% of base" is bits per byte after fine-tuning, in % of the base model's; lower is better. The result is written into
the memory's manifest, where siftlm score, generate and chat find it, and the measurements into MEMORY/calibration.
Repeat an interrupted command to resume; with more minutes, rates or methods it goes on from what was measured.
"""


_minutes = flags.checked(
    lambda word: None if word == "all" else float(word),
    lambda value: value is None or 0 < value < math.inf,
    "a number > 0 or all",
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "calibrate",
        run,
        "find the best settings for a model and a memory, on held-out texts",
        EPILOG,
        usage="siftlm calibrate MEMORY [options]",
    )
    modes = (
        "split (default): half of a text is the prompt, the other half is scored; transductive: the scored text is its "
        "own prompt"
    )
    minutes = "time limit in minutes (default: 2), but four texts in any case; all: until all texts are done"
    texts = 'representative texts, a JSON string or {"text": …} per line (default: a sample of the memory)'
    flags.declare(
        parser,
        flags.MEMORY,
        Flag("--minutes", "M|all", _minutes, minutes, 2.0),
        Flag("-n --n", "N", int, "maximal number of steps per prompt (default: 20)"),
        choice("--mode", ("split", "transductive"), modes, default="split"),
        "texts",
        Flag("--texts", "FILE", str, texts),
        Flag("--count", "N", int, "number of texts to sample (default: 48)"),
        flags.SEED.described("random seed of the sample (default: 0)", default=0),
        "settings to try",
        Flag(
            "--rates",
            "R,…",
            flags.comma_list(float, "numbers"),
            "learning rates, the first of which the others must beat (default: by the model's size)",
        ),
        Flag(
            "--methods",
            "M,…",
            str,
            "methods of selection with their settings, as for siftlm eval, the first of which the others must beat "
            "(default: sift,nearest,auto)",
        ),
        "model",
        *flags.MODEL,
        "output",
        Flag("--out", "FOLDER", str, "folder of the measurements (default: MEMORY/calibration)"),
        switch("--again", "measure everything anew"),
        switch("--no-note", "do not write the result into the memory's manifest"),
        flags.JSON,
        flags.QUIET.described("print no progress"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, then print the result."""
    from siftlm.calibration import calibrate
    from siftlm.evaluation.labels import split_labels
    from siftlm.memory import Memory

    texts = None if arguments.texts is None else _texts(arguments.texts)
    quiet = arguments.quiet or arguments.json
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        model = _model(arguments, memory)
        remark = "stopped; the measurements are kept: repeat the command to resume"
        with resumable(remark), progress_line(quiet=quiet) as report:
            calibration = calibrate(
                model,
                memory,
                texts=texts,
                minutes=arguments.minutes,
                mode=arguments.mode,
                seed=arguments.seed,
                again=arguments.again,
                note=not arguments.no_note,
                progress=report,
                methods=None if arguments.methods is None else split_labels(arguments.methods),
                **flags.values_of(arguments, ("n", "count", "rates", "out")),
            )
    if arguments.json:
        print_json(calibration.to_dict())
        return 0
    terminal = Terminal.of(sys.stdout)
    terminal.show(*_parts(calibration, arguments, terminal))
    return 0


def _model(arguments: argparse.Namespace, memory: Memory) -> Controller:
    from siftlm.controller import Controller

    check_embedder(memory, arguments.folder)
    with status(f"loading {arguments.model}", quiet=arguments.quiet or arguments.json), device_errors():
        return Controller(arguments.model, **controller_settings(arguments))


def _texts(path: str) -> list[str]:
    from siftlm.cli import files

    texts = []
    for where, record in files.records(path, "text"):
        if not record["text"].strip():
            raise InvalidInput(f"{where}: the text is empty")
        texts.append(record["text"])
    return texts


def _parts(calibration: Calibration, arguments: argparse.Namespace, terminal: Terminal) -> list[RenderableType]:
    """A table for each race, then the verdict and the command to use it."""
    from siftlm.calibration.evidence import difference_words

    tried = [row for one in calibration.races for row in one["tried"]]
    names = max(cell_len(terminal.spell(row["setting"])) for row in tried)
    parts: list[RenderableType] = []
    for one in calibration.races:
        rows = table()
        rows.add_column(Text(one["question"], "bold"), min_width=names)
        for title in ("texts", "steps", "% of base"):
            rows.add_column(title, justify="right", no_wrap=True)
        rows.add_column("less the first")
        parts += [*([""] if parts else []), rows]
        for row in one["tried"]:
            mark = terminal.pick(" ✓", " +") if row["won"] else " out" if row["dropped"] else ""
            cells = (str(row["texts"]), str(row["steps"]), f"{row['mean']:.1f}", difference_words(row) + mark)
            rows.add_row(terminal.prose(row["setting"]), *cells, style="bold" if row["won"] else "")
    parts.append("")
    for line in calibration.verdict():
        text = line.lstrip()
        parts.append(indented(terminal.prose(text), len(line) - len(text)))
    use = "these settings are now the default:"
    if not calibration.noted:
        use = "not saved in the memory (--no-note); to use these settings:"
    command = terminal.spell(_command(calibration, arguments))
    # Not wrapped, so that the command can be copied.
    return [*parts, "", use, Text(f"  {command}", no_wrap=True, overflow="ignore")]


def _command(calibration: Calibration, arguments: argparse.Namespace) -> str:
    words = ["siftlm", "generate", arguments.folder, "a prompt"]
    if arguments.model != flags.DEFAULT_MODEL:
        words += ["--model", arguments.model]
    if arguments.engine not in (None, "auto"):
        words += ["--engine", arguments.engine]
    if not calibration.noted:
        for name, value in calibration.settings.items():
            if name != "guard":  # which no flag takes
                words += ["-n" if name == "n" else f"--{name}", {True: "yes", False: "no"}.get(value, str(value))]
    return shlex.join(words)
