"""``siftlm methods``: what there is to select with."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli.drawing import Terminal, clip, pad, printable, width_of, wrap

if TYPE_CHECKING:
    from siftlm.selection.problem import Method

EPILOG = """\
examples:
  siftlm methods                 all of them, one line each
  siftlm methods sift            formula, settings and explanation of one
  siftlm methods --json | jq -r '.[] | select(.needs_query | not) | .name'
"""
FORMULA = 30  # columns from which on a formula is worth showing
GROUPS = ("for a prompt", "without a prompt", "on softmax outputs", "from other packages")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "methods", help="list the selection methods", description="List the selection methods.", epilog=EPILOG
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one in full")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one method or all of them."""
    from siftlm.selection import problem

    terminal = Terminal.of(sys.stdout)
    if arguments.name is not None:
        method = problem.find_method(arguments.name)
        text = json.dumps(_record(method), indent=2) if arguments.json else "\n".join(_one(method, terminal))
    else:
        found, broken = _all()
        if arguments.json:
            text = json.dumps([_record(method) for method in found], indent=2)
            for line in broken:  # no place for it in the list
                print(printable(line, sys.stderr), file=sys.stderr)
        else:
            text = "\n".join(_table(found, broken, terminal))
    print(printable(text, sys.stdout))
    return 0


def _all() -> tuple[list[Method], list[str]]:
    """All methods, and a line for each that another package names but cannot deliver."""
    from siftlm.selection import problem

    looked_up = [_look_up(name) for name in problem.methods()]
    return [m for m in looked_up if not isinstance(m, str)], [m for m in looked_up if isinstance(m, str)]


def _look_up(name: str) -> Method | str:
    from siftlm.errors import SiftlmError
    from siftlm.selection import problem

    try:
        return problem.find_method(name)
    except SiftlmError as error:
        return f"{name}: {' '.join(str(error).split())}"


def _group(method: Method) -> str:
    if not method.run.__module__.startswith("siftlm."):
        return GROUPS[3]
    if method.reads == "probabilities":
        return GROUPS[2]
    return GROUPS[0] if method.targeted else GROUPS[1]


def _record(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "needs_query": method.targeted,
        "repeats": method.repeats,
        "reads": method.reads,
        "options": {name: _plain(value) for name, value in method.options.items()},
        "group": _group(method),
    }


def _plain(value: object) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _table(found: list[Method], broken: list[str], terminal: Terminal) -> list[str]:
    """One line a method, with the formula where there is room; on narrow screens a summary may take more."""
    names = max((width_of(m.name) for m in found), default=0)
    summaries = max((width_of(m.summary) for m in found), default=0)
    room = terminal.width - names - 4 if terminal.fixed else 10**6
    formulas = room - summaries - 2
    lines: list[str] = []
    for group in GROUPS:
        members = [m for m in found if _group(m) == group]
        if members:
            lines += ["", terminal.paint(group, "bold")] if lines else [terminal.paint(group, "bold")]
        for m in members:
            first, *more = wrap(m.summary, room)
            if formulas >= FORMULA:
                formula = clip(m.formula, formulas, terminal.pick("…", "..."))
                first = f"{pad(first, summaries)}  {terminal.paint(formula, 'dim')}"
            lines.append(f"  {terminal.paint(pad(m.name, names), 'cyan')}  {first}")
            lines += [" " * (names + 4) + line for line in more]
    return lines + [terminal.paint(line, "red") for line in broken]


def _one(method: Method, terminal: Terminal) -> list[str]:
    width = min(terminal.width, 100)
    if method.reads == "probabilities":
        needs = "softmax outputs (K, C) as candidates, no query"
    else:
        needs = "candidates and a query" if method.targeted else "candidates, no query"
    lines = [
        f"{terminal.paint(method.name, 'bold')}  {method.summary}",
        "",
        *wrap(method.formula, width, first="  formula  ", rest=" " * 11),
        f"  needs    {needs}",
        f"  repeats  {'where that tells more than something new' if method.repeats else 'no, unless asked'}",
    ]
    for at, (name, default) in enumerate(method.options.items()):
        lines.append(f"  {'options' if not at else '':<7}  {name} = {default!r}    (--option {name}=…)")
    if not method.options:
        lines.append("  options  none of its own")
    explained = (inspect.getdoc(method.run) or "").split("\n", 1)[1:]
    if explained and explained[0].strip():
        lines += ["", *(f"  {line}".rstrip() for line in explained[0].strip("\n").split("\n"))]
    query = "--query q.npy " if method.targeted and method.reads == "vectors" else ""
    return [*lines, "", f"  siftlm select --candidates vectors.npy {query}--method {method.name}"]
