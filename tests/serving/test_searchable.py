"""A memory that cannot be searched is said when the server starts, not to every client."""

from __future__ import annotations

import os

import numpy as np
import pytest

from controller import tiny
from siftlm.controller import Controller
from siftlm.embedding import embedder
from siftlm.errors import InvalidInput, SiftlmError
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving import background_server
from siftlm.serving.lifecycle import check_searchable

TEXTS = [f"text {number} of what is said" for number in range(30)]


@pytest.fixture(scope="module")
def controller():
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)


@pytest.fixture
def docs(tmp_path):
    with Memory.create(tmp_path / "docs") as made:
        made.add(TEXTS)
    with Memory.open(tmp_path / "docs") as opened:
        yield opened


def shortened(folder):
    os.truncate(next(folder.glob("*/vectors.*")), 1000)


def scrambled(folder):
    path = next(folder.glob("*/texts.sqlite"))
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def test_memories_that_answer_are_served_and_so_are_empty_ones(controller, docs, tmp_path):
    with Memory.create(tmp_path / "empty") as empty:
        check_searchable({name: LocalModel(controller, memory) for name, memory in (("docs", docs), ("empty", empty))})


@pytest.mark.parametrize(("harm", "said"), [(shortened, "has 1,000 bytes"), (scrambled, "siftlm verify says more")])
def test_a_damaged_one_is_named(controller, docs, tmp_path, harm, said):
    models = {"fine": LocalModel(controller, Memory.create(tmp_path / "fine")), "docs": LocalModel(controller, docs)}
    harm(docs.path)
    with pytest.raises(SiftlmError, match=f"the memory 'docs' cannot be searched: .*{said}"):
        check_searchable(models)
    models["fine"].memory.close()


def test_nor_is_one_whose_vectors_came_from_elsewhere(controller, tmp_path):
    with Memory.create(tmp_path / "made", embedder=embedder("precomputed", width=4)) as made:
        made.add(TEXTS[:2], vectors=np.eye(2, 4))
        with (
            pytest.raises(
                SiftlmError, match="the memory 'far' cannot be searched: its vectors were computed elsewhere"
            ),
            background_server(controller, {"far": made}),
        ):
            pass


@pytest.mark.slow
def test_a_server_with_a_wrong_default_does_not_start(controller, docs):
    for wrong in ({"noise": -1}, {"k": 0}, {"where": 5}, {"candidates": "luck"}):
        with (
            pytest.raises(InvalidInput, match=next(iter(wrong))),
            background_server(controller, {"docs": docs}, **wrong),
        ):
            pass


def test_features_of_the_model_are_not_made_for_it(controller, docs, monkeypatch):
    model = LocalModel(controller, docs, features="gradients")
    monkeypatch.setattr(LocalModel, "gradient_embedder", property(lambda _: 1 / 0))
    check_searchable({"docs": model})
