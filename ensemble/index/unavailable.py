"""What a search says when its index is elsewhere and does not answer."""


class IndexUnavailableError(RuntimeError):
    """An index elsewhere that is not there, or not as the bundle needs it; one line, without secrets, for
    whoever runs it."""

    told = "the item index is away; try again"
    """What a caller gets to know, who need not know where the index is."""
