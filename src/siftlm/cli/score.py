"""``siftlm score``: how well a text is foreseen before and after learning for it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import local, scoring
from siftlm.cli.drawing import Terminal, bar, printable, wrap

if TYPE_CHECKING:
    from siftlm.cli.scoring import Scored

EPILOG = f"""\
examples:
  siftlm score memory --file fractions.py --model gpt2     the first half is the prompt, the second is scored
  siftlm score memory "Some text whose end is to be foreseen." -n 20
  siftlm score memory - --at 1,2,5,10,20 < text.txt        the curve: bits per byte after so many steps
  siftlm score memory --file a.txt --context               also with the same texts in the prompt instead
  siftlm score memory --file a.txt --compare nearest,mmr,random
  siftlm score memory --file a.txt --mode transductive     the text is its own prompt, as in the published tables
  siftlm score memory --file a.txt --engine lora --rank 64 --rate 2e-4 --set clip=1
  siftlm score memory --texts held-out.jsonl --out scores.jsonl    many; the same command goes on after a stop
  siftlm score memory --file a.txt --json | jq .scores.sift.tuned

Bits per byte: the text's negative log-likelihood in bits, by the bytes of what is scored; lower is better.
100 % is the base model. After each text the model is put back bit for bit.
{local.SETTINGS}"""
BAR = 20


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "score",
        usage="siftlm score MEMORY [TEXT | - | --file FILE | --texts FILE] [options]",
        help="score a text before and after the model learned for it",
        description="Bits per byte of a text: of the model as it is, and tuned on what a memory holds about it.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="MEMORY", help="the memory, as siftlm index made it")
    # Not nargs="?": argparse would give it nothing when options stand between the two.
    parser.add_argument("text", metavar="[TEXT]", help="in quotes; - reads it from stdin").required = False
    parser.add_argument("--file", metavar="FILE", help="read the text from a file")
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help='many: one text or {"text": …} a line (.jsonl); writes one JSON object for each, as soon as it is known',
    )
    parser.add_argument(
        "--mode",
        choices=("split", "transductive"),
        default="split",
        help="split (default): the first half is the prompt, the second is scored; transductive: "
        "the scored text is the prompt",
    )

    beside = parser.add_argument_group("what to put beside it")
    beside.add_argument(
        "--compare", metavar="M,…", help="other methods, with as many texts (default: nearest; none: no other)"
    )
    beside.add_argument("--context", action="store_true", help="the same texts in the prompt instead of the weights")
    beside.add_argument("--at", type=scoring.steps, default=(), metavar="N,…", help="also score after so many steps")

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on one line")
    output.add_argument("--why", action="store_true", help="with JSON: also the texts that were learned from")
    output.add_argument("--out", metavar="FILE", help="of --texts: append there, and leave out what it holds already")
    output.add_argument("--quiet", action="store_true", help="say nothing while learning")
    local.add(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score, then print."""
    from siftlm.cli import files
    from siftlm.errors import Conflict, InvalidInput

    given = local.given(arguments)
    texts = [name for name in ("text", "file", "texts") if getattr(arguments, name) is not None]
    if len(texts) != 1:
        if not texts:
            raise InvalidInput("there is no text: give one in quotes, - for stdin, --file or --texts")
        raise Conflict(
            " and ".join("the text" if one == "text" else f"--{one}" for one in texts[:2]) + " exclude each other"
        )
    if arguments.out is not None and arguments.texts is None:
        raise Conflict("--out goes with --texts; for a single text redirect the output")
    if arguments.why and not (arguments.json or arguments.texts):
        raise Conflict("--why goes with --json; siftlm search MEMORY TEXT shows the texts to a person")
    plan = scoring.plan(arguments, given)
    if arguments.texts is not None:
        from siftlm.cli import score_many

        return score_many.run(arguments, plan)
    text = arguments.text
    if arguments.file is not None:
        text = files.text(arguments.file)
    elif text == "-":
        text = files.text_of(sys.stdin, "standard input")
    scoring.check(text, arguments.mode)
    model = local.opened(arguments, plan.shared)
    scored = scoring.score(model, text, plan, quiet=arguments.quiet or (arguments.json and not _watched()))
    for name, one in scored.scores.items():
        if scoring.remark(one) and not arguments.json:
            local.note(f"{name}: {scoring.remark(one)}")
    if arguments.json:
        shown = json.dumps(scored.to_dict(why=arguments.why))
    else:
        shown = "\n".join(_table(scored, Terminal.of(sys.stdout)))
    print(printable(shown, sys.stdout))
    return 0


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _table(scored: Scored, terminal: Terminal) -> list[str]:
    """The base model, and below it each way of learning."""
    names = max(len("base"), *(len(name) for name in scored.scores))
    titles = f"{'':<{names}} {'bits/byte':>10} {'% of base':>10} {'steps':>6} {'seconds':>8}"
    length = min(BAR, terminal.width - len(titles) - 2) if terminal.fixed else BAR
    lines = [terminal.paint(titles, "dim"), _row("base", scored.base, 100.0, "", "", names, length, terminal)]
    best = min(one.tuned for one in scored.scores.values())
    for name, one in scored.scores.items():
        seconds = f"{sum(one.seconds.values()):.1f}"
        row = _row(name, one.tuned, one.percent, str(one.trace.kept), seconds, names, length, terminal)
        lines.append(terminal.paint(row, "bold") if one.tuned == best < scored.base else row)
    curves = {name: dict(one.curve) for name, one in scored.scores.items() if one.curve}
    if curves:
        wide = {name: max(8, len(name)) for name in curves}
        heads = "  ".join(f"{name:>{wide[name]}}" for name in curves)
        lines += ["", terminal.paint(f"{'after':>6}  {heads}", "dim")]
        for step in sorted({step for curve in curves.values() for step in curve}):
            cells = (f"{curve[step]:.3f}" if step in curve else "" for curve in curves.values())
            row = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, wide.values(), strict=True))
            lines.append(f"{step:>6}  {row}".rstrip())
    return [*lines, "", *(line for said in _about(scored) for line in wrap(terminal.spell(said), terminal.limit))]


def _row(
    name: str, value: float, percent: float, steps: str, seconds: str, names: int, length: int, terminal: Terminal
) -> str:
    row = f"{name:<{names}} {value:>10.3f} {percent:>10.1f} {steps:>6} {seconds:>8}"
    return (f"{row}  {bar(percent / 100, length, terminal)}" if length >= 8 else row).rstrip()


def _about(scored: Scored) -> list[str]:
    size = f"{scored.bytes:,} bytes, {scored.tokens:,} tokens"
    if scored.mode == "split":
        return [f"split: the first half is the prompt, the second ({size}) is scored. Model: {scored.model}."]
    return [f"transductive: the scored text ({size}) is its own prompt. Model: {scored.model}."]
