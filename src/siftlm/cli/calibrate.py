"""``siftlm calibrate``: which settings make the best local models of a model and a memory."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import local, settings, watching
from siftlm.cli.drawing import Terminal, pad, paragraphs, printable, wrap

if TYPE_CHECKING:
    from siftlm.calibration import Calibration

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

% of base: bits per byte after learning, of those of the model as it is; lower is better. An interval that holds 0 says
that these texts do not tell two settings apart. The result is written into the memory's manifest, where siftlm score,
generate and chat find it; what was measured stays in MEMORY/calibration.jsonl. Interrupted, the same command goes on.
"""
STAGES = {
    "rates": "learning rate",
    "selection": "way to select",
    "finer": "finer rate",
    "nearest": "finer rate, nearest neighbour",
    "confirm": "confirmation",
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "calibrate",
        help="find the settings with which a model learns best from a memory",
        description="Choose λ, kernel, k, learning rate and steps by how well the tuned model foresees held-out texts.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="MEMORY", help="the memory, as siftlm index made it")
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=5.0,
        metavar="M|all",
        help="of work (default: 5); all: every setting on all texts",
    )
    parser.add_argument(
        "-n",
        "--n",
        type=int,
        metavar="N",
        dest="n",
        help="the most steps for a prompt (default: 50, or fewer where time is short)",
    )
    parser.add_argument(
        "--mode",
        choices=("split", "transductive"),
        default="split",
        help="split (default): half of a text is the prompt, the other half is scored; transductive: "
        "the scored text is the prompt",
    )

    what = parser.add_argument_group("which texts")
    what.add_argument(
        "--texts",
        metavar="FILE",
        help='one text or {"text": …} a line (.jsonl), like the prompts to '
        "come; default: drawn from all over the memory",
    )
    what.add_argument("--count", type=int, metavar="N", help="draw so many (default: 48)")
    what.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (default: 0)")

    tried = parser.add_argument_group("what to try")
    tried.add_argument("--rates", type=_numbers, metavar="R,…", help="default: by the model's size")
    tried.add_argument("--noises", type=_numbers, metavar="λ,…", help="default: 0.1,0.3,1,3,10")
    tried.add_argument(
        "--kernels",
        type=_words,
        metavar="K,…",
        help=f"of {', '.join(settings.KERNELS)} (default: linear,power:4,centred)",
    )
    tried.add_argument("--ks", type=_wholes, metavar="K,…", help="choose among so many (default: 50,200,1000)")

    local.add_model(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--log", metavar="FILE", help="keep what is measured there (default: in the memory's folder)")
    output.add_argument("--again", action="store_true", help="measure again what the log knows already")
    output.add_argument("--no-note", action="store_true", help="only look: leave the memory's manifest as it is")
    output.add_argument("--json", action="store_true", help="one JSON object on one line")
    output.add_argument("--quiet", action="store_true", help="draw no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, then print."""
    from siftlm.calibration import calibrate
    from siftlm.memory import Memory

    texts = None if arguments.texts is None else _texts(arguments.texts)
    names = ("n", "count", "rates", "noises", "kernels", "ks", "log")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    report = watching.reporter(quiet=arguments.quiet or arguments.json)
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        model = _model(arguments, memory)
        try:
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
                **given,
            )
        except KeyboardInterrupt:
            if isinstance(report, watching.Line):
                report.end()
            local.note("stopped; what was measured is kept, and the same command goes on from there")
            return 130
    if arguments.json:
        shown = json.dumps(found.to_dict())
    else:
        shown = "\n".join(_shown(found, arguments, Terminal.of(sys.stdout)))
    print(printable(shown, sys.stdout))
    return 0


def _model(arguments: argparse.Namespace, memory: Any) -> Any:
    from siftlm.controller import Controller
    from siftlm.errors import Conflict

    if memory.manifest.embedder == "precomputed":
        raise Conflict(f"{arguments.folder}: its vectors were made elsewhere, so a prompt cannot be compared with them")
    with local.saying(f"loading {arguments.model}", quiet=arguments.quiet or arguments.json), local.explained():
        return Controller(arguments.model, **local.of_model(arguments))


def _texts(path: str) -> list[str]:
    from siftlm.cli import files
    from siftlm.errors import InvalidInput

    found = []
    for where, value in files.json_lines(path):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"{where}: is neither a text nor an object with a 'text'")
        found.append(text)
    return found


def _shown(found: Calibration, arguments: argparse.Namespace, terminal: Terminal) -> list[str]:
    """Stage by stage what was tried, then what follows from it."""
    names = max(len(terminal.spell(row["setting"])) for row in found.tried)
    titles = f"{'':<{names}}  texts  steps  % of base  95 % interval"
    lines: list[str] = []
    stage = None
    for row in found.tried:
        if row["stage"] != stage:
            stage = row["stage"]
            lines += [*([""] if lines else []), terminal.paint(pad(STAGES[stage], names), "bold") + titles[names:]]
        low, high = row["interval"]
        line = pad(terminal.spell(row["setting"]), names)
        line += f" {row['texts']:>6} {row['best_steps']:>6} {row['mean']:>10.1f}  {low:.1f} to {high:.1f}"
        lines.append(terminal.paint(line, "bold") if row["kept"] else line)
        lines[-1] += terminal.pick(" ✓", " +") if row["kept"] else ""
    lines.append("")
    for line in found.verdict():
        text = terminal.spell(line)
        indent = text[: len(text) - len(text.lstrip())]
        lines += wrap(text.strip(), terminal.limit, first=indent, rest=indent + "  ")
    if found.noted:
        lines += ["", *paragraphs("from now on these settings are used by themselves:", terminal.limit)]
    else:
        lines += ["", *paragraphs("not written into the memory (--no-note); to use them:", terminal.limit)]
    return [*lines, f"  {_command(found, arguments)}"]


def _command(found: Calibration, arguments: argparse.Namespace) -> str:
    words = ["siftlm", "generate", arguments.folder, "a prompt", "--model", arguments.model]
    if arguments.model == local.MODEL:
        words = words[:-2]
    if arguments.engine not in (None, "auto"):
        words += ["--engine", arguments.engine]
    if not found.noted:
        for name, value in found.settings.items():
            words += ["-n" if name == "n" else f"--{name}", str(value)]
    return shlex.join(words)


def _minutes(given: str) -> float | None:
    if given == "all":
        return None
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{given!r} is neither a number of minutes above 0 nor all")
    return found


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",") if word.strip()]


def _numbers(given: str) -> list[float]:
    try:
        return [float(word) for word in _words(given)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} are no numbers with commas between them") from None


def _wholes(given: str) -> list[int]:
    try:
        return [int(word) for word in _words(given)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} are no whole numbers with commas between them") from None
