"""What an event may hold at most, in a dataset and in a store of histories alike."""

LONGEST_USER_ID = 256
"""Bytes of a user id in UTF-8."""
LONGEST_EVENT_ID = 256
"""Bytes of the id that a caller gives an event."""
LATEST_TIMESTAMP = 99_999_999_999
"""Unix seconds; times in milliseconds exceed it, and are refused instead of being read as the far future."""
MOST_ACTIONS = 32
"""Actions of a dataset, each a bit of a mask."""
