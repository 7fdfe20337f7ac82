"""``siftlm select``, ``spread`` and ``methods``: selection from vectors in files."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli import tables
from siftlm.cli.arguments import Flag, choice, switch
from siftlm.cli.terminal import Terminal, indented, one_line, print_json, printable, table
from siftlm.cli.tuning import not_recipe
from siftlm.errors import Conflict, InvalidInput, SiftlmError

if TYPE_CHECKING:
    import numpy.typing as npt

    from siftlm.selection.problem import Method
    from siftlm.types import Selection

EPILOG = """\
examples:
  siftlm select --candidates vectors.npy --query q.npy -n 10
  siftlm select --candidates vectors.npy --query q.npy -n 10 --texts texts.txt --explain
  siftlm select --candidates store.npz:texts --query store.npz:prompt --noise 0.1 --json --out picks.json
  siftlm select --candidates docs.jsonl --texts docs.jsonl --query q.npy --until 0.05
  siftlm select --candidates vectors.npy --query prompts.npy --queries-are prompts --json > picks.jsonl
  siftlm select --candidates vectors.npy --query q.npy --costs tokens.npy --budget 4096
  siftlm select --candidates vectors.npy --query q.npy -n 20 --figure trade-off.png

Vectors are (rows, d) in file.npy, file.npz:key, or file.jsonl with an "embedding" or "vector" on each line. Large
.npy files are memory-mapped. siftlm spread suggests a λ for --noise; siftlm methods lists the methods.
"""
METHODS_EPILOG = """\
examples:
  siftlm methods                 a line for each method
  siftlm methods sift            one method: formula, settings and explanation
  siftlm methods --json | jq -r '.[] | select(.needs_query | not) | .name'
"""
SPREAD_EPILOG = """\
examples:
  siftlm spread --candidates vectors.npy
  siftlm spread --candidates vectors.npy --query prompts.npy -n 10
  siftlm spread --candidates vectors.npy --kernel centred --json | jq .noise

A λ is only meaningful for one embedding: the same value may be far too large for another. Start with the suggested
value, then try others of the range on held-out prompts.
"""
FORMULA_COLUMNS = 30  # the least that a formula needs to be shown
GROUPS = ("for a prompt", "without a prompt", "on softmax outputs", "from other packages")
# Arguments passed to siftlm.select by name.
SELECT_NAMES = (
    *("method", "noise", "replacement", "source_cap", "budget"),
    *("adaptive", "until", "min_gain", "min_growth", "at_least", "seed"),
)
RESERVED = (
    *SELECT_NAMES,
    *("query", "candidates", "n", "kernel", "normalize", "known", "exclude", "sources", "costs", "prior"),
)
NO_NORMALIZE = switch("--no-normalize", "do not scale the vectors to unit length", setting="normalize")


def add(commands: Any) -> None:
    """Declare the commands."""
    _add_select(commands)
    methods = flags.command(commands, "methods", run_methods, "list the selection methods", METHODS_EPILOG)
    flags.declare(
        methods,
        Flag("name", "NAME", str, "method to describe", more={"nargs": "?"}),
        flags.JSON.described("print JSON"),
    )
    spread = flags.command(
        commands, "spread", run_spread, "measure how spread vectors are, and suggest a λ for SIFT", SPREAD_EPILOG
    )
    flags.declare(
        spread,
        Flag("--candidates", "FILE", str, "(K, d) vectors: .npy, .npz:key or .jsonl", more={"required": True}),
        Flag("--query", "FILE", str, "(B, d) vectors of typical prompts (default: the candidates)"),
        Flag("-n", "N", int, "number of picks to plan for (default: 50)", 50),
        flags.KERNEL,
        NO_NORMALIZE,
        flags.SEED.described("random seed of the sample (default: 0)", default=0),
        flags.JSON,
    )


def _add_select(commands: Any) -> None:
    parser = flags.command(commands, "select", run, "select the most informative candidates for a prompt", EPILOG)
    several = (
        "rows of --query are embeddings of one prompt (default), or one prompt each, with a selection for every prompt"
    )
    least = Flag("--at-least", "N", int, "keep at least N picks (default: 1)")
    flags.declare(
        parser,
        "data",
        Flag("--candidates", "FILE", str, "(K, d) vectors to select from", more={"required": True}),
        Flag("--query", "FILE", str, "(d,) or (m, d) vectors of the prompt (some methods need none)"),
        choice("--queries-are", ("targets", "prompts"), several, default="targets"),
        Flag("--texts", "FILE", str, "one text per candidate: lines, or the field text of .jsonl"),
        Flag("--known", "FILE", str, "(j, d) vectors of texts that are known already"),
        "selection",
        Flag("-n", "N", int, "number of picks (default: 50, or all if there are fewer)"),
        flags.METHOD,
        flags.NOISE.described("observation noise of SIFT; siftlm spread suggests one (default: 0.01)"),
        flags.KERNEL,
        NO_NORMALIZE,
        flags.OPTION,
        flags.SEED,
        "limits and weights",
        flags.REPLACEMENT,
        Flag("--exclude", "FILE", str, "indices to exclude, one per line, or .npy"),
        Flag("--sources", "FILE", str, "one label per candidate, one per line"),
        Flag("--source-cap", "N", int, "at most N picks per label"),
        Flag("--costs", "FILE", str, "one cost per candidate, which divides its gains"),
        Flag("--budget", "B", float, "upper limit of the total cost"),
        (
            Flag("--prior", "FILE", str, "one weight per candidate, which multiplies its gains"),
            Flag("--relevance-prior", "POWER", float, "multiply gains by the similarity to the prompt to this power"),
        ),
        "early stopping",
        *flags.STOPPING,
        least,
        "output",
        flags.JSON.described("print one JSON object per selection, on one line"),
        switch("--explain", "show the relevance and the redundancy of each pick"),
        flags.OUT,
        Flag("--figure", "FILE", str, "also plot relevance against redundancy over λ (.png, .svg, .pdf)"),
    )


# --- select


def run(arguments: argparse.Namespace) -> int:
    """Select from vectors in files."""
    import siftlm
    from siftlm.cli import files

    not_recipe(arguments.method)
    candidates = files.vectors(arguments.candidates)
    query = None if arguments.query is None else files.vectors(arguments.query)
    texts = None if arguments.texts is None else files.texts(arguments.texts, len(candidates))
    settings = _settings(arguments, len(candidates))
    several = arguments.queries_are == "prompts"
    _check(arguments, query, several=several)
    if several and query is not None:
        found = siftlm.select_many(query[None] if query.ndim == 1 else query, candidates, arguments.n, **settings)
    else:
        found = [siftlm.select(query, candidates, arguments.n, **settings)]
    if arguments.figure is not None:
        _draw_figure(arguments, query, candidates, settings, len(found[0]))
    _print(arguments, found, texts, len(candidates))
    return 0


def _settings(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """The keyword arguments of ``siftlm.select``."""
    from siftlm import kernels
    from siftlm.cli import files

    settings = flags.values_of(arguments, SELECT_NAMES)
    if arguments.kernel is not None:
        settings["kernel"] = flags.kernel(arguments.kernel)
    if arguments.no_normalize:
        settings["normalize"] = False
    readers: dict[str, Callable[[str], Any]] = {
        "known": files.vectors,
        "exclude": files.ids,
        "sources": lambda path: files.labels(path, size),
        "costs": files.numbers,
        "prior": files.numbers,
    }
    settings.update({name: readers[name](path) for name, path in flags.values_of(arguments, tuple(readers)).items()})
    if arguments.relevance_prior is not None:
        settings["prior"] = kernels.relevance(arguments.relevance_prior)
    flags.add_options(settings, arguments, RESERVED)
    return settings


def _check(arguments: argparse.Namespace, query: npt.NDArray[Any] | None, *, several: bool) -> None:
    if several and query is None:
        raise Conflict("--queries-are prompts needs --query")
    if arguments.figure is not None and (several or query is None):
        raise Conflict("--figure needs --query with a single prompt")


def _draw_figure(
    arguments: argparse.Namespace,
    query: npt.NDArray[Any] | None,
    candidates: npt.NDArray[Any],
    settings: dict[str, Any],
    picks: int,
) -> None:
    """Save the figure in the format of the file's suffix."""
    from siftlm.cli import files
    from siftlm.selection.figures import relevance_redundancy

    kind = Path(arguments.figure).suffix[1:].lower()
    if kind not in ("png", "svg", "pdf"):
        raise InvalidInput(f"--figure {arguments.figure}: expected a .png, .svg or .pdf file")
    shared = {name: settings[name] for name in ("kernel", "normalize", "seed") if name in settings}
    figure = relevance_redundancy(query, candidates, n=max(1, picks), **shared)
    with files.replacing(arguments.figure) as new:
        figure.savefig(new, format=kind, dpi=200)


def _print(arguments: argparse.Namespace, found: Sequence[Selection], texts: list[str] | None, size: int) -> None:
    from siftlm.cli import files

    terminal = Terminal(width=120) if arguments.out is not None else Terminal.of(sys.stdout)
    if arguments.json:
        records = [tables.selection_record(selection, texts, explain=arguments.explain) for selection in found]
        text = "\n".join(map(json.dumps, records))
    else:
        parts: list[RenderableType] = []
        for at, selection in enumerate(found):
            parts += [""] if parts else []
            parts += [Text(f"prompt {at}", "bold")] if arguments.queries_are == "prompts" else []
            parts += tables.selection_parts(selection, texts, size, terminal, explain=arguments.explain)
        text = terminal.render(*parts)
    if arguments.out is not None:
        files.write(arguments.out, text + "\n")
    else:
        print(printable(text, sys.stdout))


# --- spread


def run_spread(arguments: argparse.Namespace) -> int:
    """Print the spread of vectors."""
    import siftlm
    from siftlm import validation
    from siftlm.cli import files

    report = siftlm.spread(
        files.vectors(arguments.candidates),
        None if arguments.query is None else files.vectors(arguments.query),
        n=arguments.n,
        kernel=flags.kernel(arguments.kernel),
        normalize=not arguments.no_normalize,
        seed=validation.whole_number("seed", arguments.seed, least=0),
    )
    print(printable(json.dumps(report.to_dict()) if arguments.json else str(report), sys.stdout))
    return 0


# --- methods


def run_methods(arguments: argparse.Namespace) -> int:
    """Describe one method, or list all."""
    from siftlm.selection import problem

    terminal = Terminal.of(sys.stdout)
    if arguments.name is not None:
        not_recipe(arguments.name)
        method = problem.find_method(arguments.name)
        if arguments.json:
            print_json(_method_record(method), indent=2)
        else:
            terminal.show(*_method_parts(method, terminal), width=min(terminal.width, 100))
        return 0
    methods, problems = _all_methods()
    if arguments.json:
        print_json([_method_record(method) for method in methods], indent=2)
        for line in problems:  # the JSON list has no place for them
            print(printable(line, sys.stderr), file=sys.stderr)
    else:
        terminal.show(*_methods_parts(methods, problems, terminal))
    return 0


def _all_methods() -> tuple[list[Method], list[str]]:
    """All methods, and an error line for each method of another package that cannot be loaded."""
    from siftlm.selection import problem

    def find(name: str) -> Method | str:
        try:
            return problem.find_method(name)
        except SiftlmError as error:
            return f"{name}: {one_line(str(error))}"

    results = [find(name) for name in problem.methods()]
    return [one for one in results if not isinstance(one, str)], [one for one in results if isinstance(one, str)]


def _group(method: Method) -> str:
    if not method.run.__module__.startswith("siftlm."):
        return GROUPS[3]
    if method.reads == "probabilities":
        return GROUPS[2]
    return GROUPS[0] if method.targeted else GROUPS[1]


def _method_record(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "needs_query": method.targeted,
        "repeats": method.repeats,
        "reads": method.reads,
        "options": {
            name: value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
            for name, value in method.options.items()
        },
        "group": _group(method),
    }


def _methods_parts(methods: list[Method], problems: list[str], terminal: Terminal) -> list[RenderableType]:
    """A line for each method, with its formula if there is room."""
    names = max((cell_len(m.name) for m in methods), default=0)
    summaries = max((cell_len(terminal.spell(m.summary)) for m in methods), default=0)
    formulas = terminal.limit - names - summaries - 6 >= FORMULA_COLUMNS
    parts: list[RenderableType] = []
    for group in GROUPS:
        members = [m for m in methods if _group(m) == group]
        if not members:
            continue
        rows = table(header=False)
        rows.add_column(style="cyan", min_width=names, no_wrap=True)
        rows.add_column(min_width=summaries if formulas else None)
        rows.add_column(style="dim")
        for m in members:
            formula = terminal.line(m.formula) if formulas else ""
            rows.add_row(Text(m.name), terminal.prose(m.summary), formula)
        parts += [*([""] if parts else []), Text(group, "bold"), indented(rows)]
    return [*parts, *(terminal.prose(line, "red") for line in problems)]


def _method_parts(method: Method, terminal: Terminal) -> list[RenderableType]:
    if method.reads == "probabilities":
        needs = "softmax outputs (K, C) as candidates, no query"
    else:
        needs = "candidates and a query" if method.targeted else "candidates, no query"
    rows = table(header=False)
    rows.add_row("formula", terminal.prose(method.formula))
    rows.add_row("needs", needs)
    rows.add_row(
        "repeats",
        "if worth more than a new candidate" if method.repeats else "no, unless --replacement",
    )
    for at, (name, default) in enumerate(method.options.items()):
        value = terminal.prose(f"{name} = {default!r}    (--option {name}=…)")
        rows.add_row("options" if not at else "", value)
    if not method.options:
        rows.add_row("options", "none")
    parts: list[RenderableType] = [
        Text.assemble((method.name, "bold"), "  ", terminal.prose(method.summary)),
        "",
        indented(rows),
    ]
    explanation = (inspect.getdoc(method.run) or "").partition("\n")[2].strip("\n")
    if explanation.strip():
        parts += ["", terminal.verbatim(explanation, indent=2)]
    query = "--query q.npy " if method.targeted and method.reads == "vectors" else ""
    example = f"siftlm select --candidates vectors.npy {query}--method {method.name}"
    return [*parts, "", indented(Text(example))]
