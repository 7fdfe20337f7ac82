"""Train a small language model from nothing, on texts of your own; ``siftlm-tiny`` was made with this file.

    pip install 'siftlm[tune]'
    python examples/pretrain_tiny.py train.jsonl.gz --test test.jsonl.gz --into my-tiny      # about 90 minutes
    python examples/pretrain_tiny.py notes.jsonl --into my-tiny --steps 200 --layers 2       # a toy, minutes

A byte-level BPE tokenizer is trained first, then a Llama with tied embeddings, in bfloat16, with Muon for its matrices
and AdamW for the rest; the rate rises, stays and falls. Stopped by Ctrl-C or killed, the same command goes on where the
last checkpoint was. ``{"text": …, "meta": {…}}`` a line; ``--leave-out CPython`` leaves out documents whose
``meta.source`` names it, and ``meta.pile_set_name`` (or ``--domain``) groups the bits per byte in the model card.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

END = "<|endoftext|>"
# Words with the space before them, single digits (so that numbers line up), runs of signs, runs of white space.
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("corpus", type=Path, help="JSON lines, .gz or not")
    ask.add_argument("--test", type=Path, help="JSON lines to measure bits per byte on, by domain")
    ask.add_argument("--into", type=Path, default=Path("my-tiny"), help="the folder to save to")
    ask.add_argument("--leave-out", default="", metavar="WORD", help="documents whose meta.source has it")
    ask.add_argument("--domain", default="pile_set_name", metavar="KEY", help="of meta, for the model card")
    ask.add_argument("--vocabulary", type=int, default=8192, help="tokens")
    ask.add_argument("--width", type=int, default=256)
    ask.add_argument("--layers", type=int, default=6)
    ask.add_argument("--inner", type=int, default=704, help="width of the feed-forward layers")
    ask.add_argument("--context", type=int, default=1024, help="the longest text that the model will read")
    ask.add_argument(
        "--length", type=int, default=256, help="tokens in a training sequence; in the last 15 %% the whole context"
    )
    ask.add_argument("--batch", type=int, default=16384, help="tokens in a step")
    ask.add_argument("--steps", type=int, default=950)
    ask.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    ask.add_argument("--every", type=float, default=120, metavar="SECONDS", help="between checkpoints")
    ask.add_argument("--held-out", type=int, default=100, metavar="N", help="documents kept for the loss curve")
    ask.add_argument("--evaluated", type=int, default=20, metavar="N", help="documents of each domain of --test")
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()

    given.into.mkdir(parents=True, exist_ok=True)
    work = given.into / "training"  # what resuming needs; `finish` leaves it to be deleted by hand
    work.mkdir(exist_ok=True)
    tokenizer = prepared_tokenizer(given, work)
    stream, held_out = prepared_tokens(given, tokenizer, work)
    model = train(given, tokenizer, stream, held_out, work)
    if model is None:
        sys.exit(f"stopped; the same command goes on from {work}")
    finish(given, model, tokenizer, work)


def documents(path: Path, leave_out: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            meta = record.get("meta", {})
            if not (leave_out and leave_out in str(meta.get("source", ""))):
                yield record["text"], meta


# --- the data


def prepared_tokenizer(given: argparse.Namespace, work: Path) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    file = work / "tokenizer.json"
    if not file.exists():
        print("training the tokenizer")
        fresh = Tokenizer(models.BPE())
        fresh.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        fresh.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=given.vocabulary,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        fresh.train_from_iterator((text for text, _ in documents(given.corpus, given.leave_out)), trainer)
        written(file, fresh.to_str().encode())
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(file)),
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=given.context,
        clean_up_tokenization_spaces=False,
    )


def prepared_tokens(given: argparse.Namespace, tokenizer: Any, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """(tokens,) of all documents, one after another, each behind an END; and those held out."""
    names = work / "seen.npy", work / "held-out.npy"
    if not all(name.exists() for name in names):
        print("cutting the texts into tokens")
        texts = [text for text, _ in documents(given.corpus, given.leave_out)]
        if len(texts) <= given.held_out:
            sys.exit(f"{given.corpus} has {len(texts)} documents to train on, and {given.held_out} are to be held out")
        random.Random(given.seed).shuffle(texts)
        # The last of the two is written last: both are there or none is used.
        for name, part in zip(names, (texts[given.held_out :], texts[: given.held_out]), strict=True):
            ids: list[np.ndarray] = []
            for at in range(0, len(part), 1000):
                cut = tokenizer._tokenizer.encode_batch_fast(part[at : at + 1000], add_special_tokens=False)
                ids.extend(np.array([tokenizer.bos_token_id, *one.ids], dtype=np.uint16) for one in cut)
            np.save(name, np.concatenate(ids))
    return np.load(names[0], mmap_mode="r"), np.load(names[1])


def batch_at(stream: np.ndarray, step: int, tokens: int, length: int, seed: int) -> np.ndarray:
    """(sequences, length + 1) of step ``step``: sequences in an order of their own in each pass over the data."""
    pieces = (len(stream) - 1) // length
    each = min(pieces, max(1, tokens // length))
    first = step * each
    rows = []
    for number in range(first, first + each):
        epoch, place = divmod(number, pieces)
        start = int(order(pieces, seed, epoch, length)[place]) * length
        rows.append(stream[start : start + length + 1])
    return np.stack(rows).astype(np.int64)


_orders: dict[tuple[int, ...], np.ndarray] = {}


def order(pieces: int, *key: int) -> np.ndarray:
    of = (pieces, *key)
    if of not in _orders:
        _orders.clear()
        _orders[of] = np.random.default_rng(key).permutation(pieces)
    return _orders[of]


# --- the training


def train(given: argparse.Namespace, tokenizer: Any, stream: np.ndarray, held_out: np.ndarray, work: Path) -> Any:
    """The model, or None if it was stopped before the end."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(given.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=given.width,
        intermediate_size=given.inner,
        num_hidden_layers=given.layers,
        num_attention_heads=max(1, given.width // 64),
        num_key_value_heads=max(1, given.width // 64),
        max_position_embeddings=given.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers = [
        torch.optim.Muon(matrices, lr=given.rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=given.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    began, seconds = resumed(work, model, optimisers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(stream):,} tokens, from step {began}")
    stop: list[int] = []
    for ask in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ask, lambda number, _: stop.append(number))

    last, clock = time.monotonic(), time.monotonic() - seconds
    for step in range(began, given.steps):
        # Short sequences first: attention costs little on them, and whole contexts are soon learned afterwards.
        length = given.length if step < 0.85 * given.steps else given.context
        model.set_attn_implementation("eager" if length <= 256 else "sdpa")  # on a CPU the faster of the two
        rate = given.rate * schedule(step / given.steps, warm=100 / given.steps)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        rows = torch.from_numpy(batch_at(stream, step, given.batch, length, given.seed))
        loss = sum(descend(model, part, len(rows)) for part in rows.split(max(1, 4096 // length)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if not math.isfinite(loss):
            sys.exit(f"step {step}: the loss is {loss}; try a smaller --rate")
        if step % 50 == 0 or step + 1 == given.steps:
            record = {"step": step, "loss": round(loss, 4), "seconds": round(time.monotonic() - clock)}
            if step % 250 == 0 or step + 1 == given.steps:
                record["held_out"] = round(held_out_loss(model, held_out, given.length), 4)
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            left = (time.monotonic() - clock) / (step + 1) * (given.steps - step - 1) / 60
            print(f"{record}, {left:.0f} minutes left", flush=True)
        if stop or time.monotonic() - last > given.every or step + 1 == given.steps:
            kept = {
                "step": step + 1,
                "seconds": time.monotonic() - clock,
                "model": model.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            }
            save(kept, work / "checkpoint.pt")
            last = time.monotonic()
            if stop and step + 1 < given.steps:
                return None
    return model


def descend(model: Any, rows: Any, total: int) -> float:
    """Adds the gradient of these rows' share of the loss; returns that share."""
    loss = summed_loss(model, rows) / (total * (rows.shape[1] - 1))
    loss.backward()
    return float(loss.detach())


def summed_loss(model: Any, rows: Any) -> Any:
    """Nats of every token but the first of each row; the logits are made some at a time, which the caches like."""
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
        parts = zip(states.flatten(0, 1).split(512), rows[:, 1:].flatten().split(512), strict=True)
        return sum(
            torch.nn.functional.cross_entropy(model.lm_head(part).float(), wanted, reduction="sum")
            for part, wanted in parts
        )


def schedule(done: float, *, warm: float, fall: float = 0.4) -> float:
    """Up, level, and down to zero over the last ``fall``."""
    return min(1.0, (done + 1e-9) / warm if warm else 1.0, (1 - done) / fall)


def held_out_loss(model: Any, held_out: np.ndarray, length: int, most: int = 64) -> float:
    import torch

    count = min(most, (len(held_out) - 1) // length)
    rows = torch.from_numpy(np.stack([held_out[i * length : (i + 1) * length + 1] for i in range(count)]).astype("i8"))
    with torch.inference_mode():
        return float(sum(summed_loss(model, part) for part in rows.split(8))) / (count * length)


def resumed(work: Path, model: Any, optimisers: list[Any]) -> tuple[int, float]:
    import torch

    file = work / "checkpoint.pt"
    if not file.exists():
        return 0, 0.0
    kept = torch.load(file, weights_only=True)
    model.load_state_dict(kept["model"])
    for optimiser, state in zip(optimisers, kept["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return kept["step"], kept["seconds"]


def save(kept: dict[str, Any], file: Path) -> None:
    """Whole or not at all."""
    import torch

    torch.save(kept, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


def written(file: Path, content: bytes) -> None:
    file.with_suffix(".new").write_bytes(content)
    os.replace(file.with_suffix(".new"), file)


# --- what is shipped


def finish(given: argparse.Namespace, model: Any, tokenizer: Any, work: Path) -> None:
    import torch

    model = model.to(torch.bfloat16)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(given.into)
    tokenizer.save_pretrained(given.into)
    record: dict[str, Any] = {"settings": {k: str(v) for k, v in sorted(vars(given).items()) if k not in ("into",)}}
    record["log"] = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    if given.test is not None:
        record["bits_per_byte"] = by_domain(given, model.float(), tokenizer)
        for domain, (bits, count) in record["bits_per_byte"].items():
            print(f"{domain:<24} {bits:.3f} bits per byte, {count} documents")
    (given.into / "training.json").write_text(json.dumps(record, indent=1))
    print(f"saved to {given.into}; {work} is no longer needed")


def by_domain(given: argparse.Namespace, model: Any, tokenizer: Any) -> dict[str, tuple[float, int]]:
    """Domain -> bits per byte of the first context of its first documents, and how many there were."""
    import torch

    nats: dict[str, float] = {}
    size: dict[str, int] = {}
    count: dict[str, int] = {}
    for text, meta in documents(given.test):
        domain = str(meta.get(given.domain, "all"))
        if count.get(domain, 0) == given.evaluated:
            continue
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: given.context - 1]
        row = torch.tensor([[tokenizer.bos_token_id, *ids]])
        with torch.inference_mode():
            logits = model(input_ids=row[:, :-1], use_cache=False).logits
        lost = torch.nn.functional.cross_entropy(logits[0], row[0, 1:], reduction="sum")
        nats[domain] = nats.get(domain, 0.0) + float(lost)
        size[domain] = size.get(domain, 0) + len(tokenizer.decode(ids).encode())
        count[domain] = count.get(domain, 0) + 1
    return {name: (nats[name] / math.log(2) / size[name], count[name]) for name in sorted(nats)}


if __name__ == "__main__":
    main()
