"""Train an encoder of your own on texts of your own, from nothing, and open it with siftlm.

    pip install 'siftlm[hf]' accelerate
    python examples/train_encoder.py                         # Python's own library, about a minute on two cores
    python examples/train_encoder.py my/notes --into my-encoder --steps 5000 --width 384 --layers 6

A tokenizer is trained first (WordPiece or byte-level BPE), then a small BERT that guesses masked tokens. The folder
it is saved to is a name like any other: ``siftlm.embedding.embedder("my-encoder")``. The default is a toy that shows
the way; an encoder worth having wants millions of tokens and a graphics card.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
import tempfile
from pathlib import Path

SUFFIXES = {".py", ".txt", ".md", ".rst", ".html", ".tex"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", nargs="?", type=Path, default=Path(sysconfig.get_paths()["stdlib"]), help="texts")
    ask.add_argument("--into", type=Path, default=Path("my-encoder"), help="the folder to save to")
    ask.add_argument("--files", type=int, default=150, help="read at most so many")
    ask.add_argument("--tokenizer", choices=["wordpiece", "bpe"], default="wordpiece")
    ask.add_argument("--vocabulary", type=int, default=2000, help="tokens")
    ask.add_argument("--length", type=int, default=64, help="tokens in a training example")
    ask.add_argument("--positions", type=int, default=256, help="the longest text that the encoder will read")
    ask.add_argument("--width", type=int, default=64)
    ask.add_argument("--layers", type=int, default=2)
    ask.add_argument("--steps", type=int, default=150)
    ask.add_argument("--batch", type=int, default=32)
    ask.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()

    texts = read(given.folder, given.files, given.seed)
    if len(texts) < 2:
        sys.exit(f"{given.folder} holds {len(texts)} texts ({', '.join(sorted(SUFFIXES))}); at least 2 are needed")
    held_out, seen = texts[: max(1, len(texts) // 10)], texts[max(1, len(texts) // 10) :]
    tokenizer = train_tokenizer([text for _, text in seen], given.tokenizer, given.vocabulary)
    before, after = train(tokenizer, [text for _, text in seen], [text for _, text in held_out], given)
    print(f"loss on texts that were not trained on: {before:.2f} before, {after:.2f} after {given.steps} steps")
    print(f"saved to {given.into}")
    show_neighbours(given.into, texts)


def read(folder: Path, most: int, seed: int) -> list[tuple[str, str]]:
    """Name and text of up to ``most`` files, in random order."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    # Installed packages lie below Python's own library and are no part of it.
    files = [file for file in files if "site-packages" not in file.parts and "test" not in file.parts]
    random.Random(seed).shuffle(files)
    texts = ((str(file.relative_to(folder)), file.read_text("utf-8", "replace")) for file in files[:most])
    return [(name, text) for name, text in texts if len(text) > 200]


def train_tokenizer(texts: list[str], kind: str, size: int):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))


def train(tokenizer, seen: list[str], held_out: list[str], given: argparse.Namespace) -> tuple[float, float]:
    """Masked-token loss on ``held_out`` before and after; the encoder is saved."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(given.seed)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=given.width,
            num_hidden_layers=given.layers,
            num_attention_heads=max(1, given.width // 32),
            intermediate_size=4 * given.width,
            max_position_embeddings=given.positions,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    tokenizer.model_max_length = given.positions
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=given.steps,
                per_device_train_batch_size=given.batch,
                per_device_eval_batch_size=given.batch,
                learning_rate=given.rate,
                warmup_steps=given.steps // 10,
                seed=given.seed,
                bf16=torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
                save_strategy="no",
                report_to=[],
                disable_tqdm=not sys.stderr.isatty(),
                logging_steps=max(1, given.steps // 5),
            ),
            train_dataset=pieces(tokenizer, seen, given.length),
            eval_dataset=pieces(tokenizer, held_out, given.length)[:500],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        )
        before = held_out_loss(trainer, given.seed)
        trainer.train()
        after = held_out_loss(trainer, given.seed)
    model.save_pretrained(given.into)
    tokenizer.save_pretrained(given.into)
    return before, after


def held_out_loss(trainer, seed: int) -> float:
    """With the same masks each time, so that before and after can be compared."""
    from transformers import set_seed

    set_seed(seed)
    return trainer.evaluate()["eval_loss"]


def pieces(tokenizer, texts: list[str], length: int) -> list[dict[str, list[int]]]:
    """The texts cut into training examples of ``length`` tokens, special tokens included."""
    found = []
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        for start in range(0, len(ids), length - 2):
            part = ids[start : start + length - 2]
            found.append({"input_ids": [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]})
    return found


def show_neighbours(folder: Path, texts: list[tuple[str, str]], shown: int = 5) -> None:
    """For some files, the one whose beginning is most alike by the new encoder."""
    import numpy as np

    from siftlm.embedding import embedder

    vectors = embedder(folder).embed([text[:2000] for _, text in texts])
    # What all texts share says nothing about any of them.
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    print("nearest by the new encoder:")
    for place in range(min(shown, len(texts))):
        print(f"  {texts[place][0]}  ->  {texts[int(alike[place].argmax())][0]}  ({alike[place].max():.2f})")


if __name__ == "__main__":
    main()
