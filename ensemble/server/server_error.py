"""The errors of everything that starts and keeps the embedded server."""


class ServerError(RuntimeError):
    """The server cannot be started or has stopped; the message is one line with a remedy."""


class BundleRefusedError(ServerError):
    """A bundle is not to be served; the message names the file, its value and what is allowed."""


class ServerKilledError(ServerError):
    """The server's process was ended by a signal, as by a fault of its own or for want of memory."""
