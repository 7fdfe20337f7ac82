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
  siftlm calibrate memory                              for siftlm-tiny, in five minutes
  siftlm calibrate memory --model gpt2 --minutes 60    more settings on more texts
  siftlm calibrate memory --texts prompts.jsonl        on these texts instead of held-out texts of the memory
  siftlm calibrate memory -n 20                        at most 20 steps per prompt
  siftlm calibrate memory --noises 0.3,1,3 --kernels linear,power:4 --ks 200 --rates 1e-4,3e-4
  siftlm calibrate memory --json | jq .settings

Texts of the memory are held out, each with its document and all near-copies excluded from its search. The model is
fine-tuned for each of them with many settings (learning rate, SIFT's λ, kernel and k), by successive halving: the
better half of the settings continues with more texts. The best, nearest neighbour and the default settings are then
compared on fresh texts, and the best of these three is chosen. The number of steps comes from the same runs; a rule
for early stopping or for declining to tune is kept only if it also helps on fresh texts.

"% of base" is bits per byte after fine-tuning, in % of the base model's; lower is better. A difference whose interval
holds 0 is not significant. The result is written into the memory's manifest, where siftlm score, generate and chat
find it, and the measurements into MEMORY/calibration.jsonl. Repeat an interrupted command to resume.
"""
STAGES = {
    "rates": "learning rate",
    "selection": "selection",
    "finer": "finer rate",
    "nearest": "finer rate, nearest neighbour",
    "confirm": "confirmation",
}


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
    minutes = "time limit in minutes (default: 5); all: every setting on all texts"
    texts = 'representative texts, a JSON string or {"text": …} per line (default: a sample of the memory)'
    flags.declare(
        parser,
        flags.MEMORY,
        Flag("--minutes", "M|all", _minutes, minutes, 5.0),
        Flag("-n --n", "N", int, "maximal number of steps per prompt (default: 50, or fewer if time is short)"),
        choice("--mode", ("split", "transductive"), modes, default="split"),
        "texts",
        Flag("--texts", "FILE", str, texts),
        Flag("--count", "N", int, "number of texts to sample (default: 48)"),
        flags.SEED.described("random seed of the sample (default: 0)", default=0),
        "settings to try",
        Flag("--rates", "R,…", flags.comma_list(float, "numbers"), "learning rates (default: by the model's size)"),
        Flag("--noises", "λ,…", flags.comma_list(float, "numbers"), "values of SIFT's λ (default: 0.1,0.3,1,3,10)"),
        Flag(
            "--kernels",
            "K,…",
            flags.comma_list(str, "names"),
            f"kernels, of {', '.join(flags.KERNELS)} (default: linear,power:4,centred)",
        ),
        Flag("--ks", "K,…", flags.comma_list(int, "whole numbers"), "numbers of candidates (default: 50,200,1000)"),
        "model",
        *flags.MODEL,
        "output",
        Flag("--log", "FILE", str, "file of the measurements (default: in the memory's folder)"),
        switch("--again", "repeat measurements that are in the log"),
        switch("--no-note", "do not write the result into the memory's manifest"),
        flags.JSON,
        flags.QUIET.described("print no progress"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, then print the result."""
    from siftlm.calibration import calibrate
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
                **flags.values_of(arguments, ("n", "count", "rates", "noises", "kernels", "ks", "log")),
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
    """A table for each stage, then the verdict and the command to use it."""
    names = max(cell_len(terminal.spell(row["setting"])) for row in calibration.tried)
    parts: list[RenderableType] = []
    rows = None
    stage = None
    for row in calibration.tried:
        if rows is None or row["stage"] != stage:
            stage = row["stage"]
            rows = table()
            rows.add_column(Text(STAGES[stage], "bold"), min_width=names)
            for title in ("texts", "steps", "% of base"):
                rows.add_column(title, justify="right", no_wrap=True)
            rows.add_column("95 % interval")
            parts += [*([""] if parts else []), rows]
        low, high = row["interval"]
        kept = terminal.pick(" ✓", " +") if row["kept"] else ""
        cells = (str(row["texts"]), str(row["best_steps"]), f"{row['mean']:.1f}", f"{low:.1f} to {high:.1f}{kept}")
        rows.add_row(terminal.prose(row["setting"]), *cells, style="bold" if row["kept"] else "")
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
            words += ["-n" if name == "n" else f"--{name}", str(value)]
    return shlex.join(words)
