"""What can go wrong: errors of those who run a local Lambda, and the errors that its API answers with."""

from __future__ import annotations

from typing import Any

from executors.base import ExecutorError


class LocalLambdaError(ExecutorError):
    """The local Lambda cannot start, or cannot do what it was asked."""


class InvalidSettings(LocalLambdaError, ValueError):
    """A setting has a value that cannot be."""


class StartFailed(LocalLambdaError):
    """The server, or the process of an environment, did not start."""


class FunctionRefused(LocalLambdaError):
    """A function cannot be created as asked; the message is Lambda's."""


class ApiError(Exception):
    """An error of Lambda's API: an HTTP status, the name of a botocore exception, and a message."""

    def __init__(self, status: int, kind: str, message: str, **members: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.members = members

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        side = "Service" if self.status >= 500 else "User"
        return {"Type": side, "Message": self.message, "message": self.message, **self.members}


def not_found(message: str) -> ApiError:
    """404: no such function, or no such configuration of one."""
    return ApiError(404, "ResourceNotFoundException", message)


def invalid(message: str) -> ApiError:
    """400: a parameter has a value that Lambda does not take."""
    return ApiError(400, "InvalidParameterValueException", message)


def conflict(message: str) -> ApiError:
    """409: the function exists already, or is in a state that does not allow the call."""
    return ApiError(409, "ResourceConflictException", message)


def throttled(reason: str) -> ApiError:
    """429: too many executions at once, or too many new ones."""
    return ApiError(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason)


def too_large(limit: int) -> ApiError:
    """413: an event, a zip file or another body has more than `limit` bytes."""
    return ApiError(
        413,
        "RequestTooLargeException",
        f"Request must be smaller than {limit} bytes for this operation",
    )


def service_error() -> ApiError:
    """500: Lambda's own fault, here only if the fault plan says so."""
    return ApiError(
        500, "ServiceException", "An error occurred and the request cannot be processed."
    )
