"""Errors that end a request, each with its HTTP status.

ServingError
├── BadRequest         400   something in the request is wrong; ``param`` names it
├── NotFound           404   no such model, memory or document
├── NotAllowed         401   no API key, or an unknown one; 403: a key without the right
├── QueueFull          429   the queue is full; ``retry_after`` says when to retry
├── BadGateway         502   the vLLM behind this server failed
├── ShuttingDown       503   the server is shutting down
├── NotReady           503   the model is being loaded; ``retry_after`` says when to retry
├── MemoryLocked       503   another process writes to the memory; ``retry_after`` says when to retry
└── DeadlineExceeded   504   the request was not finished before its deadline
"""

from __future__ import annotations

import ast
import json

from siftlm.errors import SiftlmError


class ServingError(SiftlmError):
    """The root; ``type`` and ``code`` are OpenAI's words."""

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: int | None = None
    """Seconds."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class BadRequest(ServingError):
    """Something in the request is wrong."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"

    @classmethod
    def caused_by(cls, error: SiftlmError, *, param: str | None = None, code: str | None = None) -> BadRequest:
        """The message of another error, with its settings still marked as such."""
        return cls(error.marked, param=param, code=code)


class NotFound(ServingError):
    """No such model, memory or document."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class NotAllowed(ServingError):
    """No API key, an unknown one, or one without the right (``known``)."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str, *, known: bool = False) -> None:
        super().__init__(message)
        if known:  # the caller is known and lacks the right
            self.status, self.type, self.code = 403, "permission_error", "not_allowed"


class QueueFull(ServingError):
    """The queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadGateway(ServingError):
    """The vLLM behind this server cannot be reached, or failed."""

    status = 502
    code = "backend_failed"


class ShuttingDown(ServingError):
    """The server is shutting down."""

    status = 503
    code = "shutting_down"


class NotReady(ServingError):
    """The model is being loaded."""

    status = 503
    code = "not_ready"
    retry_after = 5


class MemoryLocked(ServingError):
    """Another process writes to the memory."""

    status = 503
    code = "memory_locked"
    retry_after = 2


class DeadlineExceeded(ServingError):
    """The request was not finished before its deadline."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


def spell_as_json(name: str, value: str | None) -> str:
    """A setting as clients write it, for `siftlm.errors.SiftlmError.spelled`.

    >>> spell_as_json("replacement", "True"), spell_as_json("n", None)
    ('"replacement": true', 'n')
    >>> spell_as_json("siftlm.replacement", "True")
    'siftlm.replacement: true'
    """
    if value is None:
        return name
    try:
        written = json.dumps(ast.literal_eval(value), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError):  # no literal
        written = value
    return f"{name}: {written}" if "." in name else f'"{name}": {written}'
