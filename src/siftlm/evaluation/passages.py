"""Pages of single texts: the passages that each method picked, read from the memory. Made on request: they hold texts.

made = report(["runs/a"])
write(made, "runs/a/report", passage_pages(made.results, Memory.open("memory/"), ["worst"]))
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
from siftlm.evaluation.figures import colour_of, drawn_lines
from siftlm.evaluation.fingerprints import contents_fingerprint, memory_fingerprint
from siftlm.evaluation.html import Series, escape_html
from siftlm.evaluation.labels import BASE_METHOD, describe_question
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.predictiveness import uncertainty_left
from siftlm.evaluation.protocol import Protocol
from siftlm.evaluation.results import Results
from siftlm.memory import Memory

WORST, BEST = "worst", "best"
# Picks of a method that are not folded, and characters of each.
SHOWN_PICKS, SHOWN_CHARACTERS = 5, 600


def passage_pages(
    results: Results,
    memory: Memory,
    show: Sequence[str],
    *,
    method: str | None = None,
    against: str | None = None,
    corpus: Any = None,
) -> dict[str, str]:
    """The pages of some texts: file name -> page.

    Args:
        results: the results.
        memory: the run's memory; another one is refused.
        show: ids of texts; ``worst`` and ``best``: where ``method`` loses and gains most against the reference.
        method: by default ``sift`` if the results have it, else the last one.
        against: the reference; see `siftlm.evaluation.comparison.reference_method`.
        corpus: the run's corpus, to show the texts themselves; see `siftlm.evaluation.corpus.read`.
    """
    _check_same_memory(memory, results)
    ids = dict.fromkeys(_text_id(results, one, method, against) for one in show)
    texts = {} if corpus is None else _texts(results, corpus, ids)
    for one in ids if corpus is not None else ():
        if one not in texts:
            raise InvalidInput(f"text {one} of the run is not in the corpus {corpus!r:.80}; was it another one?")
    return {
        f"texts/{_file_name(one)}.html": _page(results, memory, results.texts.index(one), texts.get(one)) for one in ids
    }


def _texts(results: Results, corpus: Any, ids: Iterable[str]) -> dict[str, str]:
    """The corpus's texts by id, drawn and cut as for the run."""
    run = results.question.get("corpus") or {}
    fields: dict[str, Any] = {"text": run["text"]} if run.get("text") else {}
    fields |= {"domain": run.get("domain"), "longest": run.get("longest"), "seed": run.get("seed") or 0}
    texts: dict[str, str] = {}
    # The sample's texts depend on how many are drawn of each kind; a larger draw begins with the smaller one.
    for count in (SAMPLE_TEXTS_PER_DOMAIN, 50, 100, 200, 400) if corpus == SAMPLE_CORPUS else (None,):
        try:
            drawn = read(corpus, shortest=1, per_domain=count, **fields)
        except InvalidInput:
            if texts:
                break  # there are no more
            raise
        texts.update((one.id, one.text) for one in drawn)
        if texts.keys() >= set(ids):
            break
    return texts


def _split_text(results: Results, whole: str) -> str:
    """The text in the protocol's parts."""
    settings = {name: value for name, value in (results.question.get("protocol") or {}).items() if name != "at"}
    parts = Protocol(**settings).parts(whole)
    if not parts.before:
        return f"<h3>The text</h3><pre>{escape_html(parts.scored)}</pre>"
    return html.side_by_side(
        f"<h3>The prompt</h3><pre>{escape_html(parts.prompt)}</pre>",
        f"<h3>The scored part</h3><pre>{escape_html(parts.scored)}</pre>",
    )


def _file_name(name: str) -> str:
    """A file name that stays in its folder, whatever the id in the record."""
    return re.sub(r"[^0-9A-Za-z-]", "_", name)


def _text_id(results: Results, show: str, method: str | None, against: str | None) -> str:
    """The id of the text to show, named by ``worst``, ``best``, its id, or the id's beginning."""
    if show in (WORST, BEST):
        one = results.check(method or ("sift" if "sift" in results.methods else results.methods[-1]))
        other = reference_method(results, against)
        gaps = (results.tuned(one) - results.tuned(other)) / results.base
        return results.texts[int(gaps.argmax() if show == WORST else gaps.argmin())]
    if show not in results.texts:
        close = [name for name in results.texts if name.startswith(show)]
        if len(close) == 1:
            return close[0]
        raise UnknownName("text of this run", show, [WORST, BEST, *results.texts[:20]])
    return show


def _check_same_memory(memory: Memory, results: Results) -> None:
    recorded = results.question.get("memory") or {}
    here = {**memory_fingerprint(memory), "contents": contents_fingerprint(memory)}
    for name, value in here.items():
        if name in recorded and recorded[name] != value:
            raise Conflict(
                f"the memory has {name}={value!r}, and the run's had {recorded[name]!r}: its rows are not those that "
                "the methods chose"
            )


def _page(results: Results, memory: Memory, at: int, whole: str | None) -> str:
    measured = {name: some[at] for name, some in results.measured.items()}
    words = describe_question(results.question)
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
    about = f"{results.domains[at]}, {measured[BASE_METHOD].bytes:,} bytes scored. "
    about += f"Protocol {words['protocol']}; {words['model']}; "
    body = [
        f"<h1>Text {escape_html(results.texts[at])}</h1>",
        f'<p class="faint">{escape_html(about)}memory: {escape_html(words["memory"])}.</p>',
        html.html_table(head, rows, [1 if place == best else None for place in range(len(rows))]),
        html.line_chart(
            curves,
            title="Bits per byte against steps",
            x_name="steps",
            y_name="% of base",
            size=(720, 320),
        ),
        "" if whole is None else _split_text(results, whole),
        html.side_by_side(*(_picks(name, one, measured, memory) for name, one in measured.items() if one.rows)),
    ]
    return html.html_page(f"siftlm: passages picked for {results.texts[at]}", body)


def _row(name: str, one: Measured) -> tuple[str, ...]:
    return (
        name,
        f"{one.tuned:.3f}",
        f"{one.percent:.1f}",
        str(len(one.rows)),
        str(len(set(one.rows))),
        f"{100 * uncertainty_left(one.uncertainty):.0f}" if one.uncertainty else "–",
    )


def _picks(name: str, one: Measured, others: dict[str, Measured], memory: Memory) -> str:
    """A method's picks in order, with cosine and the uncertainty left; repeats without their text."""
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
        facts += [] if row in elsewhere else ["no other method picked it"]
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
