"""The generated tables and pictures of the documentation.

    python docs/tables.py           rewrite them
    python docs/tables.py --check   fail if one is stale

A table is between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. Its source is a file of ``benchmarks/results``,
records of the study (`study_tables`, `corpora_tables`), or the registry of methods.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from corpora_tables import CORPORA_PICTURES, CORPORA_TABLES
from study_tables import STUDY_PICTURES, STUDY_TABLES, study_table

from siftlm.selection import methods
from siftlm.selection.problem import find_method

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def ratio(own: dict[str, float], peer: dict[str, float] | None) -> str:
    """The peer's time in multiples of ours."""
    if peer is None:
        return "–"
    value = peer["median"] / own["median"]
    return f"{value:.0f}×" if value >= 10 else f"{value:.2f}×"


def machine(results: dict[str, Any]) -> str:
    """The machine of a benchmark in one line."""
    of = results["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in of["libraries"].items() if version != "absent")
    return f"{of['processor']}, {of['cores']} cores, Python {of['python']}, {of['blas']}; {libraries}; {of['date']}."


def selection_table() -> str:
    """Selection against its peers, from ``python benchmarks/selection.py``."""
    results = json.loads((RESULTS / "selection.json").read_text())
    peers = {
        "activeft": "activeft",
        "pyversity dpp": "pyversity DPP",
        "pyversity mmr": "pyversity MMR",
        "minimal loop": "a minimal loop",
        "50 scans": "50 scans",
    }
    if not any("minimal loop" in case for case in results["one_query"].values()):  # a run of before it was there
        del peers["minimal loop"]
    columns = ["siftlm", *(f"{name} ÷ siftlm" for name in peers.values())]
    rows = [
        "| work, d = 768, n = 50, float32 | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]

    def row(work: str, value: str, cells: dict[str, str]) -> None:
        rows.append(f"| {work} | {value} | " + " | ".join(cells.get(peer, "–") for peer in peers) + " |")

    for size, case in results["one_query"].items():
        own = case["siftlm"]
        cells = {peer: ratio(own, case.get(peer)) for peer in peers}
        row(f"one prompt, K = {int(size):,}", milliseconds(own["median"]), cells)
    for size, case in results.get("shared_candidates", {}).items():
        own = case["siftlm"]
        cells = {"minimal loop": ratio(own, case["minimal loop"])}
        row(f"32 prompts, the same K = {int(size):,}", milliseconds(own["median"]), cells)
    many = results["many_queries"]
    own = many["siftlm"]
    cells = {"activeft": ratio(own, many.get("activeft"))}
    row("32 prompts, K = 200 each, search included", milliseconds(own["median"]), cells)
    for size, case in results["whole_memory"].items():
        own = case["siftlm"]
        cells = {"activeft": "cannot", "50 scans": ratio(own, case["50 scans"])}
        row(f"one prompt, all of {int(size):,}", milliseconds(own["median"]), cells)
    if "million" in results:
        of = results["million"]
        row(
            f"{of['picks']:,} of {of['candidates']:,} for {of['targets']} targets, d = {of['width']}",
            f"{of['seconds'] / 60:.1f} min, {of['peak_bytes'] / 2**30:.1f} GiB",
            {"activeft": "cannot", "50 scans": f"{of['picks'] / of['scans']:.1f}× ({of['picks']:,} scans)"},
        )
    source = (
        "Medians of alternating runs by `make bench`; × is a peer's time in multiples of siftlm's. A scan is one "
        "product of all candidates with the prompt."
    )
    if "minimal loop" in peers:
        source += (
            " The minimal loop is SIFT in twenty lines of numpy, float64 but for the scans, without a check, a tie "
            "rule or a result."
        )
    if results.get("load", 0) > 0.5:
        source += f" Other work ran on the machine: its load was {results['load']:.1f} before the run"
        source += ", so times are those of one processor." if results.get("clock") == "processor" else "."
    if "million" in results:
        source += f" The million: `python benchmarks/selection.py --only-million`, {results['million']['note']}."
    return "\n".join([*rows, "", f"{source} {machine(results)}"])


def growth_table() -> str:
    """The growth of selection's cost, from the same run."""
    results = json.loads((RESULTS / "selection.json").read_text())
    names = {
        "K": "candidates K",
        "d": "width d",
        "n": "picks n",
        "m": "targets m",
        "prompts": "prompts together (time each)",
    }
    rows = ["| grows | |", "|---|---|"]
    for axis, points in results["growth"].items():
        steps = ", ".join(f"{point['at']:,}: {milliseconds(point['seconds'])}" for point in points)
        rows.append(f"| {names[axis]} | {steps} |")
    return "\n".join([*rows, "", "The others stay at K = 2,000, d = 768, n = 50, m = 1, one prompt."])


def memory_table() -> str:
    """A memory against its peers, from ``python benchmarks/memory.py``."""
    results = json.loads((RESULTS / "memory.json").read_text())
    rows = ["| work, d = 384, float32 | siftlm | compared with | ratio |", "|---|---|---|---|"]

    def row(work: str, own: float, peer: str, other: float) -> None:
        rows.append(f"| {work} | {duration(own)} | {peer}: {duration(other)} | {own / other:.2f}× |")

    opened = results["open"]
    rows.append(f"| open {opened['passages']:,} passages, count them | {duration(opened['open'])} | | |")
    rows.append(f"| the first search after that, in a fresh process | {duration(opened['first_search'])} | | |")
    for size, case in results["scan"].items():
        flat = case["faiss"]["median"]
        for form in ("float32", "float16", "int8"):
            name = f"200 nearest of {int(size):,}, stored as {form}"
            row(name, case[f"siftlm {form}"]["median"], "faiss IndexFlatIP", flat)
    for size, case in results["whole"].items():
        row(f"50 picks among all {int(size):,}", case["siftlm"]["median"], "50 scans", case["50 scans"]["median"])
    case = results["whole"]["100000"]
    together, alone = case["16 prompts together"]["median"], case["16 prompts one by one"]["median"]
    row("the same for 16 prompts at once, 100,000", together, "one by one", alone)
    for width, case in results["ingest"].items():
        name = f"add {case['passages']:,} texts with vectors, d = {width}"
        row(name, case["siftlm"]["median"], "writing the same number of bytes", case["write and sync"]["median"])
    built = "; ".join(
        f"{case['passages']:,} documents: {duration(case['seconds'])}, peak {case['peak_bytes'] / 2**20:.0f} MiB"
        for case in results["build"].values()
    )
    source = f"Building from JSON lines with the hashing embedder, in a fresh process each: {built}."
    return "\n".join([*rows, "", source, "", f"`python benchmarks/memory.py`. {machine(results)}"])


def _per_text(case: dict[str, float], texts: int) -> tuple[float, float]:
    """Microseconds for each of so many texts: those of the clock, and of the processor."""
    return 1e6 * case.get("median", case.get("seconds", 0)) / texts, 1e6 * case["processor"] / texts


def stores_table() -> str:
    """A memory against other stores, from ``python benchmarks/memory.py --only peers``."""
    results = json.loads((RESULTS / "memory.json").read_text())["peers"]
    size = results["passages"]
    rows = [f"| {size:,} texts, d = 384, float32 | siftlm | compared with | ratio |", "|---|---|---|---|"]

    for source, jobs in results["fill"].items():
        each = {name: _per_text(case, results["filled"][name]) for name, case in jobs.items()}
        for name in jobs:
            if name != "siftlm":
                own, other = each["siftlm"], each[name]
                times = f"{own[0] / other[0]:.2f}× ({own[1] / other[1]:.2f})"
                rows.append(
                    f"| add a text, from {source} | {own[0]:,.0f} µs ({own[1]:,.0f}) "
                    f"| {name}: {other[0]:,.0f} µs ({other[1]:,.0f}) | {times} |"
                )
    seconds = {name: case["median"] for name, case in results["search"].items()}
    for name in seconds:
        if name != "siftlm":
            effort = f", effort {results['effort'][name]:,}" if name in results["effort"] else ""
            work = f"200 nearest, with texts and vectors (recall of {name}{effort}: {results['recall'][name]:.3f})"
            compared = f"{duration(seconds['siftlm'])} | {name}: {duration(seconds[name])}"
            rows.append(f"| {work} | {compared} | {seconds['siftlm'] / seconds[name]:.2f}× |")
    always = "".join(f" {name} always builds {what}." for name, what in results["always"].items())
    partly = "".join(f" {name} fills {n:,} texts." for name, n in results["filled"].items() if n < size)
    note = f" {results['note']}" if results["note"] else ""
    source = (
        "In brackets the processor time, all threads together. Libraries are imported and have filled a small folder "
        f"before the clock starts; stores take turns in one process, {results['rounds']} rounds, medians; the clock "
        f"stops when every file is flushed to the disk.{always}{partly}{note}"
    )
    return "\n".join([*rows, "", f"`python benchmarks/memory.py --only peers`. {source} {machine(results)}"])


def minipile_table() -> str:
    """A memory of real text, from ``python benchmarks/minipile.py``."""
    results = json.loads((RESULTS / "minipile.json").read_text())
    rows = [
        "| embedder | documents, passages | built in | stored as | vectors | recall of 200 nearest | same SIFT picks |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in (("hashing", results["hashing"]), ("MiniLM, bfloat16", results["model"])):
        for form, of in case["forms"].items():
            first = form == "float32"
            what = f"{case['documents']:,}, {case['passages']:,}" if first else ""
            took = duration(case["build_seconds"]) if first else ""
            rows.append(
                f"| {name if first else ''} | {what} | {took} | {form} | {of['vectors_bytes'] / 2**20:.0f} MiB "
                f"| {100 * of['recall']:.1f} % | {100 * of['picks']:.1f} % |"
            )
    return "\n".join([*rows, "", f"`python benchmarks/minipile.py`. {machine(results)}"])


def embedders_table() -> str:
    """How well each embedder finds known items, and passages of the same domain."""
    results = json.loads((RESULTS / "embedders.json").read_text())
    found = results["found"]
    order = sorted(found, key=lambda name: (name.startswith(("exact", "BM25", "MiniLM")), name))
    rows = [
        "| embedder, width | docstrings | tldr | mathematics | nearest passages |",
        "|---|---|---|---|---|",
    ]
    for name in order:
        cells = []
        for title in ("docstrings", "tldr", "mathematics", "passages"):
            of = found[name][title]
            mean, low, high = of["same" if title == "passages" else "mrr"]
            recall = f", {of['recall'][0]:.2f}" if "recall" in of else ""
            cells.append(f"{mean:.3f} [{low:.2f}, {high:.2f}]{recall}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    asked = next(iter(found.values()))
    counts = ", ".join(
        f"{asked[title]['questions']} questions and {asked[title]['documents']:,} documents ({title})"
        for title in ("docstrings", "tldr", "mathematics")
    )
    source = f"`python benchmarks/embedders.py`: {counts}, {asked['passages']['passages']:,} passages."
    return "\n".join([*rows, "", f"{source} {machine(results)}"])


def embedder_times_table() -> str:
    """Processor time of a passage, from ``python benchmarks/embedders.py --times``."""
    of = json.loads((RESULTS / "embedders.json").read_text())["times"]
    cells: dict[str, dict[str, str]] = {}
    for name, (median, low, high) in of["microseconds"].items():
        embedder, _, words = name.partition(": ")
        cells.setdefault(embedder, {})[words] = f"{median:.0f} [{low:.0f}, {high:.0f}]"
    rows = ["| embedder, width | µs a passage, words known | words new |", "|---|---|---|"]
    rows += [
        f"| {name} | {cell.get('known words', cell.get(''))} | {cell.get('new words', 'the same')} |"
        for name, cell in cells.items()
    ]
    source = (
        f"`python benchmarks/embedders.py --times`: {of['passages']:,} passages of 100 words between spaces (on "
        f"average {of['characters']:.0f} characters, {of['words and signs']:.0f} words and signs), processor time, "
        f"median and quartiles of {of['rounds']} rounds."
    )
    return "\n".join([*rows, "", f"{source} One thread, while other work ran on the machine. {machine(of)}"])


def hybrid_table() -> str:
    """How well known items are found by vectors, words and both."""
    results = json.loads((RESULTS / "hybrid.json").read_text())
    columns = ("vectors", "words", "both", "rank fusion")
    picks = ("vectors", "words", "both")
    rows = [
        f"| set, embedder | {' | '.join(columns)} | SIFT: {' | SIFT: '.join(picks)} |",
        f"|---|{'---|' * (len(columns) + len(picks))}",
    ]
    for name, own in results["found"].items():
        cells = [own["mrr"][column] for column in columns] + [own["sift"][pick] for pick in picks]
        rows.append(f"| {name} | {' | '.join(f'{mean:.3f} [{low:.2f}, {high:.2f}]' for mean, low, high in cells)} |")
    rows += ["", f"| two questions, of two passages | {' | '.join(columns[:3])} | SIFT: {' | SIFT: '.join(picks)} |"]
    rows.append(f"|---|{'---|' * (2 * len(picks))}")
    for name, own in results["found"].items():
        cells = [own["two questions"][f"{pick}, {method}"] for method in ("nearest", "sift") for pick in picks]
        rows.append(f"| {name} | {' | '.join(f'{mean:.3f} [{low:.2f}, {high:.2f}]' for mean, low, high in cells)} |")
    counts = ", ".join(f"{own['questions']} ({name})" for name, own in results["found"].items())
    source = f"`python benchmarks/hybrid.py`, questions: {counts}; 95 % bootstrap intervals."
    return "\n".join([*rows, "", f"{source} {machine(results)}"])


def duration(seconds: float) -> str:
    """Seconds in a suitable unit."""
    if seconds < 1:
        return milliseconds(seconds)
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def methods_table() -> str:
    """The methods of selection with their formulas."""
    rows = ["| method | what it picks | gain of x |", "|---|---|---|"]
    for name in methods():
        entry = find_method(name)
        if entry.run.__module__.startswith("siftlm."):
            formula = entry.formula.rstrip(".").replace("|", "\\|")
            rows.append(f"| `{name}` | {entry.summary} | {formula} |")
    return "\n".join(rows)


TUNING = {
    "full": "all weights, {texts} texts of {tokens} tokens",
    "padding": "texts of {tokens} tokens, against padding to the context",
    "adapters": "LoRA on all linear layers",
    "many": "LoRA, {prompts} prompts at once",
}


def tuning_table() -> str:
    """Tuning against its peers, from ``python benchmarks/tuning.py``."""
    results = json.loads((RESULTS / "tuning.json").read_text())
    rows = ["| work | implementations | prompts per second | single step |", "|---|---|---|---|"]
    [(shape, parts)] = [(name, parts) for name, parts in results.items() if name != "machine"]
    for part, words in TUNING.items():
        of = parts.get(part)
        for pair, value in (of["ratios"] if of else {}).items():
            step = f"{value['step']:.2f}×" if "step" in value else "–"
            names = pair.replace(" / ", " against ").replace("as it comes", "defaults")
            rows.append(f"| {words.format(**of)} | {names} | {value['prompts_per_second']:.2f}× | {step} |")
    notes = [f"A model of {shape} on the CPU. Medians of alternating runs by `python benchmarks/tuning.py`."]
    if "selection" in parts:
        of = parts["selection"]
        notes.append(
            f"For a prompt of {of['n']} steps, searching {of['passages']:,} passages and selecting take "
            f"{of['share']:.2%} of the time, restoring the model {of['reset_share']:.2%}."
        )
    return "\n".join([*rows, "", " ".join(notes), machine(results)])


def tuning_memory_table() -> str:
    """The peak memory of the same jobs, each in a process of its own."""
    results = json.loads((RESULTS / "tuning.json").read_text())
    [parts] = [parts for name, parts in results.items() if name != "machine"]
    rows = ["| work | implementation | peak memory |", "|---|---|---|"]
    for part, jobs in parts["memory"].items():
        for job, of in jobs.items():
            name = job.replace("as it comes", "defaults")
            rows.append(f"| {TUNING[part].format(**parts[part])} | {name} | {of['peak_bytes'] / 2**30:.2f} GiB |")
    return "\n".join([*rows, "", "Peak of the whole process, by `python benchmarks/tuning.py --only memory`."])


def serving_table() -> str:
    """The server under load, from ``python benchmarks/serving.py``."""
    results = json.loads((RESULTS / "serving.json").read_text())
    load, over, soak = results["load"], results["overload"], results["soak"]
    alone = load["one_at_a_time"]

    def row(name: str, one: dict[str, float]) -> str:
        times = " | ".join(f"{one[share]:.1f} s" for share in ("p50", "p95", "p99"))
        return f"| {name} | {one['per_second']:.2f} | {one['per_second'] / alone['per_second']:.2f}× | {times} |"

    rows = [
        "| clients at once | requests per second | vs one at a time | median | 95th percentile | 99th percentile |",
        "|---|---|---|---|---|---|",
        row("a script, one at a time", alone),
        *(row(count, one) for count, one in load["clients"].items()),
        row(f"{load['again']['clients']}, same requests again", load["again"]),
    ]
    sizes = soak["mib"]
    notes = [
        f"Each request is tuned on {load['n']} texts selected by SIFT and generates {load['tokens']} tokens,",
        "with `siftlm-tiny`.",
        f"{load['same_text']} answers are identical to the script's.",
        f"{over['clients']} clients at once with a queue of {over['queue']}: {over['answered']} answered, all as when",
        f"asked alone, {over['refused']} refused with Retry-After, {over['lost']} lost.",
        f"{soak['requests']:,} small requests of many lengths, memory when idle: {sizes[0]} MiB after",
        f"{soak['requests'] // len(sizes)}, then",
        f"{sizes[len(sizes) // 2]} MiB, {sizes[-1]} MiB at the end.",
    ]
    return "\n".join([*rows, "", " ".join(notes), "", f"`python benchmarks/serving.py`. {machine(results)}"])


def scale_table() -> str:
    """One memory at growing sizes: times and sizes, from ``python benchmarks/scale.py``."""
    records = json.loads((RESULTS / "scale.json").read_text())
    columns = ["passages, stored as", "add a text", "on disk", "open", "20 nearest", "SIFT, 20 of 200"]
    columns += ["SIFT, 20 of all", "IVF: build", "20 nearest", "of the exact ones", "compact"]
    rows = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for one in records:
        name, added, size = _scale_name(one), _per_text(one["build"], one["passages"]), _mebibytes(_disk(one))
        times = [one["search"][work] for work in ("open", "nearest", "sift")] + [one["whole"]]
        index = one.get("index")
        found = ["–"] * 3
        if index:
            found = [_both(index["build"]), _both(index["nearest"]), f"{100 * index['recall']:.0f} %"]
        cells = [f"{added[0]:,.0f} µs ({added[1]:,.0f})", size, *map(_both, times), *found, _both(one["compact"])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    notes = "; ".join(dict.fromkeys(one["note"] for one in records if one["note"]))
    source = "`python benchmarks/scale.py`. In brackets the processor time, all threads together."
    return "\n".join([*rows, "", f"{source} {f'Note: {notes}. ' if notes else ''}{machine(records[-1])}"])


def scale_memory_table() -> str:
    """The peak memory of each phase, from the same run."""
    records = json.loads((RESULTS / "scale.json").read_text())
    phases = {"build": "build", "search": "search", "whole": "SIFT of all", "index": "IVF", "compact": "compact"}
    rows = [f"| passages, stored as | {' | '.join(phases.values())} |", f"|{'---|' * (len(phases) + 1)}"]
    for one in records:
        peaks = [_mebibytes(one[phase]["peak_bytes"]) if one.get(phase) else "–" for phase in phases]
        rows.append(f"| {_scale_name(one)} | {' | '.join(peaks)} |")
    start = max(one["build"]["start_bytes"] for one in records)
    note = (
        f"What each phase's process owns at its peak, {_mebibytes(start)} of which is Python with numpy and siftlm; "
        "mapped files are not in it. To a build belong the 50,000 vectors that are added at a time, and making them."
    )
    return "\n".join([*rows, "", note])


def _scale_name(record: dict[str, Any]) -> str:
    return f"{record['passages']:,}, {record['storage']}"


def _disk(record: dict[str, Any]) -> int:
    return sum(record["build"]["files"].values())


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def pick_table() -> str:
    """SIFT of many picks against its peers, from ``python benchmarks/pick.py``."""
    results = json.loads((RESULTS / "pick.json").read_text())
    rows = ["| candidates, picks | engine | time | peak memory | uncertainty left |", "|---|---|---|---|---|"]
    notes: dict[str, None] = {}
    for size, case in results["candidates"].items():
        name = f"{int(size):,}, {case['picks']:,}"
        for engine, own in case["engines"].items():
            if "longer_than" in own:
                rows.append(f"| {name} | {engine} | given up after {duration(own['longer_than'])} | – | – |")
                continue
            peak, left = f"{own['peak_bytes'] / 2**30:.2f} GiB", f"{100 * own['left']:.1f} %"
            rows.append(f"| {name} | {engine} | {_both(own)} | {peak} | {left} |")
        same = "; the picks of the first two are the same" if case.get("same_picks") else ""
        rounds = "one round" if case["rounds"] == 1 else f"medians of {case['rounds']} rounds"
        threads = "one thread" if case["threads"] == "1" else f"{case['threads']} threads"
        notes[f"{int(size):,}: {rounds}, {threads}{', ' * bool(case['note'])}{case['note']}{same}."] = None
    source = (
        f"`python benchmarks/pick.py`: float32, d = {results['settings']['width']}, {results['settings']['targets']} "
        f"targets, λ = {results['settings']['noise']}. In brackets the processor time."
    )
    return "\n".join([*rows, "", f"{source} {' '.join(notes)} {machine(results)}"])


def _both(case: dict[str, float]) -> str:
    return f"{duration(case['seconds'])} ({duration(case['processor'])})"


TABLES = {
    **CORPORA_TABLES,
    **STUDY_TABLES,
    "benchmark": selection_table,
    "growth": growth_table,
    "hybrid": hybrid_table,
    "memory": memory_table,
    "stores": stores_table,
    "methods": methods_table,
    "minipile": minipile_table,
    "embedders": embedders_table,
    "embedder times": embedder_times_table,
    "tuning": tuning_table,
    "tuning-memory": tuning_memory_table,
    "serving": serving_table,
    "pick": pick_table,
    "scale": scale_table,
    "scale-memory": scale_memory_table,
}
PICTURES = {**CORPORA_PICTURES, **STUDY_PICTURES}


def rewritten(text: str) -> str:
    """The page with fresh tables."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        content = study_table(name) if name.startswith("study ") else TABLES[name]()
        return f"<!-- {name}:begin -->\n{content}\n<!-- {name}:end -->"

    return re.sub(r"<!-- (?P<name>\w[\w +.-]*):begin -->.*?<!-- (?P=name):end -->", table, text, flags=re.DOTALL)


def main(check: bool) -> int:
    """Rewrite the tables of all pages, and the pictures, or list the stale files; returns the exit status."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    fresh = {page: rewritten(page.read_text(encoding="utf-8")) for page in pages}
    fresh |= {ROOT / "docs" / "images" / name: draw() for name, draw in PICTURES.items()}
    stale = [
        file for file, content in fresh.items() if not file.exists() or file.read_text(encoding="utf-8") != content
    ]
    for file in stale:
        if not check:
            file.write_text(fresh[file], encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {'is stale, run python docs/tables.py' if check else 'rewritten'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
