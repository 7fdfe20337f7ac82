"""The real Trainer with a tiny model: each batch by the weights of its step, and resumed runs."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from siftlm.errors import BadRecord, Conflict, InvalidInput
from siftlm.integrations.trainer import ActiveBatches, ActiveTrainer, mean_hidden_state

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)


@pytest.fixture(autouse=True)
def quiet():
    """Warnings of the Trainer's own dependencies are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def rows(count=22):
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (count,), generator=draw).tolist()
    return [
        {"input_ids": torch.randint(1, 50, (length,), generator=draw).tolist(), "labels": at % 2}
        for at, length in enumerate(lengths)
    ]


def collate(batch):
    width = max(len(row["input_ids"]) for row in batch)
    padded = [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in batch]
    ids = torch.tensor(padded)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.tensor([row["labels"] for row in batch]),
    }


def make(folder, kind=ActiveTrainer, active=None, **arguments):
    set_seed(3)
    arguments = {"num_train_epochs": 2, "save_steps": 3, "per_device_train_batch_size": 4, **arguments}
    args = TrainingArguments(
        output_dir=str(folder), learning_rate=1e-2, report_to=[], disable_tqdm=True, use_cpu=True,
        logging_strategy="no", **arguments,
    )  # fmt: skip
    active = {"embed": mean_hidden_state, "target": rows()[:5]} if active is None else active
    return kind(
        model=BertForSequenceClassification(CONFIG),
        args=args,
        train_dataset=rows(),
        data_collator=collate,
        active=active,
    )


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_each_batch_is_chosen_by_the_weights_of_its_step(tmp_path, accumulated):
    steps = []

    def embed(model, batch):
        assert not model.training
        steps.append(trainer.state.global_step)
        return mean_hidden_state(model, batch)

    active = {"embed": embed, "embed_batch_size": 100, "method": "undirected-vtl"}
    trainer = make(
        tmp_path, active=active, num_train_epochs=1, save_strategy="no", gradient_accumulation_steps=accumulated
    )
    trainer.train()
    batches = trainer.active_loader.chooser.batches
    assert steps == [batch // accumulated for batch in range(6)]
    assert sorted(row for batch in batches for row in batch) == list(range(22))


@pytest.mark.slow
def test_a_trainer_with_active_batches_trains_the_rows_that_it_says(tmp_path):
    seen = []

    class Watched(ActiveBatches, Trainer):
        def training_step(self, model, inputs, *args, **kwargs):
            seen.append(inputs["input_ids"].clone())
            return super().training_step(model, inputs, *args, **kwargs)

    trainer = make(tmp_path, kind=Watched, num_train_epochs=1, save_strategy="no")
    trainer.train()
    batches = trainer.active_loader.chooser.batches
    assert len(batches) == len(seen) == 6
    for batch, inputs in zip(batches, seen, strict=True):
        assert torch.equal(collate([rows()[row] for row in batch])["input_ids"], inputs)


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_ends_like_the_whole_one(tmp_path, accumulated):
    whole = make(tmp_path / "whole", gradient_accumulation_steps=accumulated)
    whole.train()
    checkpoints = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(checkpoints) > 1
    for name in checkpoints:
        again = make(tmp_path / "again", gradient_accumulation_steps=accumulated)
        shutil.copytree(tmp_path / "whole" / name, tmp_path / "again" / name)
        again.train(resume_from_checkpoint=True)
        assert again.active_loader.chooser.batches == whole.active_loader.chooser.batches
        assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))
        shutil.rmtree(tmp_path / "again")


@pytest.mark.slow
def test_a_run_that_skips_nothing_goes_on_with_the_rows_left(tmp_path):
    first = make(tmp_path, num_train_epochs=1)
    first.train()
    taken = {row for batch in first.active_loader.chooser.batches[:3] for row in batch}
    again = make(tmp_path, num_train_epochs=1, ignore_data_skip=True)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    batches = again.active_loader.chooser.batches
    assert {row for batch in batches[:3] for row in batch} == taken
    assert sorted(row for batch in batches for row in batch) == list(range(22))


@pytest.mark.slow
def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    make(tmp_path, num_train_epochs=1).train()
    (tmp_path / "checkpoint-3" / "active_batches.json").unlink()
    (tmp_path / "checkpoint-6" / "active_batches.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadRecord, match="not written by a trainer with active batches"):
        make(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    with pytest.raises(BadRecord, match="is not JSON"):
        make(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_what_is_the_trainers_is_not_set_twice(tmp_path):
    with pytest.raises(Conflict, match="collate_fn is the trainer's"):
        make(tmp_path, active={"collate_fn": collate})


def test_a_model_without_an_embed_method_needs_a_function(tmp_path):
    with pytest.raises(InvalidInput, match="BertForSequenceClassification has no method 'embed'"):
        make(tmp_path, active={}).train()


def test_hidden_states_are_averaged_over_tokens():
    set_seed(0)
    model = BertForSequenceClassification(CONFIG).eval()
    batch = collate(rows(4))
    with torch.no_grad():
        found = mean_hidden_state(model, batch)
        for row in range(4):
            alone = mean_hidden_state(model, {"input_ids": torch.tensor([rows(4)[row]["input_ids"]])})
            assert torch.allclose(found[row], alone[0], atol=1e-6)
