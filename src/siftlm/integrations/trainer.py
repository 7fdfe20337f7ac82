"""`transformers.Trainer` with batches that are chosen by the model as it is at that moment.

    trainer = ActiveTrainer(model=model, args=args, train_dataset=rows, active={"embed": mean_hidden_state})
    trainer.train()

For a trainer of another class: ``class ActiveSFTTrainer(ActiveBatches, SFTTrainer): ...``. The batches come from a
`siftlm.integrations.data_loader.ActiveDataLoader`.
"""

# ruff: noqa: E402 - a missing library is an error of ours, which names the extra
from __future__ import annotations

from siftlm.extras import load

load("transformers", "train")
load("accelerate", "train")

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from siftlm.errors import BadRecord, Conflict, setting
from siftlm.integrations.data_loader import ActiveDataLoader

STATE_FILE = "active_batches.json"


def mean_hidden_state(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Embeddings (rows, d) by a Hugging Face model: the mean of its last hidden states over the tokens of each row.

    Reads ``input_ids`` and ``attention_mask`` of a collated batch. Without a mask all tokens count.
    """
    mask = batch.get("attention_mask")
    mask = torch.ones_like(batch["input_ids"]) if mask is None else mask
    output = model(input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True)
    weights = mask[..., None].to(output.hidden_states[-1].dtype)
    mean: Tensor = (output.hidden_states[-1] * weights).sum(1) / weights.sum(1).clamp_min(1)
    return mean


class SaveActiveBatches(TrainerCallback):  # type: ignore[misc]
    """Writes which rows were taken into each checkpoint, so that training can be resumed from it."""

    def __init__(self, trainer: ActiveBatches) -> None:
        self._trainer = trainer

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Write the loader's state beside the weights."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if self._trainer.active_loader is not None and folder.is_dir():
            text = json.dumps(self._trainer.active_loader.state_dict())
            (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")


class ActiveBatches:
    """Gives a ``Trainer`` an `ActiveDataLoader` for its training batches: put it before the trainer's class.

    Args:
        active: settings of the loader, such as ``embed``, ``target`` and ``subsample``. Dataset, collator, model, batch
            size and ``drop_last`` are the trainer's; ``seed`` is its ``data_seed`` or ``seed`` unless given.

    The Trainer fetches the batches of one optimizer step together, so with gradient accumulation they are chosen by the
    same weights, each knowing of those before it. One process only. A resumed run chooses what the whole run would have
    chosen, up to rounding.
    """

    active_loader: ActiveDataLoader | None = None
    """The loader, once training has begun."""
    _resume_from: str | None = None

    def __init__(self, *args: Any, active: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.active = dict(active or {})
        own = [name for name in ("model", "collate_fn", "drop_last", "batch_size", "dataset") if name in self.active]
        if own:
            raise Conflict(f"{setting(own[0])} is the trainer's: leave it out of {setting('active')}")
        self.add_callback(SaveActiveBatches(self))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """``Trainer.train``; from a checkpoint it goes on with the rows that were not taken."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        self._resume_from = folder or None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]

    def get_train_dataloader(self) -> ActiveDataLoader:
        """The loader, with dataset and collator as the trainer prepared them."""
        args: TrainingArguments = self.args  # type: ignore[attr-defined]
        if args.world_size > 1:
            raise Conflict(f"active batches are chosen in one process, and this training has {args.world_size}")
        plain = super().get_train_dataloader()  # type: ignore[misc]
        seed = args.seed if args.data_seed is None else args.data_seed
        loader = ActiveDataLoader(
            plain.dataset,
            args.train_batch_size,
            collate_fn=plain.collate_fn,
            model=self.model,  # type: ignore[attr-defined]
            drop_last=args.dataloader_drop_last,
            **{"device": args.device, "seed": seed, **self.active},
        )
        if self._resume_from is not None:
            # The Trainer skips the batches of the checkpoint itself, unless it was told not to.
            loader.load_state_dict(_read_state(Path(self._resume_from)), replay=not args.ignore_data_skip)
        self.active_loader = loader
        return loader


class ActiveTrainer(ActiveBatches, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with `ActiveBatches`."""


def _read_state(folder: Path) -> Any:
    path = folder / STATE_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadRecord(
            f"{folder} holds no {STATE_FILE}: it was not written by a trainer with active batches"
        ) from error
    except ValueError as error:
        raise BadRecord(f"{path} is not JSON: {error}") from error
