"""``siftlm pick``: a training set out of a large pool."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, choice, repeated, switch
from siftlm.cli.terminal import Terminal, indented, print_json, progress_line, resumable
from siftlm.errors import Conflict

if TYPE_CHECKING:
    from siftlm.picking import Picks
    from siftlm.picking.verdict import Verdict

EPILOG = """\
examples:
  siftlm pick --pool pool.jsonl --targets examples.jsonl -n 10000 --out chosen.jsonl
  siftlm pick --pool shards/ more.parquet --targets examples.jsonl -n 10000 --out chosen.jsonl.gz
  siftlm pick --pool chats.jsonl --text messages --targets examples.jsonl --target-text question -n 500 --out a.jsonl
  siftlm pick --pool pool.jsonl --targets examples.jsonl --budget 2000000 --out chosen.jsonl
  siftlm pick --pool pool.jsonl --targets examples.jsonl -n 10000 --quota source=0.3 --quality score --out a.jsonl
  siftlm pick --pool pool.jsonl --targets examples.jsonl -n 500 --quota lang=de:0.5,en:100 --out chosen.jsonl
  siftlm pick --pool pool.jsonl --vectors pool.npy --target-vectors targets.npy -n 10000 --out chosen.jsonl
  siftlm pick --pool pool.jsonl --targets examples.jsonl -n 10000 --out chosen.jsonl --report chosen --verdict
  siftlm pick --pool chats.jsonl --targets examples.jsonl -n 500 --out chosen.jsonl --export llama-factory=data/
  siftlm pick --pool memory --targets examples.jsonl -n 1000 --out chosen.jsonl      a memory as the pool

The targets are examples of the task. SIFT picks the records that together leave the least uncertainty about them, from
the whole pool, and writes them unchanged in the order of picking; a field siftlm, {"pick": 1, "gain": 0.21, "source":
"pool.jsonl:17"}, is added (--field none leaves it out).

The text of a record is that of the fields which --text names, one below the other. Without it, it is that of the first
of these forms that the record has: text; messages; conversations; instruction, input and output; prompt and completion;
prompt and chosen; question and answer; content; prompt; question. Of a conversation it is the contents of its messages.

A record that shares 80 % of its wording with a target is left out, so that the targets can serve as a test
(--keep-copies), and so is a text that the pool has had before (--duplicates).

--report compares the choice with a random one and with the nearest records: what is left of the uncertainty about each
target, and how often records repeat each other. --verdict trains a small model on the first 300 picks and on as many
random records, and compares their bits per byte on targets that had no part in the choice: better, worse, or no
significant difference. It needs siftlm[tune].

--method names any method of siftlm methods, --option its settings: --method mig --option labels=tags reads the labels
of each record from its field tags. Methods that need no prompt need no --targets.

--export writes the records once more for a library that trains on them: --export trl=FOLDER, llama-factory=FOLDER
(with an entry in dataset_info.json) or axolotl=FOLDER (with the lines for its configuration).

An interrupted command resumes when it is repeated. The vectors stay in the folder OUT.work: the next choice from the
same pool, with another -n, quota or λ, embeds nothing. Delete the folder when you are done.
"""
# Arguments whose Python names are theirs.
PICK_NAMES = (
    *("n", "out", "text", "target_text", "embedder", "vectors", "target_vectors", "method", "noise", "budget", "cost"),
    *("quality", "without_copies", "bad", "seed", "format", "split", "glob"),
)
# The libraries of `siftlm.picking.exports`; repeated here, so that --help imports nothing.
LIBRARIES = ("trl", "llama-factory", "axolotl")


def _quota(word: str) -> dict[str, Any]:
    """``source=0.3`` or ``source=wiki:0.5,web:200``.

    >>> _quota("source=0.3"), _quota("lang=de:0.5,en:200")
    ({'source': 0.3}, {'lang': {'de': 0.5, 'en': 200}})
    """
    field, equals, value = word.partition("=")
    try:
        if not equals or not field:
            raise ValueError(word)
        if ":" not in value:
            return {field: _share_or_count(value)}
        parts = [part.rpartition(":") for part in value.split(",")]
        return {field: {label: _share_or_count(number) for label, _, number in parts}}
    except ValueError:
        expected = "FIELD=SHARE or FIELD=VALUE:SHARE,…"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {word!r:.60}") from None


def _share_or_count(word: str) -> float | int:
    """A whole number counts picks; with a point it is a share."""
    return int(word) if word.isascii() and word.isdigit() else float(word)


def _export(word: str) -> tuple[str, str]:
    """``trl=folder``."""
    library, equals, folder = word.partition("=")
    if not equals or library not in LIBRARIES or not folder:
        raise argparse.ArgumentTypeError(f"expected {', '.join(LIBRARIES)}, = and a folder, got {word!r:.60}")
    return library, folder


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "pick",
        run,
        "choose a training set from a pool: the records that tell most about examples of the task",
        EPILOG,
        usage="siftlm pick --pool FILE… --targets FILE… -n N --out FILE [options]",
    )
    pool = "files or folders of .jsonl .parquet .csv (.gz .zst), hf:NAME[:CONFIG], or the folder of a memory"
    out = "file for the records: .jsonl, .jsonl.gz or .parquet"
    bad = "records that cannot be used: fail at the first (default), or skip and count them"
    quota = "largest share of any source, source=0.3, or of some: source=wiki:0.5,web:200 (whole numbers count picks)"
    flags.declare(
        parser,
        Flag("--pool", "FILE", str, pool, more={"nargs": "+", "required": True}),
        Flag("--targets", "FILE", str, "examples of the task, in the same formats", more={"nargs": "+"}),
        Flag("-n --n", "N", int, "number of records to pick"),
        Flag("--out", "FILE", str, out, more={"required": True}),
        "records",
        Flag("--text", "FIELD,…", flags.comma_list(str, "fields"), "fields of the text (default: see below)"),
        Flag("--target-text", "FIELD,…", flags.comma_list(str, "fields"), "fields of the targets (default: same)"),
        choice("--bad", ("fail", "skip"), bad),
        Flag("--format", "F", str, "format of files without a known suffix: csv, jsonl, parquet, text, tsv"),
        Flag("--glob", "PATTERN", str, "in folders, read only files that match"),
        Flag("--split", "NAME", str, "split of a Hugging Face dataset (default: train)"),
        "vectors",
        flags.EMBEDDER.described("static (default), hashing, or a model: see siftlm index; of a memory its own"),
        repeated("--embedder-option", "NAME=VALUE", flags.option, "a setting of the embedder, such as width=1024"),
        Flag("--vectors", "FILE.npy", str, "vectors of the pool's records, which are then not embedded"),
        Flag("--target-vectors", "FILE.npy", str, "vectors of the targets"),
        "selection",
        flags.METHOD,
        flags.OPTION,
        flags.NOISE,
        flags.SEED,
        "limits and weights",
        Flag("--budget", "B", float, "upper limit of the total cost; gains are compared per cost"),
        Flag("--cost", "C", str, "cost of a record: tokens (of the embedder; default), characters, or a field"),
        Flag("--quota", "FIELD=SHARE", _quota, quota),
        Flag("--quality", "FIELD", str, "field with a number ≥ 0 that multiplies a record's gains"),
        (
            Flag("--without-copies", "S", flags.share, "share of wording that makes a copy of a target (default: 0.8)"),
            switch("--keep-copies", "do not look for copies of the targets"),
        ),
        switch("--duplicates", "allow a text that the pool has several times to be picked again"),
        "report",
        Flag(
            "--report",
            "NAME",
            str,
            "write NAME.html and NAME.md: coverage of the targets, redundancy, quotas, a picture",
        ),
        switch("--verdict", "train a small model on the choice and on random records: which is better?"),
        Flag(
            "--test",
            "FILE",
            str,
            "held-out texts for the verdict (default: half the targets at a time)",
            more={"nargs": "+"},
        ),
        Flag("--proxy", "MODEL", str, "the small model (default: siftlm-tiny)"),
        Flag("--proxy-records", "N", int, "train it on at most N records (default: 300)", setting="records"),
        "output",
        repeated("--export", "LIBRARY=FOLDER", _export, "write them for trl, llama-factory or axolotl too; repeatable"),
        Flag("--field", "NAME|none", str, "field for the gain and the source of a record (default: siftlm)"),
        switch("--restart", "begin anew, whatever an earlier command left in OUT.work"),
        flags.JSON,
        flags.QUIET,
    )


def run(arguments: argparse.Namespace) -> int:
    """Pick, then print a summary."""
    from siftlm.embedding import DEFAULT_EMBEDDER, embedder
    from siftlm.picking import pick

    _check_files(arguments)
    judging = _judging(arguments)
    settings = flags.values_of(arguments, PICK_NAMES)
    if arguments.embedder_option:
        settings["embedder"] = embedder(arguments.embedder or DEFAULT_EMBEDDER, **dict(arguments.embedder_option))
    options: dict[str, Any] = {}
    flags.add_options(options, arguments, ())
    if options:
        settings["options"] = options
    if arguments.quota is not None:
        settings["quota"] = arguments.quota
    if arguments.keep_copies:
        settings["without_copies"] = False
    if arguments.field is not None:
        settings["field"] = None if arguments.field == "none" else arguments.field
    quiet = arguments.quiet or arguments.json
    with resumable("stopped; repeat the command to resume"), progress_line(quiet=quiet) as report:
        picks = pick(
            corpus_of(arguments.pool),
            None if arguments.targets is None else corpus_of(arguments.targets),
            duplicates=arguments.duplicates,
            restart=arguments.restart,
            progress=report,
            **settings,
        )
        verdict = picks.verdict(**judging, progress=report) if arguments.verdict else None
    files = [] if arguments.report is None else picks.report(verdict=verdict).write(arguments.report)
    for library, folder in arguments.export:
        files += picks.export(library, folder)
    if arguments.json:
        print_json(_record(picks, verdict, arguments.out, files))
    elif not arguments.quiet:
        terminal = Terminal.of(sys.stdout)
        terminal.show(*_parts(picks, verdict, arguments.out, files, terminal))
    return 0


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise before the choice where files that come after it cannot be written."""
    from siftlm.picking.exports import DEFAULT_NAME
    from siftlm.picking.output import report_stem

    if arguments.report is not None:
        report_stem(arguments.report)
    first: dict[Path, str] = {}
    for library, folder in arguments.export:
        word, real = f"{library}={folder}", Path(folder).resolve()
        if real in first:
            raise Conflict(f"--export {word} and {first[real]} would write the same file: name another folder for one")
        if real / f"{DEFAULT_NAME}.jsonl" == Path(arguments.out).resolve():
            raise Conflict(f"--export {word} would overwrite --out {arguments.out}: name another folder")
        first[real] = word


def _judging(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the verdict; its model is opened before the choice, so that a wrong name costs nothing."""
    from siftlm.picking.output import check_no_input, input_files
    from siftlm.picking.pick import DEFAULT_PROXY

    given = {"test": arguments.test, "proxy": arguments.proxy, "records": arguments.proxy_records}
    settings = {name: value for name, value in given.items() if value is not None}
    if settings and not arguments.verdict:
        flag = {"records": "proxy-records"}.get(next(iter(settings)), next(iter(settings)))
        raise Conflict(f"--{flag} needs --verdict")
    if arguments.test is not None:
        settings["test"] = corpus_of(arguments.test)
        check_no_input("out", Path(arguments.out), input_files(settings["test"]))
    if arguments.verdict:
        from siftlm.picking.models import opened_model

        if arguments.targets is None and arguments.test is None:
            raise Conflict("--verdict needs texts to test on: pass --test, or --targets")
        settings["proxy"] = opened_model(settings.get("proxy", DEFAULT_PROXY), "proxy")
    return settings


def corpus_of(names: list[str]) -> Any:
    """One input as it is, several as the list that the library takes."""
    return names[0] if len(names) == 1 else [name if name.startswith("hf:") else Path(name) for name in names]


def _record(picks: Picks, verdict: Verdict | None, out: str, files: list[Path]) -> dict[str, Any]:
    return {
        "out": out,
        "picks": len(picks),
        "pool": picks.pool,
        "records": picks.pool_records,
        "targets": len(picks.targets),
        "uncertainty": [picks.uncertainty[0], picks.uncertainty[-1]] if len(picks.targets) else None,
        "stopped": picks.stopped,
        "left_out": dict(picks.left_out),
        "complaints": list(picks.embedded.state.complaints),
        "finished_before": picks.finished_before,
        "verdict": None if verdict is None else verdict.to_dict(),
        "files": [str(file) for file in files],
    }


def _parts(
    picks: Picks, verdict: Verdict | None, out: str, files: list[Path], terminal: Terminal
) -> list[RenderableType]:
    first, *rest = str(picks).splitlines()
    parts: list[RenderableType] = [terminal.prose(first), *(indented(terminal.prose(line)) for line in rest)]
    parts += [indented(terminal.prose(complaint)) for complaint in picks.embedded.state.complaints]
    parts += [] if verdict is None else [terminal.prose(verdict.sentence)]
    state = "had been written before; nothing has changed" if picks.finished_before else "written"
    parts.append(terminal.prose(f"{shlex.quote(out)}: {state}"))
    return [*parts, *(terminal.prose(f"{file}: written") for file in files if file.suffix != ".svg")]
