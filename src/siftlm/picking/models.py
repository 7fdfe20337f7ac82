"""Language models for pools: opened by name, with an adapter, and asked in the form that they know."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.extras import load
from siftlm.picking.exchanges import Exchange

if TYPE_CHECKING:
    from siftlm.controller import Controller

ADAPTER_FILE = "adapter_config.json"


def opened_model(model: Any, name: str = "model") -> Controller:
    """The model of this name, or the controller itself, also that of a local model; ``name`` is the setting."""
    if isinstance(model, (str, os.PathLike)):
        from siftlm.controller import Controller

        return Controller(str(model))
    made: Controller = getattr(model, "controller", model)
    if not hasattr(made, "likelihoods"):
        raise InvalidInput(f"{setting(name)} must be the name of a model or a siftlm.Controller, got {model!r:.60}")
    return made


def tuned_model(base: Controller, tuned: Any, name: str = "tuned") -> Controller:
    """The tuned model beside its base: by name, as a controller, or a folder with a PEFT adapter of the base."""
    if isinstance(tuned, (str, os.PathLike)) and (Path(tuned) / ADAPTER_FILE).is_file():
        peft = load("peft", "tune")
        try:
            with warnings.catch_warnings():  # PEFT reads what transformers is about to rename
                warnings.simplefilter("ignore", FutureWarning)
                adapted = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), str(tuned)).merge_and_unload()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InvalidInput(f"{tuned}: is no adapter of {base.name!r} that can be loaded: {reason}") from error
        from siftlm.controller import Controller

        made = Controller(adapted, base.tokenizer, context=base.context)
        made.name = str(tuned)
        return made
    made = opened_model(tuned, name)
    if made is base or made.model is base.model or made.current_fingerprint() == base.current_fingerprint():
        raise Conflict(f"{setting(name)} is the base model itself: nothing was tuned")
    return made


def prompt_text(model: Controller, exchange: Exchange) -> str:
    """What the model reads before the answer: by its chat template, where it has one and the record is a dialogue."""
    tokenizer = model.tokenizer
    if not exchange.messages or not getattr(tokenizer, "chat_template", None):
        return exchange.prompt
    try:
        text = str(tokenizer.apply_chat_template(list(exchange.messages), tokenize=False, add_generation_prompt=True))
    except Exception:  # noqa: BLE001 - templates raise errors of their own for roles that they do not know
        return exchange.prompt
    start = tokenizer.bos_token
    return text.removeprefix(start) if isinstance(start, str) else text  # the controller puts it there
