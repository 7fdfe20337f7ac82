"""`pick`: a training set out of a pool, the records that together tell most about the targets."""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm import validation
from siftlm.embedding.protocol import EmbedderSource
from siftlm.errors import Conflict, counted, setting
from siftlm.memory.request import DEFAULT_NOISE
from siftlm.picking import output
from siftlm.picking.choose import Candidates, Chosen, choose
from siftlm.picking.pools import Pool, check_reading, embedder_for, fetch, open_pool, vector_rows
from siftlm.picking.quotas import Quota, SourceQuota
from siftlm.picking.reading import embed_pool
from siftlm.picking.records import text_fields
from siftlm.picking.settings import PickSettings
from siftlm.picking.targets import Targets, read_targets
from siftlm.picking.work import Embedded, WorkFolder, work_folder
from siftlm.progress import Meter, Report, reporter
from siftlm.types import FloatArray, IntArray

if TYPE_CHECKING:
    from siftlm.picking.report import PoolReport
    from siftlm.picking.verdict import Verdict

# Of a verdict: the model, and the records that it is trained on at most.
DEFAULT_PROXY, PROXY_RECORDS = "siftlm-tiny", 300
# Larger numbers are printed with an exponent.
MAX_DIGITS = 1e15


@dataclass(frozen=True, eq=False)
class Picks:
    """The records that `pick` chose, in the order of picking."""

    records: Sequence[Any]
    """The records, as they were in the pool."""
    numbers: IntArray
    """(n,) where they stood: the number of each record, counted from 0."""
    sources: Sequence[str]
    """The same as ``file:line``, or what serves as that."""
    gains: FloatArray
    """(n,) what the method maximises; of ``sift``, by how much each lowered the targets' mean uncertainty."""
    uncertainty: FloatArray
    """(n + 1,) the targets' mean uncertainty before the first pick and after each; NaN without targets."""
    stopped: str
    """``n``, ``budget``, or ``exhausted``: there is nothing left that may be picked."""
    left_out: Mapping[str, int]
    """Reason -> how many records could not be picked for it."""
    pool: str
    """The name of the pool."""
    pool_records: int
    """How many records the pool has."""
    targets: Targets = field(repr=False)
    embedded: Embedded = field(repr=False)
    """The vectors of the pool, and what is known of each record."""
    candidates: Candidates = field(repr=False)
    indices: IntArray = field(repr=False)
    """(n,) the rows of the picks in ``embedded``."""
    method: str
    """The method of selection."""
    source: Pool = field(repr=False)
    fields: tuple[str, ...] | None = None
    """The fields of a record's text; ``None`` for whatever form it has."""
    target_fields: tuple[str, ...] | None = None
    """The same for targets."""
    quota: SourceQuota | None = None
    inputs: Sequence[Path] = field(repr=False, default=())
    """The files that were read, which nothing is written over."""
    finished_before: bool = False
    """Was everything there already from an earlier call?"""

    def __len__(self) -> int:
        return len(self.numbers)

    def report(self, *, seed: int = 0, verdict: Verdict | None = None) -> PoolReport:
        """The coverage of the targets beside a random choice and the nearest, the sources, and a picture.

        ``seed``: of the random choices and the samples. ``verdict``: of `verdict`, if the report is to have it.
        """
        from siftlm.picking.report import make_report

        return make_report(self, seed=validation.whole_number("seed", seed, least=0), verdict=verdict)

    def verdict(
        self,
        test: Any = None,
        *,
        proxy: Any = DEFAULT_PROXY,
        records: int = PROXY_RECORDS,
        seed: int = 0,
        progress: bool | Report | None = None,
        **tuning: Any,
    ) -> Verdict:
        """Train a small model on the choice, and on random records: which one predicts held-out targets better?

        Args:
            test: texts like the targets that had no part in the choice, in whatever a pool can be. Left out, the
                targets are cut in two halves; for each half a choice is made and tested on the other.
            proxy: the model: a name or folder, or a `siftlm.Controller`.
            records: train on at most so many records, the first picks, and as many random ones.
            seed: of the halves, the random choices and the order of training.
            progress: as for `pick`.
            **tuning: see `siftlm.Tuning`, such as ``rate=``.
        """
        from siftlm.picking.verdict import judge

        return judge(self, test, proxy=proxy, records=records, seed=seed, progress=progress, tuning=tuning)

    def export(self, library: str, into: str | os.PathLike[str], *, name: str = "siftlm_picks") -> list[Path]:
        """Write the records for a library that trains on them, in the order of picking; returns the files.

        Args:
            library: ``trl``, ``llama-factory`` or ``axolotl``.
            into: a folder, which gets ``name.jsonl`` and what the library needs to find it: an entry in
                ``dataset_info.json`` for LLaMA-Factory, a ``name.yaml`` to put into the configuration of Axolotl.
            name: of the data set.
        """
        from siftlm.picking.exports import export

        output.check_no_input("export", Path(into) / f"{name}.jsonl", [one for one in self.inputs if one.is_file()])
        return export(self.records, self.sources, library, into, name=name, fields=self.fields)

    def __str__(self) -> str:
        counts = f"{len(self):,} of {counted(self.pool_records, 'record')} of {self.pool}"
        if len(self.targets):
            left = self.uncertainty[-1] / self.uncertainty[0] if self.uncertainty[0] > 0 else 0.0
            counts += f" for {counted(len(self.targets), 'target')}; {left:.1%} of the uncertainty about them is left"
        lines = [
            counts,
            *(f"{count:,} left out: {reason}" for reason, count in self.left_out.items() if count),
        ]
        if self.stopped == "budget":
            spent = self.candidates.budget or 0.0
            lines.append(f"the budget is spent: {spent:{',.0f' if spent < MAX_DIGITS else 'g'}}")
        elif self.stopped == "exhausted":
            lines.append("there are no more records that may be picked")
        return "\n".join(lines)


def pick(
    pool: Any,
    targets: Any = None,
    n: int | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    text: str | Sequence[str] | None = None,
    target_text: str | Sequence[str] | None = None,
    embedder: EmbedderSource | None = None,
    vectors: Any = None,
    target_vectors: Any = None,
    method: str = "sift",
    options: Mapping[str, Any] | None = None,
    noise: float = DEFAULT_NOISE,
    budget: float | None = None,
    cost: str | None = None,
    quota: Quota | None = None,
    quality: str | None = None,
    without_copies: float | bool | None = None,
    duplicates: bool = False,
    bad: str = "fail",
    field: str | None = output.DEFAULT_FIELD,
    restart: bool = False,
    seed: int = 0,
    progress: bool | Report | None = None,
    **reading: Any,
) -> Picks:
    """Choose the records of a pool that together tell most about the targets.

    Every step is `siftlm.select`'s own, with the whole pool as candidates. With ``out``, a call that was stopped goes
    on where it was when it is repeated, and one that is done is recognized.

    Args:
        pool: files of JSON lines, Parquet, CSV (plain, ``.gz``, ``.zst``), folders of them, a ``datasets.Dataset``, a
            list of records, or a `siftlm.Memory` or its folder.
        targets: examples of the task, in whatever a pool can be. A method that needs no targets may have none.
        n: how many records to pick; may be left out with a budget.
        out: a file for the records: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``. Beside it lies a folder ``….work`` with
            the vectors, which the next call with other settings uses again.
        text: the field, or fields, of a record's text, one below the other. Left out: ``text``, ``messages``,
            ``conversations``, ``instruction`` + ``input`` + ``output``, ``prompt`` + ``completion``, ``prompt`` +
            ``chosen``, ``question`` + ``answer``, ``content``, ``prompt`` or ``question``: the first that a record has.
        target_text: the same for the targets, where theirs are others.
        embedder: see `siftlm.embedder`; ``static`` unless given, and of a memory its own.
        vectors: (records, d), or a ``.npy`` file, where the pool's vectors are known.
        target_vectors: (m, d), or a ``.npy`` file; the targets themselves may then be left out.
        method: of `siftlm.select`.
        options: the method's own settings. One that has a value per candidate, such as ``labels`` of ``mig``, names a
            field of the records (or is a list for all of them); one with a label per target, ``groups`` of ``less``,
            names a field of theirs.
        noise: λ: small values favour variety.
        budget: the picks' costs add up to no more than this; each gain is then divided by its cost.
        cost: what a record costs: ``tokens`` (of the embedder; the default), ``characters``, or a field.
        quota: ``{"source": 0.3}``: no value of this field has more than 30 % of the picks (of the budget, where there
            is one); ``{"source": {"wiki": 0.5, "web": 200}}`` limits some values, whole numbers counting picks.
        quality: a field with a number ≥ 0 that multiplies a record's gains. It may be a string that holds a number, as
            all values in CSV are; the same is true of ``cost``.
        without_copies: leave out records that share this fraction of their wording with a target (default: 0.8), so
            that the targets can be used to test; ``False`` keeps them.
        duplicates: may a text that the pool has several times be picked more than once?
        bad: ``fail`` at the first unusable record, or ``skip`` them and count them.
        field: of the gain and the source in each record that is written; ``None`` writes records as they are.
        restart: begin anew, whatever lies in the work folder.
        seed: of methods with chance.
        progress: ``True`` draws it, ``False`` does not, a function receives it; left out, it is drawn where a person
            is watching.
        **reading: ``format``, ``split`` and ``glob``, as for `siftlm.memory.reading.open_source`.

    >>> texts = ["Tea is brewed hot.", "Tea is brewed hot!", "Lists are sorted by a key.", "Tea grows in the hills."]
    >>> chosen = pick(texts, ["How is tea brewed?", "What grows in the hills?"], 2, noise=0.1, embedder="hashing")
    >>> sorted(chosen.records)
    ['Tea grows in the hills.', 'Tea is brewed hot.']
    """
    # 1. Settings.
    check_reading(pick, reading)
    settings = PickSettings.of(
        n, method, noise, budget=budget, cost=cost, quota=quota, quality=quality, copied=without_copies,
        duplicates=duplicates, bad=bad, seed=seed, options=options,
    )  # fmt: skip
    restart = validation.flag("restart", restart)
    path, field = output.output_file("out", out), output.field_name(field)
    inputs = output.input_files(pool, targets, vectors, target_vectors)
    if path is not None:
        output.check_no_input("out", path, inputs)
    # 2. The pool and the targets.
    source = open_pool("pool", pool, **reading)
    fields = text_fields("text", text)
    given = None if vectors is None else vector_rows("vectors", vectors)
    vectors = vectors if given is None or isinstance(vectors, (str, os.PathLike)) else given
    made = embedder_for(source, embedder, needed=given is None)
    goal_fields = fields if target_text is None else text_fields("target_text", target_text)
    label = settings.options.target_field
    goals = read_targets(
        targets, target_vectors, fields=goal_fields, embedder=made, method=settings.method,
        label=None if label is None else label[1], **reading,
    )  # fmt: skip
    if without_copies not in (None, False) and goals.texts is None:
        raise Conflict(f"{setting('without_copies')} compares wording, and of the targets only vectors are given")
    how = settings.reading(fields, made, given, goals)
    how = how if path is None else replace(how, added=field)
    job = settings.job(source, how, goals, vectors)
    report = reporter(progress)
    with work_folder(path, "pick") as folder, WorkFolder.hold(folder) as work:
        # 3. Read and embed.
        embedded = embed_pool(work, source, how, job, report, restart=restart)
        # 4. Choose.
        candidates, left_out = settings.candidates(embedded, goals)
        choice, chosen_before = _choose(work, candidates, settings, report)
        # 5. Fetch the records and write them.
        numbers = embedded.numbers[choice.indices]
        records, sources = fetch(source, numbers)
        finished = False
        if path is not None:
            finished = chosen_before and work.job().get("written") == _written(path, field)
            if not finished:
                output.write_records(path, output.annotated(records, sources, choice.gains, field), sources, source)
                work.write_job({**job, "written": _written(path, field)})
        picks = Picks(
            records, numbers, sources, choice.gains, choice.uncertainty, choice.stopped, left_out, source.name,
            embedded.state.records, goals, embedded, candidates, choice.indices, settings.method.name, source,
            fields, goal_fields, settings.quota, (*inputs, *([] if path is None else [path])), finished,
        )  # fmt: skip
    if path is None:  # the result reads its vectors there
        weakref.finalize(picks, shutil.rmtree, folder, ignore_errors=True)
    return picks


def _choose(
    work: WorkFolder, candidates: Candidates, settings: PickSettings, report: Report | None
) -> tuple[Chosen, bool]:
    """The picks, and whether all of them were made by an earlier call."""
    saved = work.picks()
    begun = None
    if saved:
        begun = Chosen(saved["indices"], saved["gains"], saved["uncertainty"], str(saved["stopped"]))
        if saved["complete"]:
            return begun, True

    def keep(choice: Chosen, *, complete: bool = False) -> None:
        work.save_picks(
            indices=choice.indices, gains=choice.gains, uncertainty=choice.uncertainty, stopped=choice.stopped,
            complete=complete,
        )  # fmt: skip

    meter = Meter("picking", "records", report, total=settings.n)
    choice = choose(candidates, settings.n, settings.method, begun=begun, keep=keep, watch=meter.at, seed=settings.seed)
    meter.at(len(choice.indices))
    meter.finish()
    keep(choice, complete=True)
    return choice, False


def _written(path: Path, field: str | None) -> dict[str, Any]:
    """What a written file is known by."""
    try:
        return {"field": field, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except FileNotFoundError:
        return {}
