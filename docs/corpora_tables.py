"""The study's table and picture of the corpora of ``benchmarks/corpora.py``, from the records of `redundant`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from siftlm.evaluation.html import interval_chart, standalone_svg

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import redundant

NAMES = {
    "loghub": "system logs (loghub)",
    "bbh": "reasoning tasks (BBH)",
    "t0": "tasks from templates (T0)",
    "gsm8k": "school mathematics (GSM8K)",
    "tldr": "command-line pages (tldr)",
    "locomo": "conversations (locomo)",
    "minipile": "public text (mini-Pile)",
}
VARIED = tuple(name for name in redundant.CORPORA if name not in redundant.REDUNDANT)
GROUPS = {
    **{NAMES[name]: (name,) for name in (*redundant.REDUNDANT, *VARIED)},
    "the three that repeat themselves": redundant.REDUNDANT,
    "the other three": VARIED,
    "all six": (*redundant.REDUNDANT, *VARIED),
}
# Protocol: the end of its runs' names, and what ``auto`` is there.
SPLIT, ITSELF = ("split", "-static-from-121", "auto"), ("transductive", "", redundant.TRANSDUCTIVE["auto"])
# The end of the names of the runs with and without the guard, which calibration fitted.
GUARDED = ("-from-61", "auto+use=auto+guard=")


def _folders(corpora: Sequence[str], protocol: str, ending: str) -> list[Path]:
    return [redundant.RESULTS / f"test-{name}-{protocol}{ending}" for name in corpora]


def _percents(name: str, ending: str) -> dict[str, dict[str, float]]:
    """Method -> text -> what tuning leaves in split mode, in % of base; of the run whose name ends so."""
    [folder] = _folders([name], "split", ending)
    return redundant.percents(folder)


def _interval(value: float, low: float, high: float) -> str:
    if value == low == high == 0:
        return "the same texts"
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{value:+.1f}{mark} \\[{low:+.1f}, {high:+.1f}\\]".replace("-", "−")


def _harm(name: str) -> tuple[float, float]:
    """The share of texts that end worse than the base model: tuned in any case, and with the guard."""
    ending, method = GUARDED
    after = {label: left for end in ("", ending) for label, left in _percents(name, end).items()}
    [guarded] = [left for label, left in after.items() if label.startswith(method)]
    worst, texts = 100 + redundant.HARM_PERCENT, sorted(after["auto"].keys() & guarded.keys())
    plain, kept = (100 * sum(left[text] > worst for text in texts) / len(texts) for left in (after["auto"], guarded))
    return plain, kept


def corpora_table() -> str:
    """Six corpora, each with the protocol of a user and the published one, and what the guard prevents."""
    split = "texts | nearest, % of base | `auto` less nearest"
    itself = "its own prompt: nearest | SIFT less nearest"
    lines = [
        f"| corpus | {split} | {itself} | worse than base, % of texts | with the guard |",
        "|---" + "|---:" * 7 + "|",
    ]
    harms = {name: _harm(name) for name in NAMES}
    for title, corpora in GROUPS.items():
        cells = []
        for protocol, ending, method in (SPLIT, ITSELF):
            folders = _folders(corpora, protocol, ending)
            count, nearest, _, _ = redundant.paired(folders, "nn", "base")
            _, *difference = redundant.paired(folders, method, "nn")
            cells += [*([str(count)] if protocol == "split" else []), f"{nearest:.1f}", _interval(*difference)]
        worse = [sum(harms[name][at] for name in corpora) / len(corpora) for at in (0, 1)]
        lines.append(f"| {title} | {' | '.join(cells)} | {worse[0]:.1f} | {worse[1]:.1f} |")
    worse, guarded = harms["minipile"]
    lines.append(f"| {NAMES['minipile']} | | | | | | {worse:.1f} | {guarded:.1f} |")
    return "\n".join(lines)


def corpora_picture() -> str:
    """What is gained over nearest neighbour on each corpus, as SVG."""
    rows = []
    for (protocol, ending, method), words, colour in ((SPLIT, "", "b"), (ITSELF, ", its own prompt", "a")):
        for title, corpora in GROUPS.items():
            _, value, low, high = redundant.paired(_folders(corpora, protocol, ending), method, "nn")
            rows.append((f"{title}{words}", value, low, high, colour))
    title = "What tuning leaves, less what it leaves with nearest neighbour"
    return standalone_svg(interval_chart(rows, title=title, x_name="points of the base model's bits per byte"))


CORPORA_TABLES = {"corpora": corpora_table}
CORPORA_PICTURES = {"corpora.svg": corpora_picture}
