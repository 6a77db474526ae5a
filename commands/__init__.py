"""Command lines: thin wrappers that parse options and call the packages below."""
