"""``siftlm generate``: a prompt in, its continuation by a model that learned for it out."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli import tables, tuning
from siftlm.cli.arguments import switch
from siftlm.cli.terminal import Terminal, note, print_json, printable, watched
from siftlm.cli.tuning import device_errors, open_model, step_line
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.controller import Generated
    from siftlm.local import LocalModel
    from siftlm.results import Answer

EPILOG = f"""\
examples:
  siftlm generate memory "def heappop(heap):" --model gpt2
  siftlm generate memory "def heappop(heap):" --compare    beside the base model's continuation
  siftlm generate memory "def heappop(heap):" --why        and what it learned from, with gains
  siftlm generate memory - --max-new-tokens 40 --stop '\\n\\n' < prompt.txt
  siftlm generate memory --prompt-file p.txt --temperature 0.8 --top-p 0.95 --seed 7
  siftlm generate memory "…" -n 20 --use context           the texts in the prompt instead of in the weights
  siftlm generate memory "…" --engine lora --rate 1e-3 --watch
  siftlm generate memory "…" --json | jq -r .text

Only the continuation is printed, so it can be piped. In --stop, \\n is a new line and \\t a tab.
{flags.TUNING_HELP}"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "generate",
        run,
        "continue a prompt with a model that learned for it",
        EPILOG,
        usage="siftlm generate MEMORY [PROMPT | - | --prompt-file FILE] [options]",
    )
    flags.declare(
        parser,
        flags.MEMORY,
        flags.PROMPT,
        flags.PROMPT_FILE,
        "how to continue",
        *flags.SAMPLING,
        "output",
        switch("--compare", "also show the base model's continuation"),
        switch("--why", "list what it learned from, and how the loss went"),
        flags.JSON,
        flags.QUIET.but("print nothing while learning"),
        *flags.LEARNING,
    )


def run(arguments: argparse.Namespace) -> int:
    """Learn, continue, print."""
    settings = flags.model_settings(arguments)
    prompt = _prompt(arguments)
    sampling = flags.sampling_settings(arguments)
    model = open_model(arguments, settings)
    with device_errors():
        base = model.controller.generate(prompt, **sampling) if arguments.compare else None
        quiet = arguments.quiet or not watched()
        answer = continue_prompt(model, prompt, sampling, watch=arguments.watch, quiet=quiet)
    if arguments.json:
        print_json(_record(prompt, base, answer, why=arguments.why))
        return 0
    for remark in remarks(answer):
        note(remark)
    terminal = Terminal.of(sys.stdout)
    if base is None:
        show_continuation(answer.text, terminal)
    else:
        terminal.show(*_compared(base.text, answer.text, terminal))
    if arguments.why:
        terminal.show("", *why_parts(answer, prompt, terminal))
    return 0


def continue_prompt(model: LocalModel, prompt: str, sampling: dict[str, Any], *, watch: bool, quiet: bool) -> Answer:
    """The answer, with a line about each step while the model learns."""
    line = step_line("learning", model, quiet=quiet)
    try:
        return model.generate(prompt, **sampling, watch=watch, after=line)
    finally:
        if line is not None:
            line.end()


def remarks(answer: Answer) -> list[str]:
    """What a reader of the answer should know, if there is anything."""
    ended = tuning.remark(answer.trace)
    if answer.trace.ended == "done" and not len(answer.found):
        ended = tuning.ENDED["nothing"](answer.trace)
    cut = f"the first {answer.cut:,} tokens of the prompt did not fit into the context" if answer.cut else ""
    return [remark for remark in (ended, cut) if remark]


def why_parts(answer: Answer, prompt: str, terminal: Terminal, *, full: bool = False) -> list[RenderableType]:
    """What was learned from, what each text added, and how the loss went."""
    if not len(answer.found):
        return ["Nothing was found to learn from."]
    picks = tables.found_parts(answer.found, prompt, terminal, full=full)
    return [*picks, "", *tuning.loss_parts(answer.trace, terminal)]


def show_continuation(text: str, terminal: Terminal) -> None:
    """A model's text: as it is in a pipe; on a screen nothing in it can steer it."""
    if terminal.fixed:
        terminal.show(terminal.verbatim(text))
    else:
        print(printable(text, sys.stdout), flush=True)


def _prompt(arguments: argparse.Namespace) -> str:
    flags.one_text(arguments, "prompt", "prompt", "prompt_file")
    text = flags.read_text(arguments.prompt, arguments.prompt_file)
    text = text.removesuffix("\n")  # that of the last line; other blanks may matter to the model
    if not text.strip():
        raise InvalidInput("the prompt is empty")
    return text


def _record(prompt: str, base: Generated | None, answer: Answer, *, why: bool) -> dict[str, Any]:
    record = {"prompt": prompt, **answer.to_dict()}
    if not why:
        del record["found"]["hits"]
    if base is not None:
        record["base"] = {"text": base.text, "stopped": base.stopped, "tokens": base.tokens}
    return record


def _compared(base: str, learned: str, terminal: Terminal) -> list[RenderableType]:
    """Both continuations, beside each other where there is room."""
    left = [Text("base model", "bold yellow"), terminal.verbatim(base)]
    right = [Text("after learning", "bold cyan"), terminal.verbatim(learned)]
    return tables.side_by_side(left, right, min(terminal.width, tables.WIDEST_COMPARISON))
