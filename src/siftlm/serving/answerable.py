"""Can every memory be searched? Asked before the server says that it is there, not at the first request."""

from __future__ import annotations

from collections.abc import Mapping

from siftlm.errors import SiftlmError
from siftlm.local import LocalModel

PROBE_PROMPT = "a prompt"
PRECOMPUTED_VECTORS_MESSAGE = (
    "its vectors were made elsewhere, so a prompt cannot be compared with them: serve a memory whose embedder siftlm "
    "can run, made with siftlm index --embedder NAME"
)


def check_searchable(models: Mapping[str, LocalModel]) -> None:
    """Raise where a memory cannot answer a small search in the way that requests go by; an empty one can."""
    for name, model in models.items():
        _probe(name, model)


def _probe(name: str, model: LocalModel) -> None:
    try:
        model.select(PROBE_PROMPT, 1, features=None)  # features of the model itself take long
    except SiftlmError as error:
        known = getattr(model.memory, "manifest", None)
        why = PRECOMPUTED_VECTORS_MESSAGE if known is not None and known.embedder == "precomputed" else str(error)
        raise SiftlmError(f"the memory {name!r} can answer nothing: {why}") from error
