"""UDS against its plain definition: a nuclear norm by singular values, and distances to the logits that were chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from siftlm.errors import InvalidInput
from siftlm.integrations.data_loader import ActiveBatchSampler, ActiveDataLoader
from siftlm.integrations.utility_diversity import UtilityDiversity

TOKENS, CLASSES = 5, 7
# Wider than the logits, the projection loses nothing.
EXACT = (8, 16)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs):
        return self.dropout(self.head(inputs))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def dataset():
    return torch.randn(24, TOKENS, 3, generator=torch.Generator().manual_seed(1))


def logits_of(model, rows) -> np.ndarray:
    weight, bias = (one.detach().double().numpy() for one in (model.head.weight, model.head.bias))
    return rows.double().numpy() @ weight.T + bias


@pytest.mark.parametrize("weight", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("memory", [1024, 5])
def test_batches_are_the_best_of_utility_and_distance_to_what_was_chosen(model, dataset, weight, memory):
    uds = UtilityDiversity(weight=weight, memory=memory, widths=EXACT)
    loader = ActiveBatchSampler(dataset, 4, model=model, **uds.settings)
    left, chosen = list(range(24)), []
    for batch in loader:
        logits = logits_of(model, dataset)
        scores = {}
        for row in left:
            distances = [np.linalg.norm(logits[row] - other) for other in chosen[-memory:]]
            utility = np.linalg.svd(logits[row], compute_uv=False).sum()
            scores[row] = utility + (weight * np.mean(distances) if distances else 0)
        best = sorted(left, key=lambda row: -scores[row])[:4]
        assert batch == best
        np.testing.assert_allclose(loader.last.gains, [scores[row] for row in best], rtol=1e-4)
        chosen += [logits[row] for row in best]
        left = [row for row in left if row not in best]
        with torch.no_grad():  # the model learns; what was remembered stays as it was
            model.head.weight += 0.3 * torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(len(left)))
    assert not left


def test_a_run_goes_on_with_what_is_remembered(model, dataset, tmp_path):
    first = UtilityDiversity(weight=20)
    loader = ActiveBatchSampler(dataset, 4, model=model, **first.settings)
    batches = iter(loader)
    next(batches), next(batches)
    torch.save([loader.state_dict(), first.state_dict()], tmp_path / "state")
    expected = next(batches)
    states = torch.load(tmp_path / "state")
    second, forgetful = UtilityDiversity(weight=20), UtilityDiversity(weight=20)
    second.load_state_dict(states[1])
    found = []
    for uds in (second, forgetful):
        again = ActiveBatchSampler(dataset, 4, model=model, **uds.settings)
        again.load_state_dict(states[0])
        found.append(next(iter(again)))
    assert found[0] == expected != found[1]
    UtilityDiversity().load_state_dict(UtilityDiversity().state_dict())
    with pytest.raises(InvalidInput, match="not of a UtilityDiversity with widths"):
        UtilityDiversity(widths=(2, 2)).load_state_dict(states[1])


def test_the_projection_keeps_distances_on_average(model, dataset):
    plain = logits_of(model, dataset).reshape(24, -1)
    exact = np.linalg.norm(plain[0] - plain[1]) ** 2
    inputs = dataset[:2]
    found = []
    for seed in range(300):
        vectors = UtilityDiversity(widths=(2, 3), seed=seed).embed(model.eval(), inputs)[:, 1:].detach().numpy()
        assert vectors.shape == (2, 6)
        found.append(float(np.sum((vectors[0] - vectors[1]) ** 2)))
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(300)
    assert len(set(found)) > 100


def test_padding_does_not_count_and_a_batch_changes_nothing(model):
    def logits(network, inputs):
        return network.head(inputs["states"])

    uds = UtilityDiversity(logits)
    states = torch.randn(2, TOKENS, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    together = uds.embed(model, {"states": states, "attention_mask": mask})
    alone = uds.embed(model, {"states": states[:1, :3], "attention_mask": mask[:1, :3]})
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    unmasked = uds.embed(model, {"states": states})
    assert not torch.allclose(unmasked[0], together[0])
    torch.testing.assert_close(unmasked[1], together[1])


def test_a_classifier_is_a_text_of_one_token(model, dataset):
    vectors = UtilityDiversity(widths=EXACT).embed(model.eval(), dataset[:, 0])
    np.testing.assert_allclose(
        vectors[:, 0].detach().numpy(), np.linalg.norm(logits_of(model, dataset)[:, 0], axis=1), rtol=1e-5
    )


def test_a_language_model_is_called_with_its_inputs():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=40, **shape))
    ids = torch.randint(1, 40, (12, 6))
    rows = [{"input_ids": one, "attention_mask": torch.ones_like(one), "labels": one} for one in ids]
    loader = ActiveDataLoader(rows, 3, model=model, subsample=6, **UtilityDiversity().settings)
    batch = next(iter(loader))
    assert batch["input_ids"].shape == (3, 6)
    with torch.no_grad():
        norms = torch.linalg.svdvals(model.eval()(input_ids=ids).logits).sum(dim=1)
    np.testing.assert_allclose(loader.last.gains, norms[loader.chooser.batches[0]].numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "weight"),
        ({"memory": 0}, "memory"),
        ({"widths": 8}, "widths must be two whole numbers"),
        ({"widths": (8, 0)}, "widths"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InvalidInput, match=message):
        UtilityDiversity(**settings)


def test_what_are_no_logits_is_refused(model, dataset):
    with pytest.raises(InvalidInput, match=r"logits must be a tensor \(rows, tokens, V\) or \(rows, V\), got \(24,\)"):
        UtilityDiversity(lambda network, inputs: inputs[:, 0, 0]).embed(model, dataset)
    with pytest.raises(InvalidInput, match="got str"):
        UtilityDiversity(lambda network, inputs: "logits").embed(model, dataset)
