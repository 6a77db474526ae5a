"""Recommenders that the models are compared with; some count, some are trained."""
