"""A choice that was stopped goes on, one that is done is recognized, and changed input is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from picking.conftest import TARGETS, read, records, write
from siftlm import pick
from siftlm.embedding import HashingEmbedder
from siftlm.errors import Conflict, Damaged, Locked
from siftlm.picking.choose import Candidates, choose
from siftlm.picking.work import WorkFolder
from siftlm.selection import posterior
from siftlm.selection.problem import find_method

KILLED = """
import os, signal, sys
import siftlm.picking.reading, siftlm.selection.posterior
siftlm.picking.reading.COMMIT_SECONDS = 0
siftlm.picking.pools.BLOCK_RECORDS = 50
siftlm.memory.reading.lines._PLAIN_BYTES = 4096
siftlm.selection.posterior.REFRESH_EVERY = 16
kept = siftlm.picking.work.WorkFolder.save_picks if "{what}" == "picking" else siftlm.picking.work.WorkFolder.commit
def kill(work, **arrays):
    kept(work, **arrays)
    {what}.append(1)
    if len({what}) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
{what} = []
if "{what}" == "picking":
    siftlm.picking.work.WorkFolder.save_picks = kill
else:
    siftlm.picking.work.WorkFolder.commit = kill
siftlm.pick("pool.jsonl", "targets.jsonl", 60, out="chosen.jsonl", embedder=siftlm.embedder("hashing", width=16))
"""


class Counting(HashingEmbedder):
    """Counts the texts that it embeds."""

    count = 0

    def embed(self, texts, *, as_query=False):
        self.count += len(texts)
        return super().embed(texts, as_query=as_query)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("what", ["embedding", "picking"])
def test_a_killed_process_loses_nothing_that_was_committed(folder, what, monkeypatch):
    ended = subprocess.run([sys.executable, "-c", KILLED.format(what=what)], check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert not (folder / "chosen.jsonl").exists()
    work = WorkFolder(folder / "chosen.jsonl.work")
    state, begun = work.read_state(), work.picks()
    assert 0 < state.records < 300 if what == "embedding" else state.records == 300
    assert len(begun.get("indices", ())) == (48 if what == "picking" else 0)
    monkeypatch.setattr(posterior, "REFRESH_EVERY", 16)
    counting = Counting(width=16)
    resumed = pick("pool.jsonl", "targets.jsonl", 60, out="chosen.jsonl", embedder=counting)
    assert counting.count == 300 - state.records + len(TARGETS)
    whole = pick(records(300), TARGETS, 60, embedder=HashingEmbedder(width=16))
    assert resumed.numbers.tolist() == whole.numbers.tolist()
    assert resumed.gains.tolist() == whole.gains.tolist()
    np.testing.assert_allclose(resumed.uncertainty, whole.uncertainty, atol=1e-12)
    assert [row["siftlm"]["pick"] for row in read(folder / "chosen.jsonl")] == list(range(1, 61))


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_picks_from_any_point_on_are_those_of_one_go(seed, dtype):
    draw = np.random.default_rng(seed)
    vectors, targets = draw.normal(size=(80, 5)).astype(dtype), draw.normal(size=(int(draw.integers(1, 8)), 5))
    candidates = Candidates(
        vectors, targets, draw.random(80) < 0.8, 0.1, draw.random(80), draw.integers(1, 9, 80).astype(float), 200.0
    )
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "REFRESH_EVERY", 8)
        whole = choose(candidates, 40, find_method("sift"), keep=kept.append)
        assert kept or len(whole.indices) < 8
        for begun in kept:
            later = choose(candidates, 40, find_method("sift"), begun=begun)
            assert later.indices.tolist() == whole.indices.tolist()
            assert later.gains.tolist() == whole.gains.tolist()
            np.testing.assert_allclose(later.uncertainty, whole.uncertainty, atol=1e-12)
            assert later.stopped == whole.stopped


def test_a_finished_choice_is_recognized_and_a_lost_file_written_again(folder):
    counting = Counting(width=64)
    first = pick("pool.jsonl", "targets.jsonl", 9, out="chosen.jsonl", embedder=counting)
    content, count = (folder / "chosen.jsonl").read_bytes(), counting.count
    again = pick("pool.jsonl", "targets.jsonl", 9, out="chosen.jsonl", embedder=counting)
    assert (first.finished_before, again.finished_before) == (False, True)
    assert again.numbers.tolist() == first.numbers.tolist()
    assert again.left_out == first.left_out
    (folder / "chosen.jsonl").unlink()
    assert not pick("pool.jsonl", "targets.jsonl", 9, out="chosen.jsonl", embedder=counting).finished_before
    assert (folder / "chosen.jsonl").read_bytes() == content
    assert counting.count == count + 2 * len(TARGETS)


def test_other_settings_use_the_vectors_again(folder):
    counting = Counting(width=64)
    pick("pool.jsonl", TARGETS, 9, out="chosen.jsonl", embedder=counting)
    for settings_ in ({"noise": 0.1}, {"quota": {"source": 0.4}}, {"budget": 100, "cost": "characters"}):
        before = counting.count
        again = pick("pool.jsonl", TARGETS[:2], 3, out="chosen.jsonl", embedder=counting, **settings_)
        assert counting.count == before + 2
        afresh = pick(records(300), TARGETS[:2], 3, embedder=HashingEmbedder(width=64), **settings_)
        assert again.numbers.tolist() == afresh.numbers.tolist()


def test_a_changed_pool_is_refused_until_it_may_begin_anew(folder):
    pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
    with pytest.raises(Conflict, match=r"begun with another embedder; restart=True begins anew"):
        pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl", embedder="hashing")
    write(folder / "pool.jsonl", records(100, seed=5))
    with pytest.raises(Conflict, match="begun with another pool, or the same before a change"):
        pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
    anew = pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl", restart=True)
    assert anew.numbers.tolist() == pick(records(100, seed=5), TARGETS, 3).numbers.tolist()


def test_a_folder_of_somebody_else_is_left_alone(folder):
    (folder / "chosen.jsonl.work").mkdir()
    (folder / "chosen.jsonl.work" / "thesis.tex").write_text("years of work")
    with pytest.raises(Conflict, match=r"holds 'thesis.tex', so it is no work folder"):
        pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl", restart=True)
    (folder / "b.jsonl.work").write_text("a file")
    with pytest.raises(Conflict, match="is a file"):
        pick("pool.jsonl", TARGETS, 3, out="b.jsonl")


def test_damage_is_named_and_two_processes_do_not_share_a_folder(folder):
    pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
    work = folder / "chosen.jsonl.work"
    with WorkFolder.hold(work), pytest.raises(Locked, match="is writing"):
        pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
    for name in ("rows.bin", "vectors.f32"):
        whole = (work / name).read_bytes()
        os.truncate(work / name, 100)
        with pytest.raises(Damaged, match=rf"{name}: has 100 bytes of {len(whole):,}; restart=True begins anew"):
            pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
        (work / name).unlink()
        with pytest.raises(Damaged, match=rf"{name}: has 0 bytes"):
            pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
        (work / name).write_bytes(whole)
    assert pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl").finished_before
    (work / "state.json").write_text("{")
    with pytest.raises(Damaged, match=r"state.json: cannot be read"):
        pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl")
    pick("pool.jsonl", TARGETS, 3, out="chosen.jsonl", restart=True)
