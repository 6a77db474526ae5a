"""Recommenders without gradient training, for comparison."""
