"""What can go wrong with a request, the same over gRPC and HTTP."""

import re

from tritonclient.utils import InferenceServerException

_RETRY_AFTER = re.compile(r"retry after (\d+(?:\.\d+)?) s")


class RecommendError(Exception):
    """A request that failed; the base of all errors a client raises for a server or a connection.

    `status` is the gRPC status name (`INVALID_ARGUMENT`) or the HTTP code (`400`) as text, and None if
    the failure came from this side of the connection. `request_id` is what the server's logs call the
    request.
    """

    request_id = ""

    def __init__(self, message: str, status: str | None = None) -> None:
        super().__init__(message)
        self.status = status


class InvalidRequestError(RecommendError):
    """The server refused the request's values; sending it again cannot help."""


class UnavailableError(RecommendError):
    """The server could not be reached, is not ready, or refused the request because it is overloaded."""

    @property
    def retry_after_s(self) -> float:
        """Seconds after which an overloaded server expects to have room; 0 where it does not say."""
        told = _RETRY_AFTER.search(str(self))
        return float(told[1]) if told else 0.0


class DeadlineExceededError(RecommendError):
    """No answer came within the client's timeout."""


_KIND_OF_STATUS: dict[str, type[RecommendError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "400": InvalidRequestError,
    "UNAVAILABLE": UnavailableError,
    "503": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "504": DeadlineExceededError,
}

UNKNOWN_MODEL = "Request for unknown model"
"""What Triton says of a model that it has not loaded."""


def translate(error: Exception) -> RecommendError:
    """Return the `RecommendError` for what tritonclient or the transport below it raised.

    HTTP connection failures reach the caller of tritonclient as bare `OSError` and timeouts as
    `TimeoutError`; gRPC reports both as an `InferenceServerException` with a status.
    """
    if isinstance(error, InferenceServerException):
        status = None if error.status() is None else str(error.status()).removeprefix("StatusCode.")
        kind = _KIND_OF_STATUS.get(status or "", RecommendError)
        message = str(error.message())
        if UNKNOWN_MODEL in message:
            message += (
                "; allowed: recommend, recommend_full where the bundle holds a second ranker, and"
                " append_events and update_items where the server takes events and items"
            )
        return kind(message, status)
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer in time: {text}")
    if isinstance(error, OSError):
        return UnavailableError(f"no connection: {text}")
    return RecommendError(f"request failed: {type(error).__name__}: {text}")
