"""A memory does what a plain-Python one does, whatever the order of adding, deleting, compacting and opening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import siftlm
from memory.oracle import Model, cosines
from siftlm import Memory
from siftlm.embedding import HashingEmbedder
from siftlm.memory.filters import parse
from siftlm.memory.keywords import terms

WIDTH = 64
SIZE, OVERLAP = 24, 4
WORDS = ["river", "stone", "lamp", "garden", "copper", "winter", "signal", "harbour", "violet", "engine", "paper"]
RNG = np.random.default_rng(0)
SHORT = [" ".join(RNG.choice(WORDS, 3)) for _ in range(8)] + ["  padded river  ", "naïve Ärger", "nul\0here"]
# Variants of a family differ in their last word alone.
FAMILIES = [" ".join(RNG.choice(WORDS, 20)) for _ in range(2)]
LONG = [". ".join(" ".join(RNG.choice(WORDS, 7)) for _ in range(9)) + "." for _ in range(2)]
TEXTS = st.one_of(
    st.sampled_from(SHORT),
    st.builds(lambda base, tail: f"{base} {tail}", st.sampled_from(FAMILIES), st.sampled_from(WORDS[:4])),
    st.sampled_from([*LONG, LONG[0] + "\n\n" + LONG[1]]),
)
METAS = st.fixed_dictionaries({}, optional={"source": st.sampled_from("abc"), "year": st.integers(1, 3)})
KEYS = st.one_of(st.none(), st.sampled_from(["x", "y"]))
DOCUMENTS = st.lists(st.tuples(TEXTS, METAS, KEYS), min_size=1, max_size=5)
FILTERS: list[Any] = [
    {"source": "a"},
    {"year": {">=": 2}},
    'not source = "b"',
    {"source": {"exists": False}},
    {"@id": "x"},
    {"or": [{"source": "c"}, {"year": 1}]},
    {"nobody": "has this"},
]
STORAGES = {"float32": 1e-6, "float16": 2e-3, "int8": 2e-2}


class Machine(RuleBasedStateMachine):
    """Does everything twice, and compares after each step."""

    @initialize(storage=st.sampled_from(sorted(STORAGES)), full_text=st.booleans(), near=st.sampled_from([None, 0.7]))
    def create(self, storage: str, full_text: bool, near: float | None) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.storage, self.full_text = storage, full_text
        self.memory = Memory.create(
            self.folder / "memory",
            embedder=HashingEmbedder(width=WIDTH),
            storage=storage,
            full_text=full_text,
            near_duplicates=near,
            passage_tokens=SIZE,
            overlap=OVERLAP,
        )
        self.model = Model(size=SIZE, overlap=OVERLAP, near=near)

    @rule(documents=DOCUMENTS)
    def add(self, documents: list[Any]) -> None:
        texts, metas, keys = (list(column) for column in zip(*documents, strict=True))
        before = len(self.model.texts)
        added = self.memory.add(texts, metas, ids=keys)
        for text, meta, key in documents:
            self.model.add(text, meta, key)
        assert (added.documents, added.passages) == (len(documents), len(self.model.texts) - before)

    @rule(documents=DOCUMENTS)
    def ingest(self, documents: list[Any]) -> None:
        added = self.memory.ingest(siftlm.Document(text, meta, key) for text, meta, key in documents)
        for text, meta, key in documents:
            self.model.add(text, meta, key)
        places = [place for doc in self.model.documents[-len(documents) :] for place in doc.places]
        assert added.documents == len(documents)
        assert added.passages + added.duplicates + added.near_duplicates == len(places)
        assert added.near_duplicates == sum(place.near for place in places)

    @rule(where=st.sampled_from(FILTERS))
    def delete(self, where: Any) -> None:
        deleted = self.memory.delete(where)
        assert (deleted.documents, deleted.passages) == self.model.delete(where)

    @rule()
    def compact(self) -> None:
        assert self.memory.compact().passages == len(self.model.texts)
        assert self.memory.rows().tolist() == list(range(len(self.model.texts)))

    @rule()
    def reopen(self) -> None:
        self.memory.close()
        self.memory = Memory.open(self.folder / "memory")

    @invariant()
    def holds_the_same(self) -> None:
        model, rows = self.model, self.memory.rows()
        assert len(self.memory) == len(model.texts)
        assert self.memory.texts(rows) == model.texts
        for where in FILTERS:
            assert self.memory.rows(where).tolist() == rows[model.allowed(where)].tolist()
        with self.memory.snapshot() as snapshot:
            for passage in snapshot.passages(rows.tolist(), None):
                assert passage.copies == model.copies(passage.text)
                own = [(d.key, dict(d.meta), p.start) for d in model.holders(passage.text) for p in d.places]
                assert (passage.id, passage.meta, passage.start) in own
                assert 0 <= passage.part < passage.parts
        assert self.memory.verify().problems == ()

    @precondition(lambda self: self.model.texts)
    @rule(prompt=st.sampled_from([*WORDS, *SHORT[:3]]), where=st.sampled_from([None, *FILTERS]), n=st.integers(1, 6))
    def search(self, prompt: str, where: Any, n: int) -> None:
        rows = self.memory.rows(where)
        query, vectors = HashingEmbedder(width=WIDTH).embed([prompt])[0], self.memory.vectors(rows)
        exact = HashingEmbedder(width=WIDTH).embed(self.memory.texts(rows))
        if len(rows):
            assert np.allclose(vectors, exact, atol=STORAGES[self.storage])

        found = self.memory.search(prompt, n, method="nearest", where=where)
        best = np.sort(cosines(query, vectors))[::-1][:n] if len(rows) else []
        # Rounding to float16 changes lengths as well, by as much as this.
        assert np.allclose([hit.score for hit in found], best, atol=1e-3 if self.storage == "float16" else 1e-5)
        for among in (None, 200):
            self.selected_alike(prompt, query, where, n, among)
        hits = [*found, *self.memory.search(prompt, n, where=where)]
        if self.full_text:
            by_words = self.memory.search(prompt, n, where=where, candidates="words")
            assert all(set(terms(prompt)) & set(terms(hit.text)) for hit in by_words)
            hits += [*by_words, *self.memory.search(prompt, n, where=where, candidates="both")]
        for hit in hits:
            assert parse(where).matches(hit.meta, hit.id)
            assert hit.row in rows

    def selected_alike(self, prompt: str, query: Any, where: Any, n: int, among: int | None) -> None:
        rows = self.memory.rows(where)
        found = self.memory.search(prompt, n, k=among, where=where, noise=0.05)
        assert found.considered == len(rows)
        if not len(rows):
            assert (len(found), found.selection.stopped) == (0, "exhausted")
            return
        expected = siftlm.select(query, self.memory.vectors(rows), min(n, len(rows)), noise=0.05, replacement=False)
        assert np.allclose(found.selection.uncertainty, expected.uncertainty, atol=1e-5)
        assert [hit.row for hit in found] == rows[expected.indices].tolist()

    def teardown(self) -> None:
        self.memory.close()
        shutil.rmtree(self.folder)


def run(examples: int, steps: int) -> None:
    checked = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=checked)


@pytest.mark.slow
def test_a_memory_is_what_its_model_says():
    run(examples=6, steps=8)


@pytest.mark.slow
def test_a_memory_is_what_its_model_says_for_longer():
    run(examples=12, steps=15)


def test_the_families_are_nearly_the_same():
    model = Model(size=SIZE, overlap=OVERLAP, near=0.7)
    for tail in WORDS[:4]:
        model.add(f"{FAMILIES[0]} {tail}", {})
    assert len(model.texts) == 1
    assert model.copies(model.texts[0]) == 4
