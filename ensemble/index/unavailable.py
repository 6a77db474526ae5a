"""What a search says when its index is elsewhere and does not answer."""


class IndexUnavailableError(RuntimeError):
    """An index elsewhere that is not there, or not as the bundle needs it; one line, without secrets."""
