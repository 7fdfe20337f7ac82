"""What uvicorn writes into its log, without what any client could fill it with."""

from __future__ import annotations

import copy
import logging
from typing import Any

from siftlm.extras import load

# Said of every request that would rather speak WebSocket, together with advice to install what nobody here needs.
NOISE_PREFIXES = ("Unsupported upgrade request.", "No supported WebSocket library detected.")


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Is it about something that whoever runs the server could do something about?"""
    return not record.getMessage().startswith(NOISE_PREFIXES)


def log_config() -> dict[str, Any]:
    """For ``uvicorn.Config``: its own, with that filter before its handler."""
    config: dict[str, Any] = copy.deepcopy(load("uvicorn.config", "serve").LOGGING_CONFIG)
    config["filters"] = {"siftlm": {"()": lambda: is_worth_logging}}
    config["handlers"]["default"]["filters"] = ["siftlm"]
    return config
