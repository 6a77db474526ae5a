"""Models, each a folder over common parts and a line of the registry."""
