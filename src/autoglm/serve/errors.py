"""Errors of the service and the JSON forms in which clients expect errors.

OpenAI's clients read `error.message`, `error.param` and `error.code`; Ollama's read `error`.
"""

from __future__ import annotations

import math

from autoglm.errors import (
    AutoGLMError,
    CancelledError,
    InputError,
    ModelNotFoundError,
    OutputFormatError,
    ResourceError,
    UsageError,
)


class FieldError(UsageError):
    """A field of a request's body that cannot be meant; `field` names it as JSON paths do."""

    def __init__(self, message: str, *, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.field = field
        self.status = status


class UnknownModelError(FieldError):
    """The request names a model that is not served."""

    def __init__(self, name: str, known: list[str]) -> None:
        message = f"model is {name[:100]!r}; this service has {', '.join(known)}"
        super().__init__(message, field="model", status=404)


class MissingPartError(FieldError):
    """A field that needs an extra which is not installed here."""

    def __init__(self, field: str, extra: str) -> None:
        message = f"{field} is not possible here; the service needs: pip install 'autoglm[{extra}]'"
        super().__init__(message, field=field, status=501)


class BusyError(ResourceError):
    """The queue is full; `retry_after_s` is when there may be room."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = math.ceil(max(1.0, retry_after_s))


class DeadlineError(ResourceError):
    """The request's time was over before the answer was complete."""


class RefusedError(UsageError):
    """A request that security rules keep out."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def status_of(err: BaseException) -> int:
    """The HTTP status of an error."""
    match err:
        case FieldError() | RefusedError():
            return err.status
        case BusyError():
            return 429
        case DeadlineError():
            return 408
        case CancelledError():
            return 499
        case ResourceError():
            return 503
        case ModelNotFoundError():
            return 404
        case UsageError() | InputError():
            return 400
        case OutputFormatError():
            return 422
        case _:
            return 500


def message_of(err: BaseException) -> str:
    """What a client may read. The text of an unexpected error may be another user's."""
    if isinstance(err, AutoGLMError):
        return str(err)
    return f"internal error ({type(err).__name__})"


def headers_of(err: BaseException) -> dict[str, str]:
    """Headers that belong to an error."""
    if isinstance(err, BusyError):
        return {"retry-after": str(err.retry_after_s)}
    if isinstance(err, ResourceError):
        return {"retry-after": "1"}
    if isinstance(err, RefusedError) and err.status == 401:
        return {"www-authenticate": 'Basic realm="autoglm", charset="UTF-8"'}
    return {}


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def openai_form(err: BaseException) -> dict[str, object]:
    """The body that OpenAI's clients read."""
    status = status_of(err)
    default = "server_error" if status >= 500 else "invalid_request_error"
    code = err.code if isinstance(err, RefusedError) else None
    if isinstance(err, UnknownModelError):
        code = "model_not_found"
    if isinstance(err, MissingPartError):
        code = "missing_extra"
    param = err.field if isinstance(err, FieldError) else None
    return {
        "error": {
            "message": message_of(err),
            "type": _TYPES.get(status, default),
            "param": param,
            "code": code,
        }
    }


def ollama_form(err: BaseException) -> dict[str, object]:
    """The body that Ollama's clients read."""
    return {"error": message_of(err)}
