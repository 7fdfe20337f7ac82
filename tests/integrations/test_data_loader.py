"""Batches by the current model: what is chosen, what the model and the random states look like afterwards, resuming."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import siftlm
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.batch_choice import POSTERIOR_METHODS, choose_on_device, choose_rows
from siftlm.integrations.data_loader import ActiveBatchSampler, ActiveDataLoader, loss_gradients
from siftlm.selection import tensors


class Classifier(nn.Module):
    """Has everything that eval mode and a random state matter to."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.5))
        self.frozen = nn.Dropout(0.5).eval()
        self.classes = nn.Linear(12, 3)

    def embed(self, inputs):
        return self.frozen(self.features(inputs))

    def embed_narrowly(self, inputs):
        return self.embed(inputs)[:, :4]

    def forward(self, inputs):
        return self.classes(self.embed(inputs))


@pytest.fixture
def model():
    torch.manual_seed(5)
    return Classifier().train()


@pytest.fixture
def dataset():
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(30, 6, generator=draw), torch.arange(30) % 3)


def embedded(model, inputs, name="embed"):
    """The embeddings by hand, of a copy."""
    with torch.no_grad():
        return getattr(copy.deepcopy(model).eval(), name)(inputs).double().numpy()


def training_step(model, batch):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    optimizer.zero_grad()


# --- what is chosen


def test_each_batch_is_that_of_the_model_as_it_is_then(model, dataset):
    inputs, target = dataset.tensors[0], dataset.tensors[0][:3] + 0.1
    loader = ActiveDataLoader(dataset, 5, model=model, target=target)
    taken, by_first_model = [], embedded(model, inputs)
    differs = False
    for batch in loader:
        vectors = embedded(model, inputs)
        left = [row for row in range(30) if row not in taken]
        settings = {"known": vectors[taken] if taken else None, "replacement": False}
        picks = siftlm.select(embedded(model, target), vectors[left], 5, **settings)
        expected = [left[at] for at in picks.indices]
        assert loader.last.indices.tolist() == expected
        assert np.allclose(loader.last.uncertainty, picks.uncertainty, atol=1e-6)
        assert torch.equal(batch[0], inputs[expected])
        assert torch.equal(batch[1], dataset.tensors[1][expected])
        settings["known"] = by_first_model[taken] if taken else None
        stale = siftlm.select(embedded(model, target), by_first_model[left], 5, **settings)
        differs = differs or stale.indices.tolist() != picks.indices.tolist()
        taken += expected
        training_step(model, batch)
    assert sorted(taken) == list(range(30))
    assert differs, "the model's steps changed no batch, so this test would prove nothing"


def test_without_a_target_the_candidates_vary_least_afterwards(model, dataset):
    sampler = ActiveBatchSampler(dataset, 4, model=model)
    picks = sampler.next_batch()
    vectors = embedded(model, dataset.tensors[0])
    expected = siftlm.select(None, vectors, 4, method="undirected-vtl", replacement=False)
    assert picks.indices.tolist() == expected.indices.tolist()
    assert picks.method == sampler.method == "undirected-vtl"
    assert np.isnan(picks.uncertainty).all()


@pytest.mark.parametrize("method", ["k-means++", "max-dist", "uncertainty", "nearest", "mmr", "dpp", "random"])
def test_other_methods_take_each_row_once(method, dataset):
    sampler = ActiveBatchSampler(dataset, 7, target=dataset.tensors[0][:2], method=method)
    assert sorted(row for batch in sampler for row in batch) == list(range(30))


def test_a_method_that_reads_probabilities_gets_them(model, dataset):
    def outputs(model, inputs):
        return model(inputs).softmax(1)

    sampler = ActiveBatchSampler(dataset, 4, model=model, embed=outputs, method="max-entropy")
    model.eval()
    with torch.no_grad():
        probabilities = outputs(model, dataset.tensors[0]).double()
    entropies = -(probabilities * probabilities.log()).sum(1)
    assert sampler.next_batch().indices.tolist() == entropies.argsort(descending=True)[:4].tolist()


@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from(sorted(POSTERIOR_METHODS - {"sift-fast"})))
@settings(max_examples=40)
def test_known_rows_in_the_features_are_known_rows_observed(count, seed, method):
    draw = torch.Generator().manual_seed(seed)
    rows = nn.functional.normalize(torch.randn(20 + count, 5, generator=draw, dtype=torch.float64))
    candidates, known, targets = rows[:17], rows[20:], rows[17:20]
    made = {"method": method, "noise": 0.1, "seed": 0}
    found = choose_rows(candidates, targets, known, 4, **made)
    expected = siftlm.select(
        targets.numpy(), candidates.numpy(), 4, known=known.numpy(), method=method, noise=0.1, replacement=False
    )
    assert found.indices.tolist() == expected.indices.tolist()
    assert np.allclose(found.gains, expected.gains, atol=1e-9)
    assert np.allclose(found.uncertainty, expected.uncertainty, atol=1e-9)


@pytest.mark.parametrize("known", [3, 40])
def test_the_uncertainty_left_is_that_of_the_conditioned_covariance(known):
    draw = np.random.default_rng(known)
    rows = draw.normal(size=(12 + known, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    parts = [torch.from_numpy(part) for part in (rows[2:12], rows[:2], rows[12:])]
    picks = choose_rows(*parts, 3, method="sift", noise=0.05, seed=0)
    seen = np.concatenate([rows[12:], rows[2:12][picks.indices]])
    gram = seen @ seen.T + 0.05 * np.eye(len(seen))
    left = 1 - np.einsum("mi,ij,mj->m", rows[:2] @ seen.T, np.linalg.inv(gram), rows[:2] @ seen.T)
    assert picks.uncertainty[-1] == pytest.approx(left.mean(), abs=1e-9)


@pytest.mark.parametrize("method", sorted(set(tensors.METHODS) - {"random"}))
def test_a_choice_on_the_device_is_the_choice_of_select(method):
    rows = nn.functional.normalize(torch.randn(25, 5, generator=torch.Generator().manual_seed(2)).double())
    made = {"method": method, "noise": 0.1, "normalize": False, "seed": 0, "replacement": False}
    untargeted = method in ("uncertainty", "undirected-itl")
    targets = None if untargeted else rows[:3]
    found = choose_on_device(rows[3:], targets, 6, made)
    expected = siftlm.select(None if untargeted else targets.numpy(), rows[3:].numpy(), 6, **made)
    assert found.indices.tolist() == expected.indices.tolist()
    assert np.allclose(found.gains, expected.gains)
    assert np.allclose(found.uncertainty, expected.uncertainty, equal_nan=True)


@pytest.mark.parametrize("targeted", [True, False])
def test_the_first_batch_is_that_of_activeft(targeted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        loader = pytest.importorskip("activeft.active_data_loader").ActiveDataLoader
    draw = torch.Generator().manual_seed(4)
    rows, targets = torch.randn(100, 16, generator=draw), torch.randn(5, 16, generator=draw)
    target = targets if targeted else None
    theirs = loader.initialize(rows, target, batch_size=8).next()[0].tolist()
    assert ActiveBatchSampler(rows, 8, target=target, normalize=False).next_batch().indices.tolist() == theirs


def test_labelled_rows_are_not_chosen_and_count_as_known():
    rows = torch.eye(4)[[0, 0, 1, 2, 3]]
    target = torch.tensor([[1.0, 0.9, 0.8, 0.7]])
    assert ActiveBatchSampler(rows, 1, target=target).next_batch().indices.tolist() == [0]
    sampler = ActiveBatchSampler(rows, 1, target=target, labelled=[0])
    assert list(sampler) == [[2], [3], [4], [1]]
    assert len(sampler) == 4
    sampler = ActiveBatchSampler(rows, 1, target=target, labelled=[0], known_limit=0)
    assert next(iter(sampler)) == [1], "unknown, row 1 is the nearest"


def test_a_row_that_was_taken_and_then_named_as_labelled_is_known_once(dataset):
    target = dataset.tensors[0][:3]
    sampler, other = (ActiveBatchSampler(dataset, 2, target=target) for _ in range(2))
    sampler.add_labelled(sampler.next_batch().indices)
    other.next_batch()
    assert sampler.next_batch().uncertainty == pytest.approx(other.next_batch().uncertainty)
    assert len(sampler) == 14


def test_rows_taken_before_condition_the_next_batch():
    rows = torch.eye(3)[[0, 0, 1, 2]]
    sampler = ActiveBatchSampler(rows, 1, target=torch.tensor([[1.0, 0.9, 0.8]]))
    assert list(sampler) == [[0], [2], [3], [1]]


def test_loss_gradients_are_those_of_autograd():
    draw = torch.Generator().manual_seed(0)
    layer, hidden = nn.Linear(5, 3, bias=False), torch.randn(4, 5, generator=draw)
    logits = layer(hidden)
    found = loss_gradients(hidden, logits)
    for row in range(4):
        loss = nn.functional.cross_entropy(logits[row], logits[row].argmax())
        [gradient] = torch.autograd.grad(loss, layer.weight, retain_graph=True)
        assert torch.allclose(found[row], gradient.flatten(), atol=1e-6)
    projected = loss_gradients(hidden, logits, width=20_000)
    assert torch.allclose(projected @ projected.mT, found @ found.mT, atol=0.2)
    with pytest.raises(InvalidInput, match=r"got \(4, 5\) and \(3, 3\)"):
        loss_gradients(hidden, logits[:3])


# --- how inputs and embeddings may be given


class Rows(Dataset):
    """Rows of names and values, without any tensor around them."""

    def __len__(self):
        return 12

    def __getitem__(self, row):
        return {"values": [float(row % 4 == at) for at in range(6)], "name": f"row {row}"}


def collate(rows):
    return {"values": torch.tensor([row["values"] for row in rows]), "names": [row["name"] for row in rows]}


def test_rows_may_be_anything_that_the_collate_function_takes(model):
    loader = ActiveDataLoader(
        Rows(),
        4,
        collate_fn=collate,
        model=model,
        embed=lambda model, batch: model.embed(batch["values"]),
        target=Rows(),
    )
    batch = next(iter(loader))
    assert len(set(batch["names"])) == 4
    assert batch["values"].argmax(1).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("labelled", [False, True])
def test_rows_may_be_texts(labelled):
    texts = ["apples and pears", "apples and more pears", "a sum of numbers", "the sum of two numbers"]
    rows = list(zip(texts, range(4), strict=True)) if labelled else texts

    def embed(model, inputs):
        assert model is None
        return siftlm.embedder("hashing").embed(list(inputs))

    chosen = ActiveBatchSampler(rows, 2, embed=embed, target=["fruit: apples, pears", "sum of numbers"]).next_batch()
    assert {row // 2 for row in chosen.indices.tolist()} == {0, 1}


def test_embed_may_be_a_name_a_method_or_a_function(model, dataset):
    ways = [
        {"model": model, "embed": "embed_narrowly"},
        {"embed": model.embed_narrowly},
        {"model": model, "embed": lambda model, inputs: model.embed_narrowly(inputs)},
        {"model": model, "embed": lambda model, inputs: model.embed_narrowly(inputs).numpy()},
        {"model": model, "embed": "embed_narrowly", "embed_batch_size": 7},
    ]
    batches = [list(ActiveBatchSampler(dataset, 6, target=dataset.tensors[0][:2], **way)) for way in ways]
    assert all(one == batches[0] for one in batches[1:])
    assert batches[0] != list(ActiveBatchSampler(dataset, 6, target=dataset.tensors[0][:2], model=model))


def test_without_a_model_rows_are_compared_as_they_are(dataset):
    images = dataset.tensors[0].reshape(30, 2, 3)
    batches = list(ActiveBatchSampler(images, 6, target=images[:2]))
    assert batches == list(ActiveBatchSampler(dataset, 6, target=dataset.tensors[0][:2]))
    assert batches == list(ActiveBatchSampler(images.numpy(), 6, target=images[:2].numpy()))


def test_a_new_target_counts_from_the_next_batch_on():
    rows = torch.eye(4)
    sampler = ActiveBatchSampler(rows, 1)
    chosen = []
    for row in (2, 0, 3):
        sampler.set_target(rows[row : row + 1])
        chosen += sampler.next_batch().indices.tolist()
    assert chosen == [2, 0, 3]


# --- the model and the random states stay as they are


class Augmented(Dataset):
    """Draws from all of the global random states."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        noise = torch.randn(6) + random.random() + float(np.random.random())  # noqa: NPY002
        return self.rows[row] + 0.1 * noise


def global_states():
    numbers = np.random.get_state()  # noqa: NPY002
    return random.getstate(), torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2:]


def everything_of(model):
    modes = [module.training for module in model.modules()]
    values = [value.clone() for value in (*model.parameters(), *model.buffers())]
    gradients = [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()]
    return modes, [p.requires_grad for p in model.parameters()], values, gradients


def assert_equal_models(one, other):
    assert one[:2] == other[:2]
    assert all(map(torch.equal, one[2], other[2]))
    for mine, yours in zip(one[3], other[3], strict=True):
        assert (mine is None and yours is None) or (mine[0] == yours[0] and torch.equal(mine[1], yours[1]))


def test_model_and_random_states_are_restored_bit_for_bit(model, dataset):
    nn.functional.cross_entropy(model(dataset.tensors[0]), dataset.tensors[1]).backward()  # gradients that accumulate
    before, states = everything_of(model), global_states()
    sampler = ActiveBatchSampler(Augmented(dataset.tensors[0]), 5, model=model, target=dataset.tensors[0][:2])
    chosen = sampler.next_batch().indices.tolist()
    assert_equal_models(before, everything_of(model))
    assert global_states() == states
    torch.manual_seed(99)
    random.seed(99)
    again = ActiveBatchSampler(Augmented(dataset.tensors[0]), 5, model=model, target=dataset.tensors[0][:2])
    assert again.next_batch().indices.tolist() == chosen, "what is drawn depends on the loader's seed alone"


def test_model_and_random_states_are_restored_after_an_error(model, dataset):
    def embed(model, inputs):
        torch.rand(3)
        model.features[1].running_mean.add_(1)
        raise RuntimeError("no memory")

    before, states = everything_of(model), global_states()
    sampler = ActiveBatchSampler(dataset, 5, model=model, embed=embed)
    with pytest.raises(RuntimeError, match="no memory"):
        sampler.next_batch()
    assert_equal_models(before, everything_of(model))
    assert global_states() == states
    assert not sampler.batches


def test_embeddings_are_kept_for_as_many_batches_as_asked(model, dataset):
    rows = []

    def embed(model, inputs):
        rows.append(len(inputs))
        return model.embed(inputs)

    def embedded_rows(**settings):
        rows.clear()
        list(ActiveBatchSampler(dataset, 6, model=model, embed=embed, **settings))
        return sum(rows)

    assert embedded_rows(known_limit=0) == 30 + 24 + 18 + 12 + 6
    assert embedded_rows() == 5 * 30
    assert embedded_rows(embed_every=2) == 3 * 30
    assert embedded_rows(embed_every=None) == 30
    assert embedded_rows(subsample=8, known_limit=0) == 8 + 8 + 8 + 8 + 6


# --- passes, samples and resuming


def test_a_pass_leaves_the_global_random_states_alone(model, dataset):
    loader = ActiveDataLoader(dataset, 10, model=model, target=dataset.tensors[0][:3], subsample=20)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert len(list(loader)) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_it_serves_a_plain_data_loader(dataset):
    sampler = ActiveBatchSampler(dataset, 8, target=dataset.tensors[0][:2])
    batches = [labels.tolist() for _, labels in DataLoader(dataset, batch_sampler=sampler)]
    assert [len(batch) for batch in batches] == [8, 8, 8, 6]
    assert len(sampler) == len(DataLoader(dataset, batch_sampler=sampler)) == 4


def test_a_pass_that_was_left_early_goes_on_and_after_a_whole_one_the_next_begins(dataset):
    sampler = ActiveBatchSampler(dataset, 8, target=dataset.tensors[0][:2], drop_last=True)
    first = next(iter(sampler))
    rest = list(sampler)
    assert [len(batch) for batch in rest] == [8, 8]
    assert len({*first, *rest[0], *rest[1]}) == 24
    assert len(sampler) == 3
    assert list(sampler) == [first, *rest], "the same model, the same pass"
    assert sampler.passes == 1


def test_rows_may_be_taken_again_if_asked(dataset):
    sampler = ActiveBatchSampler(dataset, 10, target=dataset.tensors[0][:1], replacement=True, known_limit=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    assert batches[0] == batches[1] == batches[2]
    assert len(set(batches[0])) == 10
    again = ActiveBatchSampler(dataset, 10, target=dataset.tensors[0][:1], replacement=True)
    assert len({row for batch in again for row in batch}) > 10, "what was learned already is worth less"


def test_candidates_and_targets_may_be_samples(dataset):
    def batches(seed, **settings):
        return list(ActiveBatchSampler(dataset, 5, target=dataset.tensors[0], seed=seed, **settings))

    for some in ({"subsample": 7}, {"target_subsample": 2}):
        assert sorted(row for batch in batches(0, **some) for row in batch) == list(range(30))
        assert batches(0, **some) == batches(0, **some)
        assert batches(0, **some) != batches(1, **some)
        assert batches(0, **some) != batches(0)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 1, 3, 6, 8])
def test_a_resumed_loader_makes_the_same_batches(stop, model, dataset):
    def make(model):
        target = dataset.tensors[0][:2]
        return ActiveDataLoader(dataset, 6, model=model, target=target, subsample=9, labelled=[4, 2], seed=3)

    def go_on(loader, model, count):
        chosen = []
        while len(chosen) < count:
            for batch in loader:
                chosen.append(loader.last.indices.tolist())
                training_step(model.eval(), batch)
                if len(chosen) == count:
                    break
        return chosen

    loader = make(model)
    assert len(loader) == 5
    before = go_on(loader, model, stop)
    state, saved = json.loads(json.dumps(loader.state_dict())), copy.deepcopy(model)
    after = go_on(loader, model, 12 - stop)
    resumed = make(saved)
    resumed.load_state_dict(state)
    assert go_on(resumed, saved, 12 - stop) == after
    assert resumed.chooser.labelled.tolist() == [4, 2]
    assert not {4, 2} & {row for batch in before + after for row in batch}


def test_replayed_batches_come_first(dataset):
    sampler = ActiveBatchSampler(dataset, 6, target=dataset.tensors[0][:2])
    whole = list(sampler)
    half = ActiveBatchSampler(dataset, 6, target=dataset.tensors[0][:2])
    half.load_state_dict({**sampler.state_dict(), "batches": whole[:2]}, replay=True)
    assert list(half) == whole
    assert list(half) == whole, "once only"


# --- what is wrong, and what to do


def rows_with(row, value):
    rows = torch.ones(10, 3)
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": torch.ones(0, 3)}, "dataset has no rows"),
        ({"dataset": iter([1])}, "map-style dataset with __getitem__ and __len__, got list_iterator"),
        ({"dataset": {"a": 1}}, "a map-style dataset of rows, got dict"),
        ({"target": torch.ones(0, 3)}, "target has no rows"),
        ({"batch_size": 11}, "batch_size=11 is more than the 10 rows"),
        ({"batch_size": 9, "labelled": [0, 1]}, "batch_size=9 is more than the 8 rows"),
        ({"batch_size": 0}, "batch_size must be a whole number ≥ 1"),
        ({"subsample": 1}, "subsample must be a whole number ≥ 2"),
        ({"labelled": [10]}, "labelled"),
        ({"method": "sift"}, "method 'sift' needs a target"),
        ({"noise": 0}, "noise must be a number > 0"),
        ({"embed": "embed"}, "embed='embed' is a method of a model: pass model"),
        ({"model": nn.Linear(3, 2)}, "Linear has no method 'embed'"),
        ({"model": len}, "model must be a torch.nn.Module"),
        ({"embed": 3}, "embed must be a function or the name of a method"),
        ({"target": torch.tensor(1.0)}, "target must have rows, got a single number"),
        ({"target": np.array(["a", "b"])}, "target must be an array of numbers, got <U1"),
        (
            {"taget": torch.ones(1, 3)},
            "neither the loader nor method 'undirected-vtl' has a setting 'taget'; did you mean 'target'",
        ),
        ({"targets": torch.ones(1, 3)}, "a setting 'targets'; did you mean 'target'"),
        ({"pin_memroy": True}, "did you mean 'pin_memory'"),
        ({"shuffle": True}, "neither the loader nor method 'undirected-vtl' has a setting 'shuffle'"),
        ({"taget": torch.ones(1, 3), "method": "itl"}, "'taget'; did you mean 'target'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InvalidInput, match=message):
        ActiveBatchSampler(**{"dataset": torch.ones(10, 3), "batch_size": 2, **settings})


@pytest.mark.parametrize("name", ["prior", "costs", "until", "exclude", "known"])
def test_settings_for_fixed_candidates_are_refused(name):
    with pytest.raises(Conflict, match=f"{name} has no meaning for a loader"):
        ActiveBatchSampler(torch.ones(10, 3), 2, **{name: 1})


def test_wrong_methods_are_named():
    with pytest.raises(UnknownName, match="did you mean 'sift'"):
        ActiveBatchSampler(torch.ones(10, 3), 2, method="shift", target=torch.ones(1, 3))
    with pytest.raises(Conflict, match="'hull' chooses rows several times"):
        ActiveBatchSampler(torch.ones(10, 3), 2, method="hull", target=torch.ones(1, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed": lambda _, x: x[:-1]}, "embed returned 9 vectors for 10 rows of the dataset"),
        ({"embed": lambda _, x: x[0]}, r"one vector for each row, \(rows, d\), got shape \(3,\)"),
        ({"embed": lambda _, x: "x"}, "embed must return a tensor"),
        ({"embed": lambda _, x: x[:, : len(x) // 7 + 1], "embed_batch_size": 7}, "different widths: "),
        ({"dataset": rows_with(7, torch.nan)}, "row 7 of the dataset is not finite"),
        ({"dataset": rows_with(7, torch.inf), "embed_batch_size": 4}, "row 7 of the dataset is not finite"),
        ({"dataset": rows_with(6, 0)}, "row 6 of the dataset is all zeros and has no direction: pass normalize=False"),
        ({"target": rows_with(1, 0)}, "row 1 of the target is all zeros"),
        ({"target": rows_with(1, torch.nan)}, "row 1 of the target is not finite"),
        ({"target": torch.ones(2, 4)}, "target has embeddings of width 4, the dataset of 3"),
        ({"dataset": ["a", "b"]}, "rows are no tensors but list: pass model or embed"),
    ],
)
def test_wrong_embeddings(settings, message):
    sampler = ActiveBatchSampler(**{"dataset": torch.ones(10, 3), "batch_size": 2, **settings})
    with pytest.raises(InvalidInput, match=message):
        sampler.next_batch()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            torch.ones(2, 5),
            r"target cannot be embedded: each of its rows is \(5,\) float32, each of the dataset's \(6,\)",
        ),
        (torch.ones(6), r"each of its rows is \(\) float32, each of the dataset's \(6,\) float32"),
        (torch.ones(2, 3, 2), r"each of its rows is \(3, 2\) float32"),
        (np.ones((2, 6)), r"each of its rows is \(6,\) float64, each of the dataset's \(6,\) float32"),
        (TensorDataset(torch.ones(2, 5)), r"each of its rows is \(5,\) float32"),
        ([torch.ones(6), torch.ones(5)], "rows of the target do not fit into one batch: .*; pass collate_fn"),
    ],
)
def test_a_target_unlike_the_dataset_is_described(target, message, model, dataset):
    sampler = ActiveBatchSampler(dataset, 4, model=model, target=target)
    with pytest.raises(InvalidInput, match=message):
        sampler.next_batch()


def test_an_error_of_the_model_itself_stays_what_it_is(model, dataset):
    def embed(model, inputs):
        if len(inputs) == 2:
            raise RuntimeError("out of order")
        return model.embed(inputs)

    sampler = ActiveBatchSampler(dataset, 4, model=model, embed=embed, target=dataset.tensors[0][:2])
    with pytest.raises(RuntimeError, match=r"^out of order$"):
        sampler.next_batch()


def test_a_batch_larger_than_what_is_left():
    sampler = ActiveBatchSampler(torch.ones(10, 3), 4)
    sampler.next_batch(9)
    with pytest.raises(InvalidInput, match="a batch of 4 is more than the 1 rows left"):
        sampler.next_batch()
    sampler.next_batch(1)
    with pytest.raises(InvalidInput, match="every row was taken"):
        sampler.next_batch(1)


def test_states_of_something_else_are_refused():
    sampler = ActiveBatchSampler(torch.ones(10, 3), 4)
    state = sampler.state_dict()
    for wrong, message in [
        ({}, "no 'version'"),
        ({**state, "version": 9}, "version is 9"),
        ({**state, "rows": 7}, "7"),
        (None, r"a state is what state_dict\(\) returned, got NoneType"),
        ({**state, "batches": None}, "no state of an active data loader: 'NoneType' object is not iterable"),
        ({**state, "batches": [[10]]}, "batches"),
        ({**state, "labelled": "x"}, "no state of an active data loader"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            sampler.load_state_dict(wrong)
    assert sampler.state_dict() == state


def test_without_torch_the_error_names_the_extra():
    script = """
import sys
sys.modules["torch"] = None
try:
    import siftlm.integrations.data_loader
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "this needs the library 'torch': pip install 'siftlm[torch]'"


def test_embed_of_another_model_is_refused(model):
    with pytest.raises(Conflict, match="a method of another module"):
        ActiveBatchSampler(torch.ones(10, 6), 2, model=Classifier(), embed=model.embed)
