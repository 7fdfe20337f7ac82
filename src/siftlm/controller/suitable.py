"""Do this model and this tokenizer do what the controller needs? Said before any work, and with what to do."""

from __future__ import annotations

from typing import Any

from siftlm.controller.tokens import start_token, text_token_ids
from siftlm.errors import InvalidInput
from siftlm.extras import load

# Letters, digits and scripts of many kinds: who can spell none of them can spell no text.
SPELLING_PROBE = "a b A C 0 1 . я 中"
CAUSALITY_PROBE_TOKENS = 12
# How far rounding may move the logits before the last token, as a share of how far its own move. Causal models were
# at 0 exactly, masked ones with random weights at 0.0007 to 0.002 in float32, and trained ones are far above.
CAUSALITY_TOLERANCES = {"torch.float32": 1e-4, "torch.float64": 1e-4}
HALF_CAUSALITY_TOLERANCE = 0.02
HEAD_ADVICE = "load it with transformers.AutoModelForCausalLM"


def refuse_headless(name: str, model: Any) -> None:
    """It must give logits of the next token."""
    kind = type(model).__name__
    if not hasattr(model, "get_output_embeddings") or not hasattr(model, "config"):
        raise InvalidInput(f"{name!r}: {kind} is no causal language model of transformers; {HEAD_ADVICE}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise InvalidInput(
            f"{name!r}: {kind} is an encoder with a decoder, and no causal language model: take one that continues "
            "its own input, such as gpt2"
        )
    if "ForMaskedLM" in kind:
        raise _non_causal_error(name, kind)
    try:
        head = model.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        head = None
    if getattr(head, "weight", None) is None:
        raise InvalidInput(f"{name!r}: {kind} has no head that predicts tokens (no output embeddings); {HEAD_ADVICE}")


def refuse_new_head(name: str, model: Any, missing: set[str]) -> None:
    """A head that the files lack has just been drawn at random."""
    head = model.get_output_embeddings().weight
    new = sorted(key for key, p in model.named_parameters(remove_duplicate=False) if p is head and key in missing)
    if new:
        raise InvalidInput(
            f"{name!r}: its weights hold no {new[0]}, the head that predicts tokens; take the files of a whole causal "
            f"language model, as {type(model).__name__}.save_pretrained writes them"
        )


def refuse_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """It must spell texts, with tokens that the model knows."""
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        raise InvalidInput(
            f"{name!r}: the tokenizer must be one of transformers, got {type(tokenizer).__name__}; "
            "transformers.AutoTokenizer.from_pretrained opens it"
        )
    if not set(text_token_ids(tokenizer, SPELLING_PROBE)) - {getattr(tokenizer, "unk_token_id", None)}:
        raise InvalidInput(
            f"{name!r}: its tokenizer of {len(tokenizer):,} tokens cannot spell a plain text; are the tokenizer's "
            "files (tokenizer.json or vocab.json) in the folder? Copy those of the model, or hand the tokenizer over"
        )
    rows = _embedding_rows(model)
    vocabulary = tokenizer.get_vocab()
    if rows is None or max(vocabulary.values()) < rows:
        return
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    # Some published models have no row for a special token that no plain text contains, such as that of an image.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {number for number, one in added.items() if getattr(one, "special", False)} - {start_token(tokenizer)}
    if any(number >= rows and number not in special for number in vocabulary.values()):
        raise InvalidInput(
            f"{name!r}: its tokenizer makes tokens up to number {largest:,} ({token!r}), and the model knows "
            f"{rows:,}, the last of them number {rows - 1:,}: take the tokenizer that the model was trained with, or "
            f"call model.resize_token_embeddings({largest + 1}) and train the new rows"
        )


def refuse_non_causal(name: str, model: Any, tokenizer: Any, context: int) -> None:
    """What it says about a token must not depend on later ones, or a text would be foreseen from itself."""
    torch = load("torch", "tune")
    ids = text_token_ids(tokenizer, SPELLING_PROBE)[: min(CAUSALITY_PROBE_TOKENS, context)]
    others = [token for token in text_token_ids(tokenizer, SPELLING_PROBE) if token != ids[-1]]
    if len(ids) < 2 or not others:
        return
    # In one batch, so that both are computed in the same way.
    pair = torch.tensor([ids, [*ids[:-1], others[0]]], device=next(model.parameters()).device)
    kind = type(model).__name__
    modes = [(module, module.training) for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=pair, use_cache=False).logits
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"{name!r}: {kind} cannot be called as model(input_ids=…, use_cache=False).logits, as causal language "
            f"models can: {type(error).__name__}: {error!s:.200}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if logits.dim() != 3 or logits.shape[:2] != pair.shape:
        raise InvalidInput(
            f"{name!r}: {kind} gives logits of the shape {tuple(logits.shape)} for {len(pair)} texts of {len(ids)} "
            "tokens; a causal language model gives (texts, tokens, vocabulary)"
        )
    moved = (logits[0].float() - logits[1].float()).abs().amax(dim=1)
    allowed = CAUSALITY_TOLERANCES.get(str(next(model.parameters()).dtype), HALF_CAUSALITY_TOLERANCE)
    if moved[:-1].max() > allowed * moved[-1]:
        raise _non_causal_error(name, kind)


def _non_causal_error(name: str, kind: str) -> InvalidInput:
    return InvalidInput(
        f"{name!r}: {kind} is no causal language model: what it says about a token depends on later ones, as in a "
        "masked language model. Take a model that reads from left to right, such as gpt2 (a BERT that was trained so "
        "needs is_decoder=True in its configuration)"
    )


def _embedding_rows(model: Any) -> int | None:
    """How many tokens have an embedding, where that can be told."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None
    # Weights that are spread over machines have no rows here.
    return int(weight.shape[0]) if weight is not None and weight.dim() == 2 and len(weight) else None
