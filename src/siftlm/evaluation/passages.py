"""Pages for single texts: what each method chose, read from the memory. Only for whoever asks: it holds texts.

found = report(["runs/a"])
write(found, "runs/a/report", pages_of(found.results, Memory.open("memory/"), ["worst"]))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.evaluation import html
from siftlm.evaluation.comparison import reference_method
from siftlm.evaluation.corpus import SAMPLE_CORPUS, SAMPLE_TEXTS_PER_DOMAIN, read
from siftlm.evaluation.fingerprints import contents_fingerprint, memory_fingerprint
from siftlm.evaluation.html import Series, escape_html
from siftlm.evaluation.labels import BASE_METHOD, describe_question
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.predictiveness import uncertainty_left
from siftlm.evaluation.protocol import Protocol
from siftlm.evaluation.report import colour_of, drawn_lines
from siftlm.evaluation.results import Results
from siftlm.memory import Memory

WORST, BEST = "worst", "best"
# Of the picks of a method: how many are seen at once, and how many letters of each.
SHOWN_PICKS, SHOWN_CHARACTERS = 5, 600


def passage_pages(
    found: Results,
    memory: Memory,
    show: Sequence[str],
    *,
    method: str | None = None,
    against: str | None = None,
    corpus: Any = None,
) -> dict[str, str]:
    """File name -> page.

    Args:
        found: the results.
        memory: that the run was made with; another one is refused.
        show: ids of texts; ``worst`` and ``best``: where ``method`` loses and gains most against the reference.
        method: left out, ``sift`` if it is there, else the last one.
        against: see `siftlm.evaluation.comparison.reference_method`.
        corpus: that the run was made on, to show the texts themselves; see `siftlm.evaluation.corpus.read`.
    """
    _check_same_memory(memory, found)
    asked = dict.fromkeys(_text_page_body(found, one, method, against) for one in show)
    texts = {} if corpus is None else _texts(found, corpus, asked)
    for one in asked if corpus is not None else ():
        if one not in texts:
            raise InvalidInput(f"text {one} of the run is not in the corpus {corpus!r:.80}; was it another one?")
    return {
        f"texts/{_file_name(one)}.html": _page(found, memory, found.texts.index(one), texts.get(one)) for one in asked
    }


def _texts(found: Results, corpus: Any, wanted: Iterable[str]) -> dict[str, str]:
    """By id, drawn and cut as the run drew and cut them."""
    how = found.question.get("corpus") or {}
    fields: dict[str, Any] = {"text": how["text"]} if how.get("text") else {}
    fields |= {"domain": how.get("domain"), "longest": how.get("longest"), "seed": how.get("seed") or 0}
    texts: dict[str, str] = {}
    # What the sample gives depends on how many are drawn of each kind; more begin with the fewer.
    for count in (SAMPLE_TEXTS_PER_DOMAIN, 50, 100, 200, 400) if corpus == SAMPLE_CORPUS else (None,):
        try:
            drawn = read(corpus, shortest=1, per_domain=count, **fields)
        except InvalidInput:
            if texts:
                break  # there are no more
            raise
        texts.update((one.id, one.text) for one in drawn)
        if texts.keys() >= set(wanted):
            break
    return texts


def _split_text(found: Results, whole: str) -> str:
    """The text, taken apart as the protocol does."""
    known = {name: value for name, value in (found.question.get("protocol") or {}).items() if name != "at"}
    parts = Protocol(**known).parts(whole)
    if not parts.before:
        return f"<h3>The text</h3><pre>{escape_html(parts.scored)}</pre>"
    return html.side_by_side(
        f"<h3>The prompt</h3><pre>{escape_html(parts.prompt)}</pre>",
        f"<h3>What is scored</h3><pre>{escape_html(parts.scored)}</pre>",
    )


def _file_name(name: str) -> str:
    """A record may hold any id; a file must stay in its folder."""
    return re.sub(r"[^0-9A-Za-z-]", "_", name)


def _text_page_body(found: Results, asked: str, method: str | None, against: str | None) -> str:
    if asked in (WORST, BEST):
        one = found.check(method or ("sift" if "sift" in found.methods else found.methods[-1]))
        other = reference_method(found, against)
        gaps = (found.tuned(one) - found.tuned(other)) / found.base
        return found.texts[int(gaps.argmax() if asked == WORST else gaps.argmin())]
    if asked not in found.texts:
        close = [name for name in found.texts if name.startswith(asked)]
        if len(close) == 1:
            return close[0]
        raise UnknownName("text of this run", asked, [WORST, BEST, *found.texts[:20]])
    return asked


def _check_same_memory(memory: Memory, found: Results) -> None:
    known = found.question.get("memory") or {}
    here = {**memory_fingerprint(memory), "contents": contents_fingerprint(memory)}
    for name, value in here.items():
        if name in known and known[name] != value:
            raise Conflict(
                f"the memory has {name}={value!r}, and the one of the run had {known[name]!r}: its rows are not those "
                "that the methods chose"
            )


def _page(found: Results, memory: Memory, at: int, whole: str | None) -> str:
    measured = {name: some[at] for name, some in found.measured.items()}
    known = describe_question(found.question)
    lines = {
        name: tuple((float(x), 100 * y / one.base) for x, y in sorted(one.curve.items()))
        for name, one in measured.items()
        if name != BASE_METHOD
    }
    shown = drawn_lines(lines)
    curves = [Series(name, line, colour_of(name, shown), dashed="+" in name) for name, line in shown.items()]
    head = ("method", "bits per byte", "% of base", "picks", "distinct", "uncertainty left, %")
    rows = [_row(name, one) for name, one in measured.items()]
    best = min(range(len(rows)), key=lambda place: list(measured.values())[place].tuned)
    said = f"{found.domains[at]}, {measured[BASE_METHOD].bytes:,} bytes scored. "
    said += f"Protocol {known['protocol']}; {known['model']}; "
    body = [
        f"<h1>Text {escape_html(found.texts[at])}</h1>",
        f'<p class="faint">{escape_html(said)}memory: {escape_html(known["memory"])}.</p>',
        html.html_table(head, rows, [1 if place == best else None for place in range(len(rows))]),
        html.line_chart(
            curves,
            title="Bits per byte against steps",
            x_name="steps",
            y_name="% of base",
            size=(720, 320),
        ),
        "" if whole is None else _split_text(found, whole),
        html.side_by_side(*(_picks(name, one, measured, memory) for name, one in measured.items() if one.rows)),
    ]
    return html.html_page(f"siftlm: what was chosen for {found.texts[at]}", body)


def _row(name: str, one: Measured) -> tuple[str, ...]:
    return (
        name,
        f"{one.tuned:.3f}",
        f"{one.percent:.1f}",
        str(len(one.rows)),
        str(len(set(one.rows))),
        f"{100 * uncertainty_left(one):.0f}" if one.uncertainty else "–",
    )


def _picks(name: str, one: Measured, others: dict[str, Measured], memory: Memory) -> str:
    """In their order, each with how near it is and what uncertainty it leaves; a repeat without its text."""
    try:
        texts = dict(zip(distinct := list(dict.fromkeys(one.rows)), memory.texts(distinct), strict=True))
    except InvalidInput as error:
        raise Conflict(f"{name}: {error}; is this the memory of the run?") from error
    elsewhere = {row for other, two in others.items() if other != name for row in two.rows}
    items, seen = [], Counter[int]()
    for place, row in enumerate(one.rows):
        seen[row] += 1
        facts = [f"row {row}"]
        facts += [f"cosine {one.scores[place]:.2f}"] if place < len(one.scores) else []
        if place + 1 < len(one.uncertainty):
            share = one.uncertainty[place + 1] / one.uncertainty[0] if one.uncertainty[0] > 0 else 1.0
            facts.append(f"{100 * share:.0f} % left")
        facts += [] if row in elsewhere else ["no other method chose it"]
        facts += [f"time {seen[row]}"] if seen[row] > 1 else []
        small = f"<small>{escape_html(', '.join(facts))}</small>"
        if seen[row] > 1:
            items.append(f'<li class="again">{small}</li>')
        else:
            items.append(
                f'<li class="{"" if row in elsewhere else "own b"}">'
                f"<pre>{escape_html(_excerpt(texts[row]))}</pre>{small}</li>"
            )
    first = f'<ol class="picks">{"".join(items[:SHOWN_PICKS])}</ol>'
    rest = f'<ol class="picks" start="{SHOWN_PICKS + 1}">{"".join(items[SHOWN_PICKS:])}</ol>'
    more = (
        f"<details><summary>and {len(items) - SHOWN_PICKS} more</summary>{rest}</details>"
        if len(items) > SHOWN_PICKS
        else ""
    )
    return f"<h3>{escape_html(name)}: {one.percent:.1f} % of base</h3>{first}{more}"


def _excerpt(passage: str) -> str:
    return passage if len(passage) <= SHOWN_CHARACTERS else f"{passage[:SHOWN_CHARACTERS].rstrip()} …"
