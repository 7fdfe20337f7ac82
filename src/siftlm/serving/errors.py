"""Why a request gets no answer; each error knows its HTTP status.

Refused
├── BadRequest    400   something in the request is wrong; ``param`` names it
├── Unknown       404   no such model, memory or document
├── NotAllowed    401   no key, or not one that we know; 403: it may not do this
├── Busy          429   the queue is full; ``retry_after`` says when to come back
├── BadGateway    502   vLLM, which speaks for this server, does not
├── Closing       503   the server is shutting down
├── NotReady      503   the model is being loaded; ``retry_after`` says when to come back
├── Occupied      503   another process writes to the memory; ``retry_after`` says when to come back
└── TooLate       504   its time was up before the answer was there
"""

from __future__ import annotations

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


class NotFound(ServingError):
    """No such thing."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class NotAllowed(ServingError):
    """No key, or one that may not do this."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str, *, known: bool = False) -> None:
        super().__init__(message)
        if known:  # we know who it is, and that they may not
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
    """vLLM is not there, or does not do what it was asked."""

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
    """Somebody else writes to the memory."""

    status = 503
    code = "memory_locked"
    retry_after = 2


class DeadlineExceeded(ServingError):
    """The time of the request was up."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
