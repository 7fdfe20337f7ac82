"""``siftlm calibrate``: which settings make the best local models of a model and a memory."""

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
from siftlm.cli.tuning import check_embedder, device_errors
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.calibration import Calibration
    from siftlm.controller import Controller
    from siftlm.memory import Memory

EPILOG = """\
examples:
  siftlm calibrate memory                              for siftlm-tiny, in five minutes
  siftlm calibrate memory --model gpt2 --minutes 60    more settings on more texts: a surer choice
  siftlm calibrate memory --texts prompts.jsonl        judged by your own texts instead of the memory's
  siftlm calibrate memory -n 20                        at most 20 steps for a prompt
  siftlm calibrate memory --noises 0.3,1,3 --kernels linear,power:4 --ks 200 --rates 1e-4,3e-4
  siftlm calibrate memory --json | jq .settings

What it does: texts of the memory are held out, each with its own document and all near-copies out of its search. The
model learns for each of them with many settings (learning rate, SIFT's λ, kernel and k); the better half goes on with
more texts. At the end the best is set against nearest neighbour and against the usual settings on texts that had no
part in the choice, and the best of the three on these is taken. The number of steps is read off the same runs; a rule
that stops early or declines to tune is kept only if it also helps texts that had no part in making it.

% of base: bits per byte after learning, of those of the model as it is; lower is better. An interval that holds 0 means
that these texts show no difference. The result is written into the memory's manifest, where siftlm score, generate and
chat find it; what was measured stays in MEMORY/calibration.jsonl. Interrupted, the same command goes on.
"""
STAGES = {
    "rates": "learning rate",
    "selection": "way to select",
    "finer": "finer rate",
    "nearest": "finer rate, nearest neighbour",
    "confirm": "confirmation",
}


_minutes = flags.checked(
    lambda word: None if word == "all" else float(word),
    lambda value: value is None or 0 < value < math.inf,
    "neither a number of minutes above 0 nor all",
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands, "calibrate", run, "find the settings with which a model learns best from a memory", EPILOG
    )
    modes = (
        "split (default): half of a text is the prompt, the other half is scored; transductive: the scored text is "
        "the prompt"
    )
    minutes = "time to spend (default: 5); all: every setting on all texts"
    texts = 'one text or {"text": …} a line (.jsonl), like the prompts to come; default: drawn from all over the memory'
    flags.declare(
        parser,
        flags.MEMORY,
        Flag("--minutes", "M|all", _minutes, minutes, 5.0),
        Flag("-n --n", "N", int, "the most steps for a prompt (default: 50, or fewer where time is short)"),
        choice("--mode", ("split", "transductive"), modes, default="split"),
        "which texts",
        Flag("--texts", "FILE", str, texts),
        Flag("--count", "N", int, "number of texts to draw (default: 48)"),
        flags.SEED.but("of the draw (default: 0)", default=0),
        "what to try",
        Flag("--rates", "R,…", flags.comma_list(float, "numbers"), "default: by the model's size"),
        Flag("--noises", "λ,…", flags.comma_list(float, "numbers"), "default: 0.1,0.3,1,3,10"),
        Flag(
            "--kernels",
            "K,…",
            flags.comma_list(str, "names"),
            f"of {', '.join(flags.KERNELS)} (default: linear,power:4,centred)",
        ),
        Flag("--ks", "K,…", flags.comma_list(int, "whole numbers"), "sizes of the choice (default: 50,200,1000)"),
        "the model",
        *flags.MODEL,
        "output",
        Flag("--log", "FILE", str, "keep what is measured there (default: in the memory's folder)"),
        switch("--again", "measure again what the log knows already"),
        switch("--no-note", "only look: leave the memory's manifest as it is"),
        flags.JSON,
        flags.QUIET.but("draw no progress"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, then print."""
    from siftlm.calibration import calibrate
    from siftlm.memory import Memory

    texts = None if arguments.texts is None else _texts(arguments.texts)
    quiet = arguments.quiet or arguments.json
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        model = _model(arguments, memory)
        remark = "stopped; what was measured is kept, and the same command goes on from there"
        with resumable(remark), progress_line(quiet=quiet) as report:
            found = calibrate(
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
        print_json(found.to_dict())
        return 0
    terminal = Terminal.of(sys.stdout)
    terminal.show(*_parts(found, arguments, terminal))
    return 0


def _model(arguments: argparse.Namespace, memory: Memory) -> Controller:
    from siftlm.controller import Controller

    check_embedder(memory, arguments.folder)
    with status(f"loading {arguments.model}", quiet=arguments.quiet or arguments.json), device_errors():
        return Controller(arguments.model, **flags.controller_settings(arguments))


def _texts(path: str) -> list[str]:
    from siftlm.cli import files

    texts = []
    for where, record in files.records(path, "text"):
        if not record["text"].strip():
            raise InvalidInput(f"{where}: the text is empty")
        texts.append(record["text"])
    return texts


def _parts(found: Calibration, arguments: argparse.Namespace, terminal: Terminal) -> list[RenderableType]:
    """Stage by stage what was tried, then what follows from it."""
    names = max(cell_len(terminal.spell(row["setting"])) for row in found.tried)
    parts: list[RenderableType] = []
    rows = None
    stage = None
    for row in found.tried:
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
    for line in found.verdict():
        text = line.lstrip()
        parts.append(indented(terminal.prose(text), len(line) - len(text)))
    use = "from now on these settings are used by themselves:"
    if not found.noted:
        use = "not written into the memory (--no-note); to use them:"
    # Not wrapped, so that the command can be copied.
    return [*parts, "", use, Text(f"  {terminal.spell(_command(found, arguments))}", no_wrap=True, overflow="ignore")]


def _command(found: Calibration, arguments: argparse.Namespace) -> str:
    words = ["siftlm", "generate", arguments.folder, "a prompt"]
    if arguments.model != flags.DEFAULT_MODEL:
        words += ["--model", arguments.model]
    if arguments.engine not in (None, "auto"):
        words += ["--engine", arguments.engine]
    if not found.noted:
        for name, value in found.settings.items():
            words += ["-n" if name == "n" else f"--{name}", str(value)]
    return shlex.join(words)
