"""Slots in the memory of an NVIDIA GPU."""
