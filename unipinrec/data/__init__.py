"""Logs to training examples: the event format, its sources, and the datasets read from it."""
