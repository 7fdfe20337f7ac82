"""How much of a text a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from siftlm.errors import InvalidInput

# Tokenizers without a limit say so with an absurdly large one.
NO_TOKENIZER_LIMIT = 1_000_000


@dataclass(frozen=True)
class TokenLimits:
    """In tokens."""

    text: int | None
    """Of the text alone."""
    special: int
    """What the tokenizer adds."""
    prefixes: dict[bool, int]
    """What the prefix of a query (True) and of a passage (False) takes."""

    def with_prefix(self, as_query: bool) -> int | None:
        """Of everything that goes into the model."""
        return None if self.text is None else self.text + self.special + self.prefixes[as_query]


def token_limits(tokenizer: Any, positions: int | None, prefixes: dict[bool, str], asked: int | None) -> TokenLimits:
    """The smallest of what the positions, the tokenizer and the user allow."""
    taken = {
        which: len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
        for which, prefix in prefixes.items()
    }
    special = tokenizer.num_special_tokens_to_add()
    bounds = [
        bound for bound in (positions, tokenizer.model_max_length) if bound is not None and bound < NO_TOKENIZER_LIMIT
    ]
    most = min(bounds) - special - max(taken.values()) if bounds else None
    if most is not None and most < 1:
        raise InvalidInput(f"the prefixes leave no room for a text: the model reads {min(bounds)} tokens")
    if most is not None and asked is not None and asked > most:
        raise InvalidInput(f"max_tokens = {asked} is more than the model can read: at most {most}")
    return TokenLimits(most if asked is None else asked, special, taken)


def position_limit(model: Any) -> int | None:
    """How many positions the model knows; ``None`` where they are relative."""
    most = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    # RoBERTa and its kin begin to count behind the number of the padding token.
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return most if padding is None else most - padding - 1
