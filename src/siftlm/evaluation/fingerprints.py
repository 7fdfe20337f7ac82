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

# Passages that the contents' fingerprint reads; all would take too long in a large memory.
FINGERPRINTED_PASSAGES = 200


def memory_fingerprint(memory: Searcher) -> dict[str, Any]:
    """The memory's size, generation and embedder, ready for ``json.dumps``, without the folders of this machine."""
    if not isinstance(memory, Memory):
        return {"embedder": memory.embedder.name, "fingerprint": memory.embedder.fingerprint}
    manifest = memory.manifest
    return {
        "passages": len(memory),
        "generation": manifest.generation,
        "embedder": bare_name(manifest.embedder),
        "fingerprint": manifest.fingerprint,
    }


def bare_name(name: str) -> str:
    """The name of an embedder or of a model, without its folder.

    >>> bare_name("lexical:/models/words"), bare_name("hashing"), bare_name("intfloat/e5-small-v2")
    ('lexical:words', 'hashing', 'intfloat/e5-small-v2')
    """
    kind, colon, model = name.rpartition(":")
    return f"{kind}{colon}{Path(model).name if Path(model).is_absolute() else model}"


def model_fingerprint(model: Any) -> Any:
    """A model's identity: its weights under any name, or its name where the weights are unknown.

    >>> model_fingerprint({"name": "a", "fingerprint": "f"}) == model_fingerprint({"name": "b", "fingerprint": "f"})
    True
    """
    if not isinstance(model, Mapping) or not model.get("fingerprint"):
        return model
    return {key: value for key, value in model.items() if key != "name"}


def contents_fingerprint(memory: Searcher) -> str | None:
    """A digest of some passages, evenly spread, by which memories of equal size and embedder differ."""
    if not isinstance(memory, Memory):
        return None
    rows = memory.rows()
    digest = hashlib.blake2b(digest_size=8)
    for text in memory.texts(rows[:: max(1, len(rows) // FINGERPRINTED_PASSAGES)]):
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def file_fingerprint(path: str) -> str | None:
    """A digest of the file's bytes; None where there is no file."""
    if not Path(path).is_file():
        return None
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def run_question(model: LocalModel, protocol: Protocol, about: Mapping[str, Any]) -> dict[str, Any]:
    """The question of a run: results of runs with the same question can be combined."""
    controller = model.controller
    return {
        "siftlm": version("siftlm"),
        "model": {
            "name": bare_name(controller.name),
            "parameters": controller.parameters,
            "context": controller.context,
            "fingerprint": controller.fingerprint,
        },
        "engine": controller.engine.description,
        "memory": {**memory_fingerprint(model.memory), "contents": contents_fingerprint(model.memory)},
        "protocol": protocol.to_dict(),
        **about,
    }
