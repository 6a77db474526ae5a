"""Training and evaluation from scratch on one dataset, and the tables that come of it."""
