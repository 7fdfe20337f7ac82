"""Fingerprints of memories, models and runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.evaluation.protocol import Protocol
from siftlm.memory import Memory
from siftlm.memory.searcher import Searcher

if TYPE_CHECKING:
    from siftlm.local import LocalModel

# Passages that are looked at: all would take too long in a large memory.
FINGERPRINTED_PASSAGES = 200


def memory_fingerprint(memory: Searcher) -> dict[str, Any]:
    """Ready for ``json.dumps``; without the folders of this machine."""
    if not isinstance(memory, Memory):
        return {"embedder": memory.embedder.name, "fingerprint": memory.embedder.fingerprint}
    known = memory.manifest
    return {
        "passages": len(memory),
        "generation": known.generation,
        "embedder": bare_name(known.embedder),
        "fingerprint": known.fingerprint,
    }


def bare_name(name: str) -> str:
    """The name of an embedder or of a model without the folder that it is in.

    >>> bare_name("lexical:/models/words"), bare_name("hashing"), bare_name("intfloat/e5-small-v2")
    ('lexical:words', 'hashing', 'intfloat/e5-small-v2')
    """
    kind, colon, model = name.rpartition(":")
    return f"{kind}{colon}{Path(model).name if Path(model).is_absolute() else model}"


def model_fingerprint(model: Any) -> Any:
    """What tells one from another: its weights, whatever it is called; the name where nothing is known of them.

    >>> model_fingerprint({"name": "a", "fingerprint": "f"}) == model_fingerprint({"name": "b", "fingerprint": "f"})
    True
    """
    if not isinstance(model, Mapping) or not model.get("fingerprint"):
        return model
    return {key: value for key, value in model.items() if key != "name"}


def contents_fingerprint(memory: Searcher) -> str | None:
    """Of some of its passages, evenly spread: two memories made alike of different texts are told apart by it."""
    if not isinstance(memory, Memory):
        return None
    rows = memory.rows()
    found = hashlib.blake2b(digest_size=8)
    for text in memory.texts(rows[:: max(1, len(rows) // FINGERPRINTED_PASSAGES)]):
        found.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def file_fingerprint(path: str) -> str | None:
    """Tells a file from another of its name; None where there is no file."""
    if not Path(path).is_file():
        return None
    found = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


def run_question(model: LocalModel, protocol: Protocol, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run asks: two runs of the same question may be put together."""
    controller = model.controller
    return {
        "siftlm": version("siftlm"),
        "model": {
            "name": bare_name(controller.name),
            "parameters": controller.parameters,
            "context": controller.context,
            "fingerprint": controller.fingerprint,
        },
        "engine": controller.engine.describe(),
        "memory": {**memory_fingerprint(model.memory), "contents": contents_fingerprint(model.memory)},
        "protocol": protocol.to_dict(),
        **about,
    }
