"""What events and items may hold at most, in a dataset, in stores and in requests alike."""

LONGEST_USER_ID = 256
"""Bytes of a user id in UTF-8."""
LONGEST_EVENT_ID = 256
"""Bytes of the id that a caller gives an event."""
LATEST_TIMESTAMP = 99_999_999_999
"""Unix seconds; times in milliseconds exceed it, and are refused instead of being read as the far future."""
MOST_ACTIONS = 32
"""Actions of a dataset, each a bit of a mask."""
LARGEST_ATTRIBUTE = 2**31
MOST_ATTRIBUTES = 256
"""Attributes of one item. In memory, all items have as many entries as the item with the most."""
LARGEST_CONTENT = 1_000_000
"""Size of a number in a content vector. Beside larger ones, an item's id and attributes count for nothing;
from 1e19 on, squares leave the range of 32 bits, and all items with content get one vector."""
LONGEST_TITLE = 1_000
"""Bytes of a title in UTF-8, of an item that is added while serving."""
