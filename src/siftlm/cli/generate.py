"""``siftlm generate``: a prompt in, its continuation by a model that learned for it out."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import learning, local
from siftlm.cli.drawing import Styled, Terminal, beside, paragraphs, printable

if TYPE_CHECKING:
    from siftlm.controller import Generated
    from siftlm.local import LocalModel
    from siftlm.results import Answer

EPILOG = f"""\
examples:
  siftlm generate memory "def heappop(heap):" --model gpt2
  siftlm generate memory "def heappop(heap):" --compare    beside what the base model says
  siftlm generate memory "def heappop(heap):" --why        and what it learned from, with gains
  siftlm generate memory - --max-new-tokens 40 --stop '\\n\\n' < prompt.txt
  siftlm generate memory --prompt-file p.txt --temperature 0.8 --top-p 0.95 --seed 7
  siftlm generate memory "…" -n 20 --use context           the texts in the prompt instead of in the weights
  siftlm generate memory "…" --engine lora --rate 1e-3 --watch
  siftlm generate memory "…" --json | jq -r .text

Only the continuation is printed, so it can be piped. In --stop, \\n is a new line and \\t a tab.
{local.SETTINGS}"""
SIDE_BY_SIDE = 84
WIDEST = 160
SAMPLING = ("max_new_tokens", "temperature", "top_p", "seed")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "generate",
        usage="siftlm generate MEMORY [PROMPT | - | --prompt-file FILE] [options]",
        help="continue a prompt with a model that learned for it",
        description="Continue a prompt with a model that was tuned on what a memory holds about it.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="MEMORY", help="the memory, as siftlm index made it")
    # Not nargs="?": argparse would give it nothing when options stand between the two.
    parser.add_argument("prompt", metavar="[PROMPT]", help="in quotes; - reads it from stdin").required = False
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file")
    sampling(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--compare", action="store_true", help="show the base model's continuation beside it")
    output.add_argument("--why", action="store_true", help="list what it learned from, and how the loss went")
    output.add_argument("--json", action="store_true", help="one JSON object on one line")
    output.add_argument("--quiet", action="store_true", help="say nothing while learning")
    local.add(parser)
    parser.set_defaults(run=run)


def sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of how to continue."""
    how = parser.add_argument_group("how to continue")
    how.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    how.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 (default) takes the likeliest token; 1 draws as the model says",
    )
    how.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw among the likeliest that together have this probability (default: 1)",
    )
    how.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated"
    )
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of the drawing (default: 0)")


def sampled(arguments: argparse.Namespace) -> dict[str, Any]:
    """How to continue, as Python takes it."""
    stop = [text.replace("\\n", "\n").replace("\\t", "\t") for text in arguments.stop]
    return {**{name: getattr(arguments, name) for name in SAMPLING}, "stop": stop}


def run(arguments: argparse.Namespace) -> int:
    """Learn, continue, print."""
    given = local.given(arguments)
    prompt = _prompt(arguments)
    how = sampled(arguments)
    model = local.opened(arguments, given)
    watched = sys.stderr is not None and sys.stderr.isatty()
    with local.explained():
        base = model.controller.generate(prompt, **how) if arguments.compare else None
        answer = learned(model, prompt, how, watch=arguments.watch, quiet=arguments.quiet or not watched)
    if arguments.json:
        shown = json.dumps(_record(prompt, base, answer, reasons=arguments.why))
    else:
        for said in remarks(answer):
            local.note(said)
        shown = "\n".join(_shown(prompt, base, answer, Terminal.of(sys.stdout), reasons=arguments.why))
    print(printable(shown, sys.stdout))
    return 0


def learned(model: LocalModel, prompt: str, how: dict[str, Any], *, watch: bool, quiet: bool) -> Answer:
    """The answer, with a line about how far it has come."""
    live = learning.live("learning", model, quiet=quiet)
    try:
        return model.generate(prompt, **how, watch=watch, after=live)
    finally:
        if live is not None:
            live.end()


def remarks(answer: Answer) -> list[str]:
    """What a reader of the answer should know, if there is anything."""
    said = learning.remark(answer.trace)
    if answer.trace.ended == "done" and not len(answer.found):
        said = learning.ENDED["nothing"](answer.trace)
    cut = f"the first {answer.cut:,} tokens of the prompt did not fit into the context" if answer.cut else ""
    return [one for one in (said, cut) if one]


def why(answer: Answer, prompt: str, terminal: Terminal, *, full: bool = False) -> list[str]:
    """What was learned from, what each text told, and how the loss went."""
    from siftlm.cli import hits

    if not len(answer.found):
        return ["Nothing was found to learn from."]
    return [*hits.rows(answer.found, prompt, terminal, full=full), "", *learning.drawn(answer.trace, terminal)]


def _prompt(arguments: argparse.Namespace) -> str:
    from siftlm.cli import files
    from siftlm.errors import Conflict, InvalidInput

    if (arguments.prompt is None) == (arguments.prompt_file is None):
        if arguments.prompt is None:
            raise InvalidInput("there is no prompt: give a text in quotes, - for stdin, or --prompt-file")
        raise Conflict("the prompt and --prompt-file exclude each other")
    text: str = arguments.prompt or ""
    if arguments.prompt_file is not None:
        text = files.text(arguments.prompt_file)
    elif text == "-":
        text = files.text_of(sys.stdin, "standard input")
    text = text.removesuffix("\n")  # that of the last line; other blanks may matter to the model
    if not text.strip():
        raise InvalidInput("the prompt is empty")
    return text


def _record(prompt: str, base: Generated | None, answer: Answer, *, reasons: bool) -> dict[str, Any]:
    record = {"prompt": prompt, **answer.to_dict()}
    if not reasons:
        del record["found"]["hits"]
    if base is not None:
        record["base"] = {"text": base.text, "stopped": base.stopped, "tokens": base.tokens}
    return record


def _shown(prompt: str, base: Generated | None, answer: Answer, terminal: Terminal, *, reasons: bool) -> list[str]:
    if base is None:
        lines = spoken(answer.text, terminal)
    else:
        lines = side_by_side(("base model", base.text), ("after learning", answer.text), terminal)
    if reasons:
        lines += ["", *why(answer, prompt, terminal)]
    return lines


def spoken(text: str, terminal: Terminal) -> list[str]:
    """A model's words: as they are in a pipe; on a screen nothing in them can steer it."""
    return paragraphs(terminal.spell(text), terminal.width) if terminal.fixed else [text]


def side_by_side(left: tuple[str, str], right: tuple[str, str], terminal: Terminal) -> list[str]:
    """Two (name, text), beside each other where there is room."""
    width = min(terminal.width, WIDEST)
    column = (width - 3) // 2 if width >= SIDE_BY_SIDE else width
    blocks: list[list[Styled]] = [
        [(name, ("bold", colour)), *((line, ()) for line in paragraphs(terminal.spell(text), column))]
        for (name, text), colour in ((left, "yellow"), (right, "cyan"))
    ]
    if width >= SIDE_BY_SIDE:
        return beside(blocks[0], blocks[1], column, terminal)
    return [terminal.paint(line, *colours) for block in blocks for line, colours in [*block, ("", ())]][:-1]
