"""The study's table and picture of the corpora of ``benchmarks/corpora.py``, from the records of `redundant`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
LATER_NAMES = {
    "advisories": "security advisories (YAML)",
    "compat": "browser compatibility (JSON)",
    "peps": "Python's proposals (PEPs)",
    "eips": "Ethereum's proposals (EIPs)",
    "rfcs": "Rust's proposals (RFCs)",
    "2wiki": "beginnings of articles (2Wiki)",
}
VARIED = tuple(name for name in redundant.CORPORA if name not in redundant.REDUNDANT)
LATER_VARIED = tuple(name for name in LATER_NAMES if name not in redundant.LATER_REDUNDANT)
GROUPS = {
    **{NAMES[name]: (name,) for name in (*redundant.REDUNDANT, *VARIED)},
    "the three that repeat themselves": redundant.REDUNDANT,
    "the other three": VARIED,
    "all six": (*redundant.REDUNDANT, *VARIED),
}
LATER_GROUPS = {
    **{title: (name,) for name, title in LATER_NAMES.items()},
    "the two that repeat themselves": redundant.LATER_REDUNDANT,
    "the other four": LATER_VARIED,
    "all six": tuple(name for name in redundant.ALL_CORPORA if name in LATER_NAMES),
}
# Protocol: the end of its runs' names, and what ``auto`` is there.
SPLIT, ITSELF = ("split", "-static-from-121", "auto"), ("transductive", "", redundant.TRANSDUCTIVE["auto"])
LATER = "-static"
LATER_SPLIT, LATER_ITSELF = ("split", LATER, "auto"), ("transductive", LATER, redundant.TRANSDUCTIVE["auto"])
# The end of the names of the runs with the guard, and its method: fitted by calibration, and as it comes.
GUARDED, LATER_GUARDED = ("-from-61", "auto+use=auto+guard="), (LATER, "auto+use=auto")


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


def _harm(name: str, plain_ending: str, guarded: tuple[str, str]) -> tuple[float, float]:
    """The share of texts that end worse than the base model: tuned in any case, and with the guard."""
    ending, method = guarded
    after = {label: left for end in (plain_ending, ending) for label, left in _percents(name, end).items()}
    [kept] = [left for label, left in after.items() if label.startswith(method)]
    worst, texts = 100 + redundant.HARM_PERCENT, sorted(after["auto"].keys() & kept.keys())
    one, other = (100 * sum(left[text] > worst for text in texts) / len(texts) for left in (after["auto"], kept))
    return one, other


def corpora_table() -> str:
    """Six corpora, each with the protocol of a user and the published one, and what the guard prevents."""
    harms = {name: _harm(name, "", GUARDED) for name in NAMES}
    worse, guarded = harms["minipile"]
    return f"{_table(GROUPS, (SPLIT, ITSELF), harms)}\n| {NAMES['minipile']} | | | | | | {worse:.1f} | {guarded:.1f} |"


def later_corpora_table() -> str:
    """The same of six corpora on which nothing was chosen; the guard as it is without calibration."""
    harms = {name: _harm(name, LATER, LATER_GUARDED) for name in LATER_NAMES}
    return _table(LATER_GROUPS, (LATER_SPLIT, LATER_ITSELF), harms)


def _table(
    groups: Mapping[str, Sequence[str]],
    protocols: Sequence[tuple[str, str, str]],
    harms: Mapping[str, tuple[float, float]],
) -> str:
    split = "texts | nearest, % of base | `auto` less nearest"
    itself = "its own prompt: nearest | SIFT less nearest"
    lines = [
        f"| corpus | {split} | {itself} | worse than base, % of texts | with the guard |",
        "|---" + "|---:" * 7 + "|",
    ]
    for title, corpora in groups.items():
        cells = []
        for protocol, ending, method in protocols:
            folders = _folders(corpora, protocol, ending)
            count, nearest, _, _ = redundant.paired(folders, "nn", "base")
            _, *difference = redundant.paired(folders, method, "nn")
            cells += [*([str(count)] if protocol == "split" else []), f"{nearest:.1f}", _interval(*difference)]
        worse = [sum(harms[name][at] for name in corpora) / len(corpora) for at in (0, 1)]
        lines.append(f"| {title} | {' | '.join(cells)} | {worse[0]:.1f} | {worse[1]:.1f} |")
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


CORPORA_TABLES = {"corpora": corpora_table, "later-corpora": later_corpora_table}
CORPORA_PICTURES = {"corpora.svg": corpora_picture}
