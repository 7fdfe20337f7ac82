"""HTTP: an OpenAI-compatible server that tunes its model for every request, and a page that shows how.

    siftlm serve --memory memory --port 8000

A request is parsed into jobs (`requests`). One thread owns the model and runs them (`scheduler`): it selects texts,
tunes many prompts at once, and decodes every prompt that is ready, token by token. `app` turns HTTP into jobs, and
their events into responses.

The public names below are loaded when they are first used. Most need the extras ``serve`` and ``tune``; API keys need
neither. `siftlm.serving.errors` and `siftlm.serving.events` are public as modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from siftlm.errors import MissingExtra

if TYPE_CHECKING:
    from siftlm.serving.app import create_app
    from siftlm.serving.auth import ApiKeys, Caller, add_key, list_keys, revoke_key
    from siftlm.serving.events import Handle, Job, Metrics, Mode, Token
    from siftlm.serving.metrics import PrometheusMetrics
    from siftlm.serving.modes import ModeParser
    from siftlm.serving.requests import ParsedRequest, RequestParser
    from siftlm.serving.responses import ResponseBuilder
    from siftlm.serving.scheduler import ServingEngine
    from siftlm.serving.schemas import RequestLimits
    from siftlm.serving.server import background_server, open_server, serve
    from siftlm.serving.vllm_relay import Relay

# public name -> module
_HOME = {
    "ApiKeys": "auth",
    "Caller": "auth",
    "Handle": "events",
    "Job": "events",
    "Metrics": "events",
    "Mode": "events",
    "ModeParser": "modes",
    "ParsedRequest": "requests",
    "PrometheusMetrics": "metrics",
    "Relay": "vllm_relay",
    "RequestLimits": "schemas",
    "RequestParser": "requests",
    "ResponseBuilder": "responses",
    "ServingEngine": "scheduler",
    "Token": "events",
    "add_key": "auth",
    "background_server": "server",
    "create_app": "app",
    "list_keys": "auth",
    "open_server": "server",
    "revoke_key": "auth",
    "serve": "server",
}
# Optional libraries that this room imports at the top of its files -> the extra that installs them.
_EXTRAS = {"fastapi": "serve", "prometheus_client": "serve", "starlette": "serve", "uvicorn": "serve", "torch": "tune"}

__all__ = [
    "ApiKeys",
    "Caller",
    "Handle",
    "Job",
    "Metrics",
    "Mode",
    "ModeParser",
    "ParsedRequest",
    "PrometheusMetrics",
    "Relay",
    "RequestLimits",
    "RequestParser",
    "ResponseBuilder",
    "ServingEngine",
    "Token",
    "add_key",
    "background_server",
    "create_app",
    "list_keys",
    "open_server",
    "revoke_key",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRAS:
            raise
        raise MissingExtra(library, _EXTRAS[library]) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
