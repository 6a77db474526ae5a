"""From a checkpoint to a bundle that a server can load."""
