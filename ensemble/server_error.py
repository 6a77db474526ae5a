"""The one error of everything that starts and keeps the embedded server."""


class ServerError(RuntimeError):
    """The server cannot be started or has stopped; the message is one line with a remedy."""
