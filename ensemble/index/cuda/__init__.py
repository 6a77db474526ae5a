"""Search of the item index on a GPU."""
